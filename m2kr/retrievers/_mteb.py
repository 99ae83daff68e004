"""Models of MTEB as retrievers: its encoders, and whatever searches by itself there."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from m2kr.data.records import Passages, Queries
from m2kr.errors import InputError, M2KRError, MissingError, UsageError, one_line
from m2kr.retrieval.batches import Batch, Encoded
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.protocol import Modalities, Modality, RetrieverBase, Side
from m2kr.retrieval.run import Run
from m2kr.retrievers._models import package_version, pick_device, require_packages
from m2kr.retrievers._queries import imageless, query_text, textless, without_rankings

if TYPE_CHECKING:
    from PIL.Image import Image

    from m2kr.retrieval.protocol import Retriever

_SEARCHED = {"hf_split": "test", "hf_subset": "default"}
_LETTERS = {"text": "t", "both": "it", "image": "i"}


def mteb_retriever(
    *,
    model: str,
    revision: str | None = None,
    instructions: bool = False,
    images: bool | None = None,
    passage_images: bool = False,
    device: str = "auto",
    batch_size: int = 32,
) -> "Retriever":
    """A retriever of an MTEB model: ``mteb:NAME``, or the model itself.

    Encoders are asked as in a retrieval task of MTEB, so with the prompts that they have for queries and
    documents of such a task. A query's text is its question, or its instruction where it has neither
    question nor image.

    Args:
        model: Name in MTEB's registry or on the hub, or a model in memory.
        revision: Of it; by default the one that MTEB names.
        instructions: Whether M2KR's instruction is given as MTEB's instructed tasks give theirs: behind
            the question, and apart.
        images: Whether images of queries are read; by default where the model can.
        passage_images: Whether images of passages are read.
        device: Where it is loaded to.
        batch_size: Rows at a time.

    Raises:
        MissingError: mteb is not installed, or the model can't be loaded.
        UsageError: it is a cross-encoder, or its similarity is neither dot nor cosine.
    """
    require_packages(("mteb",), "mteb", "a model of MTEB")
    loaded: Any = _load(model, revision, device) if isinstance(model, str) else model
    meta = loaded.mteb_model_meta
    name = str((meta.name if meta is not None else None) or type(loaded).__name__).rpartition("/")[
        2
    ]
    facts = {
        "model": str(meta.name) if meta is not None else type(loaded).__name__,
        "revision": meta.revision if meta is not None else None,
        "package": package_version("mteb"),
    }
    if not hasattr(loaded, "encode"):
        if not (hasattr(loaded, "index") and hasattr(loaded, "search")):
            raise UsageError(
                "the model scores pairs: it neither encodes nor searches",
                where=name,
                expected="an encoder or a search model of MTEB",
                fix="-r rerank --set model=NAME for cross-encoders of transformers",
            )
        return MTEBSearch(loaded, name, facts, batch_size)
    sees = meta is not None and "image" in meta.modalities
    if (images or passage_images) and not sees:
        raise UsageError("the model reads no images", where=name, fix="--set images=false")
    reads = (sees if images is None else images, passage_images)
    known = facts["revision"] is not None and isinstance(model, str)
    return MTEBEncoder(loaded, name, facts, reads, instructions, batch_size, cached=known)


def _load(name: str, revision: str | None, device: str) -> Any:
    import mteb

    try:
        return mteb.get_model(name, revision=revision, device=pick_device(device))
    except M2KRError:
        raise
    except Exception as error:  # whatever a model's loader raises
        raise MissingError(
            f"MTEB can't load it: {one_line(error)}",
            where=f"mteb:{name}",
            expected="a name that mteb.get_model knows, with what that model needs installed",
        ) from error


def _metadata(category: Any) -> Any:
    """What a model is told of the task: a retrieval task with no prompt of its own."""
    from mteb.abstasks.task_metadata import TaskMetadata

    kinds: list[Any] = [
        kind for letter, kind in (("t", "text"), ("i", "image")) if letter in category
    ]
    return TaskMetadata(
        name="M2KR",
        description="Multimodal knowledge retrieval.",
        dataset={"path": "m2kr", "revision": "1"},
        type="Retrieval",
        category=category,
        modalities=kinds,
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )


class MTEBEncoder(EncoderRetriever):
    """Ranks passages by vectors of an MTEB encoder; see `mteb_retriever`.

    Args:
        model: What has ``encode``, ``similarity`` and ``mteb_model_meta``.
        name: In tables.
        facts: What identifies it, for the result.
        reads_images: Of queries, and of passages.
        instructions: Whether M2KR's instructions are given.
        batch_size: Rows at a time.
        cached: Whether ``facts`` say all that decides its vectors.
    """

    version = 1
    settable: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        model: Any,
        name: str,
        facts: Mapping[str, Any],
        reads_images: tuple[bool, bool],
        instructions: bool,
        batch_size: int,
        *,
        cached: bool,
    ) -> None:
        super().__init__()
        self._model, self.name, self._about = model, name, dict(facts)
        self._instructions, self.batch_size, self._cached = instructions, batch_size, cached
        self.similarity = _similarity(model, name)
        sides: list[frozenset[Modality]] = [
            frozenset({"text", "image"} if sees else {"text"}) for sees in reads_images
        ]
        self._sees = dict(zip(("query", "document"), reads_images, strict=True))
        self.modalities = Modalities(*sides)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Name, revision and MTEB's version; what is read."""
        return {
            **super().settings,
            **self._about,
            "instructions": self._instructions,
            "images": self._sees,
        }

    def cache_key(self, side: Side) -> Mapping[str, Any] | None:
        """Name, revision and MTEB's version; None where the revision isn't known."""
        if not self._cached:
            return None
        known = {**self._about, "images": self._sees[side]}
        return {**known, "instructions": self._instructions} if side == "query" else known

    def encode_document(self, batch: Batch) -> Encoded:
        """Vectors of passages."""
        images = batch.images if self._sees["document"] else [None] * len(batch)
        return self._vectors("document", list(batch.texts), images, None)

    def encode_query(self, batch: Batch) -> Encoded:
        """Vectors of queries."""
        images = batch.images if self._sees["query"] else [None] * len(batch)
        pairs = zip(batch.texts, batch.instructions, images, strict=True)
        if self._instructions:
            return self._vectors("query", list(batch.texts), images, list(batch.instructions))
        texts = [q.strip() if image is not None else query_text(q, i) for q, i, image in pairs]
        return self._vectors("query", texts, images, None)

    def _vectors(
        self,
        side: Side,
        texts: list[str],
        images: "Sequence[Image | None]",
        instructions: list[str] | None,
    ) -> Encoded:
        groups: dict[Literal["text", "both", "image"], list[int]] = {}
        for place, (text, image) in enumerate(zip(texts, images, strict=True)):
            groups.setdefault("text" if image is None else "both" if text else "image", []).append(
                place
            )
        rows: list[Any] = [None] * len(texts)
        for kind, places in groups.items():
            columns: dict[str, list[Any]] = {"id": [str(i) for i in places]}
            if kind != "image":
                columns["text"] = [texts[i] for i in places]
                if instructions is not None:
                    columns["instruction"] = [instructions[i] for i in places]
            if kind != "text":
                columns["image"] = [images[i] for i in places]
            for place, row in zip(places, self._call(side, kind, columns), strict=True):
                rows[place] = row
        return rows

    def _call(self, side: Side, kind: str, columns: dict[str, list[Any]]) -> Sequence[Any]:
        import torch
        from datasets import Dataset, disable_progress_bars, enable_progress_bars
        from datasets.utils.logging import is_progress_bar_enabled
        from mteb._create_dataloaders import create_dataloader
        from mteb.types import PromptType

        task = _metadata(f"{_LETTERS[kind]}2{_LETTERS[kind]}")
        shown = is_progress_bar_enabled()
        disable_progress_bars()
        try:
            inputs = create_dataloader(
                Dataset.from_dict(columns),
                task_metadata=task,
                prompt_type=PromptType(side),
                batch_size=self.batch_size,
            )
            vectors = self._model.encode(
                inputs,
                task_metadata=task,
                prompt_type=PromptType(side),
                batch_size=self.batch_size,
                show_progress_bar=False,
                **_SEARCHED,
            )
        finally:
            if shown:
                enable_progress_bars()
        if isinstance(vectors, torch.Tensor):
            vectors = vectors.detach().float().cpu().numpy()
        if len(vectors) != len(columns["id"]):
            raise InputError(
                f"returned {len(vectors)} rows for {len(columns['id'])}",
                where=f"{self.name}.encode",
            )
        return list(vectors)

    def search(self, queries: Queries, k: int) -> Run:
        """Encodes the queries and searches exactly; see `EncoderRetriever.search`."""
        silent = textless(queries)
        if self._sees["query"]:
            silent &= imageless(queries)
        return without_rankings(super().search(queries, k), silent)


def _similarity(model: Any, name: str) -> Literal["dot", "cosine"]:
    """Which of the two a model's own similarity is: looked at on two vectors, as some don't say."""
    probe = np.array([[1.0, 2.0, 0.0, 0.5], [3.0, -1.0, 2.0, 0.0]], np.float32)
    try:
        given = np.asarray(model.similarity(probe, probe), np.float64)
    except Exception as error:  # whatever a model raises
        raise UsageError(f"its similarity can't be told: {one_line(error)}", where=name) from error
    lengths = np.linalg.norm(probe, axis=1)
    dot = (probe @ probe.T).astype(np.float64)
    if given.shape == dot.shape and np.allclose(given, dot, rtol=1e-3):
        return "dot"
    if given.shape == dot.shape and np.allclose(given, dot / np.outer(lengths, lengths), rtol=1e-3):
        return "cosine"
    raise UsageError(
        "the model's similarity is neither an inner product nor a cosine",
        where=name,
        fix="make a run with mteb, and evaluate that: -r run:FILE",
    )


class MTEBSearch(RetrieverBase):
    """Ranks passages as a search model of MTEB does, by itself (``mteb:mteb/baseline-bm25s``).

    Args:
        model: What has ``index``, ``search`` and ``mteb_model_meta``.
        name: In tables.
        facts: What identifies it, for the result.
        batch_size: Rows that it encodes at a time.
    """

    modalities = Modalities()

    def __init__(self, model: Any, name: str, facts: Mapping[str, Any], batch_size: int) -> None:
        self._model, self.name = model, name
        self.settings: Mapping[str, Any] = dict(facts)
        self._encode = {"batch_size": batch_size, "show_progress_bar": False}
        self._indexed = False

    @cached_property
    def _task(self) -> Any:
        return _metadata("t2t")

    def index(self, passages: Passages, *, workdir: Path) -> None:  # noqa: ARG002
        """Has it index the texts."""
        from datasets import Dataset

        table = passages.table
        columns = {
            "id": passages.ids.to_pylist(),
            "title": [""] * len(passages),
            "text": table.column("passage_content").to_pylist(),
        }
        self._model.index(
            Dataset.from_dict(columns),
            task_metadata=self._task,
            encode_kwargs=self._encode,
            num_proc=None,
            **_SEARCHED,
        )
        self._indexed = True

    def search(self, queries: Queries, k: int) -> Run:
        """Has it search with the questions, or the instructions where there is none."""
        from datasets import Dataset

        if not self._indexed:
            raise UsageError("search() came before index()", fix="retriever.index(passages, ...)")
        ids = queries.ids.to_pylist()
        texts = [
            query_text(*both)
            for both in zip(queries.column("question"), queries.column("instruction"), strict=True)
        ]
        asked = [place for place, text in enumerate(texts) if text]
        columns = {"id": [ids[i] for i in asked], "text": [texts[i] for i in asked]}
        given = self._model.search(
            Dataset.from_dict(columns),
            task_metadata=self._task,
            top_k=k,
            encode_kwargs=self._encode,
            num_proc=None,
            **_SEARCHED,
        )
        ranking = {q: {p: float(s) for p, s in given.get(q, {}).items()} for q in ids}
        return Run.from_dict(ranking, name=self.name).top(k)
