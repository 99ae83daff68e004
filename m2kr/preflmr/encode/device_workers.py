"""Where batches are computed: copies of a model on devices, each fed by threads of its own."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from queue import SimpleQueue
from threading import local
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from m2kr.concurrency import ahead, threads
from m2kr.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from m2kr.preflmr.model.modeling import PreFLMRModel

Item = TypeVar("Item")
Made = TypeVar("Made")

#: Threads that feed one accelerator: while one waits for its results, another's batch is computed.
_FEEDERS = 2


@dataclass(frozen=True, slots=True, eq=False)
class DeviceWorker:
    """One thread's way to a model.

    Attributes:
        model: May be shared with other workers.
        threads: Threads of a processor that its operations are split over; 0 on an accelerator.
    """

    model: "PreFLMRModel"
    threads: int


def replicas(
    model: "PreFLMRModel", devices: Sequence[str | torch.device], dtype: torch.dtype
) -> "list[PreFLMRModel]":
    """A copy of the model for each device; the model itself where it is there and of that type.

    Raises:
        UsageError: A device can't be used.
    """
    made: list[PreFLMRModel] = []
    for device in map(_checked, devices):
        fits = model.dtype == dtype and _same(model.device, device)
        taken = any(each is model for each in made)
        # Copied where it is, then moved: a model never changes under its owner's hands.
        made.append(model if fits and not taken else copy.deepcopy(model).to(device, dtype))
    return made


def workers_of(models: "Sequence[PreFLMRModel]", *, single: bool) -> list[DeviceWorker]:
    """The workers to some copies.

    A processor's cores get a batch each, which is faster than splitting every product over them: it
    has no barriers, and other programs on the machine hold up one batch only.

    Args:
        models: One or more copies.
        single: One worker a copy, for models that must not be entered twice at a time.
    """
    on_cpu = sum(each.device.type == "cpu" for each in models)
    share = max(1, torch.get_num_threads() // max(1, on_cpu))
    workers = []
    for model in models:
        if model.device.type != "cpu":
            feeders = _FEEDERS if model.device.type == "cuda" and not single else 1
            workers += [DeviceWorker(model, 0)] * feeders
        elif single:
            workers.append(DeviceWorker(model, share))
        else:
            workers += [DeviceWorker(model, 1)] * share
    return workers


def run(
    items: Iterable[Item],
    work: "Callable[[PreFLMRModel, Item], Made]",
    workers: Sequence[DeviceWorker],
    *,
    begin: Callable[[Item], Any],
    room: int,
    size: Callable[[Item], int],
) -> Iterator[tuple[Item, Made]]:
    """Items with their results, in order; each goes to whichever worker is free.

    Args:
        items: Batches.
        work: Computes one, on a model.
        workers: From `workers_of`.
        begin: Called with each item before it enters the queue, to prepare in the background what
            ``work`` will wait for.
        room: Most that is held of items and results, by ``size``.
        size: What an item counts for.
    """
    rest = iter(items)
    first = list(islice(rest, 2))
    if len(first) < 2:
        # A single batch gets all threads of the processor instead of one worker's.
        for item in first:
            begin(item)
            with _computing():
                made = work(workers[0].model, item)
            yield item, made
        return
    waiting: SimpleQueue[DeviceWorker] = SimpleQueue()
    for worker in workers:
        waiting.put(worker)
    own = local()

    def enter() -> None:
        own.worker = waiting.get()
        if own.worker.threads:
            torch.set_num_threads(own.worker.threads)
        device = own.worker.model.device
        own.stream = None
        if device.type == "cuda":
            own.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            own.stream.wait_stream(torch.cuda.default_stream(device))

    def do(item: Item) -> Made:
        with _computing(own.stream):
            return work(own.worker.model, item)

    def start(item: Item) -> "Future[Made]":
        begin(item)
        return pool.submit(do, item)

    before = torch.get_num_threads()
    with threads(len(workers), "m2kr-encode", enter) as pool:
        try:
            yield from ahead(chain(first, rest), start, room=room, size=size)
        finally:
            # The number of threads is one setting for the whole process in parts of torch.
            torch.set_num_threads(before)


def compile_modules(models: "Sequence[PreFLMRModel]") -> None:
    """Has the heavy modules compiled, in place, for any number of rows and columns.

    Code is made when a module first runs.
    """
    for model in models:
        for name, module in model.named_children():
            if name.endswith(("_encoder", "_network")):
                module.compile(dynamic=True)


@contextmanager
def evaluating(models: "Sequence[PreFLMRModel]") -> Iterator[None]:
    """Evaluation mode, and back to training for the modules that were in it."""
    training = [part for each in models for part in each.modules() if part.training]
    for each in models:
        each.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def _computing(stream: Any = None) -> Iterator[None]:
    on_device = torch.cuda.stream(stream) if stream is not None else nullcontext()
    with torch.inference_mode(), on_device:
        yield


def _checked(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"the device '{device}' can't be used: {str(error).splitlines()[0]}",
            expected="cpu, cuda, cuda:1, …",
        ) from error
    return found


def _same(one: torch.device, other: torch.device) -> bool:
    current = torch.cuda.current_device() if "cuda" in (one.type, other.type) else None
    places = [
        (each.type, current if each.type == "cuda" and each.index is None else each.index)
        for each in (one, other)
    ]
    return places[0] == places[1]
