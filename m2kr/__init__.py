"""m2kr: build, load and evaluate M2KR, the multimodal knowledge retrieval benchmark.

Names are imported when first used, so that ``import m2kr`` stays fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

from m2kr._version import __version__

if TYPE_CHECKING:
    from m2kr.api import Results, compare, evaluate
    from m2kr.building.userdata.importer import from_records
    from m2kr.data.images.store import ImageStore
    from m2kr.data.load import Split, load
    from m2kr.errors import M2KRError
    from m2kr.evaluation.fusion_weights import learn_weights
    from m2kr.evaluation.result import Result
    from m2kr.rag.pipeline import answer_questions
    from m2kr.rag.records import RagResult
    from m2kr.retrieval.encoder import EncoderRetriever
    from m2kr.retrieval.protocol import Modalities, Retriever
    from m2kr.retrieval.run import Run
    from m2kr.retrieval.run_fusion import fuse
    from m2kr.retrievers._search_model import as_search_model
    from m2kr.retrievers.rerank import Rerank
    from m2kr.sources import Source

_PUBLIC = {
    "EncoderRetriever": "m2kr.retrieval.encoder",
    "ImageStore": "m2kr.data.images.store",
    "M2KRError": "m2kr.errors",
    "Modalities": "m2kr.retrieval.protocol",
    "RagResult": "m2kr.rag.records",
    "Rerank": "m2kr.retrievers.rerank",
    "Result": "m2kr.evaluation.result",
    "Results": "m2kr.api",
    "Retriever": "m2kr.retrieval.protocol",
    "Run": "m2kr.retrieval.run",
    "Source": "m2kr.sources",
    "Split": "m2kr.data.load",
    "answer_questions": "m2kr.rag.pipeline",
    "compare": "m2kr.api",
    "as_search_model": "m2kr.retrievers._search_model",
    "evaluate": "m2kr.api",
    "fuse": "m2kr.retrieval.run_fusion",
    "from_records": "m2kr.building.userdata.importer",
    "learn_weights": "m2kr.evaluation.fusion_weights",
    "load": "m2kr.data.load",
}
__all__ = [
    "EncoderRetriever",
    "ImageStore",
    "M2KRError",
    "Modalities",
    "RagResult",
    "Rerank",
    "Result",
    "Results",
    "Retriever",
    "Run",
    "Source",
    "Split",
    "__version__",
    "answer_questions",
    "as_search_model",
    "compare",
    "evaluate",
    "from_records",
    "fuse",
    "learn_weights",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'm2kr' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
