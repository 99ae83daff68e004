"""Small pieces of work side by side on a processor's cores.

A small network gains little from splitting each matrix product over the cores, and where other
programs run as well, waiting for one another at every product makes it several times slower. So each
core gets pieces of its own; the result then does not depend on the number of cores either.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Piece = TypeVar("Piece")
Made = TypeVar("Made")


def spread(work: Callable[[Piece], Made], pieces: Sequence[Piece], device: str) -> list[Made]:
    """The result of each piece, in order; one after the other on an accelerator, which one thread feeds.

    Args:
        work: Calls torch, which lets go of the interpreter's lock while it computes.
        pieces: The biggest first, so that no core ends long after the others.
        device: What torch computes on.
    """
    import torch

    threads = torch.get_num_threads()
    if device != "cpu" or threads == 1 or len(pieces) < 2:
        return [work(piece) for piece in pieces]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, pieces))
    finally:
        # The number of threads is one setting for the whole process in parts of torch.
        torch.set_num_threads(threads)
