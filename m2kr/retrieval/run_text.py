"""Run text: TREC lines (``qid Q0 docid rank score tag``) and tables of three or four columns.

Read are TREC's six columns, with anything after them (UniIR's seventh); ``qid docid score`` and
``qid docid rank`` (Tevatron, MS MARCO), with a tag or not; ``qid docid rank score`` (ColBERT); and any
order of columns under a header that names them. Blanks or tabs part columns; where tabs do and there
are blanks inside cells, they belong to the cells. Where neither makes a run's line, commas or semicolons
do, as of CSV. Lines that begin with ``#`` are comments, as for trec_eval from version 10 on.

Written ids that hold blanks, ``%`` or control characters, or begin with ``#``, are percent-encoded,
and the tag (in a table the header's names) then ends in ``+pct``. Scores are written so that they read
back as the same float64.
"""

import codecs
import csv
import io
import logging
import re
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa

from m2kr.errors import InputError
from m2kr.packed import open_unpacked
from m2kr.retrieval.run_columns import (
    ESCAPED,
    NAMES,
    Role,
    ranks_agree,
    roles_of,
    rows_of_columns,
    unnamed_scores,
)
from m2kr.retrieval.run_rows import TooManyRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.retrieval.run_rows import RunRows

logger = logging.getLogger("m2kr.retrieval")

_BLOCK, _MAX_LINE = 1 << 22, 1 << 16
_ROW_BYTES = 400  # on average at most, where the number of rows is bounded
_BLANK = np.isin(np.arange(256), list(b" \t\n\r\x0b\x0c"))  # where bytes.split() splits
# What any reader might take for a blank, a line end, a comment or an escape, and the byte order mark.
_UNSAFE = re.compile(r"^#|[\s%\x00-\x1f\x7f-\x9f\ufeff]")
_COMMENTED_ROW = re.compile(rb"^#\S+[ \t]+Q0[ \t]", re.MULTILINE)
_COMMENT = re.compile(rb"^[ \t\r\x0b\x0c]*#.*", re.MULTILINE)

_EXPECTED = (
    "qid Q0 docid rank score tag, or qid docid score, parted by blanks, tabs or commas; UTF-8, numbers "
    "finite"
)
_MARKS = (b"\t", b",", b";")
_MIXED = f"some lines' tags end in {ESCAPED} (their ids are percent-encoded) and others' don't"


def escape_id(text: str) -> str:
    """An id as TREC's files can hold it: itself, or percent-encoded; two ids never become one."""
    # A lone % is no escape, so it can stand for the empty id.
    return _UNSAFE.sub(lambda m: quote(m[0], safe=""), text) or "%"


def _unescape(text: str) -> str:
    return "" if text == "%" else unquote(text, errors="strict")


def write_run_text(run: "RunRows", file: IO[bytes], path: Path, *, table: bool = False) -> None:
    """Writes a run's lines: TREC's, or a table of ids and scores under a header.

    Args:
        run: The run.
        file: Where to.
        path: For messages.
        table: ``q_id, doc_id, score``, parted by tabs.
    """
    passages = run.vocabulary.to_pylist()
    tag, queries = run.name or "m2kr", run.query_ids
    texts = [*run.query_ids, *passages, *([] if table else [tag])]
    escaped = tag.endswith(ESCAPED) or "" in texts or any(map(_UNSAFE.search, texts))
    if escaped:
        queries = tuple(map(escape_id, queries))
        passages = [escape_id(passage) for passage in passages]
        tag = escape_id(tag) + ESCAPED
    if lost := int((run.counts() == 0).sum()):
        logger.warning(
            "%s: %d queries have no results, which its lines can't say; Parquet and JSON keep them",
            path,
            lost,
        )
    if table:
        mark = ESCAPED if escaped else ""
        file.write(f"q_id{mark}\tdoc_id{mark}\tscore\n".encode())
    for query, (_, codes, scores) in zip(queries, run.by_query(), strict=True):
        pairs = zip(codes.tolist(), scores.tolist(), strict=True)
        if table:
            lines = [f"{query}\t{passages[code]}\t{score!r}\n" for code, score in pairs]
        else:
            lines = [
                f"{query} Q0 {passages[code]} {rank} {score!r} {tag}\n"
                for rank, (code, score) in enumerate(pairs, 1)
            ]
        file.write("".join(lines).encode())


