"""A retriever from two functions that encode: a base class."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    cast,
)

import numpy as np

from m2kr import atomic
from m2kr.data.records import Passages, Queries
from m2kr.errors import CheckError, InputError, UsageError
from m2kr.progress import task
from m2kr.ranking import id_ranks
from m2kr.retrieval.batches import (
    Batch,
    Encoded,
    Form,
    batches_by_length,
    checked_output,
    make_batch,
)
from m2kr.retrieval.cache import (
    StoredRows,
    encode_rows,
    encoder_identity,
    hold_entry,
    key_of,
    rows_folder,
    stored_bytes,
)
from m2kr.retrieval.clock import Spent, loads, now
from m2kr.retrieval.own_code import json_settings, own_code
from m2kr.retrieval.protocol import (
    Modalities,
    RetrieverBase,
    RunContext,
    RunStats,
    Side,
    readable,
)
from m2kr.retrieval.run import Run
from m2kr.search.config import SearchConfig
from m2kr.search.store.dense import Embeddings
from m2kr.search.store.reader import TokenStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.search.index.files import IndexFiles

logger = logging.getLogger("m2kr.retrieval")

# Below a side's rows.
_INDEXES = "indexes"
# Both sides' rows and an index may be damaged, each once.
_MOST_DAMAGED = 3
T = TypeVar("T")


class _ClassName:
    """The name of the class that it is asked of."""

    def __get__(self, _: object, owner: type) -> str:
        return owner.__name__


# The name of a token row, or where in a text its characters begin and end.
RowLabel = str | tuple[int, int]
# Called by an encoder's stream with rows just encoded and the seconds they took.
Report = Callable[[int, float], None]


class EncoderRetriever(RetrieverBase):
    """A retriever from two functions: write `encode_query` and `encode_document`.

    Both return either a 2-D array (rows x dim: dense retrieval, inner product or cosine) or a list
    of 2-D arrays (tokens x dim each: late interaction, MaxSim), of numpy or torch, on any device.
    All-zero token rows count as masked. How rows are batched must not change what a row encodes to;
    that is the encoder's duty. What reads ``batch.images`` says so in `modalities`.

    An encoder that batches by itself overrides `encode_stream` instead. One that also has `cache_key`
    is asked only for rows that were not encoded before, by this run or another.

    Attributes:
        name: In tables and file names; by default the class's.
        modalities: What is read of queries and of passages: a `Modalities`, or a dict such as
            ``{"query": ["text", "image"], "passage": ["text"]}``.
        reads_images: True for texts and images on both sides, in place of `modalities`.
        batch_size: Rows per call of the encoder.
        similarity: ``dot`` or ``cosine``, for dense encoders; MaxSim always takes dot products.
        memory: Bytes that a search may use for its blocks.
        searching: How token vectors are searched where a run doesn't say; dense ones always are
            searched exactly.
        version: Of a shipped encoder, a number that is raised when it encodes to something else.
        identity: Names of the classes that it is made of, with the hash of their source as it was when
            they were loaded (of m2kr's own: with their version); None if that can't be read.
    """

    name: str = cast("str", _ClassName())
    identity: ClassVar[list[list[Any]] | None] = None
    modalities: Modalities | Mapping[str, Any] = Modalities()
    reads_images: bool | None = None
    batch_size: int = 32
    similarity: Literal["dot", "cosine"] = "dot"
    memory: int = 512 << 20
    searching: SearchConfig = SearchConfig()
    # Rows are sorted by length inside windows of this many batches, so little padding is encoded.
    # A window is also what a kill may cost.
    _window_batches: ClassVar[int] = 16
    # Attributes that `--set` sets, with their types, where __init__ doesn't take them.
    settable: ClassVar[Mapping[str, Any]] = {
        "batch_size": int,
        "similarity": Literal["dot", "cosine"],
    }
    # Defaults of the class, so that a subclass's __init__ need not call ours.
    _run_stats: RunStats | None = None
    _workdir: Path | None = None
    _passages: Passages | None = None
    _documents: StoredRows | None = None
    _searched: StoredRows | None = None  # the queries of the last search
    _index: "IndexFiles | None" = None
    _form: Form | None = None
    _folders: AbstractSet[Path] = frozenset()  # that rows were read from

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Now: later its file may be edited, and what runs is what was loaded.
        cls.identity = encoder_identity(cls)

    def begin_run(self, context: RunContext) -> None:
        """Takes what the run gives; see `RunContext`."""
        self.run_context, self._run_stats = context, None

    def run_stats(self) -> RunStats:
        """Time in the encoder and rows reused by stage, and how the search went."""
        if self._run_stats is None:
            self._run_stats = RunStats()
        return self._run_stats

    def _search_config(self) -> SearchConfig:
        """As the run says, else as the retriever does."""
        config: SearchConfig | None = self.run_context.search
        return config or self.searching

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

    def row_labels(self, batch: Batch, side: Side) -> Sequence[Sequence[RowLabel]] | None:  # noqa: ARG002
        """What the token rows of a batch stand for, for `m2kr explain`; None: "row 7" it is.

        One list for each row of the batch, with an entry for each of its token rows: a name, such as
        ``"[CLS]"``, or the place of its characters in ``batch.texts``: ``(start, end)``.
        """
        return None

    def encode_records(self, records: Passages | Queries, side: Side) -> list[np.ndarray]:
        """What a few records are encoded to, in order: one vector or one matrix each.

        Raises:
            InputError: the encoder gave something else.
        """
        stream = self._checked_stream(records, side, lambda *_: None)
        return [row for rows in stream for row in rows]

    def cache_key(self, side: Side) -> Mapping[str, Any] | None:  # noqa: ARG002
        """All of one's own that decides what a side's rows are encoded to: weights, lengths, type.

        JSON values: of each file that it reads, the hash. None, unless a subclass says better: rows
        are then not kept. The class's source with the files beside it that it imports, the rows and
        their images need not be named; see `m2kr.retrieval.cache`.
        """
        return None

    def index(self, passages: Passages, *, workdir: Path) -> None:
        """Encodes the pool onto disk, and builds the index that `searching` asks for.

        Raises:
            UsageError: vectors are dense, and `searching` is not exact.
            InputError: rows are of mixed forms, or values can't be stored.
        """
        self._check_settings()
        self._workdir, self._passages = workdir, None
        self._again_if_damaged(lambda: self._index_pool(passages, workdir))
        self._passages = passages

    def _index_pool(self, passages: Passages, workdir: Path) -> None:
        from m2kr.search import dispatch

        self._documents = self._index = self._form = None
        stats, config = self.run_stats(), self._search_config()
        stats.search, stats.cost = None, {}
        with self._rows_folder(passages, "document", workdir / "documents") as (folder, key):
            documents = self._encode(passages, "document", folder, key)
            stats.index_bytes = stored_bytes(documents, folder)
            if isinstance(documents, TokenStore):
                progress = self.run_context.progress
                self._index = dispatch.index_for(
                    documents, folder / _INDEXES, config, progress, spare=workdir / _INDEXES
                )
            if self._index is not None:
                with_store = config.final == "exact"
                stats.index_bytes = self._index.nbytes() + stats.index_bytes * with_store
        self._documents = documents
        if len(documents):
            self._form = _form(documents)

    def search(self, queries: Queries, k: int) -> Run:
        """Encodes the queries and searches as `searching` says.

        Raises:
            UsageError: nothing was indexed, or exact search would take longer than it may.
            InputError: queries and passages were not encoded alike.
        """
        return self._again_if_damaged(lambda: self._search_pool(queries, k))

    def _search_pool(self, queries: Queries, k: int) -> Run:
        if self._passages is None or self._workdir is None:
            raise UsageError("search() came before index()", fix="retriever.index(passages, ...)")
        if self._documents is None:  # they were found damaged
            self._index_pool(self._passages, self._workdir)
        from m2kr.search import dispatch
        from m2kr.search.exact import dense

        with self._rows_folder(queries, "query", self._workdir / "queries") as (folder, key):
            encoded = self._encode(queries, "query", folder, key)
        ids, pool = self._passages.ids, self._documents
        self._searched = encoded
        if isinstance(encoded, Embeddings) and isinstance(pool, Embeddings):
            rows, scores = dense.search_dense(
                *(encoded.vectors, pool, k, id_ranks(ids)),
                similarity=self.similarity,
                memory=self.memory,
            )
        elif isinstance(encoded, TokenStore) and isinstance(pool, TokenStore):
            result = dispatch.search_tokens(
                *(encoded, pool, k, ids, self._search_config()),
                index=self._index,
                memory=self.memory,
                progress=self.run_context.progress,
            )
            rows, scores = result.rows, result.scores
            stats = self.run_stats()
            stats.search, stats.cost = result.how, result.stats
        else:
            raise InputError(
                "queries and passages are encoded in different forms",
                expected="a 2-D array on both sides, or a list of 2-D arrays on both",
            )
        return Run.from_rows(queries.ids.to_pylist(), ids, rows, scores, name=self.name)

    def pair_scores(
        self, rows: "Sequence[NDArray[np.int64]]"
    ) -> "list[NDArray[np.float64]] | None":
        """See `RetrieverBase.pair_scores`; exact, whatever the search was."""
        from m2kr.search.exact import dense, reference

        queries, pool = self._searched, self._documents
        if queries is None or pool is None or len(queries) != len(rows):
            return None  # a subclass searched in its own way
        if isinstance(queries, TokenStore) and isinstance(pool, TokenStore):
            return [
                np.array([reference.maxsim(query, token_rows) for token_rows in pool.take(some)])
                for (query,), some in ((queries.take([i]), some) for i, some in enumerate(rows))
            ]
        assert isinstance(queries, Embeddings)  # of a search, so both sides are of one form
        assert isinstance(pool, Embeddings)
        scores = []
        for place, some in enumerate(rows):
            right = np.concatenate(
                [pool.read(row, row + 1) for row in some.tolist()] or [pool.read(0, 0)]
            )
            left = np.repeat(queries.read(place, place + 1), len(right), axis=0)
            scores.append(dense.similarity_scores(left, right, self.similarity))
        return scores

    def _again_if_damaged(self, do: Callable[[], T]) -> T:
        """What a function returns; it is called again where kept bytes were found to be changed."""
        for _ in range(_MOST_DAMAGED):
            try:
                return do()
            except (CheckError, InputError) as error:
                if not self._forget_damaged(error):
                    raise
                logger.warning("what was kept is damaged, so it is made again: %s", error)
        return do()

    def _forget_damaged(self, error: CheckError | InputError) -> bool:
        """Removes the kept rows, or the index, that an error is about; False if it is about none."""
        for folder in self._folders:
            for part in (folder / _INDEXES, folder):
                if error.where is not None and Path(error.where).is_relative_to(part):
                    if atomic.writable(folder):
                        with hold_entry(folder):
                            atomic.discard(part)
                    else:  # it stays as it is, and is done without
                        self.run_context = replace(self.run_context, cache=None)
                    self._documents = self._index = None
                    return True
        return False

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
        number = 0
        for window in records.batches(self.batch_size * self._window_batches):
            parts: list[np.ndarray | None] = [None] * len(window)
            for places in batches_by_length(window, side, self.batch_size):
                batch = make_batch(records, [window[i] for i in places], side)
                number += 1
                where = (
                    f"{type(self).__name__}.encode_{side} of batch {number} "
                    f"({len(batch)} {_ROWS[side]}: {_some(batch.ids)})"
                )
                before = time.perf_counter()
                with own_code(self, where):
                    encoded = encode(batch)
                spent = time.perf_counter() - before
                rows, form = checked_output(encoded, batch.ids, where)
                self._check_same(form, where)
                for place, row in zip(places, rows, strict=True):
                    parts[place] = row
                report(len(batch), spent)
            yield [part for part in parts if part is not None]

    def _check_same(self, form: Form, where: str) -> None:
        """Refuses rows of another form than those before, on this side or the other."""
        if self._form is not None and form != self._form:
            raise InputError(
                f"returned {form}, and before, {self._form}",
                where=where,
                expected="one form and one dimension for all batches, of queries and passages alike",
            )
        self._form = form

    @contextmanager
    def _rows_folder(
        self, records: Passages | Queries, side: Side, workdir: Path
    ) -> Iterator[tuple[Path, Mapping[str, Any] | None]]:
        """The folder for a side's rows, held while it is written, and the key they are known by."""
        key = key_of(self, records, side)
        with rows_folder(self.run_context.cache, key, records, workdir) as folder:
            self._folders = {*self._folders, folder}
            yield folder, key

    def _encode(
        self, records: Passages | Queries, side: Side, folder: Path, key: Mapping[str, Any] | None
    ) -> StoredRows:
        settings = json_settings(self)
        stage, stats, progress = f"encode {side}", self.run_stats(), self.run_context.progress
        stats.reused[stage] = 0
        stats.seconds[stage] = stats.cpu_seconds[stage] = 0.0
        began = since = now()
        loaded = loads()

        def report(rows: int, seconds: float) -> None:
            nonlocal since, loaded
            # Weights that were loaded meanwhile are counted apart.
            apart, loaded = loads() - loaded, loads()
            before, since = since, now()
            cpu = (since - before).cpu - apart.cpu
            stats.spend(stage, Spent(max(0.0, seconds - apart.wall), max(0.0, cpu)))
            progress.advance(stage, rows)

        def stream(left: Passages | Queries) -> Iterator[list[np.ndarray]]:
            nonlocal since
            progress.advance(stage, len(records) - len(left))
            if len(left) < len(records):
                stats.spend(f"reuse {side}", now() - began)
            rows = self._checked_stream(left, side, report)
            while True:
                since = now()
                if (some := next(rows, None)) is None:
                    return
                yield some

        with task(progress, stage, len(records)):
            stored, before = encode_rows(
                records,
                stream,
                folder,
                key=key,
                about={"retriever": self.name, "rows": len(records), "settings": settings},
                meta=self._meta(records, side, settings),
                check=self._check_form,
            )
        if before < len(records) and key is not None and key["images"] is not None:
            self._require_same_images(records, side, folder, key)
        if before == len(records):
            stats.spend(f"reuse {side}", now() - began)
        stats.reused[stage] += before
        stats.encoded[stage] = max(0, len(records) - stats.reused[stage])
        logger.info(
            "%s: %d rows, %d of them encoded before, %.1f s in the encoder",
            stage, len(records), stats.reused[stage], stats.seconds[stage],
        )  # fmt: skip
        return stored

    def _require_same_images(
        self, records: Passages | Queries, side: Side, folder: Path, key: Mapping[str, Any]
    ) -> None:
        """Refuses rows of images that were written while they were encoded: the key is of the old ones."""
        now = key_of(self, records, side)
        if now is None or now["images"] != key["images"]:
            atomic.discard(folder)
            raise InputError(
                f"images of the {_ROWS[side]} were written while they were encoded",
                expected="image roots that nothing writes to meanwhile",
                fix="run it again",
            )

    def _checked_stream(
        self, records: Passages | Queries, side: Side, report: Report
    ) -> Iterator[list[np.ndarray]]:
        """What `encode_stream` gives; checked here where a subclass has one of its own."""
        records = readable(records, self, side)
        where = f"{type(self).__name__}.encode_stream of the {_ROWS[side]}"
        with own_code(self, where):
            stream = iter(self.encode_stream(records, side, report))
        own = type(self).encode_stream is not EncoderRetriever.encode_stream
        done = 0
        while True:
            with own_code(self, where):
                rows: Any = next(stream, _END)
            if rows is _END:
                return
            if own and not (isinstance(rows, list) and not rows):
                ids = records.ids.slice(done, len(rows) if hasattr(rows, "__len__") else 1)
                rows, form = checked_output(rows, ids.to_pylist(), where)
                self._check_same(form, where)
            done += len(rows)
            yield rows

    def _meta(
        self, records: Passages | Queries, side: Side, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """What a token store says of itself. ``eval`` is that of the split it was begun for."""
        known = {
            "retriever": self.name,
            "checkpoint": settings.get("weights_sha256"),
            "pool" if side == "document" else "queries": records.fingerprint,
            "eval": self.run_context.fingerprints.get("eval"),
            "rows": len(records),
            "settings": settings,
        }
        return {name: value for name, value in known.items() if value}

    def _check_settings(self) -> None:
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise UsageError(
                f"batch_size is {self.batch_size!r}",
                where=type(self).__name__,
                expected="a whole number from 1",
            )
        if self.similarity not in ("dot", "cosine"):
            raise UsageError(
                f"similarity is {self.similarity!r}",
                where=type(self).__name__,
                expected="dot or cosine",
            )

    def _check_form(self, late: bool) -> None:
        if late and self.similarity != "dot":
            raise UsageError(
                f"{self.name} makes token vectors, whose MaxSim takes inner products",
                expected="similarity=dot; for cosine, vectors of unit length",
            )
        mode = self._search_config().mode
        if not late and mode != "exact":
            raise UsageError(
                f"{self.name} makes one vector a row, and those are searched exactly",
                expected=f"a late-interaction retriever for {mode} search",
                fix="--search exact",
            )


_END = object()
_ROWS = {"query": "queries", "document": "passages"}


def _form(documents: StoredRows) -> Form:
    if isinstance(documents, Embeddings):
        return Form(late=False, dim=documents.shape[1])
    return Form(late=True, dim=documents.dim)


def _some(ids: Sequence[str]) -> str:
    """A few ids, for a message."""
    return ", ".join(map(repr, ids[:2])) + (" …" if len(ids) > 2 else "")
