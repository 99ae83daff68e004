"""Where the wanted members of a remote archive lie, and the requests that fetch them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m2kr.build.images.runs import Run
from m2kr.build.images.spans import SLACK, Offsets, group


@dataclass(frozen=True, slots=True)
class Cost:
    """What fetching some members takes.

    Attributes:
        members: How many can be fetched.
        content: Their bytes as stored.
        transfer: Bytes to be fetched for them.
        requests: How many are needed.
    """

    members: int
    content: int
    transfer: int
    requests: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Members in the order of the archive.

    Attributes:
        names: As they are asked for.
        starts: Where each begins, its header included.
        ends: Behind its last byte.
        stored: Bytes of its content in the archive.
        sizes: Bytes of its content when unpacked.
        rows: Number of each in what its archive has besides.
    """

    names: Sequence[str]
    starts: Offsets
    ends: Offsets
    stored: Offsets
    sizes: Offsets
    rows: Offsets

    def runs(self) -> list[Run]:
        """One a request. Gaps and headers come to 5 % of the members, headers alone maybe to more."""
        headers = int((self.ends - self.starts - self.stored).sum())
        allowance = max(0, int(SLACK * int(self.stored.sum())) - headers)
        groups = group(self.starts, self.ends, allowance=allowance)
        return [
            Run(
                start=int(self.starts[first]),
                end=int(self.ends[last - 1]),
                first=first,
                last=last,
                memory=int(self.sizes[first:last].sum()),
            )
            for first, last in groups
        ]

    def cost(self) -> Cost:
        """What fetching them takes."""
        runs = self.runs()
        transfer = sum(run.end - run.start for run in runs)
        return Cost(len(self.names), int(self.stored.sum()), transfer, len(runs))


def in_order(
    names: Sequence[str],
    starts: Offsets,
    ends: Offsets,
    stored: Offsets,
    sizes: Offsets,
) -> Layout:
    """The layout of members given in any order."""
    rows = np.argsort(starts, kind="stable").astype(np.int64)
    return Layout(
        names=[names[row] for row in rows],
        starts=starts[rows],
        ends=ends[rows],
        stored=stored[rows],
        sizes=sizes[rows],
        rows=rows,
    )
