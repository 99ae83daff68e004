"""The loss of a batch of questions, from its targets' log probabilities."""

from typing import TYPE_CHECKING

import torch

from m2kr.rag.training.adapted_reader import NO_TOKEN

if TYPE_CHECKING:
    from torch import Tensor

    from m2kr.rag.training.adapted_reader import ReaderBatch
    from m2kr.rag.training.reader_recipe import ReaderRecipe


def batch_loss(
    recipe: "ReaderRecipe", log_probabilities: "Tensor", batch: "ReaderBatch"
) -> "Tensor":
    """The recipe's loss of what `AdaptedReader` gave for a batch."""
    if recipe.loss.kind == "marginal":
        return marginal_loss(log_probabilities, batch.documents, batch.owners)
    return token_loss(log_probabilities, batch.target_ids != NO_TOKEN, batch.owners)


def token_loss(log_probabilities: "Tensor", counted: "Tensor", owners: "Tensor") -> "Tensor":
    """The mean over questions of the mean negative log likelihood of a question's tokens.

    A question's tokens are those of all of its inputs. So a batch's loss is the mean of the losses of
    its questions alone, whatever their lengths, and a step's the same however it is cut into
    micro-batches and processes. With one question a micro-batch, as published, it is the mean over its
    tokens.

    Args:
        log_probabilities: (N x T), 0 where a target is over.
        counted: (N x T) bool, where there is a token.
        owners: (N), the number of each input's question.
    """
    sums = _of_questions(log_probabilities.sum(1), owners)
    counts = _of_questions(counted.sum(1).to(sums.dtype), owners)
    return -(sums / counts).mean()


def marginal_loss(log_probabilities: "Tensor", documents: "Tensor", owners: "Tensor") -> "Tensor":
    """The mean over questions of minus log sum_k p(passage k) p(target | passage k).

    Args:
        log_probabilities: (N x T), 0 where a target is over.
        documents: (N), log p(passage) among its question's.
        owners: (N), the number of each input's question, ascending.
    """
    joint = documents.to(log_probabilities.dtype) + log_probabilities.sum(1)
    counts = torch.bincount(owners).tolist()
    return -torch.stack([own.logsumexp(0) for own in torch.split(joint, counts)]).mean()


def _of_questions(values: "Tensor", owners: "Tensor") -> "Tensor":
    sums = values.new_zeros(int(owners[-1]) + 1)
    return sums.index_add(0, owners, values)
