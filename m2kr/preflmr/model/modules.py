"""The modules that a model is made of, under the official checkpoints' names, each once."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from m2kr.errors import UsageError
from m2kr.preflmr.model.encoders import TextEncoder, VisionEncoder
from m2kr.preflmr.model.mapping import TransformerMapping, VisionProjection

if TYPE_CHECKING:
    from m2kr.preflmr.model.configuration import PreFLMRConfig

_SHARED = (
    "context_text_encoder",
    "context_text_encoder_linear",
    "context_vision_encoder",
    "context_vision_projection",
)


class Parts(nn.Module):
    """A model's parameters, and where they are; what is computed of them is `PreFLMR`'s.

    Args:
        config: What to build.
        attention: ``"sdpa"`` or ``"eager"``.

    Raises:
        UsageError: There is no such attention.
    """

    def __init__(self, config: "PreFLMRConfig", attention: str) -> None:
        super().__init__()
        if attention not in ("sdpa", "eager"):
            raise UsageError(f"attention is {attention!r:.80}", expected="'sdpa' or 'eager'")
        self.config = config
        text, vision = config.text_config, config.vision_config
        for side in _sides(config.separate_query_and_context_text_encoder):
            setattr(self, f"{side}_text_encoder", TextEncoder(text, attention))
            linear = nn.Linear(text.hidden_size, config.dim, bias=False)
            setattr(self, f"{side}_text_encoder_linear", linear)
        for side in _sides(config.separate_query_and_context_vision_encoder):
            prefix = config.mapping_network_prefix_length
            projection = VisionProjection(vision.hidden_size, prefix, config.dim)
            setattr(self, f"{side}_vision_projection", projection)
            if config.use_vision_encoder:
                setattr(self, f"{side}_vision_encoder", VisionEncoder(vision, attention))
        if config.has_mapping:
            assert config.mapping_config is not None
            width = config.mapping_config.hidden_size
            self.transformer_mapping_input_linear = nn.Linear(vision.hidden_size, width)
            self.transformer_mapping_network = TransformerMapping(
                config.mapping_config, config.mapping_layers, attention
            )
            self.transformer_mapping_output_linear = nn.Linear(width, config.dim)
        self.apply(self._initialise)

    @property
    def device(self) -> torch.device:
        """Where the parameters are; inputs are moved there."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type."""
        return next(self.parameters()).dtype

    def __getattr__(self, name: str) -> Any:
        # The query's module serves both sides where they are shared, and is registered once.
        if name in _SHARED and name not in self._modules:
            name = name.replace("context", "query", 1)
        return super().__getattr__(name)

    def _initialise(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d) or module.weight.is_meta:
            return
        nn.init.normal_(module.weight, std=self.config.initializer_range)
        if not isinstance(module, nn.Embedding) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _sides(separate: bool) -> tuple[str, ...]:
    return ("query", "context") if separate else ("query",)
