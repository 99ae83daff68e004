"""A retriever of ours as a search model of MTEB."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr._version import __version__
from m2kr.data.records import Passages, Queries
from m2kr.errors import UsageError
from m2kr.retrieval.protocol import RunContext, modalities_of
from m2kr.retrieval.search_split import check_retriever, index_pool, rank_queries
from m2kr.retrievers import adapted, create

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

    from m2kr.retrieval.protocol import Retriever


def as_search_model(
    retriever: "str | Retriever", settings: Mapping[str, object] | None = None
) -> "SearchModel":
    """What MTEB evaluates as a model: ``mteb.evaluate(m2kr.as_search_model("bm25"), tasks)``.

    A document's text is its title and its text, as MTEB's own models read it; a query's instruction is
    the task's, if that has one for each query.

    Args:
        retriever: As for `m2kr.retrievers.create`, or an object.
        settings: Of one given by name.

    Raises:
        UsageError: no such retriever or setting.
    """
    made = create(retriever, settings) if isinstance(retriever, str) else adapted(retriever)
    check_retriever(made)
    return SearchModel(made)


class SearchModel:
    """Follows MTEB's ``SearchProtocol``; see `as_search_model`."""

    def __init__(self, retriever: "Retriever") -> None:
        self._retriever = retriever
        self._workdir: tempfile.TemporaryDirectory[str] | None = None
        self._passages = 0

    @cached_property
    def mteb_model_meta(self) -> Any:
        """Name, version and modalities."""
        from mteb.models.model_meta import ModelMeta

        declared = modalities_of(self._retriever)
        kinds = sorted(declared.query | declared.passage, reverse=True)
        name = f"m2kr/{self._retriever.name.replace('/', '-')}"
        return ModelMeta.create_empty(
            {"name": name, "revision": __version__, "modalities": kinds or ["text"]}
        )

    def index(self, corpus: "Dataset", **_: Any) -> None:
        """Takes in a corpus: ``id``, ``text`` and, where there are any, ``title`` and ``image``."""
        import pyarrow as pa

        names, empty = set(corpus.column_names), [""] * len(corpus)
        bodies = corpus["text"] if "text" in names else corpus["body"] if "body" in names else empty
        titles = corpus["title"] if "title" in names else empty
        texts = [f"{t or ''} {b or ''}".strip() for t, b in zip(titles, bodies, strict=True)]
        images = _Images.of(corpus)
        rows = {
            "passage_id": [str(i) for i in corpus["id"]],
            "passage_content": texts,
            "img_path": _paths(len(corpus), images),
        }
        self._passages = len(corpus)
        self._workdir = tempfile.TemporaryDirectory(prefix="m2kr-", ignore_cleanup_errors=True)
        pool: Any = Passages(pa.table(rows), images)  # type: ignore[arg-type]
        index_pool(self._retriever, pool, RunContext(Path(self._workdir.name)))

    def search(
        self,
        queries: "Dataset",
        *,
        top_k: int,
        top_ranked: Mapping[str, list[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Rankings of the corpus; of some of its documents where MTEB names them (``top_ranked``)."""
        import pyarrow as pa

        if self._workdir is None:
            raise UsageError("search() came before index()")
        names, empty = set(queries.column_names), [""] * len(queries)
        questions = list(queries["text"]) if "text" in names else empty
        if any(not isinstance(question, str | None) for question in questions):
            raise UsageError("queries that are conversations can't be searched with")
        images = _Images.of(queries)
        rows = {
            "question_id": [str(i) for i in queries["id"]],
            "question": [question or "" for question in questions],
            "instruction": [i or "" for i in queries["instruction"]]
            if "instruction" in names
            else empty,
            "img_path": _paths(len(queries), images),
        }
        asked: Any = Queries(pa.table(rows), images)  # type: ignore[arg-type]
        k = top_k if top_ranked is None else self._passages
        ranking = rank_queries(self._retriever, asked, k).to_dict()
        if top_ranked is not None:
            chosen = {query: set(ids) for query, ids in top_ranked.items()}
            ranking = {
                query: {p: s for p, s in scored.items() if p in chosen.get(query, ())}
                for query, scored in ranking.items()
            }
        return {query: dict(list(scored.items())[:top_k]) for query, scored in ranking.items()}


def _paths(rows: int, images: "_Images | None") -> list[str | None]:
    if images is None:
        return [None] * rows
    return [str(row) if images.has(row) else None for row in range(rows)]


@dataclass(frozen=True)
class _Images:
    """Images in a dataset's column in the place of an image store; a path is a row's number."""

    rows: "Dataset"
    missing: str = "error"

    @classmethod
    def of(cls, dataset: "Dataset") -> "_Images | None":
        return cls(dataset) if "image" in dataset.column_names else None

    def has(self, row: int) -> bool:
        return self.rows[row]["image"] is not None

    def open(self, path: str) -> "Image":
        image: Image = self.rows[int(path)]["image"].convert("RGB")
        return image

    def exists(self, path: str) -> bool:
        return self.has(int(path))
