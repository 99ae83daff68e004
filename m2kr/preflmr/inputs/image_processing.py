"""CLIP's image preprocessing with Pillow and numpy, equal to the processors of the official runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from PIL import Image

from m2kr import atomic
from m2kr.errors import InputError
from m2kr.preflmr.inputs import local_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

FILE = "preprocessor_config.json"
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_BICUBIC = 3
_LARGEST = 8192


@dataclass(frozen=True)
class ImageProcessor:
    """Images to pixel values: resize, centre crop, scale, normalise, in this order.

    All released models use CLIP's settings at 224 pixels, and so do the processors the official
    evaluation names for them.

    Attributes:
        shortest_edge: Length that the shorter edge is resized to (the longer one in proportion,
            rounded down), or (height, width); ``None`` leaves sizes alone.
        crop_size: Height and width that are cut from the centre; what lies outside is black.
        mean: Subtracted per channel, after scaling to 0–1.
        std: Divided by per channel.
        resample: Pillow's number of the filter; 3 is bicubic.
        rescale_factor: Multiplied with the bytes.
    """

    shortest_edge: int | tuple[int, int] | None = 224
    crop_size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD
    resample: int = _BICUBIC
    rescale_factor: float = 1 / 255
    _table: "NDArray[np.float32]" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        edges = self.shortest_edge
        sizes = [*self.crop_size, *([edges] if isinstance(edges, int) else edges or ())]
        if not all(type(each) is int and 1 <= each <= _LARGEST for each in sizes):
            raise InputError(f"image sizes are {sizes}", expected=f"pixels from 1 to {_LARGEST:,}")
        if self.resample not in range(6):
            raise InputError(f"resample is {self.resample!r}", expected="0 to 5, 3 for bicubic")
        # Bytes have 256 values: what each becomes is computed once, as the official code does.
        scaled = (np.arange(256) * self.rescale_factor).astype(np.float32)
        mean, std = (np.array(each, dtype=np.float32) for each in (self.mean, self.std))
        object.__setattr__(self, "_table", (scaled[None, :] - mean[:, None]) / std[:, None])

    @classmethod
    def of_size(cls, size: int) -> Self:
        """CLIP's settings for square images of ``size`` pixels."""
        return cls(size, (size, size))

    @classmethod
    def from_pretrained(cls, folder: "str | Path", default_size: int = 224) -> Self:
        """The processor that a folder's preprocessor_config.json describes.

        Args:
            folder: A checkpoint's folder.
            default_size: Size of CLIP's settings where the folder has no such file, as the released
                checkpoints have none.

        Raises:
            InputError: The file asks for something that CLIP's preprocessing does not do.
        """
        path = Path(folder) / FILE
        if not local_files.present(path):
            return cls.of_size(default_size)
        try:
            return cls.from_dict(local_files.read_object(path))
        except InputError as error:
            raise InputError(
                error.what, where=error.where or str(path), expected=error.expected
            ) from None

    @classmethod
    def from_dict(cls, data: "dict[str, Any]") -> Self:
        """The processor that the keys of a preprocessor_config.json describe."""
        for key in ("do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"):
            if data.get(key, True) is not True:
                raise InputError(f"{key} is {data[key]!r:.80}", expected="true")
        try:
            size = data.get("size", 224)
            edge = size.get("shortest_edge") if isinstance(size, dict) else size
            if isinstance(size, dict) and edge is None:
                edge = (size["height"], size["width"])
            crop = data.get("crop_size", 224)
            crop = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
            return cls(
                edge if data.get("do_resize", True) else None,
                crop,
                _three(data.get("image_mean", _MEAN)),
                _three(data.get("image_std", _STD)),
                data.get("resample", _BICUBIC),
                float(data.get("rescale_factor", 1 / 255)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the image processor's settings are malformed: {error!r}") from None

    def save_pretrained(self, folder: "str | Path") -> None:
        """Writes preprocessor_config.json, which CLIPImageProcessor reads, into a folder."""
        edge = self.shortest_edge
        size = {"shortest_edge": edge} if not isinstance(edge, tuple) else _sides(edge)
        atomic.write_json(
            Path(folder) / FILE,
            {
                "crop_size": _sides(self.crop_size),
                "do_center_crop": True,
                "do_convert_rgb": True,
                "do_normalize": True,
                "do_rescale": True,
                "do_resize": edge is not None,
                "image_mean": list(self.mean),
                "image_processor_type": "CLIPImageProcessor",
                "image_std": list(self.std),
                "resample": self.resample,
                "rescale_factor": self.rescale_factor,
                "size": size if edge is not None else {"shortest_edge": 224},
            },
        )

    def __call__(self, images: "Sequence[Image.Image | NDArray[np.uint8] | None]") -> "Tensor":
        """Pixel values of a batch.

        Args:
            images: Pillow images, (height x width x 3) uint8 arrays, or None for "no image": black,
                as the official protocol has it. One image may stand alone.

        Returns:
            float32, (images x 3 x crop height x crop width).
        """
        if isinstance(images, Image.Image | np.ndarray) and getattr(images, "ndim", 3) == 3:
            images = [images]
        out = np.empty((len(images), 3, *self.crop_size), dtype=np.float32)
        for row, image in zip(out, images, strict=True):
            if image is None:
                row[:] = self._table[:, 0, None, None]
                continue
            pixels = self._cropped(image)
            for channel in range(3):
                # Indices are bytes and the table has 256 entries: clipping never happens.
                np.take(self._table[channel], pixels[..., channel], out=row[channel], mode="clip")
        return torch.from_numpy(out)

    def _cropped(self, image: "Image.Image | NDArray[np.uint8]") -> "NDArray[np.uint8]":
        picture = _rgb(image)
        picture = self._resized(picture)
        height, width = self.crop_size
        # Floor towards the top and left where it is cut, likewise where black is added.
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        box = (left, top, left + width, top + height)
        return np.asarray(picture.crop(box))

    def _resized(self, picture: Image.Image) -> Image.Image:
        edge = self.shortest_edge
        if edge is None:
            return picture
        if isinstance(edge, tuple):
            width, height = edge[1], edge[0]
        else:
            short = min(picture.size)
            width, height = (
                edge if each == short else int(edge * each / short) for each in picture.size
            )
        return picture.resize((width, height), resample=Image.Resampling(self.resample))


def _rgb(image: "Image.Image | NDArray[np.uint8]") -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f"an image array is {image.dtype} of shape {image.shape}",
                expected="uint8, (height, width, 3)",
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise InputError(
            f"an image is a {type(image).__name__}", expected="a Pillow image, an array or None"
        )
    if 0 in image.size:
        raise InputError(f"an image has the size {image.size}")
    return image if image.mode == "RGB" else image.convert("RGB")


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = map(float, values)
    return first, second, third


def _sides(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}
