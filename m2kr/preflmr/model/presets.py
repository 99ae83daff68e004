"""The released models' configurations, in code: models can be sized and built without a download."""

import dataclasses
from typing import NamedTuple

from m2kr.errors import UsageError
from m2kr.preflmr.model.configuration import BERT_BASE, PreFLMRConfig, TextSettings, VisionSettings


class Preset(NamedTuple):
    """A configuration and where its weights are.

    Attributes:
        config: What to build.
        query_maxlen: Tokens of a query.
        doc_maxlen: Most tokens of a document.
        weights: Hub id, or None: no weights were released.
    """

    config: PreFLMRConfig
    query_maxlen: int
    doc_maxlen: int
    weights: str | None


def _preflmr(vision: VisionSettings, version: str) -> PreFLMRConfig:
    return PreFLMRConfig(
        text_config=TextSettings(),
        vision_config=vision,
        separate_query_and_context_text_encoder=True,
        use_transformer_mapping_network=True,
        transformer_mapping_config_base=BERT_BASE,
        transformer_mapping_num_hidden_layers=1,
        mask_instruction_token=":",  # noqa: S106 - a colon is no password
        vision_model_version=version,
    )


_VIT_B = VisionSettings()
_VIT_L = VisionSettings(
    hidden_size=1024,
    intermediate_size=4096,
    projection_dim=768,
    num_hidden_layers=24,
    num_attention_heads=16,
    patch_size=14,
)
_VIT_H = dataclasses.replace(
    _VIT_L, hidden_size=1280, intermediate_size=5120, projection_dim=1024, num_hidden_layers=32
)
_VIT_G = dataclasses.replace(
    _VIT_L, hidden_size=1664, intermediate_size=8192, projection_dim=1280, num_hidden_layers=48
)
_OWNER = "LinWeizheDragon"
PRESETS = {
    "vit-b": Preset(
        _preflmr(_VIT_B, "openai/clip-vit-base-patch32"), 32, 512, f"{_OWNER}/PreFLMR_ViT-B"
    ),
    "vit-l": Preset(
        _preflmr(_VIT_L, "openai/clip-vit-large-patch14"), 32, 512, f"{_OWNER}/PreFLMR_ViT-L"
    ),
    # The paper's ViT-H; no released weights. Its CLIP's activation is gelu, as for ViT-G.
    "vit-h": Preset(
        _preflmr(
            dataclasses.replace(_VIT_H, hidden_act="gelu"), "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
        ),
        32,
        512,
        None,
    ),
    "vit-g": Preset(
        _preflmr(
            dataclasses.replace(_VIT_G, hidden_act="gelu"),
            "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
        ),
        32,
        512,
        f"{_OWNER}/PreFLMR_ViT-G",
    ),
    # Nine tokens are added to BERT's for the objects, captions and text that its queries hold.
    "flmr": Preset(
        PreFLMRConfig(text_config=TextSettings(vocab_size=30_531, query_maxlen=512)),
        512,
        512,
        f"{_OWNER}/FLMR",
    ),
}


def preset(name: str) -> Preset:
    """A released model's configuration.

    Args:
        name: ``vit-b``, ``vit-l``, ``vit-h`` (no released weights), ``vit-g`` or ``flmr``; case and
            a leading ``PreFLMR_`` don't matter.

    Raises:
        UsageError: There is no such preset.
    """
    key = name.lower().removeprefix("preflmr").lstrip("_- ")
    if key not in PRESETS:
        raise UsageError(f"there is no preset {name!r}", expected=", ".join(PRESETS))
    return PRESETS[key]
