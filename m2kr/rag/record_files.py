"""Rows of answers or of gold answers from files in the forms that people have."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from m2kr.building.formats.archives import members
from m2kr.building.formats.gzip import open_gzip
from m2kr.building.userdata.readers import file_kind, record_file
from m2kr.errors import InputError, MissingError, plainly
from m2kr.packed import is_gzip
from m2kr.unicode_halves import loads, mended_text

# Names of columns, the most telling first; case and punctuation don't matter.
ID_NAMES = ("question_id", "data_id", "query_id", "qid", "q_id")
VAGUE_ID_NAMES = ("id", "_id", "uid", "index")
ENDINGS = ".jsonl, .json, .csv or .tsv (each also .gz), or .parquet"
_WRAPPERS = ("predictions", "results", "answers", "annotations", "data", "rows", "records")
_BOM = b"\xef\xbb\xbf"
_MOST_BYTES = 1 << 30
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A row and where it stands.

    Attributes:
        where: For messages, such as ``answers.jsonl, line 3``.
        row: Its fields.
        key: The key it stood under, where a file is an object of rows by id.
    """

    where: str
    row: Row
    key: str | None = None


@dataclass(frozen=True, slots=True)
class RowFile:
    """All rows of a file.

    Attributes:
        path: The file.
        rows: In its order.
        flat: Its cells are text alone, an empty one None: CSV and TSV.
        pairs: It is an object of texts or numbers by id, each row's field is ``answer``.
        wrapper: The key that the rows stood under, if there was one.
    """

    path: Path
    rows: Sequence[PlacedRow]
    flat: bool = False
    pairs: bool = False
    wrapper: str = ""

    @property
    def columns(self) -> list[str]:
        """Names of all fields, in the order in which they first come."""
        return list(dict.fromkeys(name for placed in self.rows for name in placed.row))


def read_row_file(path: Path) -> RowFile:
    """The rows of a file: JSON lines, JSON, CSV, TSV (plain or gzip), Parquet, or a zip of one JSON file.

    JSON is a list of objects, an object that holds such a list, one of objects, texts or numbers by id,
    or one of lists of equal length by column.

    Raises:
        MissingError: there is no such file.
        InputError: it is none of these, or a row can't be read; names the row.
    """
    with plainly(path):
        if path.is_dir():
            raise InputError("it is a folder", where=str(path), expected=f"a file: {ENDINGS}")
        if not path.is_file():
            raise MissingError("there is no such file", where=str(path))
        kind = file_kind(path)
        if path.name.lower().endswith(".zip"):
            return _from_json(path, _zipped(path))
        if kind == "json":
            return _from_json(path, _whole(path))
        if not kind:
            raise InputError(
                f"files that end in '{path.suffix}' are not read",
                where=str(path),
                expected=ENDINGS,
                fix="rename the file after what is in it",
            )
        rows = _quick_lines(path) if kind == "jsonl" else None
        if rows:
            return RowFile(path, rows)
        file = record_file(path)
        rows = [PlacedRow(file.where(n), record) for n, record in file]
        return RowFile(path, _filled(path, rows), flat=file.flat)


def _quick_lines(path: Path) -> list[PlacedRow] | None:
    """Objects a line; None if any is something else, which the slow reader then says."""
    rows = []
    with contextlib.suppress(ValueError), _opened_bytes(path) as file:
        for n, line in enumerate(file, 1):
            if not line.isspace():
                item = loads(line.removeprefix(_BOM) if n == 1 else line)
                if not isinstance(item, dict):
                    return None
                rows.append(PlacedRow(f"{path}, line {n}", item))
        return rows
    return None


def _filled(path: Path, rows: Sequence[PlacedRow]) -> Sequence[PlacedRow]:
    if not rows:
        raise InputError("no row is in this file", where=str(path), expected="a row a question")
    return rows


def _whole(path: Path) -> bytes:
    with _opened_bytes(path) as file:
        raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise InputError(
            f"more than {_MOST_BYTES:,} bytes of JSON in one piece",
            where=str(path),
            fix="jq -c '.[]' OLD.json > NEW.jsonl",
        )
    return raw