@dataclass(frozen=True, slots=True)
class _Form:
    """How the lines of a file are to be split, decided by its first lines.

    Attributes:
        width: Columns; six of a TREC line, which may have more.
        mark: What alone parts columns: a tab, a comma or a semicolon; empty for blanks of any sort.
        header: The first line's names, if it has names.
        escaped: Ids are percent-encoded, as the header says.
    """

    width: int
    mark: bytes = b""
    header: tuple[str, ...] = ()
    escaped: bool = False

    @property
    def trec(self) -> bool:
        """Whether these are TREC's columns."""
        return self.width == 6 and not self.header

    @property
    def roles(self) -> dict[Role, int]:
        """What is known of the columns before their values are seen."""
        if self.header:
            return roles_of(self.header)
        if self.trec:
            return {"query": 0, "passage": 2, "rank": 3, "score": 4}
        if self.width == 3:
            return {"query": 0, "passage": 1, "score": 2}
        return {"query": 0, "passage": 1}


@dataclass(frozen=True, slots=True)
class _Block:
    """Some lines: ids, and numbers where the form says what they are.

    Attributes:
        queries: Ids.
        passages: Ids.
        ranks: Of the rank column, if there is one.
        scores: Of the score column, or the third of three columns, which may be ranks.
        columns: All cells, where four columns have no names.
        pointed: The third of three columns is written with decimal points, as ranks rarely are.
        tag: Of these lines.
        escaped: Their ids were percent-encoded.
    """

    queries: pa.Array
    passages: pa.Array
    ranks: "NDArray[np.int64] | None" = None
    scores: "NDArray[np.float64] | None" = None
    columns: tuple[list[bytes], ...] = ()
    pointed: bool = False
    tag: str = ""
    escaped: bool = False


def read_run_text(path: Path, most_rows: int | None = None) -> "RunRows":
    """A run from text, in any of the forms above.

    Args:
        path: The file.
        most_rows: More are refused, and far longer lines than such rows have.

    Raises:
        TooManyRows: there are.
        InputError: a line can't be read, or the columns can be read in two ways; names both.
    """
    form: _Form | None = None
    blocks: list[_Block] = []
    size = 0
    for first, raw in _blocks(path):
        if most_rows is not None:
            size += len(raw)
            _check_size(first + _count(raw, b"\n"), size, most_rows)
        data = _without_comments(raw, path)
        if form is None and data.strip():
            form = _form_of(data, first, path)
            if form.header:
                before, _, after = data.partition(_first_line(data))
                data = before + after
        if form is None:
            continue
        try:
            block = _parse(data, form)
        except ValueError:
            raise _fault(data, form, first, path) from None
        if block is not None:
            blocks.append(block)
    if form is None or not blocks:
        return rows_of_columns(
            _strings([]), _strings([]), np.empty(0), name=path.name.split(".")[0]
        )
    return _assembled(form, blocks, path)


def _check_size(lines: int, size: int, most_rows: int) -> None:
    if lines > most_rows + 1 or size > max(_BLOCK, most_rows * _ROW_BYTES):
        raise TooManyRows(f"it has more than {most_rows:,} rows or {size >> 20:,} MB of text")


def _count(data: bytes, byte: bytes) -> int:
    """How often a byte is there; where it is often, much faster than `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == byte[0]))


def _first_line(data: bytes) -> bytes:
    """The first line that isn't blank."""
    return next(line for line in data.split(b"\n") if line.strip())


def _without_comments(data: bytes, path: Path) -> bytes:
    """The lines with those that begin with ``#`` emptied, so that the others keep their numbers."""
    if b"#" not in data:
        return data
    plain, count = _COMMENT.subn(b"", data)
    if rows := len(_COMMENTED_ROW.findall(data)):
        logger.warning(
            "%s: %d lines begin with # and look like rows; they are skipped as comments", path, rows
        )
    elif count:
        logger.info("%s: %d comment lines are skipped", path, count)
    return plain


def _form_of(data: bytes, first: int, path: Path) -> _Form:
    """How a file's lines are to be split, by its first lines."""
    head = _first_line(data)
    where = f"{path}:{first + data[: data.index(head)].count(10)}"
    mark = next((mark for mark in _MARKS if _is_mark(mark, head, data)), b"")
    cells = [cell.strip() for cell in _rows(head, mark)[0]]
    names = tuple(map(_text, cells))
    roles = roles_of(names)
    if {"query", "passage"} <= set(roles) and not _has_numbers(cells):
        if not roles.keys() & {"rank", "score"}:
            raise InputError(
                f"the header's columns are {', '.join(map(repr, names))}: none is a score or a rank",
                where=where,
                expected=f"one called {NAMES['score'][0]} or {NAMES['rank'][0]}",
            )
        escaped = any(name.endswith(ESCAPED) for name in names)
        return _Form(len(names), mark, names, escaped)
    if len(cells) not in (3, 4) and len(cells) < 6:
        raise InputError(
            f"not a line of a run: {len(cells)} columns",
            where=where,
            expected=_EXPECTED,
        )
    return _Form(min(len(cells), 6), mark)


