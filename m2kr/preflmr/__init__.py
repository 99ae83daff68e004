"""PreFLMR and FLMR: late-interaction retrievers of text and images, equal to the official code.

The architecture is that of "PreFLMR: Scaling Up Fine-Grained Late-Interaction Multi-modal
Retrievers" (arXiv 2402.08327), read as its official implementation runs it. Names are imported when
first used: this package needs torch, and transformers once a model is built.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2kr.preflmr.auto_classes import register
    from m2kr.preflmr.encode.encoder import Encoder
    from m2kr.preflmr.inputs.image_processing import ImageProcessor
    from m2kr.preflmr.inputs.tokenization import ContextTokenizer, QueryTokenizer
    from m2kr.preflmr.model.configuration import PreFLMRConfig
    from m2kr.preflmr.model.presets import preset
    from m2kr.preflmr.preflmr import PreFLMR

_PUBLIC = {
    "ContextTokenizer": "inputs.tokenization",
    "Encoder": "encode.encoder",
    "ImageProcessor": "inputs.image_processing",
    "PreFLMR": "preflmr",
    "PreFLMRConfig": "model.configuration",
    "QueryTokenizer": "inputs.tokenization",
    "preset": "model.presets",
    "register": "auto_classes",
}
__all__ = [
    "ContextTokenizer",
    "Encoder",
    "ImageProcessor",
    "PreFLMR",
    "PreFLMRConfig",
    "QueryTokenizer",
    "preset",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'm2kr.preflmr' has no attribute {name!r}")
    return getattr(importlib.import_module(f"m2kr.preflmr.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
