"""What a retriever is: the protocol, and a base class for encoders."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from m2kr.data.records import Passages, Queries
from m2kr.errors import InputError, UsageError
from m2kr.evaluation.batches import Batch, Encoded, Side, by_length, check_rows, make
from m2kr.evaluation.run import Run
from m2kr.search.late.modes import Searching

if TYPE_CHECKING:
    from m2kr.evaluation import encoded
    from m2kr.evaluation.cache import EmbeddingCache
    from m2kr.search.late.index.files import IndexFiles

__all__ = [
    "Batch",
    "Encoded",
    "EncoderRetriever",
    "Modalities",
    "Modality",
    "Progress",
    "Report",
    "Retriever",
    "RunRetriever",
    "Side",
]

logger = logging.getLogger("m2kr.evaluation")

Modality = Literal["text", "image"]
# Called with the stage ("encode document"), rows done and rows in all.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Modalities:
    """What a retriever reads on each side; images are only looked for where "image" is named."""

    query: frozenset[Modality] = frozenset({"text"})
    passage: frozenset[Modality] = frozenset({"text"})

    def as_dict(self) -> dict[str, list[str]]:
        """The same for JSON: sorted lists under ``query`` and ``passage``."""
        return {"query": sorted(self.query), "passage": sorted(self.passage)}


@runtime_checkable
class Retriever(Protocol):
    """Anything that indexes passages and answers queries with ranked ids.

    It may also have ``seconds``, a mapping (``encode document``, ``encode query``), which the
    result reports apart, ``progress`` (a `Progress`), which `evaluate` sets, ``depth``, the most
    results a query can get from it, ``reused``, rows by stage that were encoded before,
    ``index_bytes``, and ``searched``: how it searched, which becomes `Result.search`.
    """

    @property
    def name(self) -> str:
        """Name in tables and file names."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that changes its scores, as JSON values; kept in the result."""
        ...

    @property
    def modalities(self) -> Modalities:
        """What it reads of queries and passages."""
        ...

    def index(self, passages: Passages, *, workdir: Path) -> None:
        """Takes in the pool; files go below ``workdir``, which outlives the search."""
        ...

    def search(self, queries: Queries, k: int) -> Run:
        """Ranks up to ``k`` passages for every query; each query is in the run, if only with none."""
        ...


# Called by an encoder's stream with rows just encoded and the seconds they took.
Report = Callable[[int, float], None]


