"""What a model reads of a mixture's rows: tokens and pixel values, just as evaluation makes them."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from m2kr.errors import InputError, M2KRError, UsageError
from m2kr.instructions import TEMPLATES
from m2kr.preflmr.encode.queries_and_passages import Passage, PassageEncoder, Query, QueryEncoder
from m2kr.preflmr.inputs.image_input import ImageSource
from m2kr.preflmr.model.image_features import ImageFeatures
from m2kr.retrievers._queries import query_text

if TYPE_CHECKING:
    from torch import Tensor

    from m2kr.preflmr.encode.batching import TokenRow
    from m2kr.preflmr.model.encoders import VisionFeatures
    from m2kr.preflmr.preflmr import PreFLMR
    from m2kr.training.mixture import Mixture
    from m2kr.training.recipe import Recipe

#: The instruction of all queries where ``data.instructions`` is ``fixed``: M2KR's first for questions
#: with an image.
FIXED_INSTRUCTION = TEMPLATES["iq2t"].templates[0]
_LOOKED_FOR = 10_000  # images of a source, before training begins


class ModelInputs:
    """Tokens and pixels of queries and passages.

    JPEGs are decoded whole. Their decoder's smaller scales change what the processor's bicubic filter
    leaves: on mini's photographs at four times their size, by 0.2 of 255 on average and 6 at most. So
    a query would not be the one that evaluation asks.

    Args:
        recipe: Its ``data.instructions`` and ``data.passage_tokens`` are read.
        mixture: Whose rows.
        model: With tokenizers.

    Attributes:
        sees: Whether queries have images for the model.
        pad: The token that fills passages.

    Raises:
        InputError: The model has no tokenizers.
        UsageError: Passages are longer than the model takes.
        MissingError: A source's images are not there. At most 10,000 of each source are looked for.
    """

    def __init__(self, recipe: "Recipe", mixture: "Mixture", model: "PreFLMR") -> None:
        queries, passages = model.query_tokenizer, model.context_tokenizer
        if queries is None or passages is None:
            raise InputError("the model has no tokenizers")
        longest = min(passages.maxlen, model.config.text_config.max_position_embeddings)
        tokens = recipe.data.passage_tokens
        if not 3 <= tokens <= longest:
            raise UsageError(
                f"data.passage_tokens is {tokens}", expected=f"3 to {longest}, the model's"
            )
        self._instructions = recipe.data.instructions
        self._shares = mixture.shares
        self._model = model
        self._sight = ImageFeatures(model)
        kind = np.dtype(np.float32)
        self._queries = QueryEncoder(model, queries, self._sight, 1, kind)
        self._passages = PassageEncoder(model, passages, self._sight, tokens, 1, kind)
        self.passage_width = self._passages.width
        self.query_width = self._queries.width
        self.pad = int(passages.pieces.token_to_id("[PAD]") or 0)
        switch = model.config.query_concat_output_from_vision_encoder
        self.sees = switch and recipe.start.image_rows
        if self.sees:
            self._look_for_images()

    def query_tokens(self, places: Sequence[tuple[int, int]]) -> "list[TokenRow]":
        """Tokens of queries, all of the tokenizer's length."""
        return self._queries.tokens([self._query(share, row) for share, row in places])

    def passage_tokens(self, places: Sequence[tuple[int, int]]) -> "list[TokenRow]":
        """Tokens of passages, without filling."""
        return self._passages.tokens(
            [Passage(self._shares[share].texts[row]) for share, row in places]
        )

    def pixels(self, share: int, row: int) -> "Tensor":
        """Pixel values of a query's image, the black one if it has none: (1 x 3 x size x size).

        Raises:
            MissingError: The image is not there.
            InputError: It is damaged.
        """
        split, path = self._shares[share].split, self._shares[share].image(row)
        store = split.images
        read = partial(store.open, path) if store is not None and path is not None else _nothing
        try:
            return ImageSource(None, read).pixels(self._sight.processor)
        except M2KRError as error:
            question = self._shares[share].question_id(row)
            where = f"{split.label}, query {question!r}, image {path!r}"
            raise _at(error, where) from None

    def features(self, pixel_values: "Tensor") -> "VisionFeatures":
        """Image features by the model's frozen network, or by its own encoder."""
        return self._sight.features(self._model, pixel_values)

    @property
    def image_settings(self) -> str:
        """All that decides pixel values, besides the image."""
        return repr(self._sight.processor)

    def _query(self, share: int, row: int) -> Query:
        question, instruction = self._shares[share].question(row)
        if self._instructions == "none":
            return Query(query_text(question, instruction))
        fixed = self._instructions == "fixed"
        return Query(question, None, FIXED_INSTRUCTION if fixed else instruction)

    def _look_for_images(self) -> None:
        """Forgotten images are told before the first step, not after an hour."""
        for share in self._shares:
            places = np.linspace(0, len(share.rows) - 1, min(len(share.rows), _LOOKED_FOR))
            paths = [share.image(int(share.rows[int(place)])) for place in places]
            if share.split.images is None:
                continue
            try:
                share.split.images.require(paths)
            except M2KRError as error:
                raise _at(error, share.split.label) from None


def _nothing() -> None:
    """No image."""


def _at(error: M2KRError, where: str) -> M2KRError:
    """The error with more on where it happened."""
    more = f"{where}; {error.where}" if error.where else where
    return type(error)(error.what, where=more, expected=error.expected, fix=error.fix)
