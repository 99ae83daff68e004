"""Run files: a table of their formats; Parquet with ranx's columns, and JSON.

A reader gives columns of queries, passages, and scores or ranks; `rows_of_columns` makes rows of them,
and `checked_rows` refuses what is no run: the same for every format.
"""

import gzip
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr import atomic
from m2kr.errors import InputError, MissingError, UsageError, plainly
from m2kr.packed import open_unpacked
from m2kr.parquet import ParquetReader
from m2kr.retrieval.run_columns import NAMES, Role, kind_of_numbers, roles_of, rows_of_columns
from m2kr.retrieval.run_rows import RunRows, TooManyRows, checked_rows
from m2kr.retrieval.run_text import read_run_text, write_run_text

logger = logging.getLogger("m2kr.retrieval")

RUN_META = b"m2kr.run"
# In files of `m2kr.training.mine`: rows without a rank are right passages that were not retrieved.
MINED = b"m2kr.mined"
_GROUP_ROWS = 1 << 19
_MTEB_META = "mteb_model_meta"
_JSON_EXPECTED = "{query: {passage: score}}, plain or in MTEB's {subset: {split: ...}}"
_MAX_JSON_BYTES = 1 << 30
_PIECE = 1 << 20
# A long id is stored once, however many rows have it: a small file would take gigabytes.
_FREE_BYTES, _ROW_BYTES = 256 << 20, 1000


def save_rows(run: RunRows, path: Path) -> Path:
    """Writes a run in the format that the file name says, whole or not at all; returns the path.

    Raises:
        UsageError: the name ends in no known way.
    """
    form = _format_by_name(path)
    if form is None:
        suffixes = ", ".join(suffix for known in _FORMATS for suffix in known.suffixes)
        raise UsageError(
            "not the name of a run file", where=str(path), expected=f"one of {suffixes}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.writing(path) as aside, atomic.create(aside) as file:
        if path.name.lower().endswith(".gz"):
            # No name and no time in the header: equal runs make equal files.
            with gzip.GzipFile("", "wb", compresslevel=4, fileobj=file, mtime=0) as packed:
                form.write(run, cast("IO[bytes]", packed), path)
        else:
            form.write(run, file, path)
    return path


def load_rows(path: Path) -> RunRows:
    """Reads a run file; see `Run.load`."""
    with plainly(path), _of_file(path):
        return checked_rows(unchecked_rows(path))


def unchecked_rows(path: Path, most_rows: int | None = None) -> RunRows:
    """Reads a run file as it is: scores that are not finite, repeated passages and queries stay.

    Args:
        path: The file.
        most_rows: Nothing is kept of a Parquet or text file that has more.

    Raises:
        MissingError: no such file.
        TooManyRows: it has more.
        InputError: a line or column is not as it should be; names file and line.
    """
    with plainly(path):
        if not path.is_file():
            raise MissingError("there is no such run file", where=str(path))
        with _of_file(path):
            return (_format_by_name(path) or _format_by_content(path)).read(path, most_rows)


@contextmanager
def _of_file(path: Path) -> Iterator[None]:
    """Has errors name the file."""
    try:
        yield
    except InputError as error:
        if error.where:
            raise
        raise type(error)(
            error.what, where=str(path), expected=error.expected, fix=error.fix
        ) from error


def _write_parquet(run: RunRows, file: IO[bytes], _: Path) -> None:
    import pyarrow.parquet as pq

    empty = [[int(i), run.query_ids[i]] for i in np.flatnonzero(run.counts() == 0)]
    facts = {"format": 1, "name": run.name, "metadata": run.metadata, "empty": empty}
    fields = [("q_id", pa.string()), ("doc_id", pa.string()), ("score", pa.float64())]
    schema = pa.schema(fields, metadata={RUN_META: json.dumps(facts, sort_keys=True).encode()})
    queries = pa.array(run.query_ids, pa.string())
    owners = run.owners()
    *ids, scores = schema.names
    with pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        use_dictionary=ids,
        use_byte_stream_split=[scores],  # a third smaller: few scores are there twice
        write_page_checksum=True,
    ) as writer:
        for start in range(0, len(owners), _GROUP_ROWS):
            part = slice(start, start + _GROUP_ROWS)
            columns = [
                queries.take(pa.array(owners[part])),
                run.ids_of(run.codes[part]).cast(pa.string()),
                pa.array(run.flat_scores[part]),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _read_parquet(path: Path, most_rows: int | None = None) -> RunRows:
    with ParquetReader(path) as file:
        if most_rows is not None and file.rows > most_rows:
            raise TooManyRows(f"it has {file.rows:,} rows")
        names = file.schema.names
        chosen = [names[i] for i in _roles(names).values()]
        kept = pa.schema([file.schema.field(i) for i in _roles(names).values()])
        _check_types(kept)
        most = max(_FREE_BYTES, _ROW_BYTES * file.rows)
        batches = []
        for batch in file.batches(chosen, rows=1 << 16):
            if file.unpacked > most:
                raise InputError(
                    f"its {file.rows:,} rows hold more than {most:,} bytes of ids",
                    expected=f"ids of less than {_ROW_BYTES} bytes on average",
                )
            batches.append(_plain(batch, kept))
        if MINED in file.metadata:  # scored, but not retrieved
            batches = [batch.filter(pc.is_valid(batch.column("rank"))) for batch in batches]
        table = pa.Table.from_batches(batches, kept)
        facts = _facts(file.metadata, path)
    return _rows_of_table(table, where=str(path), **facts)


def _check_types(schema: pa.Schema) -> None:
    """Refuses what is no id and no number, before it is read."""
    for field in schema:
        inner = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_nested(inner) or pa.types.is_temporal(inner) or pa.types.is_boolean(inner):
            raise InputError(
                f"column {field.name!r} has the type {field.type}",
                expected="strings, strings, float64",
            )


def _plain(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch in the file's own types; some were read as dictionaries."""
    arrays = [batch.column(f.name).cast(f.type) for f in schema]
    return pa.record_batch(arrays, schema=schema)


def _facts(stored: Mapping[bytes, bytes], path: Path) -> dict[str, Any]:
    """What our own files hold besides rows; each may have been written by anybody."""
    facts: dict[str, Any] = {"name": path.name.split(".")[0], "metadata": {}, "empty": []}
    try:
        facts |= json.loads(stored.get(RUN_META, b"{}"))
        facts["name"].encode()  # half a surrogate pair is no text
        sound = isinstance(facts["name"], str) and isinstance(facts["metadata"], dict)
        for place, query in facts["empty"]:
            sound = sound and type(place) is int and place >= 0 and isinstance(query, str)
    except (ValueError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise InputError("what m2kr keeps in its metadata is damaged", fix="save the run again")
    return {key: facts[key] for key in ("name", "metadata", "empty")}


def rows_of_table(table: pa.Table, name: str) -> RunRows:
    """The checked rows of a run from the columns of a table; their names say what they are.

    Raises:
        InputError: a column is lacking, holds nulls or the wrong type, or the rows are no run.
    """
    return checked_rows(_rows_of_table(table, name=name))


def _rows_of_table(table: pa.Table, **facts: Any) -> RunRows:
    roles = _roles(table.column_names)
    types = {"rank": pa.int64(), "score": pa.float64()}
    try:
        columns = {
            role: _flat(table.column(place), types.get(role, pa.large_string()))
            for role, place in roles.items()
        }
    except pa.ArrowException as error:
        raise InputError(
            f"a column has the wrong type: {error}", expected="strings, strings, float64"
        ) from error
    ranks, scores = (columns[role].to_numpy() if role in columns else None for role in types)
    return rows_of_columns(columns["query"], columns["passage"], scores, ranks, **facts)


def _roles(names: list[str]) -> dict[Role, int]:
    roles = roles_of(names)
    needed: tuple[Role, ...] = ("query", "passage", "rank" if "rank" in roles else "score")
    lacking = [role for role in needed if role not in roles]
    twice = [names[i] for i in roles.values() if names.count(names[i]) > 1]
    if twice:
        raise InputError(f"two columns are called {twice[0]}", expected="each name once")
    if lacking:
        first, *others = NAMES[lacking[0]]
        raise InputError(
            f"has no column {first}: its columns are {', '.join(names) or 'none'}",
            expected=f"columns q_id, doc_id, score; {first} may be called {', '.join(others)}",
        )
    return roles


def _flat(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    if column.null_count:
        raise InputError("a column holds nulls", expected="a value in every row")
    flat = column.cast(kind).combine_chunks()
    return pa.concat_arrays(flat.chunks) if isinstance(flat, pa.ChunkedArray) else flat


def _write_json(run: RunRows, file: IO[bytes], _: Path, *, mteb: bool = False) -> None:
    """Writes a run, query after query, best passages first; its metadata are lost.

    Args:
        run: The run.
        file: Where to.
        _: The file's path.
        mteb: Below MTEB's subset and split, with the run's name as the model's.
    """
    before, after = "{", "\n}\n"
    if mteb:
        meta = json.dumps(
            {_MTEB_META: {"model_name": run.name, "revision": None}}, ensure_ascii=False
        )
        split = json.dumps(str(run.metadata.get("split", "test")), ensure_ascii=False)
        before, after = f'{meta[:-1]}, "default": {{{split}: {{', "\n}}}\n"
    file.write(before.encode())
    for place, (query, codes, scores) in enumerate(run.by_query()):
        ranked = json.dumps(
            dict(zip(run.ids_of(codes).to_pylist(), scores.tolist(), strict=True)),
            ensure_ascii=False,
        )
        key = json.dumps(query, ensure_ascii=False)
        file.write(f"{',' if place else ''}\n{key}: {ranked}".encode())
    file.write(after.encode())


def _read_json(path: Path, _: int | None = None) -> RunRows:
    """A run from JSON.

    Raises:
        InputError: it is no JSON, holds something else than scores, or several subsets or splits.
    """
    with open_unpacked(path) as file:
        # In pieces: a plain file's `read` takes memory for all that it may get.
        raw = b"".join(islice(iter(partial(file.read, _PIECE), b""), _MAX_JSON_BYTES // _PIECE + 1))
    if len(raw) > _MAX_JSON_BYTES:
        raise InputError(
            f"over {_MAX_JSON_BYTES >> 30} GiB of JSON",
            expected="a run of that size as TREC or Parquet",
        )
    try:
        document = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", expected=_JSON_EXPECTED) from error
    name = path.name.split(".")[0]
    meta = document.get(_MTEB_META) if isinstance(document, dict) else None
    model = meta.get("model_name") if isinstance(meta, dict) else None
    if isinstance(model, str):
        name = model or name
        del document[_MTEB_META]
    rankings = _rankings(document, least=2 if isinstance(model, str) else 0)
    for query, scored in rankings.items():
        bad = [p for p, s in scored.items() if type(s) not in (int, float)]
        if bad:
            raise InputError(
                f"query '{query}', passage '{bad[0]}': the score is {scored[bad[0]]!r}",
                expected="a number",
            )
    queries, counts = list(rankings), np.array([len(s) for s in rankings.values()], np.int64)
    owners = np.repeat(np.arange(len(counts)), counts)
    passages = [passage for scored in rankings.values() for passage in scored]
    scores = [score for scored in rankings.values() for score in scored.values()]
    try:
        values = np.array(scores, np.float64)
    except OverflowError as error:
        raise InputError(f"a score is too large: {error}") from error
    kind = kind_of_numbers(values, owners)
    whole = all(type(score) is int for score in scores)
    if kind in ("ranks", "unclear") and whole:
        raise InputError(
            "whole numbers that can be read in two ways: as ranks (the lowest is best) and as scores (the "
            "highest is best)",
            expected="scores",
            fix="write scores with a point (3.0), ranks negated (-3)",
        )
    if kind in ("ranks", "rising"):
        logger.warning(
            "%s: scores rise through every query's passages, and the highest counts as best; ranks or "
            "distances have to be negated first",
            path,
        )
    # Those without passages are in the dictionary alone.
    column = pa.DictionaryArray.from_arrays(owners, pa.array(queries, pa.large_string()))
    return rows_of_columns(column, pa.array(passages, pa.large_string()), values, name=name)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    obj = dict(pairs)
    if len(obj) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} is there twice in one object")
    return obj


def _rankings(document: Any, least: int) -> dict[str, dict[str, Any]]:
    """The object whose values' values are scores, below subsets and splits of which there is one.

    Args:
        document: What the file holds.
        least: How far below it is at the least.
    """
    inside = ""
    for depth in range(3):
        if not isinstance(document, dict) or not all(
            isinstance(v, dict) for v in document.values()
        ):
            break
        below = [value for scored in document.values() for value in scored.values()]
        if depth >= least and not (below and all(isinstance(value, dict) for value in below)):
            return document
        if len(document) != 1:
            raise InputError(
                f"it holds {len(document)} runs{inside}: {', '.join(document) or 'nothing'}",
                expected="one subset and one split",
                fix="save the object of one split as a file of its own",
            )
        name, document = next(iter(document.items()))
        inside += f" in '{name}'"
    raise InputError("it is not a run", expected=_JSON_EXPECTED)


@dataclass(frozen=True, slots=True)
class _Format:
    """How runs of one kind of file are read and written.

    Attributes:
        suffixes: Of file names; the first format that has one counts.
        read: Rows in any order, and not checked.
        write: Writes rows to a file whose path is for messages.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Path, int | None], RunRows]
    write: Callable[[RunRows, IO[bytes], Path], None]


def _packed_too(*suffixes: str) -> tuple[str, ...]:
    return (*suffixes, *(f"{suffix}.gz" for suffix in suffixes))


_FORMATS = (
    _Format((".parquet",), _read_parquet, _write_parquet),
    _Format(_packed_too(".mteb.json"), _read_json, partial(_write_json, mteb=True)),
    _Format(_packed_too(".json"), _read_json, _write_json),
    _Format(_packed_too(".tsv"), read_run_text, partial(write_run_text, table=True)),
    _Format(_packed_too(".trec", ".run", ".txt", ".res"), read_run_text, write_run_text),
)
_PARQUET, _, _JSON, _, _TEXT = _FORMATS


def _format_by_name(path: Path) -> _Format | None:
    name = path.name.lower()
    return next((form for form in _FORMATS if name.endswith(form.suffixes)), None)


def _format_by_content(path: Path) -> _Format:
    with open_unpacked(path) as file:
        begin = file.read(4096)
    if begin.startswith(b"PAR1"):
        return _PARQUET
    return _JSON if begin.lstrip().startswith(b"{") else _TEXT
