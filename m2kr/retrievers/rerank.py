"""Re-ranking: what one retriever has found, in the order of a model that looks at each pair."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from m2kr import retrievers
from m2kr.data.records import Passages, Queries
from m2kr.errors import InputError, UsageError
from m2kr.progress import task
from m2kr.retrieval.own_code import json_values, own_code, user_attribute
from m2kr.retrieval.protocol import (
    Modalities,
    RetrieverBase,
    RunStats,
    modalities_of,
    readable,
)
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.rerank import Reranker, RerankItem, rerank_scores
from m2kr.retrieval.run import Run
from m2kr.retrieval.search_split import index_pool, rank_queries, require_queries, stats_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.retrieval.protocol import Retriever


class Rerank(RetrieverBase):
    """Ranks the first passages of another ranking anew; the rest stay below them, in their order.

    Args:
        first: What is re-ranked: a retriever, as for `m2kr.retrievers.create`, or a run
            (``run:FILE``). In Python an object or a `Run` as well.
        depth: Passages of each query that are re-ranked.
        model: The re-ranker: a cross-encoder's folder or hub id, or ``file.py:Class`` with a method
            ``rerank(query, passages)`` that returns a score for each passage (see
            `m2kr.retrieval.rerank.Reranker`). In Python an object of such a class, or a ``CrossEncoder``
            of sentence-transformers, as well.
        max_length: Tokens of a pair that a cross-encoder reads; by default the model's.
        device: Of the first stage, if it takes one, and of a cross-encoder.
        batch_size: Pairs that a cross-encoder gets at a time.

    Raises:
        UsageError: a setting is out of its range.
        MissingError: a package, file or run is not there.
        InputError: what ``model`` names has no ``rerank``.
    """

    name = "rerank"

    def __init__(
        self,
        *,
        first: str = "bm25",
        depth: int = 100,
        model: str = "cross-encoder/ms-marco-MiniLM-L6-v2",
        max_length: int | None = None,
        device: str = "auto",
        batch_size: int = 32,
    ) -> None:
        if depth < 1 or batch_size < 1:
            raise UsageError(f"depth={depth}, batch_size={batch_size}", expected="each at least 1")
        self._first: Retriever = _first(first, device)
        self._depth = depth
        self._reranker: Reranker = _reranker(model, max_length, device, batch_size)
        self._passages: Passages | None = None
        self._queries: Queries | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The first stage, the depth, and what the re-ranker says of itself."""
        first: dict[str, Any] = {"name": self._first.name, "settings": dict(self._first.settings)}
        if isinstance(self._first, RunRetriever):
            first["run_sha256"] = self._first.run.sha256()
        own = (
            user_attribute(self._reranker, "settings")
            if hasattr(self._reranker, "settings")
            else {}
        )
        kind = type(self._reranker).__name__
        return {
            "first": first,
            "depth": self._depth,
            "reranker": {
                "name": str(getattr(self._reranker, "name", kind)),
                "settings": json_values(own, "settings", self._reranker),
            },
        }

    @property
    def modalities(self) -> Modalities:
        """All that either stage reads."""
        one, two = modalities_of(self._first), modalities_of(self._reranker)
        return Modalities(one.query | two.query, one.passage | two.passage)

    def run_stats(self) -> RunStats:
        """What the first stage tells; re-ranking counts as searching."""
        stats = stats_of(self._first)
        return RunStats(
            seconds=dict(stats.seconds),
            cpu_seconds=dict(stats.cpu_seconds),
            encoded=dict(stats.encoded),
            reused=dict(stats.reused),
            notes=list(stats.notes),
        )

    def index(self, passages: Passages, *, workdir: Path) -> None:
        """Has the first stage index the pool."""
        context = replace(self.run_context, workdir=workdir, search=None)
        index_pool(self._first, passages, context)
        self._passages = passages

    def search(self, queries: Queries, k: int) -> Run:
        """Has the first stage search, and ranks its first ``depth`` passages anew.

        Raises:
            UsageError: nothing was indexed.
            InputError: the re-ranker returned something else than a finite number a passage.
            CheckError: the first stage's run lacks queries.
        """
        if self._passages is None:
            raise UsageError("search() came before index()", fix="retriever.index(passages, ...)")
        ids = queries.ids.to_pylist()
        run = rank_queries(self._first, queries, max(k, self._depth))
        require_queries(run, ids, self._first.name)
        run = run.select(ids)
        self._queries = queries
        rows = _pool_rows(self._passages, run)
        asked = readable(queries, self._reranker, "query")
        pool = readable(self._passages, self._reranker, "document")
        scores = np.empty(len(run.codes))
        progress = self.run_context.progress
        with task(progress, "rerank", len(ids)):
            for place in range(len(ids)):
                start, end = int(run.offsets[place]), int(run.offsets[place + 1])
                cut = min(end, start + self._depth)
                if cut > start:
                    query = _query(asked, place)
                    found = pool.rows([int(row) for row in rows[run.codes[start:cut]]])
                    passages = [_passage(pool, row) for row in found]
                    scores[start:cut] = rerank_scores(self._reranker, query, passages)
                    # Below the last of them, each one lower than the one before.
                    lowest = float(scores[start:cut].min())
                    step = max(1.0, abs(lowest) * 1e-9)
                    scores[cut:end] = lowest - step * np.arange(1, end - cut + 1)
                progress.advance("rerank", 1)
        passage_ids = pa.DictionaryArray.from_arrays(pa.array(run.codes), run.vocabulary)
        return Run(run.query_ids, run.counts(), passage_ids, scores, name=self.name).top(k)

    def pair_scores(self, rows: "Sequence[NDArray[np.int64]]") -> "list[NDArray[np.float64]]":
        """See `RetrieverBase.pair_scores`: what the re-ranker says of the passages."""
        assert self._queries is not None  # of a search
        assert self._passages is not None
        asked = readable(self._queries, self._reranker, "query")
        pool = readable(self._passages, self._reranker, "document")
        scores = [np.empty(0)] * len(rows)
        for place, some in enumerate(rows):
            if len(some):
                passages = [_passage(pool, row) for row in pool.rows(some.tolist())]
                scores[place] = rerank_scores(self._reranker, _query(asked, place), passages)
        return scores


