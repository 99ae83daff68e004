"""What a retriever is: the protocol, and a base class for encoders."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from m2kr.data.records import Passages, Queries
from m2kr.errors import InputError, UsageError
from m2kr.evaluation.run import Run

if TYPE_CHECKING:
    from PIL.Image import Image

    from m2kr.search.embeddings import Embeddings

logger = logging.getLogger("m2kr.evaluation")

Modality = Literal["text", "image"]
# Called with the stage ("encode document"), rows done and rows in all.
Progress = Callable[[str, int, int], None]
Side = Literal["query", "document"]


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
    result reports apart, ``progress`` (a `Progress`), which `evaluate` sets, and ``depth``, the most
    results a query can get from it.
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


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to encode, one position per row in every field.

    Attributes:
        ids: Question or passage ids.
        texts: Questions, or passage texts.
        instructions: The queries' instructions; ``""`` for passages. `m2kr.instructions.join` puts
            instruction and question together as the official evaluation does.
        images: RGB images, None where a row has none; all None unless the side reads images.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    instructions: Sequence[str]
    images: "Sequence[Image | None]"

    def __len__(self) -> int:
        return len(self.ids)


# 2-D = one vector a row; a list of 2-D arrays = one (tokens x dim) matrix a row.
Encoded = np.ndarray | list[np.ndarray]


class EncoderRetriever:
    """A retriever from two functions: write `encode_query` and `encode_document`.

    Both return either a 2-D array (rows x dim: dense retrieval, inner product or cosine) or a list
    of 2-D arrays (tokens x dim each: late interaction, MaxSim). All-zero token rows count as
    masked. How rows are batched must not change what a row encodes to; that is the encoder's duty.

    Attributes:
        batch_size: Rows per call of the encoder.
        similarity: ``dot`` or ``cosine``, for dense encoders; MaxSim always takes dot products.
        memory: Bytes that a search may use for its blocks.
        progress: Called after each batch with the stage, rows done and rows in all.
        seconds: Time spent in the encoder, by side.
    """

    name: str = "encoder"
    modalities: Modalities = Modalities()
    batch_size: int = 32
    similarity: Literal["dot", "cosine"] = "dot"
    memory: int = 512 << 20
    progress: Progress | None = None
    # Rows are sorted by length inside windows of this many batches, so little padding is encoded.
    _window_batches: ClassVar[int] = 32
    # Defaults of the class, so that a subclass's __init__ need not call ours.
    seconds: Mapping[str, float] = MappingProxyType({})
    _workdir: Path | None = None
    _passages: Passages | None = None
    _documents: "Embeddings | None" = None

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

    def index(self, passages: Passages, *, workdir: Path) -> None:
        """Encodes the pool into memory-mapped arrays below ``workdir``."""
        self._workdir, self._passages = workdir, passages
        self._documents = self._encode(passages, "document", workdir / "documents")

    def search(self, queries: Queries, k: int) -> Run:
        """Encodes the queries and searches exactly.

        Raises:
            UsageError: nothing was indexed.
            InputError: queries and passages were not encoded alike.
        """
        if self._documents is None or self._passages is None or self._workdir is None:
            raise UsageError("search() came before index()", fix="retriever.index(passages, ...)")
        from m2kr.search.topk import id_ranks

        encoded = self._encode(queries, "query", self._workdir / "queries")
        ids = self._passages.ids
        rows, scores = encoded.search(
            self._documents, k, id_ranks(ids), similarity=self.similarity, memory=self.memory
        )
        return Run.from_rows(queries.ids.to_pylist(), ids, rows, scores, name=self.name)

    def _encode(self, records: Passages | Queries, side: Side, folder: Path) -> "Embeddings":
        from m2kr.search.embeddings import EmbeddingWriter

        encode = self.encode_query if side == "query" else self.encode_document
        with_images = "image" in (
            self.modalities.query if side == "query" else self.modalities.passage
        )
        stage, done, spent = f"encode {side}", 0, 0.0
        with EmbeddingWriter(folder) as writer:
            for window in records.batches(self.batch_size * self._window_batches):
                parts: list[np.ndarray | None] = [None] * len(window)
                for places in _by_length(window, side, self.batch_size):
                    batch = _batch(records, [window[i] for i in places], side, with_images)
                    before = time.perf_counter()
                    encoded = encode(batch)
                    spent += time.perf_counter() - before
                    _check_rows(encoded, batch, f"{type(self).__name__}.encode_{side}")
                    for place, row in zip(places, encoded, strict=True):
                        parts[place] = row
                    done += len(batch)
                    if self.progress:
                        self.progress(stage, done, len(records))
                writer.append([part for part in parts if part is not None])
            embeddings = writer.close()
        self.seconds = {**self.seconds, stage: spent}
        logger.info("%s: %d rows, %.1f s in the encoder", stage, done, spent)
        return embeddings


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

    def index(self, passages: Passages, *, workdir: Path) -> None:
        """Does nothing: the ranking is already made."""

    def search(self, queries: Queries, k: int) -> Run:  # noqa: ARG002
        """The run as it was saved, cut at ``k``. Queries that it lacks stay lacking."""
        return self._run.top(k)


def _by_length(window: Sequence[Mapping[str, Any]], side: Side, size: int) -> Iterator[list[int]]:
    """Places of a window's rows in batches of similar length, longest first."""
    fields = ("question", "instruction") if side == "query" else ("passage_content",)
    lengths = [sum(len(row[field]) for field in fields) for row in window]
    order = sorted(range(len(window)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _batch(
    records: Passages | Queries, rows: list[dict[str, Any]], side: Side, with_images: bool
) -> Batch:
    query = side == "query"
    return Batch(
        ids=[row["question_id" if query else "passage_id"] for row in rows],
        texts=[row["question" if query else "passage_content"] for row in rows],
        instructions=[row["instruction"] if query else "" for row in rows],
        images=[records.image(row) if with_images else None for row in rows],
    )


def _check_rows(encoded: Encoded, batch: Batch, where: str) -> None:
    if len(encoded) != len(batch):
        raise InputError(
            f"returned {len(encoded)} rows for a batch of {len(batch)}",
            where=where,
            expected="one row (or one matrix) for each of batch.ids, in that order",
        )
    for row_id, row in zip(batch.ids, encoded, strict=True):
        if not np.isfinite(row).all():
            raise InputError(
                f"returned NaN or infinity for '{row_id}'", where=where, expected="finite numbers"
            )
