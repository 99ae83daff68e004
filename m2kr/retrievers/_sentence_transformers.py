"""Models of sentence-transformers: one vector a row, or late interaction; of text, of images, of both."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from m2kr.data.records import Queries
from m2kr.errors import UsageError
from m2kr.retrieval.batches import Batch, Encoded
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.protocol import Modalities, Modality, Side
from m2kr.retrieval.run import Run
from m2kr.retrievers._model_source import ModelSource
from m2kr.retrievers._models import package_version, pick_device, require_packages
from m2kr.retrievers._queries import imageless, query_text, textless, without_rankings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_EXTRA = "sentence-transformers"
_INSTRUCTION = "{instruction}"
_SEES = frozenset[Modality]({"text", "image"})


class SentenceTransformers(EncoderRetriever):
    r"""Ranks passages by a model of sentence-transformers; ``st:NAME_OR_PATH``, or by object.

    Queries are encoded by the model's ``encode_query`` and passages by its ``encode_document``, so with
    the prompts that the model brings. M2KR's instruction isn't added to those: a query's text is its
    question, or its instruction where it has neither question nor image. ``query_prompt`` replaces the
    model's prompt. Either may hold the instruction: ``{instruction} `` or
    ``Instruct: {instruction}\nQuery: ``.

    Args:
        model: Folder, hub id, or a ``SentenceTransformer`` or ``MultiVectorEncoder`` in memory.
        query_prompt: What is put before each query; by default the model's own.
        document_prompt: The same of passages.
        images: Whether images of queries are read; by default where the model can.
        passage_images: Whether images of passages are read.
        max_length: Tokens read of a text; by default the model's.
        similarity: ``dot`` or ``cosine`` of dense vectors; by default the model's.
        device: ``auto`` (a GPU where one works), ``cpu``, ``cuda`` ...; a model in memory stays where it
            is.
        batch_size: Rows at a time.

    Raises:
        MissingError: sentence-transformers is not installed, or the model can't be loaded.
        UsageError: it is a model of another kind, or can't read images; or the prompt of passages holds
            ``{instruction}``, which they don't have.
    """

    version = 2
    settable: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        *,
        model: str,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        images: bool | None = None,
        passage_images: bool = False,
        max_length: int | None = None,
        similarity: Literal["dot", "cosine"] | None = None,
        device: str = "auto",
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        require_packages(("sentence_transformers",), _EXTRA, "a model of sentence-transformers")
        given: Any = model
        self._source = ModelSource(given) if isinstance(given, str) else None
        self._model: Any = _load(self._source, device) if self._source is not None else given
        self.name = _name_of(given, self._model)
        self._late = type_of(self._model) == "MultiVectorEncoder"
        if self._source is None:
            require_supported(self._model)
        if max_length is not None:
            if self._source is None or max_length < 3:
                raise UsageError(
                    f"max_length={max_length}",
                    expected="at least 3; of a model in memory: model.max_seq_length = …",
                )
            self._model.max_seq_length = max_length
        self._own_similarity = str(self._model.similarity_fn_name)
        self.similarity = self._similarity(similarity)
        self._prompts = {"query": query_prompt, "document": document_prompt}
        if _INSTRUCTION in (prompt := self._prompt("document")):
            raise UsageError(
                f"the prompt of passages holds {_INSTRUCTION}, and passages have none: {prompt!r}",
                where=self.name,
                expected="a prompt that is the same for all of them, or none",
                fix="--set document_prompt=",
            )
        self.batch_size = batch_size
        sees = bool(self._model.supports("image"))
        if (images or passage_images) and not sees:
            raise UsageError(
                f"the model reads {', '.join(map(str, self._model.modalities))}, no images",
                where=self.name,
                fix="--set images=false",
            )
        self.modalities = Modalities(
            _SEES if (sees if images is None else images) else frozenset({"text"}),
            _SEES if passage_images else frozenset({"text"}),
        )

    def _similarity(self, given: str | None) -> Literal["dot", "cosine"]:
        if self._late:
            return "dot"  # of token vectors, MaxSim
        name = given or self._own_similarity
        if name == "dot":
            return "dot"
        if name == "cosine":
            return "cosine"
        raise UsageError(
            f"the model's similarity is {name}, which is no inner product",
            where=self.name,
            expected="dot or cosine",
            fix="--set similarity=cosine",
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """The model, its files or weights by hash, its prompts, similarity and length."""
        return {**super().settings, **self._facts}

    @cached_property
    def _facts(self) -> dict[str, Any]:
        model = self._model
        if self._source is not None:
            facts = self._source.facts(lambda: model)
        else:
            facts = {"model": self.name, "weights_sha256": _weights_sha256(model)}
        return {
            **facts,
            "class": type_of(model),
            "package": package_version("sentence_transformers"),
            "model_similarity": self._own_similarity,
            "prompts": {side: self._prompt(side) for side in ("query", "document")},
            "max_length": getattr(model, "max_seq_length", None),
            "dtype": str(model.dtype).removeprefix("torch."),
            "images": {side: "image" in self._reads(side) for side in ("query", "document")},
        }

    def _reads(self, side: str) -> frozenset[Modality]:
        assert isinstance(self.modalities, Modalities)
        return self.modalities.query if side == "query" else self.modalities.passage

    def _prompt(self, side: str) -> str:
        """What is put before the texts of a side."""
        given = self._prompts[side]
        return str(self._model.prompts.get(side) or "") if given is None else given

    def cache_key(self, side: Side) -> Mapping[str, Any] | None:
        """The model's files or revision, and the side's prompt; None for a model in memory."""
        known = None if self._source is None else self._source.cache_key(self._facts)
        if known is None:
            return None
        images = self._facts["images"][side]
        return {**known, "prompts": self._facts["prompts"][side], "images": images}

    def encode_document(self, batch: Batch) -> Encoded:
        """Vectors of passages."""
        images = batch.images if "image" in self._reads("document") else [None] * len(batch)
        return self._encode_rows("document", list(batch.texts), images, [""] * len(batch))

    def encode_query(self, batch: Batch) -> Encoded:
        """Vectors of queries."""
        images = batch.images if "image" in self._reads("query") else [None] * len(batch)
        instructed = _INSTRUCTION in self._prompt("query")
        texts = [
            question.strip()
            if image is not None or instructed
            else query_text(question, instruction)
            for question, instruction, image in zip(
                batch.texts, batch.instructions, images, strict=True
            )
        ]
        instructions = batch.instructions if instructed else [""] * len(batch)
        return self._encode_rows("query", texts, images, instructions)

    def _encode_rows(
        self,
        side: Side,
        texts: list[str],
        images: "Sequence[Image | None]",
        instructions: Sequence[str],
    ) -> "list[NDArray[Any]]":
        """Vectors of rows, those of one kind and one prompt at a time."""
        prompt = self._prompt(side)
        rows: list[NDArray[Any] | None] = [None] * len(texts)
        groups: dict[tuple[str, str], list[int]] = {}
        for place, (text, image) in enumerate(zip(texts, images, strict=True)):
            kind = "text" if image is None else "both" if text else "image"
            own = prompt.replace(_INSTRUCTION, instructions[place].strip())
            groups.setdefault((kind, own), []).append(place)
        for (kind, own), places in groups.items():
            of_text: list[Any] = [texts[i] for i in places]
            of_image: list[Any] = [images[i] for i in places]
            if kind == "text":
                vectors = self._call(side, of_text, own)
            elif kind == "image":
                vectors = self._call(side, of_image, own)
            elif self._joint:
                pairs = zip(of_text, of_image, strict=True)
                vectors = self._call(side, [{"text": t, "image": i} for t, i in pairs], own)
            else:
                vectors = self._put_together(
                    self._call(side, of_text, own), self._call(side, of_image, own)
                )
            for place, vector in zip(places, vectors, strict=True):
                rows[place] = vector
        return [row for row in rows if row is not None]

    @cached_property
    def _joint(self) -> bool:
        """Whether the model reads a text and an image as one input."""
        return any(self._model.supports(pair) for pair in (("image", "text"), ("text", "image")))

    def _put_together(
        self, texts: "list[NDArray[Any]]", images: "list[NDArray[Any]]"
    ) -> "list[NDArray[Any]]":
        """Of a model that reads one at a time: the mean of the unit vectors; of token vectors, all."""
        if self._late:
            return [np.concatenate(both) for both in zip(texts, images, strict=True)]
        means = [_unit(text) + _unit(image) for text, image in zip(texts, images, strict=True)]
        return [_unit(mean) for mean in means]

    def _call(self, side: Side, inputs: list[Any], prompt: str) -> "list[NDArray[Any]]":
        encode = self._model.encode_query if side == "query" else self._model.encode_document
        # A prompt of its own is left to the model, which may do more than put it before the text; unless
        # it has a place for the instruction, which the model knows nothing of.
        left = self._prompts[side] is None and _INSTRUCTION not in self._prompt(side)
        own = {} if left else {"prompt": prompt}
        vectors = encode(
            inputs,
            batch_size=self.batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
            **own,
        )
        if self._late and self._own_similarity == "meanmaxsim" and side == "query":
            return [rows / max(1, len(rows)) for rows in vectors]
        return list(vectors)

    def search(self, queries: Queries, k: int) -> Run:
        """Encodes the queries and searches; see `EncoderRetriever.search`."""
        silent = textless(queries)
        if "image" in self._reads("query"):
            silent &= imageless(queries)
        return without_rankings(super().search(queries, k), silent)


def type_of(model: object) -> str:
    """Which of the package's classes an object is of; ``""`` if it is of none."""
    kinds = ("MultiVectorEncoder", "SparseEncoder", "CrossEncoder", "SentenceTransformer")
    names = {
        kind.__name__
        for kind in type(model).__mro__
        if kind.__module__.partition(".")[0] == "sentence_transformers"
    }
    return next((kind for kind in kinds if kind in names), "")


