"""PreFLMR and FLMR: multi-modal queries and documents as matrices for late interaction."""

import dataclasses
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from m2kr.errors import InputError, UsageError
from m2kr.preflmr.model import checks, loss, scoring
from m2kr.preflmr.model.encoders import BertEncoder, VisionEncoder, VisionFeatures
from m2kr.preflmr.model.mapping import TransformerMapping, VisionProjection
from m2kr.preflmr.model.masks import TokenMasks

if TYPE_CHECKING:
    from torch import Tensor

    from m2kr.preflmr.inputs.image_processing import ImageProcessor
    from m2kr.preflmr.inputs.tokenization import ContextTokenizer, QueryTokenizer
    from m2kr.preflmr.model.configuration import PreFLMRConfig

logger = logging.getLogger(__name__)

_SHARED = (
    "context_text_encoder",
    "context_text_encoder_linear",
    "context_vision_encoder",
    "context_vision_projection",
)


class QueryOutput(NamedTuple):
    """Queries as rows.

    Attributes:
        pooler_output: Row 0 before normalisation, (B x dim).
        late_interaction_output: Unit rows, or zero rows for tokens that don't count:
            text, then per image its prefix, then patches; (B x rows x dim).
    """

    pooler_output: "Tensor"
    late_interaction_output: "Tensor"


class ContextOutput(NamedTuple):
    """Documents as rows.

    Attributes:
        pooler_output: Row 0, normalised, (B x dim).
        late_interaction_output: Unit or zero rows, image rows before text rows: (B x rows x dim), or
            a list of (rows that count x dim) where ``keep_dims`` is false.
        context_mask: Bool, (B x rows x 1), False for rows that don't count; None if not asked for.
    """

    pooler_output: "Tensor"
    late_interaction_output: "Tensor | list[Tensor]"
    context_mask: "Tensor | None"


class RetrievalOutput(NamedTuple):
    """One training step's scores and losses.

    Attributes:
        loss: What to minimise: cross-entropy of each query over all documents of the batch, or over
            its own documents where in-batch negatives are off.
        scores: (B x 1+n), the positive's first.
        in_batch_negative_loss: ``loss`` again with in-batch negatives, None without.
        query_late_interaction_output: (B x rows x dim).
        context_late_interaction_output: (B(1+n) x rows x dim).
    """

    loss: "Tensor"
    scores: "Tensor"
    in_batch_negative_loss: "Tensor | None"
    query_late_interaction_output: "Tensor"
    context_late_interaction_output: "Tensor"


class ModelParts(nn.Module):
    """A model's parameters, and where they are; what is computed of them is `PreFLMRModel`'s.

    Args:
        config: What to build.
        attention: ``"sdpa"`` or ``"eager"``.

    Raises:
        UsageError: There is no such attention.
    """

    def __init__(self, config: "PreFLMRConfig", attention: str) -> None:
        super().__init__()
        if attention not in ("sdpa", "eager"):
            raise UsageError(f"attention is {attention!r:.80}", expected="'sdpa' or 'eager'")
        self.config = config
        text, vision = config.text_config, config.vision_config
        for side in _sides(config.separate_query_and_context_text_encoder):
            setattr(self, f"{side}_text_encoder", BertEncoder(text, attention))
            linear = nn.Linear(text.hidden_size, config.dim, bias=False)
            setattr(self, f"{side}_text_encoder_linear", linear)
        for side in _sides(config.separate_query_and_context_vision_encoder):
            prefix = config.mapping_network_prefix_length
            projection = VisionProjection(vision.hidden_size, prefix, config.dim)
            setattr(self, f"{side}_vision_projection", projection)
            if config.use_vision_encoder:
                setattr(self, f"{side}_vision_encoder", VisionEncoder(vision, attention))
        if config.has_mapping:
            assert config.mapping_config is not None
            width = config.mapping_config.hidden_size
            self.transformer_mapping_input_linear = nn.Linear(vision.hidden_size, width)
            self.transformer_mapping_network = TransformerMapping(
                config.mapping_config, config.mapping_layers, attention
            )
            self.transformer_mapping_output_linear = nn.Linear(width, config.dim)
        self.apply(self._initialise)

    @property
    def device(self) -> torch.device:
        """Where the parameters are; inputs are moved there."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type."""
        return next(self.parameters()).dtype

    def __getattr__(self, name: str) -> Any:
        # The query's module serves both sides where they are shared, and is registered once.
        if name in _SHARED and name not in self._modules:
            name = name.replace("context", "query", 1)
        return super().__getattr__(name)

    def _initialise(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d) or module.weight.is_meta:
            return
        nn.init.normal_(module.weight, std=self.config.initializer_range)
        if not isinstance(module, nn.Embedding) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _sides(separate: bool) -> tuple[str, ...]:
    return ("query", "context") if separate else ("query",)


