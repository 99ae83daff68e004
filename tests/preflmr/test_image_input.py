"""Images on their way into the encoder: in any form, read once, encoded once, held in bounds."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from m2kr.errors import InputError, MissingError
from m2kr.preflmr import PreFLMR
from m2kr.preflmr.encode.encoder import Encoder, Query, encode_passages, encode_queries
from m2kr.preflmr.inputs.image_input import ImageSource

from .encoded import UNIT, arrays, differ, nonzero, picture, plain_queries


def test_the_black_image_is_encoded_once(models: dict[str, PreFLMR]) -> None:
    model = models["tiny_preflmr"]
    texts = [f"school: city {n}" for n in range(40)]
    seen: list[int] = []
    encoder = model.query_vision_encoder
    hook = encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        made = Encoder(model, token_budget=200).queries(texts)
    finally:
        hook.remove()
    assert sum(seen) == 1
    assert differ(made, nonzero(plain_queries(model, texts, [None] * 40))) <= UNIT


def test_an_image_of_several_queries_is_read_and_encoded_once(models: dict[str, PreFLMR]) -> None:
    model = models["tiny_preflmr"]
    reads: list[int] = []

    def source(number: int) -> ImageSource:
        return ImageSource(("n", number), lambda: (reads.append(number), picture(number))[1])

    seen: list[int] = []
    encoder = model.query_vision_encoder
    hook = encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        texts = [f"school: city {n}" for n in range(30)]
        made = encode_queries(
            model, texts, [source(n % 5) for n in range(30)], token_budget=100_000
        )
    finally:
        hook.remove()
    assert sorted(reads) == [0, 1, 2, 3, 4]
    assert sum(seen) == 5
    plain = plain_queries(model, texts, [picture(n % 5) for n in range(30)])
    assert differ(made, nonzero(plain)) <= UNIT


def test_an_image_may_be_given_in_any_form(tmp_path: Path, models: dict[str, PreFLMR]) -> None:
    model = models["tiny_preflmr"]
    image = picture(7)
    path = tmp_path / "seven.png"
    image.save(path)
    assert model.image_processor is not None
    forms = [
        *(path, str(path), path.read_bytes(), image, Image.open(path), np.asarray(image)),
        model.image_processor([image])[0],
    ]
    made = encode_queries(model, ["school: river"] * len(forms), forms)
    assert differ(made, [made[0]] * len(forms)) <= UNIT
    assert differ(made[:1], encode_queries(model, ["school: river"])) > 0.01


def test_images_that_cannot_be_used_are_named(tmp_path: Path, models: dict[str, PreFLMR]) -> None:
    (tmp_path / "text.png").write_text("no image")
    buffer = io.BytesIO()
    picture(1).save(buffer, "PNG")
    encoder = Encoder(models["tiny_preflmr"])
    for image, kind, message in (
        (tmp_path / "absent.png", MissingError, "absent.png"),
        (tmp_path, MissingError, "no such image file"),
        (tmp_path / "text.png", InputError, "text.png"),
        (buffer.getvalue()[:60], InputError, "decoded"),
        (Image.open(io.BytesIO(buffer.getvalue()[:60])), InputError, "decoded"),
        (7, InputError, "int"),
        (torch.zeros(2, 2), InputError, "Tensor of shape"),
        (np.zeros((4, 4)), InputError, "float64"),
    ):
        with pytest.raises(kind, match=message):
            encoder.queries(["a"] * 3, [None, image, None])
    # It still works after all that.
    assert len(encoder.queries(["a"], [picture(1)])) == 1


def test_passages_with_images_have_their_rows_first(models: dict[str, PreFLMR]) -> None:
    for name in ("tiny_flmr", "tiny_separate"):
        model, known = models[name], arrays(name)
        pixels = [torch.from_numpy(each) for each in known["d_pixel_values"]]
        texts = [str(each) for each in known["docs"][: len(pixels)]]
        kept = known["doc_mask_with_image"].reshape(known["doc_out_with_image"].shape[:2])
        official = [
            rows[mask] for rows, mask in zip(known["doc_out_with_image"], kept, strict=True)
        ]
        made = encode_passages(model, texts, pixels)
        assert differ(made, official) <= UNIT
        mixed = encode_passages(model, texts, [pixels[0], *[None] * (len(texts) - 1)])
        assert differ(mixed[:1], made[:1]) <= UNIT
        assert differ(mixed[1:], encode_passages(model, texts[1:])) <= UNIT


def test_images_in_memory_are_held_a_bounded_way_ahead(models: dict[str, PreFLMR]) -> None:
    read = 0

    def queries() -> Iterator[Query]:
        nonlocal read
        for _ in range(3000):
            read += 1
            yield Query("school: city", np.zeros((600, 800, 3), np.uint8))

    stream = Encoder(models["tiny_flmr"], token_budget=600).stream_queries(queries())
    next(stream)
    assert read < 1200
    stream.close()  # type: ignore[attr-defined]