def _pool_rows(passages: Passages, run: Run) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Per place in a run's vocabulary the row of that passage.

    Raises:
        InputError: the pool lacks one.
    """
    rows = passages.row_numbers(run.vocabulary)
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        odd = run.vocabulary[int(unknown[0])].as_py()
        raise InputError(
            f"it ranks {len(unknown):,} passages that the pool lacks, such as '{odd}'",
            where=f"run '{run.name}'",
            expected="passage_id values of the pool",
        )
    return rows


def _query(queries: Queries, place: int) -> RerankItem:
    row = queries[place]
    image = partial(queries.image, row)
    return RerankItem(row["question_id"], row["question"], row["instruction"], image)


def _passage(passages: Passages, row: dict[str, Any]) -> RerankItem:
    return RerankItem(row["passage_id"], row["passage_content"], "", partial(passages.image, row))


def _first(first: Any, device: str) -> "Retriever":
    from m2kr.retrievers._settings import arguments

    if isinstance(first, Run):
        return RunRetriever(first)
    if not isinstance(first, str):
        return retrievers.adapted(first)
    if first == Rerank.name:
        raise UsageError("a re-ranking can't be its own first stage", fix="--set first=bm25")
    if first.startswith("run:"):
        return retrievers.create(first)
    takes_device = "device" in arguments(retrievers.find(first))
    return retrievers.create(first, {"device": device} if takes_device else {})


def _reranker(model: Any, max_length: int | None, device: str, batch_size: int) -> Reranker:
    from m2kr.retrievers._cross_encoder import CrossEncoderReranker, PredictReranker
    from m2kr.retrievers._sentence_transformers import type_of

    if (
        isinstance(model, str)
        and ".py:" not in model
        and (":" not in model or Path(model).exists())
    ):
        return CrossEncoderReranker(
            model, max_length=max_length, device=device, batch_size=batch_size
        )
    if type_of(model) == "CrossEncoder":
        return PredictReranker(model, batch_size)
    where = None
    if isinstance(model, str):
        factory, where = retrievers.find(model), model
        with own_code(factory, f"making {getattr(factory, '__name__', model)}()"):
            model = factory()
    if isinstance(model, type) or not callable(getattr(model, "rerank", None)):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        raise InputError(
            f"{kind} is no re-ranker: it has no rerank(query, passages)"
            if not isinstance(model, type)
            else f"{kind} is a class, not a re-ranker",
            where=where,
            expected="an object with rerank(query, passages), which returns a score for each passage",
        )
    modalities_of(model)
    return model  # type: ignore[no-any-return]


RETRIEVER = Rerank