def _is_mark(mark: bytes, head: bytes, data: bytes) -> bool:
    """Whether a character parts the columns, and not blanks of any sort."""
    try:
        rows = _rows(head, mark)
    except ValueError:
        return False
    if not rows:  # a control character that is blank in text, and not in bytes
        return False
    cells = rows[0]
    if mark == b"\t":
        width = {len(cells)}
        return (
            _reads(cells)
            and set(map(len, _rows(data, mark))) == width
            and _blank_widths(data) != width
        )
    blank = head.split()
    return _reads(cells) and (not _reads(blank) or all(cell.endswith(mark) for cell in blank[:-1]))


def _rows(data: bytes, mark: bytes) -> list[list[bytes]]:
    """The cells of the lines that aren't empty.

    Args:
        data: Whole lines.
        mark: As of `_Form`; at another than a tab the lines are split as CSV.

    Raises:
        ValueError: the lines are no CSV.
    """
    if mark in (b"", b"\t"):
        return [line.split(mark or None) for line in data.split(b"\n") if line.strip()]
    lines = io.StringIO(data.decode(), newline="")
    try:
        rows = [*csv.reader(lines, delimiter=mark.decode(), skipinitialspace=True, strict=True)]
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from error
    return [[cell.encode() for cell in row] for row in rows if any(map(str.strip, row))]


def _blank_widths(data: bytes) -> set[int]:
    """The numbers of columns, parted by blanks, that occur in the lines that aren't empty."""
    raw = np.frombuffer(data, np.uint8)
    blank = _BLANK[raw]
    starts = ~blank
    starts[1:] &= blank[:-1]
    words, ends = np.flatnonzero(starts), np.flatnonzero(raw == 10)
    before = np.concatenate([[0], np.searchsorted(words, ends), [len(words)]])
    return set(np.unique(np.diff(before)).tolist()) - {0}


def _has_numbers(cells: list[bytes]) -> bool:
    """Whether there are numbers where a line of that many columns has them."""
    if len(cells) >= 6:
        return _is_number(cells[3]) and _is_number(cells[4])
    return any(map(_is_number, cells[2:]))


def _is_number(cell: bytes) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _reads(cells: list[bytes]) -> bool:
    """Whether cells can be those of a run's line or of its header."""
    if {"query", "passage"} <= set(roles_of(map(_text, cells))):
        return True
    return (len(cells) in (3, 4) or len(cells) >= 6) and _has_numbers(cells)


def _text(cell: bytes) -> str:
    return cell.decode("utf-8", errors="replace").strip()


def _parse(data: bytes, form: _Form) -> _Block | None:
    """What some whole lines hold; None where all are empty.

    Raises:
        ValueError: a line doesn't have the form, or a value is not what it should be.
    """
    if form.trec and not form.mark and (block := _parse_at_once(data)) is not None:
        return block
    columns = _columns(data, form)
    if not columns:
        return None
    roles, tag, escaped = form.roles, "", form.escaped
    if form.trec:
        tags = set(columns[5])
        escapes = {tag.endswith(ESCAPED.encode()) for tag in tags}
        if len(escapes) > 1:
            raise ValueError(_MIXED)
        escaped = True in escapes
        tag = min(tags).decode()
    ranks = _whole_numbers(columns[roles["rank"]]) if "rank" in roles else None
    scores = _numbers(columns[roles["score"]]) if "score" in roles else None
    queries, passages = columns[roles["query"]], columns[roles["passage"]]
    if escaped:
        queries, passages = list(map(_plain, queries)), list(map(_plain, passages))
        tag = _unescape(tag.removesuffix(ESCAPED))
    nameless = tuple(columns) if form.width == 4 and not form.header else ()
    pointed = form.width == 3 and b"." in b"".join(columns[2])
    ids = _strings(queries), _strings(passages)
    return _Block(*ids, ranks, scores, nameless, pointed, tag, escaped)


def _parse_at_once(data: bytes) -> _Block | None:
    """What TREC's lines hold if single blanks part them, or single tabs: six columns, plain numbers.

    None of any others, and of lines with a fault: `_parse` reads them, or says what it is.
    """
    import pyarrow.csv as pa_csv

    mark = b"\t" if b"\t" in data else b" "
    control = np.frombuffer(data, np.uint8) <= 32
    if np.count_nonzero(control) != _count(data, mark) + _count(data, b"\n"):
        return None
    if (control[1:] & control[:-1]).any() or control[:1].any() or control[-1:].any():
        return None
    if data.startswith(codecs.BOM_UTF8):  # Arrow would leave it out
        return None
    kinds = {
        "query": pa.large_string(),
        "passage": pa.large_string(),
        "rank": pa.float64(),  # of whole numbers Arrow reads other spellings than we do
        "score": pa.float64(),
        "tag": pa.large_binary(),
    }
    names = ["query", "Q0", "passage", "rank", "score", "tag"]
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(data),
            pa_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
            pa_csv.ParseOptions(delimiter=mark.decode(), quote_char=False),
            pa_csv.ConvertOptions(
                column_types=kinds,
                include_columns=[*kinds],
                null_values=[],
                strings_can_be_null=False,
            ),
        ).combine_chunks()
    except pa.ArrowInvalid:
        return None
    queries, passages, ranks, scores, tags = (c.chunk(0) for c in table.columns)
    ranks, scores = ranks.to_numpy(), scores.to_numpy()
    whole = (np.abs(ranks) < 2**53).all() and (ranks == np.floor(ranks)).all()
    tags = tags.unique().to_pylist()
    escapes = {tag.endswith(ESCAPED.encode()) for tag in tags}
    if not whole or not np.isfinite(scores).all() or len(escapes) > 1:
        return None
    tag, escaped = min(tags).decode(), True in escapes
    if escaped:
        queries, passages = _unescaped(queries), _unescaped(passages)
        tag = _unescape(tag.removesuffix(ESCAPED))
    return _Block(queries, passages, ranks.astype(np.int64), scores, tag=tag, escaped=escaped)


def _columns(data: bytes, form: _Form) -> list[list[bytes]]:
    """The cells of each column; no columns where all lines are empty."""
    rows = _rows(data, form.mark) if form.mark else []
    widths = set(map(len, rows)) if form.mark else _blank_widths(data)
    if not widths:
        return []
    if widths != {form.width} and not (form.trec and min(widths) >= form.width):
        raise ValueError(f"{' or '.join(map(str, sorted(widths)))} columns")
    if rows or len(widths) > 1:
        rows = rows or _rows(data, form.mark)
        columns = [list(column) for column in zip_longest(*rows, fillvalue=b"")]
    else:  # at once and not line by line: much faster
        fields, [width] = data.split(), widths
        columns = [fields[i::width] for i in range(width)]
    if form.mark:
        columns = [[cell.strip() for cell in column] for column in columns]
        if form.trec:  # a tag is one word
            columns[5] = [(tag.split() or [b""])[0] for tag in columns[5]]
    # Text after TREC's sixth column means nothing, but for a second row whose line end was lost.
    if any(b"Q0" in column for column in columns[form.width :]):
        raise ValueError("two rows on one line")
    return columns[: form.width]


def _numbers(cells: list[bytes]) -> "NDArray[np.float64]":
    """The numbers that some cells hold.

    Raises:
        ValueError: one is none, or is not finite.
    """
    try:
        values = np.array(list(map(float, cells)), np.float64)
    except ValueError:
        bad = next(cell for cell in cells if not _is_number(cell))
        raise ValueError(f"{_text(bad)[:40]!r} is no number") from None
    if not np.isfinite(values).all():
        raise ValueError("the score is not finite")
    if b"_" in b"".join(cells):
        raise ValueError("an underscore in a number")
    return values


def _whole_numbers(cells: list[bytes]) -> "NDArray[np.int64]":
    try:
        return np.array(list(map(int, cells)), np.int64)
    except OverflowError:
        raise ValueError("a rank is beyond 64 bits") from None
    except ValueError as error:  # frames write ranks as 1.0
        values = np.array([float(cell) if _is_number(cell) else np.nan for cell in cells])
        if (np.abs(values) < 2**53).all() and (values == np.floor(values)).all():
            return values.astype(np.int64)
        raise error from None


def _strings(ids: Iterable[bytes]) -> pa.Array:
    return pa.array(ids, pa.large_binary()).cast(pa.large_string())


def _unescaped(ids: pa.Array) -> pa.Array:
    coded = ids.cast(pa.large_binary()).dictionary_encode()
    return _strings(map(_plain, coded.dictionary.to_pylist())).take(coded.indices)


def _plain(raw: bytes) -> bytes:
    return _unescape(raw.decode()).encode() if b"%" in raw else raw


def _fault(block: bytes, form: _Form, first: int, path: Path) -> InputError:
    """The error for the first line of a block that can't be read, found by halving."""

    def reason(lines: list[bytes]) -> str:
        try:
            _parse(b"\n".join(lines), form)
        except ValueError as error:
            return str(error)
        return ""

    lines = block.split(b"\n")
    last = bisect_left(range(len(lines) - 1), 1, key=lambda i: bool(reason(lines[: i + 1])))
    return InputError(
        f"not a line of a run: {reason([lines[last]]) or reason(lines)}",
        where=f"{path}:{first + last}",
        expected=_EXPECTED if not form.header else "columns " + ", ".join(form.header),
    )


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Whole lines, some megabytes at a time, and the number of the first."""
    number, rest, begun = 1, b"", False
    try:
        with open_unpacked(path) as file:
            while data := file.read(_BLOCK):
                if not begun:
                    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        raise InputError("UTF-16 text", expected="UTF-8")
                    data, begun = data.removeprefix(codecs.BOM_UTF8), True
                if b"\r" in data:  # line ends of Windows, and of nothing but CR
                    data += file.read(1) if data.endswith(b"\r") else b""
                    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
                whole, end, rest = (rest + data).rpartition(b"\n")
                if end:
                    yield number, whole
                    number += _count(whole, b"\n") + 1
                if len(rest) > _MAX_LINE:
                    raise InputError("a line is over 64 kB", where=f"{path}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"can't be read after line {number}: {error}", where=str(path), fix="copy it again"
        ) from error
    yield number, rest


def _assembled(form: _Form, blocks: list[_Block], path: Path) -> "RunRows":
    """The run of all blocks, once it is known what their columns are."""
    if len({block.escaped for block in blocks}) > 1:
        raise InputError(_MIXED, expected="all of them, or none")
    queries = pa.concat_arrays([block.queries for block in blocks])
    passages = pa.concat_arrays([block.passages for block in blocks])
    ranks = [block.ranks for block in blocks if block.ranks is not None]
    scores = [block.scores for block in blocks if block.scores is not None]
    given = np.concatenate(ranks) if ranks else None
    values = np.concatenate(scores) if scores else None
    tag = next((block.tag for block in blocks if block.tag), "")
    if not form.header and form.width < 6:
        owners = queries.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
        if values is None:
            columns = [[cell for b in blocks for cell in b.columns[i]] for i in range(4)]
            passages, values, given, tag = _of_four(columns, passages, owners)
        if given is None:
            values = unnamed_scores(values, owners, any(block.pointed for block in blocks), path)
    name = tag or path.name.split(".")[0]
    return rows_of_columns(queries, passages, values, given, name=name, where=str(path))


def _of_four(
    columns: list[list[bytes]], passages: pa.Array, owners: "NDArray[np.int64]"
) -> "tuple[pa.Array, NDArray[np.float64], NDArray[np.int64] | None, str]":
    """Passages, scores, ranks and tag of four columns without names.

    Raises:
        InputError: they can be read in no way, or in two.
    """
    second, third, fourth = columns[1:]
    expected = "qid docid rank score, qid docid score tag, or a first line that names the columns"
    if set(second) <= {b"Q0", b"q0"} and all(map(_is_number, fourth)):
        return _strings(third), _finite(fourth), None, ""
    if set(second) <= {b"0"}:
        raise InputError(
            "four columns with 0 in the second are judgements (qid 0 docid grade)",
            expected=expected,
        )
    if not all(map(_is_number, third)):
        raise InputError("the third of four columns is no number", expected=expected)
    if not all(map(_is_number, fourth)):
        return passages, _finite(third), None, min(fourth).decode()
    readings = [
        (ranks, scores)
        for ranks, scores in ((third, fourth), (fourth, third))
        if ranks_agree(_finite(ranks), _finite(scores), owners)
    ]
    if len(readings) == 1 or (readings and third == fourth):  # one passage a query: no matter
        ranks, scores = (_finite(cells) for cells in readings[0])
        return passages, scores, ranks.astype(np.int64), ""
    raise InputError(
        "the last two of four columns can be read in two ways: as rank and score, and as score and "
        "rank",
        expected=expected,
        fix="put the line 'qid docid rank score' on top of the file",
    )


def _finite(cells: list[bytes]) -> "NDArray[np.float64]":
    try:
        return _numbers(cells)
    except ValueError as error:
        raise InputError(str(error), expected="finite numbers") from error
