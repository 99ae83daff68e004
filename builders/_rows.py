"""What builders share: an input's rows read and counted, rows of our tables, rows kept from one pass."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import orjson
import pyarrow as pa

from m2kr.building.formats.archives import members
from m2kr.building.formats.delimited import BadRecord, read_csv
from m2kr.building.formats.gzip import open_gzip
from m2kr.building.formats.json_stream import array_items, read_json_lines
from m2kr.building.ledger import Ledger
from m2kr.building.spec import BuildContext
from m2kr.errors import InputError
from m2kr.schema import arrow_schema, columns

T = TypeVar("T")
_CHUNK = 1_000  # rows of a batch
WITHOUT_TEXT = "a question or an answer without text"


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


def csv_records(
    path: Path, ledger: Ledger, names: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Records of a CSV file with a header; each is counted as read, faulty ones dropped."""
    with path.open("rb") as stream:
        drop = dropper(ledger, path.name)
        for block in read_csv(stream, names, where=str(path), on_fault=drop):
            ledger.read(path.name, block.records)
            for i, record in enumerate(block.batch.to_pylist()):
                yield block.row(i), record


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
    contents = [m.read() for m in members(path) if m.name.endswith(".json")]
    if len(contents) != 1:
        raise InputError(
            f"{len(contents)} JSON files are in this archive", where=str(path), expected="one"
        )
    return contents[0]


def parsed_items(
    path: Path, ledger: Ledger, parse: Callable[[int, Any], T | str], expected: str
) -> Iterator[T]:
    """The items of a JSON list as they are parsed; each is counted as read, faulty ones are dropped.

    Args:
        path: The file.
        ledger: Told of it.
        parse: Makes something of an item and its number, or says what is wrong with it.
        expected: What the list should look like.

    Raises:
        InputError: the file is damaged, or not one item is sound: it is another file.
    """
    file, good = path.name, False
    with path.open("rb") as stream:
        for row, item in enumerate(array_items(stream, where=str(path)), 1):
            ledger.read(file)
            parsed = parse(row, item)
            if isinstance(parsed, str):
                own = item.get("id") if isinstance(item, dict) else None
                detail = own[:80] if isinstance(own, str) else ""
                ledger.drop(parsed, file=file, row=row, detail=detail)
            else:
                good = True
                yield parsed
    if not good:
        raise InputError("not one item is as it should be", where=str(path), expected=expected)


def problem_of(item: Any, keys: Sequence[str]) -> str:
    """What an item lacks of a record with some keys; empty if it has them all."""
    if not isinstance(item, dict):
        return "no record"
    return next((f"no key {name!r}" for name in keys if name not in item), "")


def image_query(
    ctx: BuildContext, own: str, image: str, path: str | None, text: str = ""
) -> dict[str, Any]:
    """What all queries with an image have in common.

    Args:
        ctx: The build.
        own: The query's id.
        image: The image's.
        path: Where the image lies.
        text: The question; a query may be the image alone.
    """
    return {
        "question_id": own,
        "question": text,
        "instruction": ctx.instruction(own),
        "img_id": image,
        "image_id": image,
        "img_path": path,
    }


def passage_batch(ctx: BuildContext, given: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """Some columns as a batch of our table of passages; the language is English unless it is given."""
    n = len(given["passage_id"])
    if "language" not in given:
        given = {"language": pa.array(["en"]).take(np.zeros(n, np.int64)), **given}
    schema = arrow_schema(columns("passages", ctx.source.passage_columns))
    arrays = [given.get(field.name, pa.nulls(n, field.type)) for field in schema]
    return pa.record_batch(arrays, schema=schema)


class Selection(NamedTuple):
    """Rows of a big file that some table takes, from one pass through it for all tables of a build.

    Attributes:
        path: Their Arrow stream.
        facts: What else the pass counted.
    """

    path: Path
    facts: dict[str, Any]

    @classmethod
    def write(cls, path: Path, table: pa.Table, **facts: Any) -> None:
        """Keeps some rows and facts in a file."""
        schema = table.schema.with_metadata({"facts": orjson.dumps(facts)})
        with path.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
            writer.write_table(table.cast(schema), max_chunksize=_CHUNK)

    @classmethod
    def read(cls, path: Path) -> "Selection":
        """What `write` has kept."""
        with pa.memory_map(str(path)) as source:
            return cls(path, orjson.loads(pa.ipc.open_stream(source).schema.metadata[b"facts"]))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows in order."""
        with pa.memory_map(str(self.path)) as source:
            for batch in pa.ipc.open_stream(source):
                yield from batch.to_pylist()

    def accounted(
        self, ledger: Ledger, file: str, total: int, rule: str
    ) -> Iterator[dict[str, Any]]:
        """The rows in order, each with its number as ``row``; the file's others go to the ledger.

        Args:
            ledger: Told of all rows but those given.
            file: Name of the input.
            total: Its rows in all.
            rule: Why the others are left out.
        """
        ledger.read(file, total)
        before = 0
        for row in self.rows():
            ledger.filter(rule, file=file, row=range(before + 1, row["row"]))
            before = row["row"]
            yield row
        ledger.filter(rule, file=file, row=range(before + 1, total + 1))


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
