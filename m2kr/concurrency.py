"""Threads that each multiply alone, and float32 products that really are float32.

torch splits one product over all threads, which costs more than it gains for tiles that fit a core's
cache. Here each thread takes tiles of its own.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from m2kr.errors import missing_dependency

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Runs functions on several threads at once."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._own = threading.local()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Results in the order of the items; the first error that occurs is raised."""
        return list(self._pool.map(function, items))

    def scratch(self, size: int, dtype: "torch.dtype", device: "torch.device") -> "torch.Tensor":
        """At least ``size`` values that this thread may overwrite, the same ones each time.

        Fresh memory costs a page fault every 4 kB, as much as multiplying into it.
        """
        import torch

        kept: dict[str, Any] = self._own.__dict__
        key = f"{dtype} {device}"
        if key not in kept or len(kept[key]) < size:
            kept[key] = torch.empty(size, dtype=dtype, device=device)
        found: torch.Tensor = kept[key]
        return found


@contextmanager
def workers(threads: int) -> Iterator[Workers]:
    """Threads for the length of a ``with`` block, in which torch multiplies as `scanning.bounds` assumes.

    The block sets torch's number of threads to one and turns reduced-precision products off (TF32,
    bfloat16 for float32); both are settings of the whole process, and set back after it. Autocasting is
    a thread's own and doesn't reach these threads.
    """
    import torch

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "m2kr-search", initializer=lambda: torch.set_num_threads(1))
    try:
        with full_precision():
            yield Workers(pool)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


@contextmanager
def full_precision() -> Iterator[None]:
    """Turns reduced-precision products off for the length of a ``with`` block, in the whole process.

    Raises:
        MissingError: torch isn't installed.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_dependency("torch", "models", "late-interaction search") from error

    cuda = torch.backends.cuda.matmul
    cpu: Any = torch.backends.mkldnn
    settings: list[tuple[Any, str, Any]] = [(cuda, "allow_bf16_reduced_precision_reduction", False)]
    halves = ("allow_fp16_reduced_precision_reduction", "allow_fp16_accumulation")
    settings += [(cuda, name, False) for name in halves if hasattr(cuda, name)]
    if hasattr(cuda, "fp32_precision"):
        settings += [(cuda, "fp32_precision", "ieee")]
        settings += [(cpu.matmul, "fp32_precision", "ieee")]
    else:  # before torch 2.9
        settings += [(cuda, "allow_tf32", False)]
    before = [getattr(place, name) for place, name, _ in settings]
    legacy = None if hasattr(cuda, "fp32_precision") else torch.get_float32_matmul_precision()
    try:
        if legacy is not None:
            torch.set_float32_matmul_precision("highest")
        for place, name, value in settings:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(settings, before, strict=True):
            setattr(place, name, value)
        if legacy is not None:
            torch.set_float32_matmul_precision(legacy)
