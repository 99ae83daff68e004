"""A micro-batch's queries and documents in one forward pass."""

import functools
from typing import TYPE_CHECKING, NamedTuple, Self

from torch import nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from m2kr.preflmr.model.modeling import PreFLMRModel
    from m2kr.training.batch import FrozenText, TrainingBatch
    from m2kr.training.recipe import Recipe


class Encoded(NamedTuple):
    """A batch as rows.

    Attributes:
        queries: (B x query rows x dim), unit or zero rows.
        documents: (B(1+n) x document rows x dim), per query its positive, then its negatives.
        mask: Bool, (B(1+n) x document rows), False for rows that don't count.
    """

    queries: "Tensor"
    documents: "Tensor"
    mask: "Tensor"


class BatchEncoder(nn.Module):
    """The model as training calls it: one forward pass a micro-batch, as DDP and FSDP want it.

    Args:
        model: Which parameters are trained, their ``requires_grad`` says.
        recipe: Says which rows queries have, and whether layers are computed again in the backward
            pass.
    """

    def __init__(self, model: "PreFLMRModel", recipe: "Recipe") -> None:
        super().__init__()
        self.model = model
        self._recipe = recipe
        if recipe.steps.checkpoint_activations:
            _checkpoint_layers(model)

    def forward(self, batch: "TrainingBatch") -> Encoded:
        """Rows of the batch's queries and passages."""
        start = self._recipe.start
        has_image = batch.pixel_values is not None or batch.image_features is not None
        queries = self.model.query(
            batch.query_ids,
            batch.query_attended,
            batch.pixel_values,
            batch.image_features,
            None if has_image and start.image_rows else False,
            None if start.text_rows else False,
            patch_features=batch.patch_features,
            mask_instructions=self._recipe.data.instructions != "unmasked",
            text_begun=_begun(batch.query_text),
        )
        documents = self.model.doc(
            batch.passage_ids,
            batch.passage_attended,
            concat_output_from_vision_encoder=False,
            concat_output_from_text_encoder=True,
            text_begun=_begun(batch.passage_text),
        )
        rows, mask = documents.late_interaction_output, documents.context_mask
        assert not isinstance(rows, list)
        assert mask is not None
        return Encoded(queries.late_interaction_output, rows, mask.squeeze(-1))

    def train(self, mode: bool = True) -> Self:
        """Training mode for what is trained; frozen parts drop nothing."""
        super().train(mode)
        for each in self.modules():
            parameters = list(each.parameters())
            if parameters and not any(own.requires_grad for own in parameters):
                each.eval()
        return self


def _begun(text: "FrozenText | None") -> "tuple[Tensor, int] | None":
    return None if text is None else (text.hidden, text.layer)


def _checkpoint_layers(model: nn.Module) -> None:
    """Makes layers of transformers keep their input alone, with the random state that it met."""
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            for layer in stack:
                if not isinstance(layer.forward, functools.partial):  # of another encoder
                    again = functools.partial(checkpoint, layer.forward, use_reentrant=False)
                    layer.forward = again
