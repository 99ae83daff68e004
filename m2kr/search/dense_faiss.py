"""Approximate dense search by faiss, for pools where `dense.search` takes too long.

faiss only proposes passages: the canonical scorer of `dense` decides among them, so scores are those
of exact search, and only passages that faiss never proposed can be missing.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from m2kr.errors import InputError, UsageError, missing_dependency
from m2kr.search.dense import lengths, pair_scores
from m2kr.search.mapped import read_rows
from m2kr.search.topk import TopK

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PER_LIST = 64  # training vectors a list; faiss warns below 39
_LEAST_TRAINED = 65_536


class FaissIndex:
    """The vectors of a pool in an index of faiss.

    Args:
        passages: (rows x dim) float16 or float32, possibly memory-mapped; read once, in order, and
            before that some of them to train with.
        factory: faiss's own description of an index: ``Flat``, ``HNSW32``, ``IVF4096,Flat`` ...
        similarity: Inner product (``dot``) or ``cosine``.
        effort: Lists that a query looks into (IVF), or the length of the queue (HNSW); by default
            an eighth of the lists, and 128.
        seed: Of the rows that are drawn for training.
        memory: Bytes for the blocks that are read; the index itself comes on top.

    Raises:
        MissingError: faiss isn't installed.
        UsageError: faiss can't make or train such an index.
        InputError: a vector is NaN or infinite, or has length 0 with ``cosine``.
    """

    def __init__(
        self,
        passages: "NDArray[np.floating]",
        *,
        factory: str = "HNSW32",
        similarity: Literal["dot", "cosine"] = "dot",
        effort: int | None = None,
        seed: int = 0,
        memory: int = 512 << 20,
    ) -> None:
        try:
            import faiss
        except ImportError as error:
            raise missing_dependency("faiss", "faiss", "approximate dense search") from error
        if similarity not in ("dot", "cosine"):
            raise UsageError(f"there is no similarity '{similarity}'", expected="dot or cosine")
        self._faiss: Any = faiss
        self._passages = passages
        self._similarity = similarity
        dim = passages.shape[1]
        try:
            self._index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise UsageError(
                f"faiss makes no index of '{factory}' for {dim} dimensions",
                expected="what faiss.index_factory takes, such as HNSW32 or IVF4096,Flat",
            ) from error
        self._train(factory, seed)
        rows = max(1, memory // (8 * dim))
        for first in range(0, len(passages), rows):
            self._index.add(
                self._rough(read_rows(passages, first, min(first + rows, len(passages))))
            )
        self.settings = {
            "search": "faiss",
            "faiss": faiss.__version__,
            "factory": factory,
            "effort": self._steer(effort),
            "seed": seed,
        }

    def _train(self, factory: str, seed: int) -> None:
        if self._index.is_trained:
            return
        lists = getattr(self._faiss.try_extract_index_ivf(self._index), "nlist", 1)
        count = min(len(self._passages), max(_LEAST_TRAINED, _PER_LIST * lists))
        chosen = np.random.default_rng(seed).choice(len(self._passages), count, replace=False)
        try:
            self._index.train(self._rough(self._passages[np.sort(chosen)]))
        except RuntimeError as error:
            raise UsageError(
                f"faiss can't train '{factory}' with {count} vectors",
                fix="ask for fewer lists, or for Flat or HNSW32",
            ) from error

    def _steer(self, effort: int | None) -> int | None:
        inner = self._faiss.try_extract_index_ivf(self._index)
        if inner is not None:
            inner.nprobe = effort or max(1, inner.nlist // 8)
            return int(inner.nprobe)
        found = self._faiss.downcast_index(self._index)
        if hasattr(found, "hnsw"):
            found.hnsw.efSearch = effort or 128
            return int(found.hnsw.efSearch)
        if effort is not None:
            raise UsageError("this kind of index knows no effort", expected="an IVF or HNSW index")
        return None

    def _rough(self, vectors: "NDArray[np.floating]") -> "NDArray[np.float32]":
        rough = np.array(vectors, np.float32, order="C")
        if not np.isfinite(rough).all():
            raise InputError("a vector is NaN or infinite", expected="finite numbers")
        if self._similarity == "cosine":
            sizes = np.linalg.norm(rough, axis=1, keepdims=True)
            rough /= np.where(sizes > 0, sizes, 1)
        return rough

    def search(
        self, queries: "NDArray[np.floating]", k: int, ranks: "NDArray[np.int64]"
    ) -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
        """The best ``k`` of what faiss proposes, with canonical scores.

        Args:
            queries: (queries x dim).
            k: Passages a query. faiss is asked for half as many more, so that ties and its own
                rounding decide nothing.
            ranks: Per passage the rank of its id (`topk.id_ranks`), which breaks ties.

        Returns:
            Rows and float64 scores, both (queries x min(k, distinct ids)), best first; -1 and -inf
            where faiss proposed fewer.
        """
        asked = min(len(self._passages), k + max(16, k // 2))
        best = TopK(len(queries), ranks, k)
        if asked:
            _, proposed = self._index.search(self._rough(queries), asked)
            for number, rows in enumerate(proposed):
                self._score(best, number, queries[number], rows[rows >= 0].astype(np.int64))
        return best.result()

    def _score(
        self, best: TopK, number: int, query: "NDArray[np.floating]", rows: "NDArray[np.int64]"
    ) -> None:
        if not len(rows):
            return
        vectors = self._passages[np.sort(rows)]
        scores = pair_scores(np.broadcast_to(query, vectors.shape), vectors)
        if self._similarity == "cosine":
            sizes = lengths(vectors) * lengths(query[None])
            scores /= np.where(sizes > 0, sizes, 1.0)
        best.push(np.full(len(rows), number), np.sort(rows), scores)
