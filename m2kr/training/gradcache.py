"""Encoding in chunks, with the gradient of the whole batch (GradCache, Gao et al. 2021)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from m2kr.training.batch_encoder import Encoded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from m2kr.training.batch import TrainingBatch


class ChunkedEncoding:
    """A batch's rows, and the way back from their gradient.

    In one chunk the encoder runs once. In several it runs twice on each: first without a graph, then
    with one and with the same dropout, when the gradient of the rows is known.

    Args:
        encoder: A `BatchEncoder`, bare or in DDP or FSDP.
        batch: Of B queries.
        chunk: Queries encoded at once; all if None.
    """

    def __init__(self, encoder: "nn.Module", batch: "TrainingBatch", chunk: int | None) -> None:
        self._encoder = encoder
        size = len(batch) if chunk is None else max(1, min(chunk, len(batch)))
        self._parts = [batch.part(n, n + size) for n in range(0, len(batch), size)]
        self._randomness: list[_RandomState] = []
        self._kept: Encoded | None = None
        if len(self._parts) == 1:
            self._kept = encoder(batch)
            self.rows = Encoded(*(each.detach() for each in self._kept))
            return
        made: list[Encoded] = []
        with torch.no_grad():
            for part in self._parts:
                self._randomness.append(_RandomState(batch.query_ids.device))
                made.append(encoder(part))
        if torch.is_autocast_enabled(batch.query_ids.device.type):
            torch.clear_autocast_cache()  # weights cast here have no graph
        self.rows = Encoded(*(torch.cat(each) for each in zip(*made, strict=True)))

    def backward(self, of_queries: "Tensor", of_documents: "Tensor") -> None:
        """Adds to the parameters' gradients what follows from those of the rows."""
        if self._kept is not None:
            _back(self._kept, of_queries, of_documents)
            return
        a = n = 0
        for part, state in zip(self._parts, self._randomness, strict=True):
            last = part is self._parts[-1]
            with nullcontext() if last else _unsynced(self._encoder), state.again():
                rows = self._encoder(part)
                b, m = a + len(rows.queries), n + len(rows.documents)
                _back(rows, of_queries[a:b], of_documents[n:m])
            a, n = b, m


def _back(rows: Encoded, of_queries: "Tensor", of_documents: "Tensor") -> None:
    pairs = [(rows.queries, of_queries), (rows.documents, of_documents)]
    pairs = [each for each in pairs if each[0].requires_grad]
    torch.autograd.backward([own for own, _ in pairs], [g.to(own.dtype) for own, g in pairs])


def _unsynced(encoder: "nn.Module") -> AbstractContextManager[object]:
    """DDP's gradients are averaged once, with the last chunk."""
    no_sync = getattr(encoder, "no_sync", None)
    return nullcontext() if no_sync is None else no_sync()


class _RandomState:
    """Where the random numbers of the CPU and of a device stand."""

    def __init__(self, device: torch.device) -> None:
        self._devices = [device] if device.type == "cuda" else []
        self._cpu = torch.get_rng_state()
        self._device = [torch.cuda.get_rng_state(each) for each in self._devices]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Random numbers as then; afterwards as before."""
        with torch.random.fork_rng(self._devices):
            torch.set_rng_state(self._cpu)
            for device, state in zip(self._devices, self._device, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield
