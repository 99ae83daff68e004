"""Which neighbours in an archive are read by one request."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SLACK = 0.05  # bytes read for nothing, by bytes wanted
WIDEST_GAP = 64 << 10
MOST_BYTES = 8 << 20

Offsets = NDArray[np.int64]


def group(
    starts: Offsets,
    ends: Offsets,
    *,
    allowance: int,
    widest: int = WIDEST_GAP,
    most: int = MOST_BYTES,
) -> list[tuple[int, int]]:
    """Spans of an archive in groups, each of which is read from its first byte to its last.

    The narrowest gaps are closed first, so that there are as few groups as the allowance buys.

    Args:
        starts: Where each span begins, ascending.
        ends: Where it ends; not behind the start of the next.
        allowance: Bytes of all gaps read for nothing, together.
        widest: Of one such gap.
        most: Bytes of a group, unless a single span has more.

    Returns:
        First span and the one behind the last, of each group; together they are all spans in order.
    """
    count = len(starts)
    if not count:
        return []
    gaps = starts[1:] - ends[:-1]
    order = np.argsort(gaps, kind="stable")
    joined: NDArray[Any] = np.zeros(count, bool)
    joined[order[np.cumsum(gaps[order]) <= allowance] + 1] = True
    joined[1:] &= gaps <= widest
    groups = []
    first = 0
    for at in range(1, count):
        if not joined[at] or ends[at] - starts[first] > most:
            groups.append((first, at))
            first = at
    groups.append((first, count))
    return groups
