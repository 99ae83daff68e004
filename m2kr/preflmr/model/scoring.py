"""MaxSim of pairs in torch, with gradients: the official score function, for small batches.

`m2kr.preflmr.model.maxsim` scores every query with every document; searching a corpus is
`m2kr.search`'s work.
"""

from typing import TYPE_CHECKING

import torch

from m2kr.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

#: Similarity that masked document tokens get before the maximum is taken, as in the official code.
MASKED = -9999.0


def score_pairs(queries: "Tensor", documents: "Tensor", mask: "Tensor") -> "Tensor":
    """Scores of query i with document i.

    Args:
        queries: (N x query rows x dim); zero rows add 0.
        documents: (N x document rows x dim).
        mask: Bool, (N x document rows) or (N x document rows x 1); False rows don't take part.

    Returns:
        (N,), in float32 or wider.
    """
    mask = fitting(queries, documents, mask)
    queries, documents = wide(queries, documents)
    if len(queries) != len(documents):
        raise InputError(f"{len(queries)} queries are paired with {len(documents)} documents")
    return _reduce(queries @ documents.transpose(1, 2), mask[:, None, :])


def fitting(queries: "Tensor", documents: "Tensor", mask: "Tensor") -> "Tensor":
    """The mask as bool, (documents x rows).

    Raises:
        InputError: Shapes don't fit.
    """
    mask = mask.squeeze(-1) if mask.dim() == 3 else mask
    if mask.shape != documents.shape[:2] or queries.shape[-1] != documents.shape[-1]:
        raise InputError(
            f"shapes don't fit: queries {tuple(queries.shape)}, documents "
            f"{tuple(documents.shape)}, mask {tuple(mask.shape)}"
        )
    return mask.bool()


def wide(queries: "Tensor", documents: "Tensor") -> "tuple[Tensor, Tensor]":
    """Both in the wider one's type, float32 at least."""
    kind = torch.promote_types(torch.promote_types(queries.dtype, documents.dtype), torch.float32)
    return queries.to(kind), documents.to(kind)


def _reduce(similarities: "Tensor", mask: "Tensor") -> "Tensor":
    # max, not amax: its gradient goes to one token, as in the official code.
    return similarities.masked_fill(~mask, MASKED).max(dim=-1).values.sum(dim=-1)