class PreFLMRModel(ModelParts):
    """The retriever. Parameters bear the official checkpoints' names, each once.

    Args:
        config: What to build.
        query_tokenizer: Tells which token ends an instruction; bert-base-uncased's if absent.
        context_tokenizer: Tells which tokens are punctuation; bert-base-uncased's if absent.
        image_processor: Kept for users of the model, and saved with it.
        attention: ``"sdpa"`` or ``"eager"``; the results differ by rounding only.

    Weights are random: normal with ``config.initializer_range``; `PreFLMR.from_pretrained` loads some.
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
        mask_instructions: bool = True,
        text_begun: "tuple[Tensor, int] | None" = None,
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
            mask_instructions: False lets the rows of instructions count, whatever the config says.
            text_begun: What the text encoder's first layers made of the tokens, (B x tokens x
                hidden), and the number of these layers.

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
                attention_mask = attention_mask.to(self.device)
                hidden = self.query_text_encoder(input_ids, attention_mask, text_begun)
            if with_text:
                masks = self.masks
                if not mask_instructions:
                    masks = dataclasses.replace(masks, instruction_end=None)
                keep = masks.query(input_ids).unsqueeze(-1)
                text = self.query_text_encoder_linear(hidden) * keep
        rows = None
        if with_vision and (pixel_values is not None or image_features is not None):
            features = self._features("query", pixel_values, image_features, patch_features)
            rows = self._image_rows(*features, input_ids, hidden)
        joined = checks.join_rows(("text", text, with_text), ("vision", rows, with_vision))
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
        *,
        text_begun: "tuple[Tensor, int] | None" = None,
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
            text_begun: What the text encoder's first layers made of the tokens, (B x tokens x
                hidden), and the number of these layers.

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
            attention_mask = attention_mask.to(self.device)
            hidden = self.context_text_encoder(input_ids, attention_mask, text_begun)
            keep = self.masks.context(input_ids)
            text = self.context_text_encoder_linear(hidden) * keep.unsqueeze(-1)
        if with_vision and (pixel_values is not None or image_features is not None):
            features, _ = self._features("context", pixel_values, image_features, None)
            rows = self.context_vision_projection(features)
        joined = checks.join_rows(("vision", rows, with_vision), ("text", text, with_text))
        mask = torch.ones(joined.shape[:2], device=self.device, dtype=torch.bool)
        if text is not None:
            mask[:, mask.shape[1] - keep.shape[1] :] = keep
        unit = checks.unit(joined)
        output = unit if keep_dims else [each[kept] for each, kept in zip(unit, mask, strict=True)]
        return ContextOutput(unit[:, 0], output, mask.unsqueeze(-1) if return_mask else None)

    def score(self, queries: "Tensor", documents: "Tensor", mask: "Tensor") -> "Tensor":
        """MaxSim scores of query i with document i; see `m2kr.preflmr.model.scoring.score_pairs`."""
        return scoring.score_pairs(queries, documents, mask)

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
        (`loss.gather_ranks`).

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
        if loss.documents_per_query(query, documents) != each:
            raise InputError(
                f"{len(documents)} documents for {len(query)} queries",
                expected=f"{each} a query, as num_negative_examples is {num_negative_examples}",
            )
        batch = (query, documents, mask.squeeze(-1))
        if in_batch_negatives_from_all_gpus:
            batch = loss.gather_ranks(*batch)
        scores = scoring.score_pairs(batch[0].repeat_interleave(each, dim=0), batch[1], batch[2])
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
