"""Runs a model on one query and some passages for `m2kr.report.explain.explanation`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from m2kr.errors import MissingError
from m2kr.preflmr.model.image_features import ImageFeatures
from m2kr.report.explain.explanation import Explanation, explain
from m2kr.report.explain.pieces import Piece
from m2kr.report.explain.tokens import (
    passage_pieces,
    patch_pieces,
    prefix_pieces,
    query_pieces,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from m2kr.preflmr.inputs.image_processing import ImageProcessor
    from m2kr.preflmr.model.encoders import VisionFeatures
    from m2kr.preflmr.preflmr import PreFLMR
    from m2kr.report.explain.page import Box

#: What patches cover where the whole image is squeezed into a square.
WHOLE: "Box" = (0.0, 0.0, 1.0, 1.0)


def explain_passages(
    model: "PreFLMR",
    query: str,
    passages: Sequence[str],
    *,
    image: "Image | None" = None,
    features: "VisionFeatures | None" = None,
) -> list[Explanation]:
    """The score of a query with each of some passages, taken apart.

    Args:
        model: In evaluation mode, with its tokenizers.
        query: Instruction and question, joined.
        passages: Texts of passages; images of passages are not looked at.
        image: The query's image; without one the model sees black, as the official protocol has it.
        features: In place of an image, one query's; made by the frozen network that the config
            names where the model has no vision encoder (`m2kr.preflmr.model.image_features`).

    Raises:
        MissingError: The model was made without tokenizers, or the network is not installed.
        UsageError: The model reads features of a network that m2kr does not have.
    """
    if model.query_tokenizer is None or model.context_tokenizer is None:
        raise MissingError("the model has no tokenizers", fix="load it by PreFLMR.from_pretrained")
    asked = query_pieces(model.query_tokenizer, query)
    with torch.inference_mode():
        rows = _query_rows(model, query, image, features)
        pieces = _row_pieces(model, asked.pieces, len(rows))
        found = []
        for passage in passages:
            read = passage_pieces(model.context_tokenizer, passage)
            tokens = model.context_tokenizer(passage, padding="longest")
            out = model.doc(
                tokens["input_ids"],
                tokens["attention_mask"],
                concat_output_from_vision_encoder=False,
            )
            assert isinstance(out.late_interaction_output, torch.Tensor)
            assert out.context_mask is not None
            found.append(
                explain(
                    rows.numpy(),
                    pieces,
                    _plain(out.late_interaction_output).numpy(),
                    read.pieces,
                    out.context_mask[0, :, 0].cpu().numpy(),
                    query=query,
                    passage=passage,
                    query_cut=asked.cut,
                    passage_cut=read.cut,
                )
            )
    return found


def seen(processor: "ImageProcessor | None", size: tuple[int, int]) -> "Box":
    """The part of an image that its patches cover: left, top, right, bottom as fractions.

    Args:
        processor: What crops the image; None where the whole image is squeezed into a square.
        size: Width and height.

    Returns:
        Fractions of the image's width and height; outside 0 to 1 where black is added.
    """
    if processor is None:
        return WHOLE
    width, height = (float(each) for each in size)
    edge = processor.shortest_edge
    if isinstance(edge, tuple):
        width, height = float(edge[1]), float(edge[0])
    elif edge is not None:
        scale = edge / min(size)
        width, height = width * scale, height * scale
    high, wide = processor.crop_size
    left, top = (width - wide) / 2, (height - high) / 2
    return (left / width, top / height, (left + wide) / width, (top + high) / height)


def _query_rows(
    model: "PreFLMR",
    query: str,
    image: "Image | None",
    features: "VisionFeatures | None",
) -> "Tensor":
    assert model.query_tokenizer is not None
    tokens = model.query_tokenizer(query)
    if features is None and model.config.query_concat_output_from_vision_encoder:
        sight = ImageFeatures(model)
        features = sight.features(model, sight.processor([image]))
    out = model.query(
        tokens["input_ids"],
        tokens["attention_mask"],
        image_features=None if features is None else features.image_features,
        patch_features=None if features is None else features.patch_features,
    )
    return _plain(out.late_interaction_output)


def _row_pieces(model: "PreFLMR", text: tuple[Piece, ...], rows: int) -> tuple[Piece, ...]:
    """The pieces of a query's rows: text, prefix, patches, as far as the config has them."""
    config = model.config
    pieces = text if config.query_concat_output_from_text_encoder else ()
    if not config.query_concat_output_from_vision_encoder:
        return pieces
    pieces += prefix_pieces(config.mapping_network_prefix_length)
    return pieces + patch_pieces(rows - len(pieces))


def _plain(batch: "Tensor") -> "Tensor":
    return batch[0].float().cpu()
