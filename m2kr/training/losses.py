"""The training losses, of late-interaction scores."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def contrastive(scores: "Tensor", positives: "Tensor", right: "Tensor | None" = None) -> "Tensor":
    """Cross-entropy of each query's positive among documents, without temperature.

    Args:
        scores: (B x N).
        positives: int64, (B,): the column of each query's own positive.
        right: Bool, (B x N): documents that are no negatives of a query, as they are right for it;
            its own positive stays.

    Returns:
        One loss a query, (B,).
    """
    if right is not None:
        own = F.one_hot(positives, scores.shape[1]).bool()
        scores = scores.masked_fill(right & ~own, float("-inf"))
    return F.cross_entropy(scores, positives, reduction="none")


def right_passages(keys: "Tensor", positive_keys: "Tensor") -> "Tensor":
    """Which passages are right for which query.

    Args:
        keys: int64, (N,).
        positive_keys: int64, (B x P), filled with -1.

    Returns:
        Bool, (B x N).
    """
    right = torch.zeros(len(positive_keys), len(keys), dtype=torch.bool, device=keys.device)
    for column in positive_keys.T:  # B x N x P would be large
        right |= column[:, None] == keys
    return right & (keys >= 0)


def kl(scores: "Tensor", teacher: "Tensor", temperature: float = 1.0) -> "tuple[Tensor, Tensor]":
    """Kullback-Leibler divergence from the teacher's distribution over a query's passages.

    Both distributions are over the passages that the teacher has scored.

    Args:
        scores: (B x 1+n), the student's.
        teacher: (B x 1+n), NaN where there is none.
        temperature: Scores of both are divided by it.

    Returns:
        One loss a query, (B,), and whether it counts: at least two passages are scored.
    """
    scored = teacher.isfinite()
    counts = scored.sum(dim=1) > 1
    # Where nothing is scored all is, so that no NaN comes up; the query doesn't count.
    scored = scored | ~counts[:, None]
    hidden = torch.finfo(scores.dtype).min
    wanted = (teacher.to(scores.dtype).nan_to_num(0.0, 0.0, 0.0) / temperature).masked_fill(
        ~scored, hidden
    )
    ours = (scores / temperature).masked_fill(~scored, hidden).log_softmax(dim=1)
    wanted = wanted.log_softmax(dim=1)
    each = (wanted.exp() * (wanted - ours)).masked_fill(~scored, 0.0).sum(dim=1)
    return each.masked_fill(~counts, 0.0), counts


def margin_mse(scores: "Tensor", teacher: "Tensor") -> "tuple[Tensor, Tensor]":
    """Squared difference between student's and teacher's margin of the positive over a negative.

    Args:
        scores: (B x 1+n), the positive's first.
        teacher: (B x 1+n), NaN where there is none.

    Returns:
        One loss a query, the mean over negatives that the teacher has scored, (B,), and whether it
        counts: positive and one negative are scored.
    """
    teacher = teacher.to(scores.dtype)
    margins = teacher[:, :1] - teacher[:, 1:]
    scored = margins.isfinite()
    margins = margins.masked_fill(~scored, 0.0)
    off = (scores[:, :1] - scores[:, 1:] - margins).masked_fill(~scored, 0.0)
    number = scored.sum(dim=1)
    return (off**2).sum(dim=1) / number.clamp(min=1), number > 0
