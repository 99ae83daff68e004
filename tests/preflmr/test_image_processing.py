"""Image preprocessing against transformers' own CLIP processor. Golden images: see test_golden."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from m2kr.errors import InputError
from m2kr.preflmr import ImageProcessor


def theirs(image: Image.Image, **config: Any) -> Any:
    """By the Pillow version of CLIP's processor: the only one in 4.57, one of two in 5."""
    import transformers

    cls = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    made = cls(**config)([image], return_tensors="np", input_data_format="channels_last")
    return made["pixel_values"]


def noise(width: int, height: int, seed: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40))
def test_equals_the_processor_of_transformers(
    width: int, height: int, edge: int, crop: int
) -> None:
    image = Image.fromarray(noise(width, height, 7))
    ours = ImageProcessor(shortest_edge=edge, crop_size=(crop, crop))([image]).numpy()
    config = {
        "size": {"shortest_edge": edge},
        "crop_size": {"height": crop, "width": crop},
    }
    wanted = theirs(image, **config)
    assert np.abs(ours - wanted).max() <= 1e-6


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(noise(40, 30, 1)).convert(mode)
    plain = ImageProcessor.of_size(16)
    assert torch.equal(plain([image]), plain([image.convert("RGB")]))


def test_no_image_is_a_black_one() -> None:
    processor = ImageProcessor.of_size(16)
    black = Image.new("RGB", (336, 336))
    assert torch.equal(processor([None, black])[0], processor([black])[0])


def test_a_batch_is_its_images() -> None:
    images = [noise(40, 20, 1), noise(13, 29, 2), noise(16, 16, 3)]
    processor = ImageProcessor.of_size(16)
    together = processor(images)
    assert together.shape == (3, 3, 16, 16)
    assert together.dtype == torch.float32
    for row, image in zip(together, images, strict=True):
        assert torch.equal(row, processor([image])[0])
        assert torch.equal(row, processor(Image.fromarray(image))[0])


@pytest.mark.parametrize(
    "processor",
    [
        ImageProcessor.of_size(32),
        ImageProcessor((20, 30), (16, 24), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), 2, 0.01),
        ImageProcessor(None, (16, 16)),
    ],
)
def test_settings_survive_saving(processor: ImageProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    assert ImageProcessor.from_pretrained(tmp_path) == processor
    image = noise(50, 40, 5)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    wanted = theirs(Image.fromarray(image), **saved)
    assert np.abs(processor([image]).numpy() - wanted).max() <= 1e-6


def test_a_folder_without_settings_gets_those_of_clip(tmp_path: Path) -> None:
    assert ImageProcessor.from_pretrained(tmp_path, 48) == ImageProcessor.of_size(48)


def test_old_files_give_sizes_as_numbers() -> None:
    assert ImageProcessor.from_dict({"size": 40, "crop_size": 32}) == ImageProcessor(40, (32, 32))


@pytest.mark.parametrize(
    "config",
    [
        {"do_center_crop": False},
        {"size": {"longest_edge": 3}},
        {"crop_size": {"height": 10**9, "width": 10**9}},
        {"crop_size": "big"},
        {"image_mean": [1, 2]},
        {"image_std": "abc"},
        {"resample": 99},
        {"size": -4},
    ],
)
def test_other_settings_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as caught:
        ImageProcessor.from_pretrained(tmp_path)
    assert "preprocessor_config.json" in str(caught.value)


def test_what_is_no_image_is_refused() -> None:
    processor = ImageProcessor.of_size(16)
    with pytest.raises(InputError, match="uint8"):
        processor([np.zeros((3, 4, 4), np.float32)])  # type: ignore[list-item]
    with pytest.raises(InputError, match="is a str"):
        processor(["photo.jpg"])  # type: ignore[list-item]
