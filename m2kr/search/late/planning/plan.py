"""What a pool will take: bytes on disk, computed, and seconds a query, from a calibration.

Bytes follow from the formats (`store_format`, `index.format`). Seconds come from the true engines on
this machine, run on a small random pool, and on one shard of the planned index at its true size:

- exact search reads and codes every token once for all queries, and multiplies every query with
  every token. Both grow with the tokens; few queries and many tell one from the other.
- compressed search multiplies with all centroids, looks up inverted lists in every shard, and then
  scores a number of passages that doesn't depend on the pool.

Random tokens stand for the pool's, so seconds are estimates; reading from a slow disk comes on top.
"""

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from m2kr.errors import UsageError
from m2kr.search.late.index import format as index_format
from m2kr.search.late.index.scaled import NBITS

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
class Pool:
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
        rows: Rows of a query.
        k: Passages asked for.
        store_bytes: Of the token store, which exact search reads.
        index_bytes: Of a compressed index, by bits a dimension.
        centroids: Of that index.
        seconds: By mode: ``exact pass`` (reading and coding the pool once, whatever the number of
            queries), ``exact`` and ``compressed`` (a query). Empty without a calibration.
        threads: That those seconds hold for.
        calibrated_in: Seconds that finding out took.
    """

    pool: Pool
    rows: int
    k: int
    store_bytes: int
    index_bytes: "Mapping[int, int]"
    centroids: int
    seconds: "Mapping[str, float]"
    threads: int
    calibrated_in: float

    def total(self, mode: str, queries: int) -> float:
        """Seconds for so many queries; mode is ``exact`` or ``compressed``."""
        once = self.seconds["exact pass"] if mode == "exact" else 0.0
        return once + queries * self.seconds[mode]

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "passages": self.pool.passages,
            "tokens": self.pool.all_tokens,
            "dim": self.pool.dim,
            "rows": self.rows,
            "k": self.k,
            "store_bytes": self.store_bytes,
            "index_bytes": {str(nbits): size for nbits, size in self.index_bytes.items()},
            "centroids": self.centroids,
            "seconds": dict(self.seconds),
            "threads": self.threads,
            "calibrated_in": self.calibrated_in,
        }


def plan(
    pool: Pool,
    *,
    rows: int = 100,
    k: int = 100,
    threads: int | None = None,
    calibrate: bool = True,
) -> Plan:
    """What a pool takes on this machine.

    Args:
        pool: Its size.
        rows: Rows of a query: its vectors of text and image.
        k: Passages a query.
        threads: By default as many as torch uses.
        calibrate: Whether to run the engines, some 5 seconds; if not, there are bytes alone.

    Raises:
        UsageError: a number makes no sense.
        MissingError: torch is not installed, and it was to be calibrated.
    """
    if rows < 1 or k < 1:
        raise UsageError(f"rows is {rows} and k is {k}", expected="at least 1")
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    if calibrate:
        from m2kr.search.late.planning import calibration

        seconds, threads = calibration.calibrate(pool, rows=rows, k=k, threads=threads)
    return Plan(
        pool,
        rows,
        k,
        store_bytes(pool),
        {nbits: index_bytes(pool, nbits) for nbits in NBITS if pool.dim * nbits % 8 == 0},
        centroids_of(pool),
        seconds,
        threads or 0,
        time.perf_counter() - started,
    )


def store_bytes(pool: Pool) -> int:
    """Bytes of a token store: float16 vectors, and per passage a length, a checksum and an id."""
    from m2kr.search.late.store_writer import SHARD_BYTES

    vectors = pool.all_tokens * pool.dim * 2
    shards = -(-vectors // SHARD_BYTES)
    return round(
        vectors
        + pool.passages * (4 + 4 + _id(pool))
        + shards * (2 * _NPY + _ARROW + _RECORD)
        + _SETTINGS
    )


def index_bytes(pool: Pool, nbits: int) -> int:
    """Bytes of a compressed index, at most: a passage's tokens may share centroids, then it is less.

    Raises:
        UsageError: there are no codes of so many bits.
    """
    if nbits not in NBITS or pool.dim * nbits % 8:
        raise UsageError(f"{nbits} bits a dimension of {pool.dim}", expected="2, 4 or 8")
    centroids = centroids_of(pool)
    shards = -(-pool.passages // index_format.MOST_PASSAGES)
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


def centroids_of(pool: Pool) -> int:
    """Centroids that an index of the pool has by default."""
    from m2kr.search.late.index.kmeans import count_for

    return min(count_for(pool.all_tokens), pool.all_tokens)


def _id(pool: Pool) -> float:
    """Bytes of an id in an Arrow string column."""
    return pool.id_bytes + 4
