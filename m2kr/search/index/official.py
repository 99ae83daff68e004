"""The official PreFLMR search, step by step: what published numbers were made with.

The rules are those of the released code as it runs on a CPU (tests/golden/search/README.md states
them, with the results they were checked against). They differ from exact MaxSim on purpose:

* all-zero query rows are dropped; the first 32 of the others, the *head*, alone choose the
  candidates and score them in both pruning steps; only the final score uses every row;
* documents are pruned by their centroids alone: first with the centroids that reach a threshold,
  then with all of them;
* final maxima begin at 0, so a row that is unlike every token adds nothing.

Two things are settled here that the official code leaves open. Where there are fewer documents
than a pruning step would keep it reads past the end of its queue; here all are kept, as its GPU
path does. Equal final scores come out in any order there; here the larger document number, as in
the pruning steps.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from m2kr.concurrency import workers
from m2kr.errors import InputError, UsageError
from m2kr.ranking import TopK
from m2kr.search.index.codec import OfficialCodec, products
from m2kr.search.index.files import IndexFiles
from m2kr.search.index.ivf import InvertedLists, span_offsets, tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

HEAD_ROWS = 32
_UNSEEN = np.float32(-9999.0)
_TILE_TOKENS = 1 << 13


@dataclass(frozen=True, slots=True)
class OfficialSettings:
    """What the official search is steered by.

    Attributes:
        ncells: Centroids that each head row opens.
        threshold: Least score, with any head row, of a centroid that counts in the first pruning.
        ndocs: Documents that the first pruning keeps; the second keeps a quarter of it.
        head_rows: Non-zero rows that take part before the final score. The released code leaves
            it at 32, whatever the model's query length.
    """

    ncells: int
    threshold: float
    ndocs: int
    head_rows: int = HEAD_ROWS

    def __post_init__(self) -> None:
        for name in ("ncells", "ndocs", "head_rows"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}", expected="at least 1")

    @classmethod
    def for_k(cls, k: int) -> Self:
        """The released code's choice for k results."""
        if k < 1:
            raise UsageError(f"k is {k}", expected="at least 1")
        return cls(2, 0.45, 1024) if k <= 100 else cls(4, 0.4, max(4 * k, 4096))


@dataclass(frozen=True, slots=True)
class IndexArrays:
    """What an index of the official kind holds.

    Attributes:
        codec: Centroids and buckets.
        codes: One centroid's number a token, document after document.
        residuals: (tokens x packed bytes) uint8.
        offsets: Document i owns the tokens ``offsets[i]:offsets[i + 1]``.
        lists: The documents of each centroid.
    """

    codec: OfficialCodec
    codes: "NDArray[np.integer]"
    residuals: "NDArray[np.uint8]"
    offsets: "NDArray[np.int64]"
    lists: InvertedLists

    @classmethod
    def of(
        cls,
        codec: OfficialCodec,
        codes: "NDArray[np.integer]",
        residuals: "NDArray[np.uint8]",
        lengths: "NDArray[np.integer]",
    ) -> Self:
        """Puts the parts together, with the inverted lists made from codes and lengths.

        Raises:
            InputError: the parts don't fit together.
        """
        offsets = span_offsets(lengths)
        tokens = int(offsets[-1])
        if len(codes) != tokens or residuals.shape != (tokens, codec.packed_bytes):
            raise InputError(
                f"{tokens} tokens by the lengths, {len(codes)} codes and residuals of shape "
                f"{residuals.shape}",
                expected=f"as many codes as tokens, and {codec.packed_bytes} bytes a token",
            )
        if tokens and not 0 <= int(codes.min()) <= int(codes.max()) < len(codec.centroids):
            raise InputError(
                "a code names a centroid that is not there",
                expected=f"0 to {len(codec.centroids) - 1}",
            )
        lists = InvertedLists.of(codes, lengths, len(codec.centroids))
        return cls(codec, codes, residuals, offsets, lists)


@dataclass(frozen=True, slots=True)
class Trace:
    """What one query's search passed from step to step; document numbers throughout.

    Attributes:
        cells: The centroids that were opened, increasing.
        living: (centroids) bool: those that reach the threshold.
        candidates: Documents of the opened cells, increasing.
        stage1: What the first pruning kept, best first.
        stage2: What the second pruning kept, best first.
        documents: The final ranking, best first, not yet cut to k.
        scores: Its float32 scores.
    """

    cells: "NDArray[np.int64]"
    living: "NDArray[np.bool_]"
    candidates: "NDArray[np.int64]"
    stage1: "NDArray[np.int64]"
    stage2: "NDArray[np.int64]"
    documents: "NDArray[np.int64]"
    scores: "NDArray[np.float32]"


def arrays_of(files: IndexFiles) -> IndexArrays:
    """An index of the official kind as the official search wants it, residuals read and checked.

    Raises:
        UsageError: the index is of the other kind.
        CheckError: residuals differ from their checksum, or its build was cut off.
    """
    files.require_whole()
    if not isinstance(files.codec, OfficialCodec):
        raise UsageError(
            f"this index is of the kind '{files.header.kind}'",
            where=str(files.folder),
            expected="one of the kind 'official'",
            fix="m2kr index build STORE INDEX --preset official",
        )
    residuals = files.residuals(np.arange(len(files)))
    lengths = np.diff(files.offsets)
    return IndexArrays.of(files.codec, files.codes, residuals, lengths)


