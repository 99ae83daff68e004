"""The two training losses over late-interaction scores, and the batch of all ranks."""

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F

from m2kr.errors import InputError
from m2kr.preflmr.model import maxsim

if TYPE_CHECKING:
    from torch import Tensor


def pairwise(scores: "Tensor") -> "Tensor":
    """Cross-entropy of each query over its own documents.

    Args:
        scores: (B x 1+n), the positive's first.

    Returns:
        The mean over queries, a scalar.
    """
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))


def in_batch(queries: "Tensor", documents: "Tensor", mask: "Tensor") -> "Tensor":
    """Cross-entropy of each query over the documents of the whole batch, without temperature.

    Args:
        queries: (B x query rows x dim).
        documents: (B(1+n) x document rows x dim): per query its positive, then its n negatives.
        mask: Bool, (B(1+n) x document rows), False where a row doesn't count.

    Returns:
        The mean over queries, a scalar.
    """
    each = documents_per_query(queries, documents)
    scores = maxsim.all_scores(queries, documents, mask)
    return F.cross_entropy(scores, torch.arange(len(queries), device=scores.device) * each)


def documents_per_query(queries: "Tensor", documents: "Tensor") -> int:
    """How many documents each query has.

    Raises:
        InputError: The documents don't divide evenly among the queries.
    """
    if not len(queries) or not len(documents) or len(documents) % len(queries):
        raise InputError(
            f"{len(documents)} documents for {len(queries)} queries",
            expected="for each query its positive, then equally many negatives",
        )
    return len(documents) // len(queries)


def gather_ranks(
    queries: "Tensor", documents: "Tensor", mask: "Tensor"
) -> "tuple[Tensor, Tensor, Tensor]":
    """The batch of all ranks, in the order of ranks; without torch.distributed the batch itself.

    Only this rank's own part carries a gradient, so that each rank computes the whole loss and
    gradients must be summed, not averaged, to be those of one big batch. Document lengths may differ
    between ranks; every rank must have equally many queries and documents.

    Args:
        queries: (B x query rows x dim).
        documents: (N x document rows x dim).
        mask: Bool, (N x document rows).
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return queries, documents, mask
    length = torch.tensor([documents.shape[1]], device=documents.device)
    dist.all_reduce(length, op=dist.ReduceOp.MAX)
    short = int(length) - documents.shape[1]
    documents = F.pad(documents, (0, 0, 0, short))
    mask = F.pad(mask.to(torch.uint8), (0, short))
    return _all(queries), _all(documents), _all(mask).bool()


def _all(own: "Tensor") -> "Tensor":
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own.detach().contiguous())
    parts[dist.get_rank()] = own
    return torch.cat(parts)
