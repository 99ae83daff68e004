"""Bounds and types of configuration values: a hostile config must not cost terabytes or hours."""

import dataclasses
import math
from typing import Any

from m2kr.errors import InputError

#: Bounds of every whole number in a config, so that a hostile file can't ask for terabytes or hours.
LIMITS = {
    "attention_heads": 1024,
    "dim": 8192,
    "doc_maxlen": 65_536,
    "hidden_layers": 128,
    "hidden_size": 32_768,
    "image_size": 8192,
    "intermediate_size": 262_144,
    "max_position_embeddings": 131_072,
    "num_channels": 64,
    "patch_size": 8192,
    "prefix_length": 8192,
    "projection_dim": 65_536,
    "cross_attention_length": 131_072,
    "query_maxlen": 131_072,
    "type_vocab_size": 65_536,
    "vocab_size": 4_194_304,
    "pad_token_id": 4_194_304,
}
_MAY_BE_ZERO = ("projection_dim", "pad_token_id", "transformer_mapping_num_hidden_layers")
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "tanh")


def check(settings: Any) -> None:
    """Types and bounds of every field of a settings dataclass.

    Raises:
        InputError: It names the field, its value and what may stand there.
    """
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        kind = each.type
        if kind is int or (kind == int | None and value is not None):
            bound = max(
                (len(key), limit) for key, limit in LIMITS.items() if each.name.endswith(key)
            )[1]
            least = 0 if each.name in _MAY_BE_ZERO else 1
            if type(value) is not int or not least <= value <= bound:
                raise InputError(
                    f"{each.name} is {value!r:.80}",
                    expected=f"a whole number from {least} to {bound:,}",
                )
        elif kind is float:
            if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
                raise InputError(f"{each.name} is {value!r:.80}", expected="a number, 0 or more")
        elif kind is bool and type(value) is not bool:
            raise InputError(f"{each.name} is {value!r:.80}", expected="true or false")
        elif kind is str and not isinstance(value, str):
            raise InputError(f"{each.name} is {value!r:.80}", expected="a string")
        elif kind == str | None and not isinstance(value, str | None):
            raise InputError(f"{each.name} is {value!r:.80}", expected="a string or null")
        if each.name == "hidden_act" and value not in _ACTIVATIONS:
            raise InputError(f"hidden_act is {value!r:.80}", expected=", ".join(_ACTIVATIONS))


def check_divides(part: int, whole: int, whole_name: str, part_name: str) -> None:
    """Raises an `InputError` if ``whole`` is no multiple of ``part``."""
    if whole % part:
        raise InputError(f"{whole_name} {whole} is no multiple of {part_name} {part}")
