"""Who may use a GPU: a few threads at a time, bounds behind what is wanted sooner.

A thread that has its bounds needs small steps done, with the host in between; they would wait for the
bounds that other threads have ordered meanwhile. So those are computed on a stream of low priority, and
the steps on one of high priority. Three threads: one whose bounds are computed, one whose bounds
wait, one that ranks. The memory that they use besides the blocks is three times one's.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_AT_ONCE = 3


@dataclass(frozen=True, slots=True)
class Turn:
    """A thread's turn on a device; on the CPU it has no streams, and everything comes in order.

    Attributes:
        low: The stream for bounds.
        high: The stream for all else.
    """

    low: "torch.cuda.Stream | None"
    high: "torch.cuda.Stream | None"

    @contextlib.contextmanager
    def bounds(self) -> Iterator[None]:
        """Orders what is in the ``with`` block on the low stream; the high one waits for it."""
        with _on(self.low):
            yield
        if self.high is not None and self.low is not None:
            self.high.wait_stream(self.low)

    def steps(self) -> Any:
        """Orders what is in the ``with`` block on the high stream."""
        return _on(self.high)


@contextlib.contextmanager
def turn(device: str) -> Iterator[Turn]:
    """Waits for one. Tensors made in it must not be used after it, and are read before it ends.

    Args:
        device: As tensors on it name it.
    """
    free = _free(device)
    mine = free.get()
    try:
        yield mine
    finally:
        free.put(mine)


@cache
def _free(device: str) -> "SimpleQueue[Turn]":
    import torch

    stream: Any = torch.cuda.Stream
    found: SimpleQueue[Turn] = SimpleQueue()
    for _ in range(_AT_ONCE):
        low = high = None
        if torch.device(device).type == "cuda":
            low = stream(device, priority=0)
            high = stream(device, priority=-1)
        found.put(Turn(low, high))
    return found


def settled(device: str) -> None:
    """Returns when what this thread has ordered is there for every stream."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _on(stream: "torch.cuda.Stream | None") -> Any:
    import torch

    return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)
