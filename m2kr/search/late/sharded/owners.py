"""Shards that are opened once where they are searched, and asked batch after batch.

What asks is the same for shards of this process and of a cluster's nodes: `Owners`. It is passed
in; `Local` is the one of this process, `m2kr.distributed.ray_search` has the other. A shard is told
by what it takes to open it (a path, a range, a fingerprint), so that any node can open it anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from m2kr.errors import CheckError
from m2kr.progress import Silent
from m2kr.search.late import exact
from m2kr.search.late.sharded import ranges
from m2kr.search.late.store import TokenStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.progress import Progress
    from m2kr.search.late.sharded.ranges import Part, Span

BATCH = 1024  # queries: what is asked again if a node dies
_TASK = "sharded search"


class Shard(Protocol):
    """What it takes to open a shard; pickled where owners are elsewhere."""

    def open(self) -> Any:
        """The shard itself, whose methods `Owners.call` calls."""
        ...


class Owners(Protocol):
    """Opened shards, wherever they are."""

    def __len__(self) -> int:
        """How many."""
        ...

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Calls a method of every shard, each with its own arguments; results in their order.

        Raises:
            M2KRError: a shard refused, or was lost.
        """
        ...


class Local:
    """Shards of this process, which take turns: each uses all threads by itself."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._opened = [shard.open() for shard in shards]

    def __len__(self) -> int:
        return len(self._opened)

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Calls a method of every shard, one after another."""
        pairs = zip(self._opened, arguments, strict=True)
        return [getattr(shard, method)(*given) for shard, given in pairs]


@dataclass(frozen=True, slots=True)
class StoreShard:
    """A range of a token store, for exact search.

    Attributes:
        folder: Of the store.
        span: The range.
        fingerprint: `ranges.fingerprint` of the store.
        memory: As `exact.search`.
        threads: As `exact.search`.
        device: As `exact.search`.
    """

    folder: Path
    span: "Span"
    fingerprint: str
    memory: int = exact.MEMORY
    threads: int | None = None
    device: str = "auto"

    def open(self) -> "OpenedStore":
        """Opens the store.

        Raises:
            MissingError: it isn't there.
            CheckError: it is another.
        """
        return OpenedStore(self)


class OpenedStore:
    """An opened `StoreShard`."""

    def __init__(self, shard: StoreShard) -> None:
        store = TokenStore.open(shard.folder)
        check_same(ranges.fingerprint(store), shard.fingerprint, shard.folder)
        self._shard = shard
        self._piece = ranges.slice_of(store, shard.span)
        self._ranks = ranges.own_ranks(store, shard.span)

    def search(self, queries: "Sequence[NDArray[np.floating]]", k: int) -> "Part":
        """The exact best ``k`` of the range."""
        shard = self._shard
        part, _ = ranges.search_slice(
            queries,
            self._piece,
            k,
            self._ranks,
            memory=shard.memory,
            threads=shard.threads,
            device=shard.device,
        )
        return part


def store_shards(store: TokenStore, count: int, **options: Any) -> list[StoreShard]:
    """A store cut into shards; ``options`` are those of `StoreShard`. Empty ones are left out."""
    told = ranges.fingerprint(store)
    folder = store.folder.absolute()
    spans = [span for span in ranges.spans(store, count) if len(span)]
    return [StoreShard(folder, span, told, **options) for span in spans]


def search(
    owners: Owners,
    queries: "Sequence[NDArray[np.floating]]",
    k: int,
    ranks: "NDArray[np.int64]",
    *,
    batch: int = BATCH,
    progress: "Progress | None" = None,
) -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
    """Exact search by the owners of a store's shards.

    Args:
        owners: Of `store_shards`.
        queries: As `exact.search`.
        k: Passages per query.
        ranks: Per passage of the whole store the rank of its id.
        batch: Queries that are asked for at once. A shard's tokens are read once a batch.
        progress: Told of the queries that are done.

    Returns:
        Numbers and scores: what `exact.search` of the whole store returns.

    Raises:
        M2KRError: as `exact.search`, and as `Owners.call`.
    """
    progress = progress or Silent()
    progress.start(_TASK, len(queries), "queries")
    width = min(k, int(ranks.max(initial=-1)) + 1)
    numbers = np.empty((len(queries), width), np.int64)
    scores = np.empty(numbers.shape)
    for first in range(0, len(queries), batch):
        part = slice(first, first + batch)
        asked = (list(queries[part]), k)
        found = owners.call("search", [asked] * len(owners))
        numbers[part], scores[part] = ranges.merge(found, k, ranks)
        progress.advance(_TASK, len(asked[0]))
    progress.done(_TASK)
    return numbers, scores


def check_same(found: str, expected: str, folder: Path) -> None:
    """Refuses another store or index than the one that was asked about.

    Raises:
        CheckError: the fingerprints differ.
    """
    if found != expected:
        raise CheckError(
            "this is another store or index than the one that the search began with",
            where=str(folder),
            expected=f"fingerprint {expected[:16]}, not {found[:16]}",
            fix="let every node see the same files at this path, and none of them change",
        )