def _opened_bytes(path: Path) -> BinaryIO:
    return open_gzip(path) if is_gzip(path) else path.open("rb")


def _zipped(path: Path) -> bytes:
    contents = [m.read() for m in members(path) if m.name.lower().endswith(".json")]
    if len(contents) != 1:
        raise InputError(
            f"{len(contents)} JSON files are in this archive", where=str(path), expected="one"
        )
    return contents[0]


def _from_json(path: Path, raw: bytes) -> RowFile:
    raw = raw.removeprefix(_BOM)
    try:
        value = loads(raw)
    except orjson.JSONDecodeError as error:
        rows = _lines(path, raw)
        if rows is None:
            raise InputError(
                f"the file is not JSON: {error}"[:300],
                where=str(path),
                expected="a list of objects, an object of answers by id, or an object a line",
            ) from error
        return RowFile(path, _filled(path, rows))
    wrapper = ""
    if isinstance(value, dict) and str(value.get("format", "")).startswith("m2kr-rag-"):
        raise InputError(
            "this is a result of m2kr rag; its answers are in the table of records",
            where=str(path),
            fix=f"m2kr score-answers {path.with_suffix('')}.records.parquet … --set arm=… --set k=…",
        )
    if isinstance(value, dict) and _is_id_column(value) is None:
        lists = [k for k in _WRAPPERS if _is_rows(value.get(k))]
        if len(lists) > 1:
            raise InputError(
                f"{' and '.join(map(repr, lists))} both hold rows: which one counts can't be told",
                where=str(path),
                fix=f"jq '.{lists[0]}' OLD.json > NEW.json",
            )
        if lists:
            wrapper = lists[0]
            value = value[wrapper]
    if isinstance(value, list):
        rows = [_placed(path, n, item) for n, item in enumerate(value, 1)]
        return RowFile(path, _filled(path, rows), wrapper=wrapper)
    if not isinstance(value, dict):
        raise InputError(
            f"the file holds one {type(value).__name__}",
            where=str(path),
            expected="a list of objects, or an object of answers by id",
        )
    _refuse_double_keys(path, raw)
    return _from_object(path, value)


def _refuse_double_keys(path: Path, raw: bytes) -> None:
    """Of keys that repeat, parsers keep one and don't say so."""
    top: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> None:
        top[:] = pairs  # the outermost object comes last

    with contextlib.suppress(ValueError, RecursionError):  # what only orjson reads
        json.loads(raw, object_pairs_hook=keep)
    if twice := [key for key, count in Counter(key for key, _ in top).items() if count > 1]:
        raise InputError(
            f"{len(twice):,} keys are there more than once: {first_ids(twice)}",
            where=str(path),
            expected="each question once",
        )


def _from_object(path: Path, value: dict[str, Any]) -> RowFile:
    """Rows of an object: by id, or by column."""
    if value and all(isinstance(v, dict) for v in value.values()):
        if _is_id_column(value) is not None:
            raise InputError(
                "the file is an object of columns by row number, as pandas' to_json writes it",
                where=str(path),
                expected="a list of objects",
                fix='write it with orient="records"',
            )
        rows = [PlacedRow(f"{path}, key {k!r:.80}", v, k) for k, v in value.items()]
        return RowFile(path, rows)
    if _is_id_column(value) is not None and all(isinstance(v, list) for v in value.values()):
        lengths = {len(v) for v in value.values()}
        if len(lengths) > 1:
            raise InputError(
                "the columns have different lengths: "
                + ", ".join(f"{k!r} {len(v):,}" for k, v in value.items())[:300],
                where=str(path),
            )
        rows = [
            PlacedRow(f"{path}, row {n}", dict(zip(value, cells, strict=True)))
            for n, cells in enumerate(zip(*value.values(), strict=True), 1)
        ]
        return RowFile(path, _filled(path, rows))
    rows = [PlacedRow(f"{path}, key {k!r:.80}", {"answer": v}, k) for k, v in value.items()]
    return RowFile(path, _filled(path, rows), pairs=True)


