"""What sees a model's images: its own vision encoder, or the frozen network that its config names."""

from typing import TYPE_CHECKING, Any

from m2kr.errors import UsageError
from m2kr.preflmr.inputs.image_processing import ImageProcessor
from m2kr.preflmr.model import efficientnet

if TYPE_CHECKING:
    from torch import Tensor

    from m2kr.preflmr.model.configuration import PreFLMRConfig
    from m2kr.preflmr.model.efficientnet import EfficientFeatures
    from m2kr.preflmr.model.encoders import VisionFeatures
    from m2kr.preflmr.model.modeling import PreFLMRModel


class ImageFeatures:
    """Images to pixel values, and these to features, as a model wants them.

    A network that is not at hand is missed when an image is first looked at: texts need none.

    Args:
        model: Any copy of the model.
    """

    def __init__(self, model: "PreFLMRModel") -> None:
        self._config = model.config
        self._processor = model.image_processor

    @property
    def processor(self) -> ImageProcessor:
        """Makes pixel values for `features`.

        Raises:
            MissingError: The frozen network's packages are not installed.
            UsageError: The model reads features of a network that m2kr does not have.
        """
        if frozen(self._config) is not None:
            return efficientnet.PROCESSOR
        return self._processor or ImageProcessor.of_size(self._config.vision_config.image_size)

    def features(
        self, model: "PreFLMRModel", pixel_values: "Tensor", side: str = "query"
    ) -> "VisionFeatures":
        """What the model reads of some images, on its device.

        Args:
            model: The copy that reads them.
            pixel_values: (images x channels x size x size).
            side: ``"query"`` or ``"context"``, for models with separate vision encoders.

        Raises:
            MissingError: The frozen network's packages are not installed.
            UsageError: The model reads features of a network that m2kr does not have.
        """
        network = frozen(self._config)
        if network is None:
            return model.vision(pixel_values, side=side)
        return network.of(pixel_values, model.device)


def frozen(config: "PreFLMRConfig") -> "EfficientFeatures | None":
    """What makes a model's image features; None if it has a vision encoder of its own.

    Raises:
        MissingError: The frozen network's packages are not installed.
        UsageError: The model reads features of a network that m2kr does not have.
    """
    if config.use_vision_encoder:
        return None
    if config.vision_model_version != efficientnet.NAME:
        raise UsageError(
            "the model has no vision encoder (use_vision_encoder is false in its config), and m2kr "
            "does not have the network whose image features it reads: vision_model_version is "
            f"{config.vision_model_version!r:.80}",
            expected=f"a model with a vision encoder, or vision_model_version {efficientnet.NAME!r}",
            fix="model.query(…, image_features=…, patch_features=…) takes features from Python",
        )
    return efficientnet.extractor()


def facts(config: "PreFLMRConfig") -> dict[str, Any]:
    """What decides a model's query rows besides its checkpoint: the frozen network, if it reads one.

    Returns:
        ``{"image_features": …}`` with the network's name, package and hash, or nothing. JSON values.

    Raises:
        MissingError: The frozen network's packages are not installed.
        UsageError: The model reads features of a network that m2kr does not have.
    """
    if not config.query_concat_output_from_vision_encoder:
        return {}
    network = frozen(config)
    return {} if network is None else {"image_features": network.settings}
