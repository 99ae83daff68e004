"""MaxSim in torch, with gradients: the official score function, for training and small batches.

Searching a corpus is `m2kr.search`'s work.
"""

from typing import TYPE_CHECKING

import torch

from m2kr.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

#: Similarity that masked document tokens get before the maximum is taken, as in the official code.
MASKED = -9999.0
_BLOCK = 1 << 26  # similarities held at once in `all_pairs`


def score_pairs(queries: "Tensor", documents: "Tensor", mask: "Tensor") -> "Tensor":
    """Scores of query i with document i.

    Args:
        queries: (N x query rows x dim); zero rows add 0.
        documents: (N x document rows x dim).
        mask: Bool, (N x document rows) or (N x document rows x 1); False rows don't take part.

    Returns:
        (N,), in float32 or wider.
    """
    queries, documents, mask = checked(queries, documents, mask)
    if len(queries) != len(documents):
        raise InputError(f"{len(queries)} queries are paired with {len(documents)} documents")
    return _reduce(queries @ documents.transpose(1, 2), mask[:, None, :])


def all_pairs(queries: "Tensor", documents: "Tensor", mask: "Tensor") -> "Tensor":
    """Scores of every query with every document.

    Args:
        queries: (Q x query rows x dim); zero rows add 0.
        documents: (D x document rows x dim).
        mask: Bool, (D x document rows) or (D x document rows x 1); False rows don't take part.

    Returns:
        (Q x D), in float32 or wider. Memory is bounded by blocks of documents.
    """
    queries, documents, mask = checked(queries, documents, mask)
    per_document = max(1, len(queries) * queries.shape[1] * documents.shape[1])
    block = max(1, _BLOCK // per_document)
    columns = [
        _reduce(torch.einsum("qid,njd->qnij", queries, part), part_mask[None, :, None, :])
        for part, part_mask in zip(
            torch.split(documents, block), torch.split(mask, block), strict=True
        )
    ]
    return torch.cat(columns, dim=1)


def checked(
    queries: "Tensor", documents: "Tensor", mask: "Tensor"
) -> "tuple[Tensor, Tensor, Tensor]":
    """Both in float32 or wider, and the mask as bool, (documents x rows); shapes must fit."""
    mask = mask.squeeze(-1) if mask.dim() == 3 else mask
    if mask.shape != documents.shape[:2] or queries.shape[-1] != documents.shape[-1]:
        raise InputError(
            f"shapes don't fit: queries {tuple(queries.shape)}, documents "
            f"{tuple(documents.shape)}, mask {tuple(mask.shape)}"
        )
    kind = torch.promote_types(torch.promote_types(queries.dtype, documents.dtype), torch.float32)
    return queries.to(kind), documents.to(kind), mask.bool()


def _reduce(similarities: "Tensor", mask: "Tensor") -> "Tensor":
    # max, not amax: its gradient goes to one token, as in the official code.
    return similarities.masked_fill(~mask, MASKED).max(dim=-1).values.sum(dim=-1)
