"""The processes that train together: this one alone, or those that torchrun started."""

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from m2kr.errors import M2KRError, UsageError
from m2kr.preflmr.checkpoint.load import empty
from m2kr.search.exact.search import device_name

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

    from m2kr.preflmr.preflmr import PreFLMR

MINUTES = 10  # a collective operation that takes longer has lost a process
_HOURS = 24  # while rank 0 validates or writes, the others wait
_times = itertools.count()  # a store's keys serve one group
_LAYERS = ("BertLayer", "CLIPEncoderLayer")


@dataclass(frozen=True)
class Team:
    """This process among those that train together.

    Attributes:
        rank: Its number; 0 alone writes and talks.
        world: How many there are.
        device: Its own.
        parallel: ``ddp`` or ``fsdp``.
    """

    rank: int
    world: int
    device: torch.device
    parallel: str
    _room: Any = None  # a gloo group for objects, and for waits that may be long

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the parameters only."""
        return self.world > 1 and self.parallel == "fsdp"

    def wrap(self, encoder: nn.Module) -> nn.Module:
        """The module whose gradients are means over all processes; `set_trained` has been called."""
        if self.world == 1:
            return encoder
        if not self.sharded:
            ids = [self.device.index] if self.device.type == "cuda" else None
            return nn.parallel.DistributedDataParallel(encoder, ids, gradient_as_bucket_view=True)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.world,))
        for module in encoder.modules():
            if type(module).__name__ in _LAYERS:
                fully_shard(module, mesh=mesh)
        fully_shard(encoder, mesh=mesh)
        return encoder

    def accumulating(self, encoder: nn.Module, *, last: bool) -> "AbstractContextManager[object]":
        """Gradients are exchanged in a step's last micro-batch only."""
        if isinstance(encoder, nn.parallel.DistributedDataParallel) and not last:
            return encoder.no_sync()
        if self.sharded:
            encoder.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def gather(self, value: Any) -> list[Any]:
        """All processes' values, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self._room)
        return values

    def whole(self, tensor: "Tensor") -> "Tensor | None":
        """A parameter's whole tensor, or its optimiser's, on the CPU; rank 0 alone keeps it."""
        if hasattr(tensor, "full_tensor"):
            tensor = tensor.full_tensor()
        return tensor.detach().cpu() if self.rank == 0 else None

    def like(self, whole: "Tensor", parameter: "Tensor") -> "Tensor":
        """A whole tensor as its parameter is: on its device, and cut up where that is."""
        whole = whole.to(self.device)
        if not self.sharded:
            return whole
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        return distribute_tensor(whole, parameter.device_mesh, parameter.placements)

    def whole_model(self, model: "PreFLMR") -> "PreFLMR | None":
        """A model with whole parameters; the same one unless it is cut up, then a copy on rank 0."""
        if not self.sharded:
            return model
        state = {name: self.whole(each) for name, each in model.state_dict().items()}
        if self.rank:
            return None
        from m2kr.preflmr.model.encoders import materialise_buffers

        tokenizers = model.query_tokenizer, model.context_tokenizer, model.image_processor
        copy = empty(type(model), model.config, *tokenizers)
        copy.load_state_dict(state, assign=True)
        materialise_buffers(copy, torch.device("cpu"))
        return copy.to(self.device).eval()


@contextmanager
def joined(parallel: str, device: str) -> Iterator[Team]:
    """This process's place among those of ``torchrun``; alone without it.

    Where one of them fails, its error is the one that is told; the others end without a word.

    Args:
        parallel: ``ddp`` or ``fsdp``.
        device: ``auto``, ``cpu``, ``cuda``, or where there is one process, one GPU: ``cuda:1``.

    Raises:
        UsageError: There is no such device, or several processes would share it.
        M2KRError: Another process was lost.
    """
    name, world = device_name(device), int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Team(0, 1, torch.device(name), parallel)
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if name.startswith("cuda"):
        if name != "cuda" or local >= torch.cuda.device_count():
            raise UsageError(
                f"process {local} of this machine has no GPU of its own",
                where=f"device {device}",
                expected="auto, cpu or cuda, and as many processes as GPUs",
            )
        name = f"cuda:{local}"
        torch.cuda.set_device(local)
    limit = timedelta(minutes=MINUTES)
    store, rank, world = next(rendezvous("env://", rank, world, timeout=limit))
    store = PrefixStore(f"m2kr/{next(_times)}", store)
    backend = "nccl" if name.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=limit, world_size=world, rank=rank, store=store)
    room = dist.new_group(backend="gloo", timeout=timedelta(hours=_HOURS))
    log = logging.getLogger("m2kr")
    level = log.level
    if rank:
        log.setLevel(logging.CRITICAL)
    try:
        yield Team(rank, world, torch.device(name), parallel, room)
        dist.destroy_process_group()
    except BaseException as error:
        if not _is_first(store, rank):
            raise SystemExit(_exit_code(error)) from error
        if _is_of_the_network(error):
            raise M2KRError(
                f"another process was lost, or silent for {MINUTES} minutes: "
                + str(error).strip().split("\n")[0],
                fix="see what it says, then run the same command again: it goes on",
            ) from error
        raise
    finally:
        log.setLevel(level)


def _is_first(store: Any, rank: int) -> bool:
    """Whether no other process failed before: who is first tells why."""
    try:
        return bool(store.compare_set("failed", "", str(rank)) == str(rank).encode())
    except RuntimeError:  # the one that keeps the store is gone
        return False


def _exit_code(error: BaseException) -> int:
    """What the process ends with: 130 by Ctrl-C, 143 by SIGTERM."""
    code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "code", None)
    return code if isinstance(code, int) else getattr(error, "exit_code", 1)


def _is_of_the_network(error: BaseException) -> bool:
    """Whether a collective operation failed."""
    if isinstance(error, dist.DistError):
        return True
    said = str(error)
    return type(error) is RuntimeError and ("gloo" in said.lower() or "by peer" in said)
