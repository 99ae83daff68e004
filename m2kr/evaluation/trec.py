"""TREC run text: ``qid Q0 docid rank score tag``.

Ids that hold blanks, ``%`` or control characters are percent-encoded, and the tag then ends in
``+pct``. Scores are written so that they read back as the same float64.
"""

import codecs
import gzip
import io
import logging
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa

from m2kr.errors import InputError
from m2kr.evaluation.ordering import encode_ids, tie_rule
from m2kr.evaluation.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger("m2kr.evaluation")

ESCAPED = "+pct"
_BLOCK, _MAX_LINE = 1 << 22, 1 << 16
_BLANK = np.isin(np.arange(256), list(b" \t\n\r\x0b\x0c"))  # where bytes.split() splits
# What any reader might take for a blank, a line end or an escape, and the byte order mark.
_UNSAFE = re.compile(r"[\s%\x00-\x1f\x7f-\x9f\ufeff]")


def _escape(text: str) -> str:
    # A lone % is no escape, so it can stand for the empty id.
    return _UNSAFE.sub(lambda m: quote(m[0], safe=""), text) or "%"


def _unescape(text: str) -> str:
    return "" if text == "%" else unquote(text, errors="strict")


def write(run: Run, file: "IO[bytes] | gzip.GzipFile", path: Path) -> None:
    """Writes a run's lines; ``path`` is for messages."""
    passages = run.vocabulary.to_pylist()
    tag, queries = run.name or "m2kr", run.query_ids
    texts = [*run.query_ids, *passages, tag]
    if tag.endswith(ESCAPED) or "" in texts or any(map(_UNSAFE.search, texts)):
        queries = tuple(map(_escape, queries))
        passages = [_escape(passage) for passage in passages]
        tag = _escape(tag) + ESCAPED
    if lost := int((run.counts() == 0).sum()):
        logger.warning(
            "%s: %d queries have no results, which TREC can't say; Parquet keeps them", path, lost
        )
    for place, query in enumerate(queries):
        rows = slice(int(run.offsets[place]), int(run.offsets[place + 1]))
        pairs = zip(run.codes[rows].tolist(), run.flat_scores[rows].tolist(), strict=True)
        lines = [
            f"{query} Q0 {passages[code]} {rank} {score!r} {tag}\n"
            for rank, (code, score) in enumerate(pairs, 1)
        ]
        file.write("".join(lines).encode())


class _Block(NamedTuple):
    queries: pa.Array
    passages: pa.Array
    scores: "NDArray[np.float64]"
    ranks: "NDArray[np.int64] | None"
    name: str


def read(path: Path) -> Run:
    """A run from TREC text, or from the 3-column and 7-column forms in use."""
    blocks = []
    for first, data in _blocks(path):
        try:
            block = _parse(data)
        except ValueError:
            raise _fault(data, first, path) from None
        if len(block.scores):
            blocks.append(block)
    if len({block.ranks is None for block in blocks}) > 1:
        raise InputError("lines with and without a rank are mixed", where=str(path))
    if not blocks:
        blocks = [_Block(_strings([]), _strings([]), np.empty(0), None, "")]
    ranks = [block.ranks for block in blocks if block.ranks is not None]
    return assemble(
        pa.concat_arrays([block.queries for block in blocks]),
        pa.concat_arrays([block.passages for block in blocks]),
        np.concatenate([block.scores for block in blocks]),
        blocks[0].name or path.name.split(".")[0],
        ranks=np.concatenate(ranks) if ranks else None,
        where=str(path),
    )


def _parse(block: bytes) -> _Block:
    """The columns of some whole lines, split at once and not line by line: much faster."""
    widths = _widths(block)
    if not widths <= {3, 6, 7} or len(widths) > 1:
        raise ValueError(f"{' or '.join(map(str, widths))} columns")
    width = min(widths, default=3)
    fields = block.split()
    columns = [fields[i::width] for i in range(width)]
    ranks, tags = None, set[bytes]()
    if len(columns) == 3:
        queries, passages, raw = columns
    else:
        queries, _, passages, given, raw, tag = columns[:6]
        ranks, tags = np.array(list(map(int, given)), np.int64), set(tag)
    scores = np.array(list(map(float, raw)), np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("the score is not finite")
    name = min(tags, default=b"").decode()
    if any(tag.endswith(ESCAPED.encode()) for tag in tags):
        queries, passages = list(map(_plain, queries)), list(map(_plain, passages))
        name = _unescape(name.removesuffix(ESCAPED))
    return _Block(_strings(queries), _strings(passages), scores, ranks, name)


def _widths(block: bytes) -> set[int]:
    """The numbers of columns that occur in some lines; empty lines don't count."""
    raw = np.frombuffer(block, np.uint8)
    blank = _BLANK[raw]
    starts = ~blank
    starts[1:] &= blank[:-1]
    before = np.concatenate([[0], np.cumsum(starts)[raw == 10], [starts.sum()]])
    return set(np.unique(np.diff(before)).tolist()) - {0}


def _strings(ids: Iterable[bytes]) -> pa.Array:
    return pa.array(ids, pa.large_binary()).cast(pa.large_string())


def _plain(raw: bytes) -> bytes:
    return _unescape(raw.decode()).encode() if b"%" in raw else raw


def _fault(block: bytes, first: int, path: Path) -> InputError:
    """The error for the first line of a block that can't be read, found by halving."""
    lines = block.split(b"\n")
    good, bad = 0, len(lines)
    while bad - good > 1:
        middle = (good + bad) // 2
        if _reason(lines[:middle]):
            bad = middle
        else:
            good = middle
    return InputError(
        f"not a line of a run: {_reason([lines[good]]) or 'the number of columns changes'}",
        where=f"{path}:{first + good}",
        expected="qid Q0 docid rank score tag, or qid docid score; UTF-8, numbers finite",
    )


def _reason(lines: list[bytes]) -> str:
    try:
        _parse(b"\n".join(lines))
    except ValueError as error:
        return str(error)
    return ""


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Whole lines, some megabytes at a time, and the number of the first."""
    opened = gzip.open if path.name.lower().endswith(".gz") else io.open
    number, rest = 1, b""
    try:
        with opened(path, "rb") as file:
            while data := file.read(_BLOCK):
                if number == 1 and not rest:
                    data = data.removeprefix(codecs.BOM_UTF8)
                whole, end, rest = (rest + data).rpartition(b"\n")
                if end:
                    yield number, whole
                    number += whole.count(10) + 1
                if len(rest) > _MAX_LINE:
                    raise InputError("a line is over 64 kB", where=f"{path}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"can't be read after line {number}: {error}", where=str(path), fix="copy it again"
        ) from error
    yield number, rest


def assemble(
    queries: pa.Array,
    passages: pa.Array,
    scores: "NDArray[np.float64]",
    name: str,
    metadata: dict[str, object] | None = None,
    ranks: "NDArray[np.int64] | None" = None,
    where: str = "",
) -> Run:
    """A run from rows in any order; queries come in the order in which they first appear."""
    coded = queries.dictionary_encode()
    codes, vocabulary = encode_ids(passages)
    owner = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    if (np.diff(owner) < 0).any():
        order = np.argsort(owner, kind="stable")
        owner, codes, scores = owner[order], codes[order], scores[order]
        ranks = None if ranks is None else ranks[order]
    if ranks is not None:
        _compare_ranks(owner, codes, scores, ranks, where)
    passages = pa.DictionaryArray.from_arrays(pa.array(codes), vocabulary)
    counts = np.bincount(owner, minlength=len(coded.dictionary))
    return Run(coded.dictionary.to_pylist(), counts, passages, scores, name=name, metadata=metadata)


def _compare_ranks(
    owner: "NDArray[np.int64]",
    codes: "NDArray[np.int32]",
    scores: "NDArray[np.float64]",
    ranks: "NDArray[np.int64]",
    where: str,
) -> None:
    order = tie_rule(owner, codes, scores)
    given = ranks if order is None else ranks[order]
    wrong = (np.diff(given) <= 0) & (np.diff(owner) == 0)
    if wrong.any():
        queries = len(np.unique(owner[:-1][wrong]))
        logger.warning(
            "%s: the rank column disagrees with score order (ties by passage id) in %d queries; "
            "the scores count",
            where,
            queries,
        )