def require_supported(model: object) -> None:
    """Refuses models that give something else than vectors of rows.

    Raises:
        UsageError: it is such a model; says what to do with it.
    """
    kind = type_of(model)
    if kind == "CrossEncoder":
        raise UsageError(
            "a CrossEncoder scores pairs, so it re-ranks what another retriever has found",
            fix="-r rerank --set first=bm25 --set model=NAME; in Python m2kr.Rerank(model=…)",
        )
    if kind not in ("SentenceTransformer", "MultiVectorEncoder"):
        raise UsageError(
            f"vectors of a {kind or type(model).__name__} can't be searched here",
            expected="a SentenceTransformer or a MultiVectorEncoder",
            fix="make a run of it elsewhere, and evaluate that: -r run:FILE",
        )


def _load(source: ModelSource, device: str) -> Any:
    import sentence_transformers

    if not source.local and "/" not in source.model:
        source.load_from = f"sentence-transformers/{source.model}"
    with source.loading("model of sentence-transformers", "a folder that one was saved to") as how:
        kind = _saved_type(source.load_from, source.local)
        factory = getattr(sentence_transformers, kind, None)
        if factory is None or kind not in ("SentenceTransformer", "MultiVectorEncoder"):
            raise UsageError(
                f"the model is a {kind}",
                where=source.load_from,
                expected="a SentenceTransformer or a MultiVectorEncoder (sentence-transformers ≥ 6)",
                fix="-r rerank --set model=NAME" if kind == "CrossEncoder" else None,
            )
        model = factory(source.load_from, device=pick_device(device), **how)
    source.remember(getattr(getattr(model, "transformers_model", None), "config", None))
    return model


def _saved_type(name: str, local: bool) -> str:
    """The class that a model was saved by; ColBERT's own checkpoints and PyLate's are late interaction."""
    from transformers.utils.hub import cached_file

    def read(file: str) -> dict[str, Any]:
        path = cached_file(
            name,
            file,
            local_files_only=local,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        known = json.loads(Path(path).read_bytes()) if path else {}
        return known if isinstance(known, dict) else {}

    kind = read("config_sentence_transformers.json").get("model_type")
    if kind == "ColBERT" or (
        kind is None and "HF_ColBERT" in (read("config.json").get("architectures") or ())
    ):
        return "MultiVectorEncoder"
    return str(kind or "SentenceTransformer")


def _name_of(given: object, model: Any) -> str:
    if isinstance(given, str):
        return Path(given).name or given
    config = getattr(getattr(model, "transformers_model", None), "config", None)
    return Path(str(getattr(config, "_name_or_path", "") or "")).name or type(model).__name__


def _weights_sha256(model: Any) -> str:
    """Hash of all weights of a model in memory, by name."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(data.tobytes())
    return digest.hexdigest()


def _unit(vector: "NDArray[Any]") -> "NDArray[Any]":
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector
