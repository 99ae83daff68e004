"""EfficientNet-Lite0 on images: probabilities of the 1,000 ImageNet classes.

The network is that of `m2kr.preflmr.model.efficientnet`, which also says why images go two by two.
"""

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.preflmr.inputs.local_files import packaged
from m2kr.retrievers._memo import MEMO, digest
from m2kr.retrievers._packages import file_sha256, require
from m2kr.retrievers._text_encoder import pick_device
from m2kr.retrievers._threads import spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL.Image import Image

CLASSES = "imagenet_classes"
_SIDE = 224
_BATCH = 2
_NEEDED_FOR = "the image classifier"


class ImageClassifier:
    """Class probabilities of images; what the process has seen before is taken from memory.

    Raises:
        MissingError: torch or one of the model packages is not installed.
    """

    def __init__(self, device: str) -> None:
        require(("torch",), "demo", _NEEDED_FOR)
        from m2kr.preflmr.model import efficientnet

        efficientnet.extractor()  # looks for the packages
        self._device = device

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the probabilities. JSON values."""
        from m2kr.preflmr.model import efficientnet

        return efficientnet.settings()

    def probabilities(self, images: "Sequence[Image]") -> "NDArray[np.float32]":
        """Softmax over the classes, (images x 1000) float32, for RGB images of any size."""
        found: list[NDArray[np.float32] | None] = []
        keys, new = [], {}
        for image in images:
            pixels = np.asarray(image.convert("RGB"), np.uint8)
            key = digest(b"efficientnet-lite0", repr(pixels.shape).encode(), pixels.tobytes())
            keys.append((key, self._device))
            found.append(MEMO.get(keys[-1]))
            if found[-1] is None:
                new[keys[-1]] = _prepare(image)
        made = self._classify(list(new.values()))
        fresh = dict(zip(new, made, strict=True))
        for name, row in fresh.items():
            MEMO.put(name, row, row.nbytes)
        rows = [fresh[k] if row is None else row for k, row in zip(keys, found, strict=True)]
        return np.stack(rows) if rows else np.empty((0, 1000), np.float32)

    def _classify(self, inputs: "list[NDArray[np.float32]]") -> "list[NDArray[np.float32]]":
        import torch

        if not inputs:
            return []
        model, device = self._load()

        def rows(part: "list[NDArray[np.float32]]") -> "NDArray[np.float32]":
            # Always a full batch: the kernels, and with them the last bits, depend on its size.
            block = np.zeros((_BATCH, _SIDE, _SIDE, 3), np.float32)
            block[: len(part)] = part
            with torch.inference_mode():
                # Seen as channels first, laid out as channels last.
                logits = model(torch.from_numpy(block).to(device).permute(0, 3, 1, 2))
                found = torch.softmax(logits.double(), dim=-1)[: len(part)]
            values: NDArray[np.float32] = found.float().cpu().numpy()
            return values

        parts = [inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH)]
        return [row.copy() for values in spread(rows, parts, device) for row in values]

    def _load(self) -> tuple[Any, str]:
        from m2kr.preflmr.model import efficientnet

        device = pick_device(self._device)
        return efficientnet.network(device), device


def _prepare(image: "Image") -> "NDArray[np.float32]":
    """The whole image at 224 x 224, as the network was trained: (x - 127) / 128."""
    from PIL.Image import Resampling

    small = image.convert("RGB").resize((_SIDE, _SIDE), Resampling.BICUBIC)
    return (np.asarray(small, np.float32) - np.float32(127)) / np.float32(128)


@cache
def image_classifier(device: str) -> ImageClassifier:
    """The classifier on a device, one per process."""
    return ImageClassifier(device)


def class_names() -> list[str]:
    """The 1,000 ImageNet class names in the order of the classifier's outputs.

    Raises:
        MissingError: the package imagenet-classes is not installed.
    """
    path = _names_file()
    names: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return names


def names_sha256() -> str:
    """Hash of the file that they are read from."""
    return file_sha256(_names_file())


def _names_file() -> Path:
    return packaged(CLASSES, "imagenet1k_clean_names.json", "naming what is in an image")