class EncoderRetriever:
    """A retriever from two functions: write `encode_query` and `encode_document`.

    Both return either a 2-D array (rows x dim: dense retrieval, inner product or cosine) or a list
    of 2-D arrays (tokens x dim each: late interaction, MaxSim). All-zero token rows count as
    masked. How rows are batched must not change what a row encodes to; that is the encoder's duty.

    An encoder that batches by itself overrides `encode_stream` instead. One that also has `cache_key`
    is asked only for rows that were not encoded before, by this run or another.

    Attributes:
        batch_size: Rows per call of the encoder.
        similarity: ``dot`` or ``cosine``, for dense encoders; MaxSim always takes dot products.
        memory: Bytes that a search may use for its blocks.
        searching: How token vectors are searched; dense ones always are exactly.
        cache: Where rows are kept across runs; None for the working folder alone.
        fingerprints: Of the split that is searched, recorded in the token store.
        progress: Called after each batch with the stage, rows done and rows in all.
        seconds: Time spent in the encoder, by side.
        reused: Rows by stage that had been encoded before.
        searched: How the last search went: mode and settings. None for dense vectors.
        search_cost: What it took.
        index_bytes: On disk, of what is searched: array, token store or index.
    """

    name: str = "encoder"
    modalities: Modalities = Modalities()
    batch_size: int = 32
    similarity: Literal["dot", "cosine"] = "dot"
    memory: int = 512 << 20
    progress: Progress | None = None
    searching: Searching = Searching()
    cache: "EmbeddingCache | None" = None
    fingerprints: Mapping[str, str] = MappingProxyType({})
    reused: Mapping[str, int] = MappingProxyType({})
    searched: Mapping[str, Any] | None = None
    search_cost: Mapping[str, Any] = MappingProxyType({})
    index_bytes: int = 0
    # Rows are sorted by length inside windows of this many batches, so little padding is encoded.
    # A window is also what a kill may cost.
    _window_batches: ClassVar[int] = 16
    # Defaults of the class, so that a subclass's __init__ need not call ours.
    seconds: Mapping[str, float] = MappingProxyType({})
    _workdir: Path | None = None
    _passages: Passages | None = None
    _documents: "encoded.Encoded | None" = None
    _index: "IndexFiles | None" = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that changes the scores; extend it in a subclass."""
        return {"similarity": self.similarity}

    def encode_query(self, batch: Batch) -> Encoded:  # noqa: ARG002
        """The vectors of a batch of queries."""
        raise UsageError(f"{type(self).__name__} has no encode_query(batch)")

    def encode_document(self, batch: Batch) -> Encoded:  # noqa: ARG002
        """The vectors of a batch of passages."""
        raise UsageError(f"{type(self).__name__} has no encode_document(batch)")

    def cache_key(self, side: Side) -> Mapping[str, Any] | None:  # noqa: ARG002
        """All of one's own that decides what a side's rows are encoded to: weights, lengths, type.

        JSON values. None, unless a subclass says better: rows are then not kept. The class's source,
        the rows, their images and m2kr's version need not be named; see `m2kr.evaluation.cache`.
        """
        return None

    def index(self, passages: Passages, *, workdir: Path) -> None:
        """Encodes the pool onto disk, and builds the index that `searching` asks for.

        Raises:
            UsageError: vectors are dense, and `searching` is not exact.
            InputError: rows are of mixed forms, or values can't be stored.
        """
        from m2kr.evaluation.encoded import nbytes
        from m2kr.evaluation.steps import Steps
        from m2kr.search.late import by_mode
        from m2kr.search.late.store import TokenStore

        self._workdir, self._passages = workdir, passages
        self._documents = self._index = self.searched = None
        self.search_cost = {}
        with self._place(passages, "document", workdir / "documents") as (folder, key):
            documents = self._encode(passages, "document", folder, key)
            self.index_bytes = nbytes(documents, folder)
            if isinstance(documents, TokenStore):
                steps = Steps(self.progress)
                self._index = by_mode.build(documents, folder / "indexes", self.searching, steps)
            if self._index is not None:
                with_store = self.searching.final == "exact"
                self.index_bytes = self._index.nbytes() + self.index_bytes * with_store
        self._documents = documents

    def search(self, queries: Queries, k: int) -> Run:
        """Encodes the queries and searches as `searching` says.

        Raises:
            UsageError: nothing was indexed, or exact search would take longer than it may.
            InputError: queries and passages were not encoded alike.
        """
        if self._documents is None or self._passages is None or self._workdir is None:
            raise UsageError("search() came before index()", fix="retriever.index(passages, ...)")
        from m2kr.evaluation.steps import Steps
        from m2kr.search.embeddings import Embeddings
        from m2kr.search.late import by_mode
        from m2kr.search.late.store import TokenStore
        from m2kr.search.topk import id_ranks

        with self._place(queries, "query", self._workdir / "queries") as (folder, key):
            asked = self._encode(queries, "query", folder, key)
        ids, pool = self._passages.ids, self._documents
        if isinstance(asked, Embeddings) and isinstance(pool, Embeddings):
            rows, scores = asked.search(
                pool, k, id_ranks(ids), similarity=self.similarity, memory=self.memory
            )
        elif isinstance(asked, TokenStore) and isinstance(pool, TokenStore):
            found = by_mode.search(
                asked,
                pool,
                k,
                id_ranks(ids),
                self.searching,
                index=self._index,
                memory=self.memory,
                progress=Steps(self.progress),
            )
            rows, scores = found.numbers, found.scores
            self.searched, self.search_cost = found.how, found.cost
        else:
            raise InputError(
                "queries and passages are encoded in different forms",
                expected="a 2-D array on both sides, or a list of 2-D arrays on both",
            )
        return Run.from_rows(queries.ids.to_pylist(), ids, rows, scores, name=self.name)

    def encode_stream(
        self, records: Passages | Queries, side: Side, report: Report
    ) -> Iterator[list[np.ndarray]]:
        """All rows of one side, encoded, in order, some at a time.

        Args:
            records: What to encode.
            side: ``query`` or ``document``.
            report: To be called as rows get done, for progress and `seconds`.
        """
        encode = self.encode_query if side == "query" else self.encode_document
        with_images = "image" in (
            self.modalities.query if side == "query" else self.modalities.passage
        )
        for window in records.batches(self.batch_size * self._window_batches):
            parts: list[np.ndarray | None] = [None] * len(window)
            for places in by_length(window, side, self.batch_size):
                batch = make(records, [window[i] for i in places], side, with_images)
                before = time.perf_counter()
                encoded = encode(batch)
                spent = time.perf_counter() - before
                check_rows(encoded, batch, f"{type(self).__name__}.encode_{side}")
                for place, row in zip(places, encoded, strict=True):
                    parts[place] = row
                report(len(batch), spent)
            yield [part for part in parts if part is not None]

    @contextmanager
    def _place(
        self, records: Passages | Queries, side: Side, own: Path
    ) -> Iterator[tuple[Path, Mapping[str, Any] | None]]:
        """The folder for a side's rows, held while it is written, and the key they are known by."""
        from m2kr.evaluation.cache import held, key_of

        key = key_of(self, records, side)
        entry = self.cache.entry(key) if self.cache is not None and key is not None else None
        if entry is None:
            yield own, key
            return
        with held(entry):
            yield entry, key

    def _encode(
        self, records: Passages | Queries, side: Side, folder: Path, key: Mapping[str, Any] | None
    ) -> "encoded.Encoded":
        from m2kr.evaluation.encoded import encode
        from m2kr.evaluation.searching import settings_of

        settings = settings_of(self)
        stage, done, spent = f"encode {side}", 0, 0.0
        self.reused = {**self.reused, stage: 0}

        def report(rows: int, seconds: float) -> None:
            nonlocal done, spent
            done, spent = done + rows, spent + seconds
            if self.progress:
                self.progress(stage, done, len(records))

        def stream(left: Passages | Queries) -> Iterator[list[np.ndarray]]:
            nonlocal done
            done = len(records) - len(left)
            return self.encode_stream(left, side, report)

        found, before = encode(
            records,
            stream,
            folder,
            key=key,
            about={"retriever": self.name, "rows": len(records), "settings": settings},
            meta=self._meta(records, side, settings),
            check=self._check_form,
        )
        self.reused = {**self.reused, stage: self.reused[stage] + before}
        self.seconds = {**self.seconds, stage: spent}
        logger.info(
            "%s: %d rows, %d of them encoded before, %.1f s in the encoder",
            stage, len(records), before, spent,
        )  # fmt: skip
        return found

    def _meta(
        self, records: Passages | Queries, side: Side, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """What a token store says of itself. ``eval`` is that of the split it was begun for."""
        known = {
            "retriever": self.name,
            "checkpoint": settings.get("weights_sha256"),
            "pool" if side == "document" else "queries": records.fingerprint,
            "eval": self.fingerprints.get("eval"),
            "settings": settings,
        }
        return {name: value for name, value in known.items() if value}

    def _check_form(self, late: bool) -> None:
        if not late and self.searching.mode != "exact":
            raise UsageError(
                f"{self.name} makes one vector a row, and those are searched exactly",
                expected=f"a late-interaction retriever for {self.searching.mode} search",
                fix="--search exact",
            )


class RunRetriever:
    """Replays a run file: whatever made it, it is evaluated like any retriever.

    Args:
        path: A run in Parquet or TREC form (see `Run.load`).
        name: Name in tables; by default the run's own, or the file's stem.
    """

    modalities = Modalities(frozenset(), frozenset())

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self._run = Run.load(path)
        self.name = name or self._run.name or Path(path).name.split(".")[0]
        self.depth = max(1, int(self._run.metadata.get("k", self._run.counts().max(initial=0))))
        self.settings: dict[str, Any] = {"run": Path(path).name, "sha256": self._run.sha256()}
        self.searched: Mapping[str, Any] | None = self._run.metadata.get("search")

    def index(self, passages: Passages, *, workdir: Path) -> None:
        """Does nothing: the ranking is already made."""

    def search(self, queries: Queries, k: int) -> Run:  # noqa: ARG002
        """The run as it was saved, cut at ``k``. Queries that it lacks stay lacking."""
        return self._run.top(k)
