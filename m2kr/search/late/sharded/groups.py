"""Some shards of a compressed index, opened by themselves, as `sharded.index` asks them.

An index is cut between its own shards: their inverted lists count from their first passage. Who
opens a group keeps the codes of its tokens in memory, some 4 bytes each, and lets the others go.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.search.late import compressed, final
from m2kr.search.late.compressed import CompressedIndex
from m2kr.search.late.index import funnel
from m2kr.search.late.index.files import IndexFiles, require_same_passages
from m2kr.search.late.sharded import ranges
from m2kr.search.late.sharded.owners import check_same
from m2kr.search.late.store import Block, TokenStore
from m2kr.search.late.workers import workers
from m2kr.search.topk import id_ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from m2kr.search.late import canonical

    Numbers = NDArray[np.int64]
    Scores = NDArray[np.integer] | NDArray[np.floating]

LOOKS = 256 << 20  # bytes of products with centroids that a group keeps from step to step


@dataclass(frozen=True, slots=True)
class IndexShard:
    """Some consecutive shards of an index, whole ones.

    Attributes:
        folder: Of the index.
        first: Number of the first one.
        last: One past the last.
        fingerprint: `fingerprint` of the index.
        store: Folder of its token store, for exact final scores.
        threads: Queries worked on at once.
    """

    folder: Path
    first: int
    last: int
    fingerprint: str
    store: Path | None = None
    threads: int | None = None

    def open(self) -> "OpenedIndex":
        """Opens it.

        Raises:
            MissingError: it isn't there.
            CheckError: it is another, or damaged.
        """
        return OpenedIndex(self)


class OpenedIndex:
    """An opened `IndexShard`. Passages are numbered as in the whole index."""

    def __init__(self, shard: IndexShard) -> None:
        import torch

        files = IndexFiles.open(shard.folder)
        files.require_whole()
        check_same(fingerprint(files), shard.fingerprint, shard.folder)
        self._begin, end = int(files.firsts[shard.first]), int(files.firsts[shard.last])
        self._ranks = id_ranks(files.ids())[self._begin : end].copy()
        self._index = CompressedIndex(_some(files, shard.first, shard.last))
        self._threads = shard.threads or torch.get_num_threads()
        self._looks: dict[bytes, funnel.QueryScores] = {}
        self._store = None if shard.store is None else TokenStore.open(shard.store)
        if self._store is not None:
            require_same_passages(files, self._store)

    def arithmetic(self) -> str:
        """The type that this machine makes products in."""
        return str(self._index.centroids.dtype)

    def probe(
        self, queries: "Sequence[canonical.Query]", probes: int, count: int
    ) -> "list[tuple[Numbers, Scores]]":
        """Step 1: the best ``count`` passages of the shard, and their scores."""
        shards = self._index.files.shards

        def one(place: int) -> "tuple[Numbers, Scores]":
            cells = funnel.cells(self._look(queries[place]), probes)
            found = [funnel.probe(cells, each.lists, each.record.passages) for each in shards]
            scores = np.concatenate(found)
            best = funnel.best(scores, self._ranks, count)
            return best + self._begin, scores[best]

        return self._each(queries, one)

    def refine(
        self, queries: "Sequence[canonical.Query]", passages: "Sequence[Numbers]"
    ) -> "list[Scores]":
        """Step 2: scores of some of the shard's passages."""
        index = self._index
        return self._each(
            queries,
            lambda place: funnel.refine(
                self._look(queries[place]),
                index.coded(passages[place] - self._begin),
                index.codec,
            ),
        )

    def final(
        self, queries: "Sequence[canonical.Query]", passages: "Sequence[Numbers]"
    ) -> "list[Scores]":
        """Canonical scores of some of the shard's passages."""
        return self._each(
            queries, lambda place: final.scores(queries[place], self._block(passages[place]))
        )

    def _block(self, passages: "Numbers") -> Block:
        if self._store is None or not len(passages):
            return self._index.tokens(passages - self._begin)
        return compressed.stored(self._store, passages)

    def _each(
        self, queries: "Sequence[canonical.Query]", one: "Callable[[int], Any]"
    ) -> "list[Any]":
        keys = {query.rows.tobytes() for query in queries}
        self._looks = {key: look for key, look in self._looks.items() if key in keys}
        with workers(self._threads) as pool:
            return pool.map(one, range(len(queries)))

    def _look(self, query: "canonical.Query") -> funnel.QueryScores:
        """Products with all centroids, made in the first step that needs them."""
        key = query.rows.tobytes()
        if key not in self._looks:
            index = self._index
            self._looks[key] = funnel.look_at(index.centroids, index.longest, query.rows)
        return self._looks[key]


def _some(files: IndexFiles, first: int, last: int) -> IndexFiles:
    """Some consecutive shards as an index of their own; lets the others' memory go."""
    begin, end = int(files.firsts[first]), int(files.firsts[last])
    tokens = slice(int(files.offsets[begin]), int(files.offsets[end]))
    return replace(
        files,
        shards=files.shards[first:last],
        codes=files.codes[tokens].copy(),
        sizes=files.sizes[tokens].copy(),
        offsets=files.offsets[begin : end + 1] - files.offsets[begin],
        firsts=files.firsts[first : last + 1] - begin,
    )


def fingerprint(files: IndexFiles) -> str:
    """SHA-256 of what an index's records say: its settings, and the checksums of its files."""
    sums = [dict(each.record.sha256) for each in files.shards]
    told = {"settings": dict(files.settings.sha256), "kind": files.settings.kind, "shards": sums}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def index_shards(
    files: IndexFiles, count: int, *, store: Path | None = None, threads: int | None = None
) -> list[IndexShard]:
    """An index's shards in at most ``count`` groups of about equal tokens."""
    told, folder = fingerprint(files), files.folder.absolute()
    groups = ranges.cut(files.offsets[files.firsts], count)
    return [
        IndexShard(folder, each.first, each.last, told, store and store.absolute(), threads)
        for each in groups
        if len(each)
    ]
