"""Saved results by file, folder or pattern."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from m2kr.errors import InputError, MissingError, plainly
from m2kr.evaluation.result import Result

_KIND = "m2kr-result-"
_BESIDE = (".queries.parquet", ".run.parquet")  # what a result has beside its JSON


def load_results(*paths: str | Path) -> list[Result]:
    """The results in some files and folders, each file once, in their order.

    Args:
        paths: Result files (the tables that lie beside one stand for it), folders of them, or patterns
            such as ``results/mini.*.json``. Of a folder's JSON files, those that are something else are
            left out.

    Raises:
        MissingError: nothing of that name, or no result in the folder.
        InputError: it is not a result, or damaged.
    """
    files = dict.fromkeys(file.resolve() for path in paths for file in result_files(path))
    return [Result.load(file) for file in files]


def result_files(path: str | Path) -> list[Path]:
    """The result files that a path stands for, as `load_results` says."""
    path = Path(path).expanduser()
    if not path.exists():
        if files := sorted(path.parent.glob(path.name)):
            return [file for match in files for file in result_files(match)]
        raise MissingError(
            "there is no such result", where=str(path), fix="m2kr eval SOURCE -r RETRIEVER"
        )
    if path.is_dir():
        files = sorted(_results_in(path))
        if not files:
            raise MissingError(
                "the folder has no results",
                where=str(path),
                fix=f"m2kr eval SOURCE -r RETRIEVER --out {path}",
            )
        return files
    for ending in _BESIDE:
        beside = path.with_name(path.name.removesuffix(ending) + ".json")
        if path.name.endswith(ending) and beside.is_file():
            return [beside]
    return [path]


def result_in(path: Path) -> Result | None:
    """The result that a file is; None if it is something else, such as a run in JSON."""
    with suppress(InputError):
        return Result.load(path) if path.suffix == ".json" and is_result(path) else None
    return None


def _results_in(folder: Path) -> Iterator[Path]:
    with plainly(folder):
        for file in folder.glob("*.json"):
            if file.is_file() and is_result(file):
                yield file


def is_result(file: Path) -> bool:
    """Whether a JSON file is a result, of this version or another.

    Raises:
        InputError: it is no JSON.
    """
    with plainly(file):
        try:
            facts = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"not JSON: {error}", where=str(file), fix="evaluate again, or move it away"
            ) from error
    return isinstance(facts, dict) and str(facts.get("format", "")).startswith(_KIND)
