"""PreFLMR and FLMR: late-interaction retrievers of text and images, equal to the official code.

The architecture is that of "PreFLMR: Scaling Up Fine-Grained Late-Interaction Multi-modal
Retrievers" (arXiv 2402.08327), read as its official implementation runs it. Names are imported when
first used: this package needs torch, and transformers once a model is built.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2kr.preflmr.configuration import PreFLMRConfig
    from m2kr.preflmr.encoding import Encoder
    from m2kr.preflmr.image_processing import ImageProcessor
    from m2kr.preflmr.modeling import PreFLMR
    from m2kr.preflmr.presets import preset
    from m2kr.preflmr.registration import register
    from m2kr.preflmr.tokenization import ContextTokenizer, QueryTokenizer

_PUBLIC = {
    "ContextTokenizer": "tokenization",
    "Encoder": "encoding",
    "ImageProcessor": "image_processing",
    "PreFLMR": "modeling",
    "PreFLMRConfig": "configuration",
    "QueryTokenizer": "tokenization",
    "preset": "presets",
    "register": "registration",
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
