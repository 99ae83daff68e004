"""What an index is made of and how: its settings, the passages, and the sample to train on."""

import json
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.errors import UsageError
from m2kr.search.index import codec, kmeans

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from m2kr.search.index.format import IndexKind
    from m2kr.search.store.reader import TokenSource, TokenStore

MOST_SAMPLED = 1 << 21  # tokens in memory for training: 512 MB at 128 dimensions
_HASHED_AT_ONCE = 1 << 16  # ids


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How an index is made. All of it is stored in the index.

    Attributes:
        kind: ``compressed``, or ``official`` for what the published protocol searches.
        nbits: Bits a dimension. The official protocol has 8.
        centroids: How many; None for the kind's own rule (`kmeans.centroid_count`,
            `official_train.official_centroid_count`). Never more than the tokens of the sample.
        training: k-means.
    """

    kind: "IndexKind" = "compressed"
    nbits: int = 4
    centroids: int | None = None
    training: kmeans.Training = field(default_factory=kmeans.Training)

    def __post_init__(self) -> None:
        known = codec.OFFICIAL_NBITS if self.kind == "official" else codec.SCALED_NBITS
        if self.nbits not in known:
            raise UsageError(f"{self.nbits} bits a dimension", expected=f"one of {known}")
        if self.centroids is not None and self.centroids < 1:
            raise UsageError(f"{self.centroids} centroids", expected="at least 1")

    def asked(self) -> dict[str, Any]:
        """What the caller chose, as JSON: an index is only gone on with under the same choice."""
        return {"centroids_asked": self.centroids, **asdict(self.training)}


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Passages to index.

    Attributes:
        source: Their tokens.
        ids: Their ids.
        identity: What tells this source from others, also after passages were appended to it.
        meta: What decides what the vectors are.
        shards: Digests of its own shards, which stay when it grows.
    """

    source: "TokenSource"
    ids: "pa.ChunkedArray | pa.Array"
    identity: str
    meta: "Mapping[str, Any]" = field(default_factory=dict)
    shards: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


def pool_of(store: "TokenStore") -> Pool:
    """The passages of a token store, known by its first shard.

    Raises:
        CheckError: the store is not complete, or a file of ids was changed.
    """
    store.require_whole()
    firsts = [dict(shard.sha256) for shard in store.shards[:1]]
    shards = tuple(_digest(dict(shard.sha256)) for shard in store.shards)
    return Pool(store, store.ids(), _digest([dict(store.meta), firsts]), store.meta, shards)


def _digest(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sample(pool: Pool, wanted: int, seed: int) -> "NDArray[np.float16]":
    """The tokens of passages drawn by `drawing_order`, at least ``wanted`` if there are as many."""
    offsets, order = pool.source.offsets, drawing_order(pool.ids, seed)
    sums = np.cumsum(offsets[order + 1] - offsets[order])
    return read_passages(pool.source, order[: int(np.searchsorted(sums, wanted)) + 1])


def drawing_order(ids: "pa.ChunkedArray | pa.Array", seed: int) -> "NDArray[np.int64]":
    """The order in which passages are drawn for a sample: by a keyed hash of their ids.

    So what an index is trained on, and with it every score, doesn't depend on the order of rows.
    """
    keyed, key = partial(blake2b, key=seed.to_bytes(8, "little"), digest_size=8), bytearray()
    for start in range(0, len(ids), _HASHED_AT_ONCE):
        names = ids.slice(start, _HASHED_AT_ONCE).to_pylist()
        key += b"".join([keyed(name.encode()).digest() for name in names])
    return np.argsort(np.frombuffer(key, "<u8"), kind="stable")


def read_passages(source: "TokenSource", passages: "NDArray[np.int64]") -> "NDArray[np.float16]":
    """The tokens of some passages, one passage's after another's, in the order given."""
    lengths = source.offsets[passages + 1] - source.offsets[passages]
    ends = np.cumsum(lengths)
    found = np.empty((int(lengths.sum()), source.dim), np.float16)
    rising = np.argsort(passages, kind="stable")
    # Neighbours are read at once.
    for run in np.split(rising, np.flatnonzero(np.diff(passages[rising]) != 1) + 1):
        if not len(run):
            continue
        part, at = source.read(int(passages[run[0]]), int(passages[run[-1]]) + 1), 0
        for place in run.tolist():
            end, length = int(ends[place]), int(lengths[place])
            found[end - length : end] = part[at : at + length]
            at += length
    return found