def search_official(
    queries: "Sequence[NDArray[np.floating]]",
    index: IndexArrays,
    k: int,
    ranks: "NDArray[np.int64]",
    *,
    settings: OfficialSettings | None = None,
    threads: int | None = None,
) -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
    """The published protocol's best ``k`` passages of every query.

    Args:
        queries: One (rows x dim) matrix a query, as encoded: the official code doesn't round them.
        index: From `arrays_of`.
        k: Passages a query.
        ranks: Per passage the rank of its id (`ranking.id_ranks`), which breaks ties of the scores.
        settings: `OfficialSettings.for_k(k)` by default. The official searcher keeps the settings
            of its first call; here each call has its own.
        threads: By default as many as torch uses.

    Returns:
        Passage numbers and scores, both (queries x min(k, distinct ids)), best first. Where the
        search left fewer, -1 and -inf fill the end.
    """
    steered = settings or OfficialSettings.for_k(k)
    best = TopK(len(queries), ranks, k)
    import torch

    with workers(threads or torch.get_num_threads()) as pool:
        traces = pool.map(lambda query: trace_search(index, query, steered), queries)
    for number, trace in enumerate(traces):
        best.push(np.full(len(trace.documents), number), trace.documents, trace.scores)
    return best.result()


def trace_search(
    index: IndexArrays, query: "NDArray[np.floating]", settings: OfficialSettings
) -> Trace:
    """Searches one query, (rows x dim); all-zero rows are dropped.

    A query without any other row finds nothing (the official code fails on it).
    """
    rows = np.asarray(query, np.float32)
    if rows.ndim != 2 or rows.shape[1] != index.codec.dim:
        raise InputError(
            f"a query of shape {rows.shape} meets tokens of {index.codec.dim} dimensions",
            expected="(rows x dim)",
        )
    rows = rows[np.abs(rows).sum(1) > 0]
    head = rows[: settings.head_rows]
    centroid_scores = products(index.codec.centroids, head)  # (centroids x head)
    cells = _cells(centroid_scores, settings.ncells)
    best = centroid_scores.max(1, initial=-np.inf)
    living = best >= np.float32(settings.threshold)
    candidates = np.unique(index.lists.members(cells))
    table = np.where(living[:, None], centroid_scores, _UNSEEN)
    stage1 = _prune(index, candidates, table, settings.ndocs)
    stage2 = _prune(index, stage1, centroid_scores, settings.ndocs // 4)
    scores = _final_scores(index, stage2, rows)
    order = np.lexsort((-stage2, -scores))
    return Trace(cells, living, candidates, stage1, stage2, stage2[order], scores[order])


def _cells(scores: "NDArray[np.float32]", ncells: int) -> "NDArray[np.int64]":
    count = len(scores)
    if ncells >= count:
        return np.arange(count if scores.shape[1] else 0)
    return np.unique(np.argpartition(scores, count - ncells, axis=0)[count - ncells :])


def _prune(
    index: IndexArrays,
    documents: "NDArray[np.int64]",
    table: "NDArray[np.float32]",
    keep: int,
) -> "NDArray[np.int64]":
    """The ``keep`` documents whose centroids fit the head best; of equals the larger number."""
    scores = _summed_maxima(
        index, documents, lambda tokens: table[index.codes[tokens]], table.shape[1], _UNSEEN
    )
    return documents[np.lexsort((-documents, -scores))[:keep]]


def _final_scores(
    index: IndexArrays, documents: "NDArray[np.int64]", rows: "NDArray[np.float32]"
) -> "NDArray[np.float32]":
    def similarities(tokens: "NDArray[np.int64]") -> "NDArray[np.float32]":
        vectors = index.codec.decode(index.codes[tokens], index.residuals[tokens])
        return products(vectors, rows)

    return _summed_maxima(index, documents, similarities, len(rows), np.float32(0))


def _summed_maxima(
    index: IndexArrays,
    documents: "NDArray[np.int64]",
    similarities: "Callable[[NDArray[np.int64]], NDArray[np.float32]]",
    rows: int,
    least: np.float32,
) -> "NDArray[np.float32]":
    """Per document the maxima over its tokens, from ``least`` up, added row after row in float32.

    Args:
        index: Where the documents' tokens lie.
        documents: Their numbers.
        similarities: (tokens x rows), given tokens' positions.
        rows: Of the query.
        least: What a maximum begins at.
    """
    scores = np.zeros(len(documents), np.float32)
    for places, tokens in tiles(documents, index.offsets, _TILE_TOKENS):
        values = similarities(tokens).reshape(len(places), -1, rows)
        maxima = np.full((len(places), rows), least, np.float32)
        for number in range(values.shape[1]):
            np.maximum(maxima, values[:, number], out=maxima)
        total = np.zeros(len(places), np.float32)
        for column in maxima.T:
            total += column
        scores[places] = total
    empty = index.offsets[documents + 1] == index.offsets[documents]
    scores[empty] = least * rows
    return scores
