"""The model that loads and saves checkpoints and encodes texts and images: what users hold."""

from typing import TYPE_CHECKING, Any, Self

from m2kr.preflmr.checkpoint.load import load_model, save_model
from m2kr.preflmr.encode.encoder import encode_passages, encode_queries
from m2kr.preflmr.model.modeling import PreFLMRModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from m2kr.preflmr.encode.queries_and_passages import Matrix
    from m2kr.preflmr.inputs.image_input import ImageInput


class PreFLMR(PreFLMRModel):
    """The retriever: `PreFLMRModel` with checkpoints and encoding."""

    @classmethod
    def from_pretrained(cls, checkpoint: "str | Path", **options: Any) -> Self:
        """A checkpoint's model, in evaluation mode; see `m2kr.preflmr.checkpoint.load.load_model`."""
        return load_model(cls, checkpoint, **options)

    def save_pretrained(self, folder: "str | Path", **options: Any) -> None:
        """Writes the official layout; see `m2kr.preflmr.checkpoint.load.save_model`."""
        save_model(self, folder, **options)

    def encode_queries(
        self,
        texts: "Sequence[str]",
        images: "Sequence[ImageInput] | None" = None,
        instructions: "Sequence[str] | str | None" = None,
        **options: Any,
    ) -> "list[Matrix]":
        """Queries as (rows x dim) matrices; an image is a path, bytes or a PIL image, or None.

        See `m2kr.preflmr.encode.encoder.Encoder`, which also has the options.
        """
        return encode_queries(self, texts, images, instructions, **options)

    def encode_passages(self, texts: "Sequence[str]", **options: Any) -> "list[Matrix]":
        """Passages as (tokens x dim) matrices; see `m2kr.preflmr.encode.encoder.Encoder`."""
        return encode_passages(self, texts, **options)
