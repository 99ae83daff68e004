"""The documents of all ranks as negatives, with gradients that are those of one big batch.

Each rank scores its own queries with the documents of all. A document's gradient is the sum over the
ranks that scored it, so that the mean over ranks, which DDP and FSDP make, is the gradient of the mean
loss. The official code computes the whole loss on every rank, and its mean is too small by the number
of ranks.
"""

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def gather(own: "Tensor") -> "Tensor":
    """Tensors of equal shapes of all ranks, joined at axis 0 in the order of ranks; no gradient."""
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own.detach().contiguous())
    return torch.cat(parts)


def gather_filled(own: "Tensor", filler: float) -> "Tensor":
    """`gather` for tensors whose axis 1 differs between ranks: shorter ones are filled."""
    length = torch.tensor([own.shape[1]], device=own.device)
    dist.all_reduce(length, op=dist.ReduceOp.MAX)
    short = int(length) - own.shape[1]
    return gather(F.pad(own, (0, 0) * (own.dim() - 2) + (0, short), value=filler))


def scatter_sum(gradient: "Tensor", own: "Tensor") -> "Tensor":
    """The sum over ranks of gradients of what `gather_filled` made, this rank's part; float32 or wider."""
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).contiguous()
    dist.all_reduce(gradient)
    start = dist.get_rank() * len(own)
    return gradient[start : start + len(own), : own.shape[1]]
