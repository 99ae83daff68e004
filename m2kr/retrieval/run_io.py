"""Run files: which form a name asks for, atomic writing, and Parquet with ranx's columns."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from m2kr import atomic
from m2kr.errors import InputError, MissingError, UsageError, plainly
from m2kr.parquet import ParquetReader
from m2kr.retrieval import run_json, trec
from m2kr.retrieval.run import Run

TREC_SUFFIXES = (".trec", ".run", ".txt", ".res")
_SUFFIXES = {
    "parquet": (".parquet",),
    "mteb": (".mteb.json", ".mteb.json.gz"),
    "json": (".json", ".json.gz"),
    "table": (".tsv", ".tsv.gz"),
    "trec": (*TREC_SUFFIXES, *(f"{suffix}.gz" for suffix in TREC_SUFFIXES)),
}
_META = b"m2kr.run"
_GROUP_ROWS = 1 << 19
_FORMS = ", ".join(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)


def save(run: Run, path: Path) -> Path:
    """Writes a run in the form that the file name says, aside first; returns the path.

    Raises:
        UsageError: the name ends in no known way.
    """
    form = _form(path)
    if form is None:
        raise UsageError("not the name of a run file", where=str(path), expected=f"one of {_FORMS}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.writing(path) as aside, atomic.create(aside) as file:
        if path.name.lower().endswith(".gz"):
            # No name and no time in the header: equal runs make equal files.
            with gzip.GzipFile("", "wb", compresslevel=4, fileobj=file, mtime=0) as packed:
                _write(run, form, packed, path)
        else:
            _write(run, form, file, path)
    return path


def _write(run: Run, form: str, file: "IO[bytes] | gzip.GzipFile", path: Path) -> None:
    if form == "parquet":
        _write_parquet(run, file)  # type: ignore[arg-type]
    elif form in ("json", "mteb"):
        run_json.write(run, file, mteb=form == "mteb")
    else:
        trec.write(run, file, path, table=form == "table")


def load(path: Path) -> Run:
    """Reads a run file; see `Run.load`."""
    with plainly(path):
        if not path.is_file():
            raise MissingError("there is no such run file", where=str(path))
        return _load(path)


def _load(path: Path) -> Run:
    try:
        form = _form(path) or _form_by_content(path)
        if form == "parquet":
            return _read_parquet(path)
        return run_json.read(path) if form in ("json", "mteb") else trec.read(path)
    except InputError as error:
        if error.where:
            raise
        raise InputError(
            error.what, where=str(path), expected=error.expected, fix=error.fix
        ) from error


def _form(path: Path) -> str | None:
    """What a file name says of its form."""
    name = path.name.lower()
    return next((form for form, suffixes in _SUFFIXES.items() if name.endswith(suffixes)), None)


def _form_by_content(path: Path) -> str:
    with trec.opened(path) as file:
        begin = file.read(4096)
    if begin.startswith(b"PAR1"):
        return "parquet"
    return "json" if begin.lstrip().startswith(b"{") else "trec"


def _write_parquet(run: Run, file: IO[bytes]) -> None:
    counts = run.counts()
    empty = [[int(i), run.query_ids[i]] for i in np.flatnonzero(counts == 0)]
    facts = {"format": 1, "name": run.name, "metadata": run.metadata, "empty": empty}
    fields = [("q_id", pa.string()), ("doc_id", pa.string()), ("score", pa.float64())]
    schema = pa.schema(fields, metadata={_META: json.dumps(facts, sort_keys=True).encode()})
    queries = pa.array(run.query_ids, pa.string())
    owner = np.repeat(np.arange(len(run)), counts)
    with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
        for start in range(0, len(owner), _GROUP_ROWS):
            part = slice(start, start + _GROUP_ROWS)
            columns = [
                queries.take(pa.array(owner[part])),
                run.vocabulary.take(pa.array(run.codes[part])).cast(pa.string()),
                pa.array(run.flat_scores[part]),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _read_parquet(path: Path) -> Run:
    with ParquetReader(path) as file:
        names = file.schema.names
        chosen = [names[i] for i in _roles(names).values()]
        kept = pa.schema([file.schema.field(i) for i in _roles(names).values()])
        _check_types(kept)
        table = pa.Table.from_batches(
            [_plain(batch, kept) for batch in file.batches(chosen, rows=1 << 16)], kept
        )
        facts = _facts(file.schema.metadata or {}, path)
    run = from_table(table, facts["name"], facts["metadata"], where=str(path))
    return _with_empty(run, facts["empty"])


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
        facts |= json.loads(stored.get(_META, b"{}"))
        facts["name"].encode()  # half a surrogate pair is no text
        sound = isinstance(facts["name"], str) and isinstance(facts["metadata"], dict)
        for place, query in facts["empty"]:
            sound = sound and type(place) is int and place >= 0 and isinstance(query, str)
    except (ValueError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise InputError("what m2kr keeps in its metadata is damaged", fix="save the run again")
    return facts


def from_table(
    table: pa.Table, name: str, metadata: dict[str, object] | None = None, where: str = ""
) -> Run:
    """A run from the columns of a table; their names say what they are.

    Raises:
        InputError: a column is lacking, holds nulls or the wrong type.
    """
    roles = _roles(table.column_names)
    ranks = None
    try:
        queries = _flat(table.column(roles["query"]), pa.large_string())
        passages = _flat(table.column(roles["passage"]), pa.large_string())
        if "rank" in roles:
            ranks = _flat(table.column(roles["rank"]), pa.int64()).to_numpy()
        if "score" in roles:
            scores = _flat(table.column(roles["score"]), pa.float64()).to_numpy()
    except pa.ArrowException as error:
        raise InputError(
            f"a column has the wrong type: {error}", expected="strings, strings, float64"
        ) from error
    if "score" not in roles and ranks is not None:
        scores, ranks = -ranks.astype(np.float64), None
    return trec.assemble(queries, passages, scores, name, metadata, ranks=ranks, where=where)


def _roles(names: list[str]) -> "dict[trec.Role, int]":
    roles = trec.roles_of(names)
    needed: tuple[trec.Role, ...] = ("query", "passage", "rank" if "rank" in roles else "score")
    lacking = [role for role in needed if role not in roles]
    twice = [names[i] for i in roles.values() if names.count(names[i]) > 1]
    if twice:
        raise InputError(f"two columns are called {twice[0]}", expected="each name once")
    if lacking:
        first, *others = trec.NAMES[lacking[0]]
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


def _with_empty(run: Run, empty: list[list[Any]]) -> Run:
    """Puts queries without results back in their places."""
    if not empty:
        return run
    order = list(run.query_ids)
    counts = run.counts().tolist()
    for place, query_id in empty:
        order.insert(place, query_id)
        counts.insert(place, 0)
    ids = pa.DictionaryArray.from_arrays(pa.array(run.codes), run.vocabulary)
    return Run(order, counts, ids, run.flat_scores, name=run.name, metadata=run.metadata)
