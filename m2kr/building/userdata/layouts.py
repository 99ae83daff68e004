"""What an import reads, and how the file layouts of other benchmarks are found in a folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from m2kr.building.userdata.fields import Row, template_instruction
from m2kr.building.userdata.readers import Record, RecordFile
from m2kr.errors import MissingError, UsageError
from m2kr.sources import folded_splits

Instruct = Callable[[Record, Row], str]


def instruct_by_task(record: Record, row: Row) -> str:  # noqa: ARG001 - one of several of its kind
    """The benchmark's own instruction for queries of the row's task."""
    return template_instruction(row)


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """The files of one query split.

    Attributes:
        queries: Query records.
        qrels: Judgements; they replace those in the records.
        only_judged: Queries without judgements belong to other splits and are left out.
    """

    queries: RecordFile
    qrels: RecordFile | None = None
    only_judged: bool = False


@dataclass(frozen=True)
class Layout:
    """Everything an import reads. Picklable if ``instruct`` is.

    Attributes:
        passages: Passage records, the pool of all splits.
        splits: Query files by split name.
        images: Image roots: folders, archives, Arrow files.
        title_in_text: Passages are indexed as ``title text``.
        instruct: The instruction of a query whose record has none.
        also: Further files that the rows depend on.
    """

    passages: RecordFile
    splits: Mapping[str, SplitFiles]
    images: tuple[Path, ...] = ()
    title_in_text: bool = False
    instruct: Instruct = instruct_by_task
    also: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """What the user named; a layout fills in the rest from the folder.

    Attributes:
        folder: The benchmark's folder.
        dataset: Which of the folder's data sets, such as ``infoseek_task6``.
        split: Split name as the user wrote it.
    """

    folder: Path | None = None
    dataset: str | None = None
    split: str | None = None
    passages: Path | None = None
    queries: Path | None = None
    qrels: Path | None = None

    @property
    def one_split(self) -> str:
        """The canonical split (``valid``, not ``val``), ``test`` by default."""
        return canonical_split(self.split or "test")


def canonical_split(name: str) -> str:
    """``valid`` for ``val``, ``validation`` and ``dev``; other names as they are."""
    return folded_splits([name])[name]


def visible(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of a folder that fit, sorted; not those that systems hide or add to archives."""
    return sorted(
        path
        for pattern in patterns
        for path in folder.glob(pattern)
        if path.is_file()
        and not any(
            part.startswith((".", "~")) or part == "__MACOSX"
            for part in path.relative_to(folder).parts
        )
    )


def the_one(given: Path | None, folder: Path | None, patterns: Sequence[str], what: str) -> Path:
    """The file given, or the only one in a folder that the first fitting pattern finds.

    Raises:
        UsageError: neither file nor folder is given, or several files fit; names them.
        MissingError: the folder has no such file; names the patterns.
    """
    if given is not None:
        return given
    if folder is None:
        raise UsageError(f"no file of {what} is given", fix=f"--{what} FILE, or the folder")
    for pattern in patterns:
        found = visible(folder, [pattern])
        if len(found) > 1:
            raise UsageError(
                f"several files of {what} fit: {', '.join(p.name for p in found[:12])}",
                fix=f"--dataset NAME to choose, or --{what} FILE",
            )
        if found:
            return found[0]
    raise MissingError(
        f"there is no file of {what}",
        where=str(folder),
        expected=" or ".join(patterns),
        fix=f"--{what} FILE",
    )
