"""What a pool will take on disk, computed from the formats (`store.format`, `index.format`).

How long a search takes is told by the search itself, after its first block (`dispatch`).
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from m2kr.errors import UsageError
from m2kr.search.index.codec import SCALED_NBITS
from m2kr.search.index.format import MOST_PASSAGES
from m2kr.search.index.kmeans import centroid_count

if TYPE_CHECKING:
    from collections.abc import Mapping

_COUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kmb]?)")
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_MOST = 10**12

_NPY = 128  # header of an array's file
_RECORD = 900  # a shard's JSON record
_ARROW = 430  # an ids file without its ids, rounded up to 8
_SETTINGS = 500


def parse_count(text: str) -> int:
    """A number as people write it: ``8.8M``, ``400k``, ``1_000``, ``12,500``, ``1.5B``.

    Raises:
        UsageError: it is none, not whole, 0, or above 10^12.
    """
    found = _COUNT.fullmatch(text.strip().lower().replace("_", "").replace(",", ""))
    if found:
        whole, _, part = found[1].partition(".")
        factor = _FACTORS[found[2]]
        # In whole numbers: 8.8 times a million is not 8,800,000 in floating point everywhere.
        value, rest = divmod(int(whole + part) * factor, int(10 ** len(part)))
        if not rest and 1 <= value <= _MOST:
            return value
    raise UsageError(f"'{text}' is no count", expected="such as 8.8M, 400k or 12500")


@dataclass(frozen=True, slots=True)
class PoolSize:
    """A pool that is yet to be encoded.

    Attributes:
        passages: How many.
        tokens: Of a passage, on average.
        dim: Numbers in a token's vector.
        id_bytes: Of a passage's id, on average.
    """

    passages: int
    tokens: float
    dim: int = 128
    id_bytes: float = 12.0

    def __post_init__(self) -> None:
        for name in ("passages", "tokens", "dim", "id_bytes"):
            if not 0 < getattr(self, name) <= _MOST:
                raise UsageError(f"{name} is {getattr(self, name)}", expected="more than 0")
        if self.passages * self.tokens > _MOST:
            raise UsageError(
                f"{self.passages:,} passages of {self.tokens:g} tokens",
                expected="at most 10^12 tokens",
            )

    @property
    def all_tokens(self) -> int:
        """Tokens of all passages."""
        return max(1, round(self.passages * self.tokens))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pool takes.

    Attributes:
        pool: Of what size.
        store_bytes: Of the token store, which exact search reads.
        index_bytes: Of a compressed index, by bits a dimension.
        centroids: Of that index.
    """

    pool: PoolSize
    store_bytes: int
    index_bytes: "Mapping[int, int]"
    centroids: int

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "passages": self.pool.passages,
            "tokens": self.pool.all_tokens,
            "dim": self.pool.dim,
            "store_bytes": self.store_bytes,
            "index_bytes": {str(nbits): size for nbits, size in self.index_bytes.items()},
            "centroids": self.centroids,
        }


def plan_pool(pool: PoolSize) -> Plan:
    """What a pool takes."""
    return Plan(
        pool,
        store_bytes(pool),
        {nbits: index_bytes(pool, nbits) for nbits in SCALED_NBITS if pool.dim * nbits % 8 == 0},
        _centroids_of(pool),
    )


def store_bytes(pool: PoolSize) -> int:
    """Bytes of a token store: float16 vectors, and per passage a length, a checksum and an id."""
    from m2kr.search.store.writer import SHARD_BYTES

    vectors = pool.all_tokens * pool.dim * 2
    shards = -(-vectors // SHARD_BYTES)
    return round(
        vectors
        + pool.passages * (4 + 4 + _id(pool))
        + shards * (2 * _NPY + _ARROW + _RECORD)
        + _SETTINGS
    )


def index_bytes(pool: PoolSize, nbits: int) -> int:
    """Bytes of a compressed index, at most: a passage's tokens may share centroids, then it is less.

    Raises:
        UsageError: there are no codes of so many bits.
    """
    if nbits not in SCALED_NBITS or pool.dim * nbits % 8:
        raise UsageError(f"{nbits} bits a dimension of {pool.dim}", expected="2, 4 or 8")
    centroids = _centroids_of(pool)
    shards = -(-pool.passages // MOST_PASSAGES)
    code = 2 if centroids <= 1 << 16 else 4
    a_token = code + 2 + pool.dim * nbits // 8 + 2  # code, step size, residual, list entry
    a_shard = 6 * _NPY + 4 * (centroids + 1) + _ARROW + _RECORD
    return round(
        pool.all_tokens * a_token
        + pool.passages * (4 + 4 + _id(pool))
        + shards * a_shard
        + centroids * pool.dim * 2
        + _NPY
        + _SETTINGS
    )


def _centroids_of(pool: PoolSize) -> int:
    return min(centroid_count(pool.all_tokens), pool.all_tokens)


def _id(pool: PoolSize) -> float:
    """Bytes of an id in an Arrow string column."""
    return pool.id_bytes + 4
