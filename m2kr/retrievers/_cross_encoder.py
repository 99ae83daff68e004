"""A cross-encoder as a re-ranker: query and passage in one input, one number out of it."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.errors import UsageError
from m2kr.retrieval.rerank import RerankItem
from m2kr.retrievers._model_source import ModelSource
from m2kr.retrievers._models import pick_device, require_packages
from m2kr.retrievers._queries import query_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Pairs are padded to a multiple of this many tokens, so that a score depends on its pair alone.
_STEP = 8
_NO_LIMIT = 1_000_000  # tokenizers without a length say 10^30


class CrossEncoderReranker:
    """Scores pairs by a sequence classifier of transformers with one output, such as MS MARCO's.

    A query is its question, or its instruction where it has none. The score is the output as it is,
    without a sigmoid, which would change no order.

    Args:
        model: Folder or hub id.
        max_length: Tokens of a pair; by default the model's. The longer text is cut first.
        device: ``auto``, ``cpu``, ``cuda`` ...
        batch_size: Pairs at a time.

    Raises:
        MissingError: torch or transformers is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        max_length: int | None = None,
        device: str = "auto",
        batch_size: int = 32,
    ) -> None:
        require_packages(("torch", "transformers"), "models", "a cross-encoder")
        self._source, self._max_length = ModelSource(model), max_length
        self._device, self._batch_size = device, batch_size

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The model's files or revision, and the length that it is given."""
        facts = self._source.facts(lambda: self._loaded)
        return {**facts, "max_length": self._max_length or "the model's", "dtype": "float32"}

    @cached_property
    def _loaded(self) -> tuple[Any, Any, str, int]:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        device = pick_device(self._device)
        holds = "a folder with config.json, tokenizer files and a classifier's weights"
        with self._source.loading("cross-encoder", holds) as how:
            tokenizer = AutoTokenizer.from_pretrained(self._source.load_from, **how)
            model = AutoModelForSequenceClassification.from_pretrained(
                self._source.load_from, dtype=torch.float32, **how
            )
            if model.config.num_labels != 1:
                raise UsageError(
                    f"the classifier has {model.config.num_labels} outputs",
                    where=self._source.load_from,
                    expected="one: how right a passage is",
                    fix="--set model=file.py:Class with rerank(query, passages) that says what they mean",
                )
        self._source.remember(model.config)
        limits = (
            tokenizer.model_max_length,
            getattr(model.config, "max_position_embeddings", None),
        )
        longest = min((n for n in limits if n and n < _NO_LIMIT), default=512)
        if self._max_length is not None and not 4 <= self._max_length <= longest:
            raise UsageError(f"max_length={self._max_length}", expected=f"4 to {longest}")
        return tokenizer, model.eval().to(device), device, self._max_length or longest

    def rerank(self, query: RerankItem, passages: Sequence[RerankItem]) -> "NDArray[np.float32]":
        """The classifier's output for each passage."""
        import torch

        tokenizer, model, device, longest = self._loaded
        asked = query_text(query.text, query.instruction)
        texts = [passage.text for passage in passages]
        tokens = tokenizer([asked] * len(texts), texts, truncation=True, max_length=longest)
        lengths = np.array([len(ids) for ids in tokens["input_ids"]])
        widths = np.minimum(-(-lengths // _STEP) * _STEP, max(longest, int(lengths.max(initial=0))))
        scores = np.empty(len(texts), np.float32)
        for width in np.unique(widths):
            places = np.flatnonzero(widths == width)
            for start in range(0, len(places), self._batch_size):
                part = places[start : start + self._batch_size]
                batch = tokenizer.pad(
                    {name: [values[i] for i in part] for name, values in tokens.items()},
                    padding="max_length",
                    max_length=int(width),
                    return_tensors="pt",
                )
                with torch.inference_mode():
                    logits = model(**batch.to(device)).logits
                scores[part] = logits.float().cpu().numpy()[:, 0]
        return scores


class PredictReranker:
    """A ``CrossEncoder`` of sentence-transformers in memory, as a re-ranker.

    Args:
        model: What has ``predict(pairs)``.
        batch_size: Pairs at a time.
    """

    def __init__(self, model: Any, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size
        config = getattr(model, "config", None)
        self.settings = {
            "model": str(getattr(config, "_name_or_path", "") or type(model).__name__),
            "class": type(model).__name__,
            "max_length": getattr(model, "max_length", None),
        }

    def rerank(self, query: RerankItem, passages: Sequence[RerankItem]) -> Any:
        """What it predicts for each pair."""
        asked = query_text(query.text, query.instruction)
        pairs = [(asked, passage.text) for passage in passages]
        return self._model.predict(pairs, batch_size=self._batch_size, show_progress_bar=False)
