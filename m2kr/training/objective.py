"""What a micro-batch's loss is, and its gradient."""

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from m2kr.errors import InputError, UsageError
from m2kr.preflmr.model.maxsim import all_scores
from m2kr.training import losses, ranks
from m2kr.training.gradcache import ChunkedEncoding

if TYPE_CHECKING:
    from torch import Tensor, nn

    from m2kr.training.batch import TrainingBatch
    from m2kr.training.batch_encoder import Encoded
    from m2kr.training.recipe import Recipe

#: Losses by name: ``loss``, which is minimised, and its parts ``contrastive``, ``kl`` or ``margin_mse``.
StepLosses = dict[str, float]


class Objective:
    """The loss of a micro-batch: contrastive, and distilled where the recipe has a teacher.

    Over ranks, the mean of the losses and of the gradients is that of one batch of all their queries.

    Args:
        recipe: What to compute.
        rank: This process.
        world: How many there are.

    Raises:
        UsageError: The recipe contradicts itself.
    """

    def __init__(self, recipe: "Recipe", rank: int = 0, world: int = 1) -> None:
        negatives = recipe.negatives
        if negatives.across_ranks and not negatives.in_batch:
            raise UsageError(
                "negatives.across_ranks is on and negatives.in_batch is off",
                expected="the passages of other ranks are in-batch negatives: both on, or both off",
            )
        if negatives.across_ranks and negatives.groups > 1:
            raise UsageError(
                f"negatives.across_ranks is on and negatives.groups is {negatives.groups}",
                expected="groups part a batch as ranks without across_ranks do: one of the two",
            )
        self._recipe = recipe
        self._rank = rank
        self._world = world
        self._across = negatives.across_ranks and world > 1

    def backward(
        self, encoder: "nn.Module", batch: "TrainingBatch", scale: float = 1.0
    ) -> StepLosses:
        """Adds the gradients of a batch's loss times ``scale`` to those of the parameters.

        Args:
            encoder: A `BatchEncoder`, bare or in DDP or FSDP. Autocast is the caller's.
            batch: On the model's device.
            scale: 1 over the number of micro-batches a step.

        Returns:
            The losses of this rank's queries, without ``scale``.
        """
        encoding = ChunkedEncoding(encoder, batch, self._recipe.steps.chunk)
        queries = encoding.rows.queries.requires_grad_()
        documents, mask = self._documents(encoding.rows)
        documents.requires_grad_()
        with torch.enable_grad():
            values = self._losses(queries, documents, mask, batch)
            of_queries, of_documents = torch.autograd.grad(
                values["loss"] * scale, [queries, documents], materialize_grads=True
            )
        if self._across:
            of_documents = ranks.scatter_sum(of_documents, encoding.rows.documents)
        encoding.backward(of_queries, of_documents)
        return {name: float(each.detach()) for name, each in values.items()}

    @torch.no_grad()
    def value(self, encoder: "nn.Module", batch: "TrainingBatch") -> StepLosses:
        """The losses of this rank's queries; where passages of all ranks count, all must call it."""
        rows = ChunkedEncoding(encoder, batch, self._recipe.steps.chunk).rows
        values = self._losses(rows.queries, *self._documents(rows), batch)
        return {name: float(each) for name, each in values.items()}

    def _documents(self, rows: "Encoded") -> "tuple[Tensor, Tensor]":
        """The documents that are scored, of all ranks if the recipe says so, and their mask."""
        if not self._across:
            return rows.documents, rows.mask
        documents = ranks.gather_filled(rows.documents, 0.0)
        return documents, ranks.gather_filled(rows.mask.to(torch.uint8), 0).bool()

    def _losses(
        self, queries: "Tensor", documents: "Tensor", mask: "Tensor", batch: "TrainingBatch"
    ) -> "dict[str, Tensor]":
        with torch.autocast(queries.device.type, enabled=False):
            contrastive, own = self._contrastive(queries, documents, mask, batch)
            distillation = self._recipe.distillation
            if distillation.kind == "none":
                return {"loss": contrastive, "contrastive": contrastive}
            distilled = self._distilled(own, batch.teacher_scores)
        loss = torch.lerp(contrastive, distilled, distillation.weight)
        return {"loss": loss, "contrastive": contrastive, distillation.kind: distilled}

    def _contrastive(
        self, queries: "Tensor", documents: "Tensor", mask: "Tensor", batch: "TrainingBatch"
    ) -> "tuple[Tensor, Tensor]":
        """The mean over queries, and each query's scores with its own passages, (B x 1+n)."""
        negatives = self._recipe.negatives
        each, size = batch.passages_per_query, len(queries)
        # Without in-batch negatives every query is a group of its own.
        groups = negatives.groups if negatives.in_batch else size
        if size % groups:
            raise InputError(f"{size} queries can't be cut into {groups} equal groups")
        size //= groups
        first = self._rank * len(documents) // self._world if self._across else 0
        positives = first + each * torch.arange(size, device=queries.device)
        columns = positives[:, None] + torch.arange(each, device=queries.device)
        keys = ranks.gather(batch.passage_keys) if self._across else batch.passage_keys
        values, own = [], []
        for a in range(0, len(queries), size):
            n, m = (0, len(documents)) if self._across else (a * each, (a + size) * each)
            scores = all_scores(queries[a : a + size], documents[n:m], mask[n:m])
            right = None
            if negatives.skip_right:
                right = losses.right_passages(keys[n:m], batch.positive_keys[a : a + size])
            values.append(losses.contrastive(scores, positives, right))
            own.append(scores.gather(1, columns))
        return torch.cat(values).mean(), torch.cat(own)

    def _distilled(self, scores: "Tensor", teacher: "Tensor | None") -> "Tensor":
        distillation = self._recipe.distillation
        if teacher is None:
            raise InputError("the batch has no teacher's scores", expected=distillation.file)
        if distillation.kind == "kl":
            values, counts = losses.kl(scores, teacher, distillation.temperature)
        else:
            values, counts = losses.margin_mse(scores, teacher)
        # The mean over queries of all ranks that count, of which each rank has its share.
        number = counts.sum().to(scores.dtype)
        if self._world > 1:
            dist.all_reduce(number)
            number = number / self._world
        return values.sum() / number.clamp(min=1.0 / self._world)