def _is_id_column(names: Iterable[str]) -> str | None:
    known = {bare_name(name) for name in ID_NAMES}
    return next((name for name in names if bare_name(name) in known), None)


def _is_rows(value: Any) -> bool:
    """Whether a value is a list of objects, or an object of answers by id."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, dict) for item in value)
    return isinstance(value, dict) and not {"answer", "prediction"} & value.keys()


def _placed(path: Path, n: int, item: Any) -> PlacedRow:
    where = f"{path}, row {n}"
    if not isinstance(item, dict):
        raise InputError(
            f"the row is {json.dumps(item, ensure_ascii=False)[:60]}, no object",
            where=where,
            expected='an object, such as {"question_id": "1", "answer": "pear"}',
        )
    return PlacedRow(where, item)


def _lines(path: Path, raw: bytes) -> list[PlacedRow] | None:
    """Objects a line, as of JSON lines with the wrong ending; None if they are none."""
    rows = []
    for n, line in enumerate(raw.splitlines(), 1):
        if not line.strip():
            continue
        try:
            item = loads(line)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(item, dict):
            return None
        rows.append(PlacedRow(f"{path}, line {n}", item))
    return rows


def bare_name(name: str) -> str:
    """A column's name without case and punctuation."""
    return "".join(c for c in name if c.isalnum()).lower()


def column_of(file: RowFile, role: str, names: Sequence[str], chosen: str | None) -> str | None:
    """The column that holds something, by the names that are in use.

    Args:
        file: The rows.
        role: What it holds, as the setting that chooses it is called.
        names: The known names.
        chosen: A name that was given.

    Returns:
        Its name; None if no column has a known name.

    Raises:
        InputError: there is no such column, or two that don't agree.
    """
    columns = file.columns
    if chosen is not None:
        if chosen not in columns:
            raise InputError(
                f"no column is called {chosen!r}",
                where=str(file.path),
                expected="one of " + ", ".join(map(repr, columns))[:300],
            )
        return chosen
    known = [bare_name(name) for name in names]
    present = [name for name in columns if bare_name(name) in known]
    present.sort(key=lambda name: known.index(bare_name(name)))
    for rival in present[1:]:
        for placed in file.rows:
            both = placed.row.get(present[0]), placed.row.get(rival)
            if both[0] != both[1]:
                raise InputError(
                    f"columns {present[0]!r} and {rival!r} differ: {both[0]!r:.40} and "
                    f"{both[1]!r:.40}; each could be the {role}",
                    where=placed.where,
                    expected=f"one column that can be the {role}",
                    fix=f"--set {role}={rival}   (or --set {role}={present[0]})",
                )
    return present[0] if present else None


def row_id(value: object, where: str, name: str) -> str:
    """An id as text; a whole number as its digits, also where a data frame made ``7.0`` of it.

    Raises:
        InputError: it is neither a text that isn't blank nor a whole number.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return mended_text(value)
    raise InputError(
        f"field {name!r} is {value!r:.60}",
        where=where,
        expected="an id: a text that is not blank, or a whole number",
    )


def rows_by_id(file: RowFile, chosen: str | None = None) -> Iterator[tuple[str, PlacedRow]]:
    """The rows with their ids.

    Raises:
        InputError: no column is known to hold them, or one isn't an id.
    """
    if chosen is None and all(placed.key is not None for placed in file.rows):
        yield from ((str(placed.key), placed) for placed in file.rows)
        return
    column = column_of(file, "id", ID_NAMES, chosen) or column_of(file, "id", VAGUE_ID_NAMES, None)
    if column is None:
        raise InputError(
            "no column is known to hold the questions' ids, of "
            + ", ".join(map(repr, file.columns))[:300],
            where=str(file.path),
            expected="one called " + ", ".join((*ID_NAMES, VAGUE_ID_NAMES[0])),
            fix="--set id=COLUMN",
        )
    for placed in file.rows:
        yield row_id(placed.row.get(column), placed.where, column), placed


def first_ids(ids: Sequence[str], most: int = 3) -> str:
    """Some ids for a message."""
    return ", ".join(map(repr, ids[:most])) + (", …" if len(ids) > most else "")
