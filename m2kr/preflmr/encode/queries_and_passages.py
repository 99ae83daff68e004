"""What is particular to encoding queries and to encoding passages: tokens, widths, model calls."""

import logging
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from m2kr.data.images.store import black_image
from m2kr.instructions import join_question
from m2kr.preflmr.encode.batching import Costs, RowBatch, TokenRow, padded
from m2kr.preflmr.inputs.image_input import ImageInput, source
from m2kr.preflmr.inputs.tokenization import ContextTokenizer, QueryTokenizer
from m2kr.preflmr.model import checks
from m2kr.preflmr.model.encoders import VisionFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from m2kr.preflmr.model.image_features import ImageFeatures
    from m2kr.preflmr.model.modeling import PreFLMRModel

    Matrix = NDArray[np.floating]


logger = logging.getLogger(__name__)


class Query(NamedTuple):
    """A query. Text, image and instruction may each be absent."""

    text: str
    image: ImageInput = None
    instruction: str = ""


class Passage(NamedTuple):
    """A passage, with an image if its model reads some."""

    text: str
    image: ImageInput = None


class QueryEncoder:
    """Queries: a fixed number of tokens each, and an image, the black one if there is no other.

    Args:
        model: Any copy of the model.
        tokenizer: The model's.
        sight: Sees its images.
        budget: Most tokens of a batch.
        output: Type of the matrices.
    """

    def __init__(
        self,
        model: "PreFLMRModel",
        tokenizer: QueryTokenizer,
        sight: "ImageFeatures",
        budget: int,
        output: np.dtype[np.floating],
    ) -> None:
        config = model.config
        patches = config.vision_config.patches
        self.costs = Costs(budget, patches + 1, patches if config.has_mapping else 0)
        self._tokenizer = tokenizer
        self._sight = sight
        self._output = output
        self._end = config.mask_instruction_token or ":"
        self._sees = config.query_concat_output_from_vision_encoder
        self._text_rows = config.query_concat_output_from_text_encoder
        self._warned = False
        self._black: dict[int, VisionFeatures] = {}
        self._lock = Lock()

    def text(self, query: Query) -> str:
        """What the tokenizer reads: instruction and question, joined as in the official evaluation."""
        head = query.instruction.strip()
        if self._end != ":" and head:
            # The official script closes with a colon first, then replaces every colon.
            head = (head if head.endswith(":") else head + ":").replace(":", self._end)
            return f"{head} {query.text}".strip()
        return join_question(head, query.text)

    def tokens(self, queries: "Sequence[Query]") -> list[TokenRow]:
        """Tokens of some queries, all of the tokenizer's length."""
        made = self._tokenizer([self.text(each) for each in queries])
        images = [source(each.image) if self._sees else None for each in queries]
        if not (self._sees or self._warned) and any(each.image is not None for each in queries):
            self._warned = True
            logger.warning(
                "images of queries are not read: query_concat_output_from_vision_encoder is false in "
                "the model's config (said once)"
            )
        ids, attended = made["input_ids"].numpy(), made["attention_mask"].numpy()
        return [TokenRow(*each) for each in zip(ids, attended, images, strict=True)]

    def width(self, row: TokenRow) -> int:
        """The tokenizer's length: how many fillers a query has changes its score."""
        return len(row.ids)

    def compute(self, model: "PreFLMRModel", batch: RowBatch) -> "list[Matrix]":
        """The queries' rows, without the zero ones."""
        ids, attended = batch.tensors(0)
        features, patches = self._features(model, batch) if self._sees else (None, None)
        out = model.query(
            ids, attended, image_features=features, patch_features=patches
        ).late_interaction_output
        keep = torch.ones(out.shape[:2], dtype=torch.bool)
        if self._text_rows:
            keep[:, : ids.shape[1]] = model.masks.query(ids)
        return _matrices(out, keep, self._output)

    def _features(self, model: "PreFLMRModel", batch: RowBatch) -> VisionFeatures:
        count = len(batch.rows)
        if not batch.images:
            return VisionFeatures(
                *(each.expand(count, *each.shape[1:]) for each in self._of_black(model))
            )
        return _features(self._sight, model, batch, "query")

    def _of_black(self, model: "PreFLMRModel") -> VisionFeatures:
        """Features of the black image, once for each copy of the model."""
        with self._lock:
            if id(model) not in self._black:
                pixels = self._sight.processor([black_image()])
                self._black[id(model)] = self._sight.features(model, pixels)
                if model.device.type == "cuda":
                    torch.cuda.current_stream(model.device).synchronize()
            return self._black[id(model)]


class PassageEncoder:
    """Passages: text at its own length, after the rows of an image where there is one.

    Args:
        model: Any copy of the model.
        tokenizer: The model's.
        sight: Sees its images.
        max_length: Most tokens of a passage.
        budget: Most tokens of a batch.
        output: Type of the matrices.
    """

    def __init__(
        self,
        model: "PreFLMRModel",
        tokenizer: ContextTokenizer,
        sight: "ImageFeatures",
        max_length: int,
        budget: int,
        output: np.dtype[np.floating],
    ) -> None:
        self.costs = Costs(budget, model.config.vision_config.patches + 1, 0)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._output = output
        self._sight = sight
        pad = tokenizer.pieces.token_to_id("[PAD]")
        assert pad is not None  # the tokenizer looked
        self._pad = int(pad)

    def tokens(self, passages: "Sequence[Passage]") -> list[TokenRow]:
        """Tokens of some passages, without filling."""
        images = [source(each.image) for each in passages]
        made = self._tokenizer(
            [each.text for each in passages], max_length=self._max_length, padding="longest"
        )
        ids, attended = made["input_ids"].numpy(), made["attention_mask"].numpy()
        return [
            TokenRow(own[:length], mask[:length], image)
            for own, mask, length, image in zip(
                ids, attended, attended.sum(axis=1), images, strict=True
            )
        ]

    def width(self, row: TokenRow) -> int:
        """Columns that the passage is padded to."""
        return padded(len(row.ids), self._max_length)

    def compute(self, model: "PreFLMRModel", batch: RowBatch) -> "list[Matrix]":
        """The passages' rows, without those of punctuation and filling."""
        ids, attended = batch.tensors(self._pad)
        features = None
        if batch.images:
            features = _features(self._sight, model, batch, "context").image_features
        out = model.doc(
            ids,
            attended,
            image_features=features,
            concat_output_from_vision_encoder=features is not None,
            concat_output_from_text_encoder=True,
            return_mask=False,
        ).late_interaction_output
        assert isinstance(out, torch.Tensor)
        keep = torch.ones(out.shape[:2], dtype=torch.bool)
        keep[:, out.shape[1] - ids.shape[1] :] = model.masks.context(ids)
        return _matrices(out, keep, self._output)


def _features(
    sight: "ImageFeatures", model: "PreFLMRModel", batch: RowBatch, side: str
) -> VisionFeatures:
    """For each row the features of its image; an image that several rows show is encoded once."""
    made = [each.result() for each in batch.pixels]
    for each in made:
        checks.check_pixels(each, model.config.vision_config)
    pixels = torch.cat(made)
    features = sight.features(model, pixels, side)
    if len(batch.images) == len(batch.rows):
        return features
    shown = torch.tensor(batch.shown, device=model.device)
    return VisionFeatures(*(each.index_select(0, shown) for each in features))


def _matrices(out: "Tensor", keep: "Tensor", dtype: "np.dtype[np.floating]") -> "list[Matrix]":
    """Rows that count, split by text, at unit length in float32 whatever the model computed in.

    Args:
        out: (texts x rows x dim), on any device.
        keep: Bool, (texts x rows), on the CPU: a device is not asked how many rows it holds.
        dtype: float32 or float16.
    """
    chosen = keep.flatten().nonzero().squeeze(1).to(out.device)
    rows = out.flatten(0, 1).index_select(0, chosen)
    if rows.dtype != torch.float32:
        rows = F.normalize(rows.float(), dim=-1)
    flat: Matrix = rows.to(torch.float16 if dtype == np.float16 else torch.float32).cpu().numpy()
    return np.split(flat, keep.sum(dim=1).cumsum(0)[:-1].numpy())
