"""The backbones of transformers behind modules whose parameter names never change.

transformers 5 dropped the inner ``vision_model`` of its CLIP and changed what layers return; the
modules here have the official checkpoints' names with 4.57 and with 5 alike.
"""

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import nn

from m2kr.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from m2kr.preflmr.model.configuration import TextSettings, VisionSettings


class VisionFeatures(NamedTuple):
    """What a model needs of images; its fields are arguments of `PreFLMR.query`.

    ``model.query(ids, mask, **model.vision(pixels)._asdict())`` equals giving the pixels.

    Attributes:
        image_features: The last layer's [CLS] state, before any layer norm:
            (B x hidden), or (B x images x hidden) for several images a query.
        patch_features: The patches' states before the last layer: (B x patches x hidden).
    """

    image_features: "Tensor"
    patch_features: "Tensor"


class _Output(Protocol):
    last_hidden_state: "Tensor"


class BertEncoder(nn.Module):
    """BERT, under the name ``bert_model``.

    Args:
        settings: Its sizes.
        attention: ``"sdpa"`` or ``"eager"``.
    """

    def __init__(self, settings: "TextSettings", attention: str) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        ours = ("projection_dim", "text_encoder_base_model", "query_maxlen")
        config = BertConfig(
            **{key: each for key, each in dataclasses.asdict(settings).items() if key not in ours}
        )
        config._attn_implementation = attention
        self.positions = settings.max_position_embeddings
        self.bert_model = BertModel(config, add_pooling_layer=True)
        if settings.projection_dim:
            # Late interaction never uses it; it is here because checkpoints may hold it.
            self.encode_proj = nn.Linear(settings.hidden_size, settings.projection_dim)

    def forward(
        self,
        input_ids: "Tensor",
        attention_mask: "Tensor",
        begun: "tuple[Tensor, int] | None" = None,
    ) -> "Tensor":
        """The last layer's states, (B x tokens x hidden).

        ``begun`` holds what the first layers made of these tokens, and how many layers that were: the
        others go on from there.
        """
        if begun is not None:
            return self._go_on(*begun, attention_mask)
        if input_ids.shape[1] > self.positions:
            raise InputError(
                f"{input_ids.shape[1]} tokens, but the text encoder has {self.positions} positions"
            )
        output: _Output = self.bert_model(input_ids=input_ids, attention_mask=attention_mask)
        return output.last_hidden_state

    def _go_on(self, hidden: "Tensor", layer: int, attention_mask: "Tensor") -> "Tensor":
        # A number that bfloat16 has, too: added, it leaves nothing of a weight.
        least = torch.finfo(torch.bfloat16).min
        unseen = (attention_mask == 0)[:, None, None, :]
        mask = torch.zeros_like(unseen, dtype=hidden.dtype).masked_fill(unseen, least)
        layers: Any = self.bert_model.encoder.layer
        for each in layers[layer:]:
            out = each(hidden, mask)
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden


class VisionEncoder(nn.Module):
    """CLIP's vision transformer, under the name ``vision_model.vision_model``.

    Args:
        settings: Its sizes.
        attention: ``"sdpa"`` or ``"eager"``.
    """

    def __init__(self, settings: "VisionSettings", attention: str) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModel

        config = CLIPVisionConfig(**dataclasses.asdict(settings))
        config._attn_implementation = attention
        model = CLIPVisionModel(config)
        self.vision_model = nn.Module()
        self.vision_model.vision_model = getattr(model, "vision_model", model)
        layer = self.vision_model.vision_model.encoder.layers[0]
        # transformers 4 wants masks by name and returns tuples; we have no masks.
        wanted = inspect.signature(layer.forward).parameters
        self._no_masks = {
            name: None for name in ("attention_mask", "causal_attention_mask") if name in wanted
        }

    def forward(self, pixel_values: "Tensor") -> "tuple[Tensor, Tensor]":
        """States of [CLS] and patches before and after the last layer, both (B x 1+P x hidden)."""
        model: Any = self.vision_model.vision_model
        hidden = model.pre_layrnorm(model.embeddings(pixel_values))
        before = hidden
        for layer in model.encoder.layers:
            before = hidden
            out = layer(hidden, **self._no_masks)
            hidden = out[0] if isinstance(out, tuple) else out
        return before, hidden

    def features(self, pixel_values: "Tensor") -> VisionFeatures:
        """Features of (B x channels x size x size) images."""
        before, after = self(pixel_values)
        return VisionFeatures(after[:, 0], before[:, 1:])


def materialise_buffers(model: nn.Module, device: torch.device) -> None:
    """Fills the buffers that a model built on the ``meta`` device lacks and no checkpoint holds.

    The backbones have two kinds: position numbers and zero segment ids.
    """
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if not buffer.is_meta:
                continue
            if name == "position_ids":
                filled = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape).clone()
            elif name == "token_type_ids":
                filled = torch.zeros(buffer.shape, dtype=buffer.dtype, device=device)
            else:
                raise RuntimeError(f"unknown buffer {name} of {type(module).__name__}")
            module.register_buffer(name, filled, persistent=False)
