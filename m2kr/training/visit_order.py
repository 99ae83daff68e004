"""Which source is met at which visit: its exact share of them, in an order that looks random."""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import lcm
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from m2kr.training.draws import Purpose, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 1024  # visits that are shuffled among each other, at least


class _Block(NamedTuple):
    """Some visits in a row: for each the share, and how many of the share's visits came before."""

    shares: "NDArray[np.uint16]"
    earlier: "NDArray[np.int64]"


class VisitOrder:
    """Which share a visit is of.

    After any number of blocks each share has had its part of the visits, rounded up or down (largest
    remainder), so none drifts; an epoch without weights visits each row exactly ``repeat`` times.

    Args:
        quotas: Visits of each share in an epoch, 1 or more.
        weights: Their parts of the visits in place of that, if given.
        seed: Of the order inside blocks.

    Attributes:
        epoch_visits: Sum of the quotas.
    """

    def __init__(
        self, quotas: Sequence[int], weights: Sequence[float] | None = None, seed: int = 0
    ) -> None:
        self.epoch_visits = sum(quotas)
        self._parts = list(quotas)
        # Epochs end where every share has had its rows; by weights they do nowhere.
        self._period = None if weights else self.epoch_visits
        if weights:
            fractions = [Fraction(str(weight)) for weight in weights]
            scale = lcm(*(each.denominator for each in fractions))
            self._parts = [int(each * scale) for each in fractions]
        self._whole = sum(self._parts)
        # Each share has a visit in a block: a total rounded up is then never above the next one.
        self._size = max(_BLOCK, -(-self._whole // min(self._parts)))
        self._seed = seed
        self._block = lru_cache(maxsize=4)(self._shuffled)

    def __getitem__(self, number: int) -> tuple[int, int]:
        """Share of a visit, and how many visits the share had before."""
        epoch, place = divmod(number, self._period) if self._period else (0, number)
        at, offset = divmod(place, self._size)
        block = self._block(epoch, at)
        share = int(block.shares[offset])
        return share, epoch * self._parts[share] + int(block.earlier[offset])

    def totals(self, visits: int) -> list[int]:
        """How many of so many visits (of an epoch) each share has, by largest remainder."""
        counts, rests = zip(
            *(divmod(visits * part, self._whole) for part in self._parts), strict=True
        )
        most = sorted(range(len(counts)), key=lambda share: -rests[share])
        extra = set(most[: visits - sum(counts)])
        return [count + (share in extra) for share, count in enumerate(counts)]

    def _shuffled(self, epoch: int, at: int) -> _Block:
        start, stop = at * self._size, (at + 1) * self._size
        before = np.array(self.totals(start), np.int64)
        after = self.totals(min(stop, self._period) if self._period else stop)
        counts = np.array(after, np.int64) - before
        labels = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
        shares = generator(self._seed, Purpose.ORDER, epoch, at).permutation(labels)
        earlier = np.empty(len(shares), np.int64)
        # A stable sort puts a share's visits together, in their order.
        own = np.arange(len(shares)) - np.repeat(np.cumsum(counts) - counts, counts)
        earlier[np.argsort(shares, kind="stable")] = own + np.repeat(before, counts)
        return _Block(shares, earlier)
