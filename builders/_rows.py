"""Small pieces that several builders share: counting rows of an input, reading its faults."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from m2kr.building.formats.archives import members
from m2kr.building.formats.delimited import BadRecord
from m2kr.building.formats.gzip import open_gzip
from m2kr.building.formats.json_stream import read_json_lines
from m2kr.building.ledger import Ledger
from m2kr.errors import InputError


def dropper(ledger: Ledger, file: str, *, count: bool = False) -> Callable[[BadRecord], None]:
    """Enters each faulty record of a file into the ledger; ``count`` if its reader doesn't count it."""

    def drop(fault: BadRecord) -> None:
        if count:
            ledger.read(file)
        detail = f"{fault.problem}: {fault.text}"
        ledger.drop("unreadable record", file=file, row=fault.row, detail=detail)

    return drop


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file as a stream of its content, inflated if it is gzip."""
    if path.suffix == ".gz":
        with open_gzip(path) as stream:
            yield stream
    else:
        with path.open("rb") as stream:
            yield stream


def json_records(
    path: Path, ledger: Ledger, keys: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records of a JSON lines file (plain or gzip); each is counted as read, faulty ones dropped.

    Raises:
        InputError: there is none with these keys: it is another file.
    """
    file, good = path.name, False
    with opened(path) as stream:
        drop = dropper(ledger, file, count=True)
        for row, record in read_json_lines(stream, on_fault=drop, keys=keys):
            good = True
            ledger.read(file)
            yield row, record
    if not good:
        raise no_records(path, keys)


def no_records(path: Path, keys: Sequence[str]) -> InputError:
    """The error of a JSON lines file without one record that has these keys: it is another file."""
    return InputError(
        "not one record of this file is as it should be",
        where=str(path),
        expected="lines of JSON objects with the keys " + ", ".join(keys),
    )


def only_member(path: Path) -> bytes:
    """The content of the one JSON member of a zip.

    Raises:
        InputError: there is none, or there are several.
    """
    found = [m.read() for m in members(path) if m.name.endswith(".json")]
    if len(found) != 1:
        raise InputError(
            f"{len(found)} JSON files are in this archive", where=str(path), expected="one"
        )
    return found[0]


def most_frequent(answers: Iterable[str]) -> str | None:
    """The answer given most often, of equally frequent ones the first; None of none."""
    counts = Counter(answers)
    return max(counts, key=lambda answer: counts[answer]) if counts else None


def told(record: Any) -> str:
    """A faulty record for the ledger, cut; one nested too deep to be printed is told as that."""
    try:
        return repr(record)[:200]
    except RecursionError:
        return "a record nested too deep"
