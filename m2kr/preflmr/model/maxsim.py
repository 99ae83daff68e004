"""MaxSim of every query with every document, for training on batches of any size.

The similarities of a batch of 64 queries with 320 documents of 512 tokens are 13 GB in float32. Here
they are made block by block, over query rows, documents and document tokens; what stays for the backward
pass is which token was the nearest, 2 bytes for each query row and document. On a GPU the package
late-interaction-kernels does the same for 16-bit rows, if it is installed.
"""

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from m2kr.preflmr.model import scoring

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

#: Similarities made at once: what caches hold, and what keeps a GPU busy.
_BLOCK, _GPU_BLOCK = 1 << 21, 1 << 26
#: Document tokens that are looked at together.
_TOKENS = 512


def all_scores(queries: "Tensor", documents: "Tensor", mask: "Tensor") -> "Tensor":
    """Scores of every query with every document, by the official score function.

    A query row's gradient goes to one token, the first of the nearest; none goes to masked tokens.
    There are no second derivatives.

    Args:
        queries: (B x query rows x dim); zero rows add 0.
        documents: (N x document rows x dim).
        mask: Bool, (N x document rows) or (N x document rows x 1); False rows don't take part.

    Returns:
        (B x N), in float32 or wider.

    Raises:
        InputError: Shapes don't fit.
    """
    mask = scoring.fitting(queries, documents, mask)
    # For 16-bit rows alone: the kernels round wider ones to float16 before they multiply.
    narrow = queries.dtype == documents.dtype and queries.dtype in (torch.bfloat16, torch.float16)
    if narrow and queries.is_cuda and (kernel := _kernel()):
        return _fused(kernel, queries, documents, mask)
    queries, documents = scoring.wide(queries, documents)
    scores: Tensor = _MaxSim.apply(queries, documents, mask)  # type: ignore[no-untyped-call]
    return scores


@functools.cache
def _kernel() -> "Callable[..., Tensor] | None":
    """``maxsim`` of the package late-interaction-kernels (0.4), where it and Triton are installed."""
    try:
        import triton  # noqa: F401
        from late_interaction_kernels import maxsim
    except ImportError:
        return None
    kernel: Callable[..., Tensor] = maxsim
    return kernel


def _fused(
    kernel: "Callable[..., Tensor]", queries: "Tensor", documents: "Tensor", mask: "Tensor"
) -> "Tensor":
    """Scores by a kernel to which documents that are masked whole score 0, and which may skip NaN."""
    some = mask.any(dim=1)
    # "unified" adds the documents' gradient up in float32; "auto" may not.
    scores = kernel(queries, documents, d_mask=mask | ~some[:, None], backward="unified")
    with torch.no_grad():
        faults = queries.float().sum((1, 2))[:, None] * 0 + documents.float().sum((1, 2)) * 0
    return torch.where(some, scores + faults, scoring.MASKED * queries.shape[1])


class _MaxSim(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: "Tensor", documents: "Tensor", mask: "Tensor") -> "Tensor":
        with torch.autocast(queries.device.type, enabled=False):
            scores, nearest = _forward(queries, documents, mask)
        ctx.save_for_backward(queries, documents, mask, nearest)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: "Tensor") -> "tuple[Tensor | None, Tensor | None, None]":
        queries, documents, mask, nearest = ctx.saved_tensors
        with torch.autocast(queries.device.type, enabled=False):
            return *_backward(
                gradient, queries, documents, mask, nearest, ctx.needs_input_grad
            ), None


def _forward(queries: "Tensor", documents: "Tensor", mask: "Tensor") -> "tuple[Tensor, Tensor]":
    """Scores, and for each query, document and query row the nearest token, (B x N x rows)."""
    (count, rows, dim), (number, tokens) = queries.shape, mask.shape
    kind = torch.int16 if tokens <= 1 << 15 else torch.int32
    scores = queries.new_empty(count, number)
    nearest = torch.empty(count, number, rows, dtype=kind, device=queries.device)
    width = max(1, min(tokens, _TOKENS))
    block = _GPU_BLOCK if queries.is_cuda else _BLOCK
    some = max(1, min(count, block // (rows * width)))  # queries at once
    together = max(1, block // (some * rows * width))  # documents at once
    for a in range(0, count, some):
        own = queries[a : a + some].reshape(-1, dim)
        for n in range(0, number, together):
            best, at = _nearest(own, documents[n : n + together], mask[n : n + together], width)
            best, at = best.view(-1, rows, best.shape[1]), at.view(-1, rows, at.shape[1])
            scores[a : a + some, n : n + together] = best.sum(dim=1)
            nearest[a : a + some, n : n + together] = at.transpose(1, 2)
    return scores, nearest


def _nearest(
    rows: "Tensor", documents: "Tensor", mask: "Tensor", width: int
) -> "tuple[Tensor, Tensor]":
    """The largest similarity of some rows with each of some documents, and its token, (rows x N)."""
    best, at = None, None
    for j in range(0, documents.shape[1], width):
        part = documents[:, j : j + width]
        near = (rows @ part.reshape(-1, part.shape[2]).T).view(len(rows), *part.shape[:2])
        near.masked_fill_(~mask[:, j : j + width], scoring.MASKED)
        value, token = near.max(dim=2)
        if best is None or at is None:
            best, at = value, token
            continue
        at = torch.where(value > best, token + j, at)
        best = torch.maximum(best, value)
    assert best is not None
    assert at is not None
    return best, at


def _backward(
    gradient: "Tensor",
    queries: "Tensor",
    documents: "Tensor",
    mask: "Tensor",
    nearest: "Tensor",
    wanted: tuple[bool, ...],
) -> "tuple[Tensor | None, Tensor | None]":
    of_queries = torch.zeros_like(queries) if wanted[0] else None
    of_documents = torch.zeros_like(documents) if wanted[1] else None
    flat = queries.reshape(-1, queries.shape[2])
    for n in range(len(documents)):
        token = nearest[:, n].long().flatten()
        # Where all tokens are masked, the nearest is a masked one, and the score a constant.
        weight = gradient[:, n, None] * mask[n][token].view(nearest.shape[0], -1)
        if of_queries is not None:
            of_queries += documents[n][token].view_as(queries) * weight[:, :, None]
        if of_documents is not None:
            of_documents[n].index_add_(0, token, flat * weight.view(-1, 1))
    return of_queries, of_documents
