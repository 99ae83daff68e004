"""PreFLMR and FLMR: multi-modal queries and documents as matrices for late interaction."""

import logging
from typing import TYPE_CHECKING, Any, Self

import torch

from m2kr.errors import InputError, UsageError
from m2kr.preflmr.model import checks, loss, scoring
from m2kr.preflmr.model.encoders import VisionEncoder, VisionFeatures
from m2kr.preflmr.model.masks import TokenMasks
from m2kr.preflmr.model.modules import Parts
from m2kr.preflmr.model.outputs import ContextOutput, QueryOutput, RetrievalOutput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from m2kr.preflmr.encode.queries_and_passages import Matrix
    from m2kr.preflmr.inputs.image_input import ImageInput
    from m2kr.preflmr.inputs.image_processing import ImageProcessor
    from m2kr.preflmr.inputs.tokenization import ContextTokenizer, QueryTokenizer
    from m2kr.preflmr.model.configuration import PreFLMRConfig

logger = logging.getLogger(__name__)


class PreFLMR(Parts):
    """The retriever. Parameters bear the official checkpoints' names, each once.

    Args:
        config: What to build.
        query_tokenizer: Tells which token ends an instruction; bert-base-uncased's if absent.
        context_tokenizer: Tells which tokens are punctuation; bert-base-uncased's if absent.
        image_processor: Kept for users of the model, and saved with it.
        attention: ``"sdpa"`` or ``"eager"``; the results differ by rounding only.

    Weights are random: normal with ``config.initializer_range``. `from_pretrained` loads some.
    """

    _warned = False
    config_class: Any = (
        None  # set by `auto_classes.register`, which transformers' Auto classes need
    )

    def __init__(
        self,
        config: "PreFLMRConfig",
        query_tokenizer: "QueryTokenizer | None" = None,
        context_tokenizer: "ContextTokenizer | None" = None,
        image_processor: "ImageProcessor | None" = None,
        *,
        attention: str = "sdpa",
    ) -> None:
        super().__init__(config, attention)
        self.query_tokenizer = query_tokenizer
        self.context_tokenizer = context_tokenizer
        self.image_processor = image_processor
        self.masks = TokenMasks.of(config, query_tokenizer, context_tokenizer)

    @classmethod
    def from_pretrained(cls, checkpoint: "str | Path", **options: Any) -> Self:
        """A checkpoint's model, in evaluation mode; see `m2kr.preflmr.checkpoint.load.load`."""
        from m2kr.preflmr.checkpoint.load import load

        return load(cls, checkpoint, **options)

    def save_pretrained(self, folder: "str | Path", **options: Any) -> None:
        """Writes the official layout; see `m2kr.preflmr.checkpoint.load.save`."""
        from m2kr.preflmr.checkpoint.load import save

        save(self, folder, **options)

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
        from m2kr.preflmr.encode.encoder import encode_queries

        return encode_queries(self, texts, images, instructions, **options)

    def encode_passages(self, texts: "Sequence[str]", **options: Any) -> "list[Matrix]":
        """Passages as (tokens x dim) matrices; see `m2kr.preflmr.encode.encoder.Encoder`."""
        from m2kr.preflmr.encode.encoder import encode_passages

        return encode_passages(self, texts, **options)

    def vision(self, pixel_values: "Tensor", *, side: str = "query") -> VisionFeatures:
        """Image features once, for use in place of pixels in `query`, `doc` and `forward`.

        Args:
            pixel_values: (B x 3 x S x S), or (B x images x 3 x S x S).
            side: ``"query"`` or ``"context"``, for models with separate vision encoders.

        Returns:
            Features (B x hidden) and (B x patches x hidden); with an axis of images in both where
            the pixels have one.
        """
        if not self.config.use_vision_encoder:
            raise UsageError(
                "this model has no vision encoder (use_vision_encoder is false)",
                fix="pass image_features instead of pixel_values",
            )
        images = pixel_values.to(self.device, self.dtype)
        checks.check_pixels(images, self.config.vision_config)
        encoder: VisionEncoder = getattr(self, f"{side}_vision_encoder")
        if images.dim() == 4:
            return encoder.features(images)
        features = encoder.features(images.flatten(0, 1))
        return VisionFeatures(*(each.view(*images.shape[:2], *each.shape[1:]) for each in features))

    def query(
        self,
        input_ids: "Tensor | None" = None,
        attention_mask: "Tensor | None" = None,
        pixel_values: "Tensor | None" = None,
        image_features: "Tensor | None" = None,
        concat_output_from_vision_encoder: checks.Switch | None = None,
        concat_output_from_text_encoder: checks.Switch | None = None,
        *,
        patch_features: "Tensor | None" = None,
    ) -> QueryOutput:
        """Queries of text, images or both.

        Args:
            input_ids: int64, (B x tokens). The mapping network reads it even where text rows are
                left out.
            attention_mask: (B x tokens), 1 for tokens to attend to.
            pixel_values: (B x 3 x S x S); or (B x images x 3 x S x S), several images a query, for
                models without mapping network.
            image_features: In place of pixels: (B x hidden) or (B x images x hidden).
            concat_output_from_vision_encoder: Whether image rows are part of the result; or one
                switch a query, which zeroes the rows of the others (then both are lists). The
                config decides if absent.
            concat_output_from_text_encoder: Likewise for the text's rows.
            patch_features: Goes with ``image_features`` where there is a mapping network:
                (B x patches x hidden), states before the vision encoder's last layer.

        Raises:
            InputError: Shapes don't fit, or something that is asked for can't be made of the input.
        """
        config = self.config
        with_vision = checks.switch(
            concat_output_from_vision_encoder, config.query_concat_output_from_vision_encoder
        )
        with_text = checks.switch(
            concat_output_from_text_encoder, config.query_concat_output_from_text_encoder
        )
        text, hidden = None, None
        if input_ids is not None and attention_mask is not None:
            if with_text or (with_vision and config.has_mapping):
                self._warn_of_instructions(input_ids)
                input_ids = input_ids.to(self.device)
                hidden = self.query_text_encoder(input_ids, attention_mask.to(self.device))
            if with_text:
                keep = self.masks.query(input_ids).unsqueeze(-1)
                text = self.query_text_encoder_linear(hidden) * keep
        rows = None
        if with_vision and (pixel_values is not None or image_features is not None):
            features = self._features("query", pixel_values, image_features, patch_features)
            rows = self._image_rows(*features, input_ids, hidden)
        joined = checks.join(("text", text, with_text), ("vision", rows, with_vision))
        return QueryOutput(joined[:, 0], checks.unit(joined))

    def doc(
        self,
        input_ids: "Tensor | None" = None,
        attention_mask: "Tensor | None" = None,
        pixel_values: "Tensor | None" = None,
        image_features: "Tensor | None" = None,
        concat_output_from_vision_encoder: bool | None = None,
        concat_output_from_text_encoder: bool | None = None,
        keep_dims: bool = True,
        return_mask: bool = True,
    ) -> ContextOutput:
        """Documents of text, images or both; the mapping network has no part in them.

        Rows of a document are the same however far its batch is padded. They stay in the model's
        type, where the official code rounds them to half precision on a GPU.

        Args:
            input_ids: int64, (B x tokens).
            attention_mask: (B x tokens), 1 for tokens to attend to.
            pixel_values: (B x 3 x S x S), or (B x images x 3 x S x S).
            image_features: In place of pixels: (B x hidden) or (B x images x hidden).
            concat_output_from_vision_encoder: Whether image rows are part of the result, before
                those of the text. The config decides if absent.
            concat_output_from_text_encoder: Likewise for the text's rows.
            keep_dims: False gives a list of matrices without the rows that don't count.
            return_mask: False leaves the mask out.

        Raises:
            InputError: Shapes don't fit, or something that is asked for can't be made of the input.
        """
        config = self.config
        with_vision = checks.switch(
            concat_output_from_vision_encoder, config.context_concat_output_from_vision_encoder
        )
        with_text = checks.switch(
            concat_output_from_text_encoder, config.context_concat_output_from_text_encoder
        )
        if not isinstance(with_vision, bool) or not isinstance(with_text, bool):
            raise UsageError("switches per sample are known for queries only")
        text, rows = None, None
        keep = torch.ones(0, 0, device=self.device, dtype=torch.bool)
        if with_text and input_ids is not None and attention_mask is not None:
            input_ids = input_ids.to(self.device)
            hidden = self.context_text_encoder(input_ids, attention_mask.to(self.device))
            keep = self.masks.context(input_ids)
            text = self.context_text_encoder_linear(hidden) * keep.unsqueeze(-1)
        if with_vision and (pixel_values is not None or image_features is not None):
            features, _ = self._features("context", pixel_values, image_features, None)
            rows = self.context_vision_projection(features)
        joined = checks.join(("vision", rows, with_vision), ("text", text, with_text))
        mask = torch.ones(joined.shape[:2], device=self.device, dtype=torch.bool)
        if text is not None:
            mask[:, mask.shape[1] - keep.shape[1] :] = keep
        unit = checks.unit(joined)
        output = unit if keep_dims else [each[kept] for each, kept in zip(unit, mask, strict=True)]
        return ContextOutput(unit[:, 0], output, mask.unsqueeze(-1) if return_mask else None)

    def score(self, queries: "Tensor", documents: "Tensor", mask: "Tensor") -> "Tensor":
        """MaxSim scores of query i with document i; see `m2kr.preflmr.model.scoring.pairs`."""
        return scoring.pairs(queries, documents, mask)

    def forward(
        self,
        query_input_ids: "Tensor | None" = None,
        query_attention_mask: "Tensor | None" = None,
        query_pixel_values: "Tensor | None" = None,
        query_image_features: "Tensor | None" = None,
        context_input_ids: "Tensor | None" = None,
        context_attention_mask: "Tensor | None" = None,
        context_pixel_values: "Tensor | None" = None,
        context_image_features: "Tensor | None" = None,
        use_in_batch_negatives: bool = True,
        in_batch_negatives_from_all_gpus: bool = False,
        num_negative_examples: int = 1,
        query_concat_output_from_vision_encoder: checks.Switch | None = None,
        query_concat_output_from_text_encoder: checks.Switch | None = None,
        context_concat_output_from_vision_encoder: bool | None = None,
        context_concat_output_from_text_encoder: bool | None = None,
        *,
        query_patch_features: "Tensor | None" = None,
    ) -> RetrievalOutput:
        """Scores and losses of B queries with B(1+n) documents: per query its positive first.

        Arguments that begin with ``query_`` or ``context_`` are those of `query` and `doc`.
        ``num_negative_examples`` is n, which the number of documents must fit.
        ``use_in_batch_negatives`` makes the loss that over all documents of the batch, in place of
        each query's own, and ``in_batch_negatives_from_all_gpus`` makes the batch that of all ranks
        (`loss.gather`).

        Raises:
            InputError: There are not B(1+n) documents, or see `query` and `doc`.
        """
        query = self.query(
            query_input_ids,
            query_attention_mask,
            query_pixel_values,
            query_image_features,
            query_concat_output_from_vision_encoder,
            query_concat_output_from_text_encoder,
            patch_features=query_patch_features,
        ).late_interaction_output
        documents, mask = self.doc(
            context_input_ids,
            context_attention_mask,
            context_pixel_values,
            context_image_features,
            context_concat_output_from_vision_encoder,
            context_concat_output_from_text_encoder,
        )[1:]
        assert isinstance(documents, torch.Tensor)
        assert mask is not None
        each = num_negative_examples + 1
        if loss.per_query(query, documents) != each:
            raise InputError(
                f"{len(documents)} documents for {len(query)} queries",
                expected=f"{each} a query, as num_negative_examples is {num_negative_examples}",
            )
        batch = (query, documents, mask.squeeze(-1))
        if in_batch_negatives_from_all_gpus:
            batch = loss.gather(*batch)
        scores = scoring.pairs(batch[0].repeat_interleave(each, dim=0), batch[1], batch[2])
        scores = scores.view(-1, each)
        whole = loss.in_batch(*batch) if use_in_batch_negatives else None
        wanted = loss.pairwise(scores) if whole is None else whole
        return RetrievalOutput(wanted, scores, whole, query, documents)

    def _features(
        self,
        side: str,
        pixel_values: "Tensor | None",
        image_features: "Tensor | None",
        patch_features: "Tensor | None",
    ) -> "tuple[Tensor, Tensor | None]":
        if pixel_values is not None:
            if image_features is not None or patch_features is not None:
                raise UsageError("both pixel_values and image features are given")
            return self.vision(pixel_values, side=side)
        assert image_features is not None
        pooled = image_features.to(self.device, self.dtype)
        checks.check_features(pooled, self.config.vision_config)
        if patch_features is not None:
            patch_features = patch_features.to(self.device, self.dtype)
        return pooled, patch_features

    def _image_rows(
        self,
        pooled: "Tensor",
        patches: "Tensor | None",
        input_ids: "Tensor | None",
        hidden: "Tensor | None",
    ) -> "Tensor":
        """An image's prefix rows, then its patches where there is a mapping network."""
        prefix: Tensor = self.query_vision_projection(pooled)
        if not self.config.has_mapping:
            return prefix
        if patches is None:
            raise InputError(
                "the mapping network needs patch_features with image_features",
                fix="model.query(ids, mask, **model.vision(pixel_values)._asdict())",
            )
        if hidden is None or input_ids is None:
            raise InputError(
                "the mapping network needs the query's text: input_ids, attention_mask"
            )
        patches = checks.one_image(patches, len(hidden))
        seen = self.config.transformer_mapping_cross_attention_length
        skipped = self.masks.hidden_from_mapping(input_ids)
        mapped = self.transformer_mapping_network(
            self.transformer_mapping_input_linear(patches),
            hidden[:, :seen],
            None if skipped is None else ~skipped[:, :seen],
        )
        return torch.cat([prefix, self.transformer_mapping_output_linear(mapped)], dim=1)

    def _warn_of_instructions(self, input_ids: "Tensor") -> None:
        # On an accelerator looking would wait for it; the tokenizer's ids come from the CPU.
        if self._warned or input_ids.device.type != "cpu":
            return
        if lacking := self.masks.uninstructed(input_ids):
            self._warned = True
            token = self.config.mask_instruction_token
            logger.warning(
                "%d of %d queries have no %r within their length: nothing of them is masked "
                "(said once)",
                *(lacking, len(input_ids), token),
            )
