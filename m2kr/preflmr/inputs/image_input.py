"""Images as callers have them: paths, bytes, Pillow images, arrays, or pixel values already made."""

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import torch
from PIL import Image

from m2kr.data.images.store import black_image, decode
from m2kr.errors import InputError, MissingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.preflmr.inputs.image_processing import ImageProcessor

#: Two threads must not load one Pillow image at a time.
_LOADING = tuple(Lock() for _ in range(64))


@dataclass(frozen=True, slots=True, eq=False)
class ImageSource:
    """An image that is read when its turn comes.

    Attributes:
        key: Equal for equal images; what it stands for must outlive the call.
        read: Gives the image, or pixel values (channels x size x size) in place of it, or None for
            the black image. Called in a worker thread.
        held: Bytes that the source keeps in memory.
    """

    key: Hashable
    read: "Callable[[], Image.Image | NDArray[np.uint8] | torch.Tensor | None]"
    held: int = 0

    def pixels(self, processor: "ImageProcessor") -> torch.Tensor:
        """float32, (1 x channels x size x size)."""
        image = self.read()
        if isinstance(image, torch.Tensor):
            return image[None].float()
        return processor([black_image() if image is None else image])


#: ``str`` is a path, as is `Path`; ``bytes`` are a whole image file; an array is (height x width x 3)
#: uint8; a tensor holds pixel values; None is no image.
ImageInput = str | Path | bytes | Image.Image | np.ndarray | torch.Tensor | ImageSource | None


def source(image: ImageInput) -> ImageSource | None:
    """What to read an image from; None where there is none.

    Files and bytes are decoded when they are read, a Pillow image now.

    Raises:
        InputError: It is nothing of what an image may be.
    """
    if image is None or isinstance(image, ImageSource):
        return image
    if isinstance(image, str | Path):
        path = Path(image).expanduser()
        return ImageSource(("path", str(path)), lambda: _open(path))
    if isinstance(image, bytes):
        digest = hashlib.blake2b(image, digest_size=16).digest()
        return ImageSource(
            ("bytes", digest), lambda: decode(image, "an image given as bytes"), len(image)
        )
    if isinstance(image, Image.Image):
        try:
            with _LOADING[id(image) % len(_LOADING)]:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"a Pillow image can't be decoded: {error}") from error
        size = image.width * image.height * len(image.getbands())
    elif _has_pixels(image):
        size = image.nbytes
    else:
        shape = f" of shape {tuple(image.shape)}" if isinstance(image, torch.Tensor) else ""
        raise InputError(
            f"an image is a {type(image).__name__}{shape}",
            expected="a path, bytes, a Pillow image, an array (height, width, 3), a floating-point "
            "tensor of pixel values (channels, size, size), or None",
        )
    # The source holds the object, so its id is nobody else's as long as the source lives.
    return ImageSource(("object", id(image)), lambda: image, size)


def _has_pixels(image: object) -> "TypeGuard[NDArray[np.uint8] | torch.Tensor]":
    if isinstance(image, torch.Tensor):
        return image.dim() == 3 and image.is_floating_point()
    return isinstance(image, np.ndarray)  # the image processor looks at its shape


def _open(path: Path) -> Image.Image:
    try:
        return decode(path.read_bytes(), str(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise MissingError("there is no such image file", where=str(path)) from error
    except OSError as error:
        raise InputError(f"the image can't be read: {error}", where=str(path)) from error
