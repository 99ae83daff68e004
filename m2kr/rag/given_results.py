"""Which of some named files are results of readers: the commands of results take both kinds."""

import logging
from collections.abc import Iterable
from pathlib import Path

from m2kr.errors import UsageError
from m2kr.evaluation.result_files import is_result
from m2kr.rag.records import RagResult, is_rag_result, load_rag_results

log = logging.getLogger(__name__)

_BESIDE = ".records.parquet"


def given_answers(paths: Iterable[str | Path], command: str) -> list[RagResult]:
    """The results of readers, if these are what was named; none if those of retrieval were.

    A folder stands for its results of retrieval if it has any, else for those of readers.

    Args:
        paths: Files, folders and patterns.
        command: Such as ``m2kr compare``, for what to do next.

    Raises:
        UsageError: Both kinds were named.
        InputError: A result of a reader is damaged.
    """
    answers: list[str] = []
    others: list[str] = []
    for path in map(str, paths):
        (answers if _is_of_answers(Path(path).expanduser()) else others).append(path)
    if not answers:
        return []
    if others:
        raise UsageError(
            f"results of readers, such as {answers[0]}, and of retrieval, such as {others[0]}, are not "
            "scored alike",
            expected="one kind",
            fix=f"{command} 'results/*.rag.*.json', for the readers' alone",
        )
    return load_rag_results(*answers)


def _is_of_answers(path: Path) -> bool:
    if path.is_file():
        if path.name.endswith(_BESIDE):
            return is_rag_result(path.with_name(path.name.removesuffix(_BESIDE) + ".json"))
        return is_rag_result(path)
    files = sorted(path.glob("*.json") if path.is_dir() else path.parent.glob(path.name))
    files = [file for file in files if file.is_file() and file.suffix == ".json"]
    of_readers = [file for file in files if is_rag_result(file)]
    if path.is_dir():
        if of_readers and any(is_result(f) for f in files if f not in of_readers):
            log.warning(
                "%s: %d of its results are of readers, and passed over: '%s' names those",
                path,
                len(of_readers),
                path / "*.rag.*.json",
            )
            return False
        return bool(of_readers)
    if of_readers and len(of_readers) < len(files):
        raise UsageError(
            f"the pattern names {len(of_readers)} results of readers and {len(files) - len(of_readers)} "
            "other files",
            where=str(path),
            expected="one kind",
            fix=f"'{path.parent / '*.rag.*.json'}'",
        )
    return bool(of_readers)
