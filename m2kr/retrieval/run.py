"""Ranked results: what a retriever returns, what a run file holds, what metrics are computed from."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from m2kr.display import html_table
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.retrieval.run_rows import (
    RunRows,
    Ties,
    checked_rows,
    encode_ids,
    row_offsets,
    rows_sha256,
    tie_order,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray


_PREVIEW = 3  # queries, and passages of each, that a notebook shows
_RECORDED = ("settings", "modalities", "arguments", "fingerprints", "images", "search")


def _is_coverage(images: Mapping[str, Any]) -> bool:
    numbers = all(type(images.get(n)) is int for n in ("found", "total"))
    return not images or (numbers and isinstance(images.get("policy"), str))


def _is_search(search: Mapping[str, Any]) -> bool:
    audit, seeds = search.get("audit") or {}, search.get("seeds")
    return not search or (
        isinstance(search.get("mode"), str)
        and isinstance(audit, Mapping)
        and all(type(share) in (int, float) for share in audit.values())
        and seeds is None
    )


class Run(RunRows):
    """Ranked passages for each query; it can't be changed, and equal rankings are equal runs.

    Whatever order the rows come in, THE tie rule is applied: score descending, then passage id
    ascending by code points (the order of its UTF-8 bytes). Held flat: an int32 code and a float64
    score a row, so 5,120 queries x 500 take 31 MB plus each distinct id once.

    Args:
        query_ids: Queries in order, each once; a query may have no rows.
        counts: Rows of each query.
        passage_ids: The rows' passage ids, query after query: strings or an Arrow string array,
            plain or dictionary-encoded.
        scores: The rows' scores, any numbers that float64 holds.
        name: What made it, for tables and file names.
        metadata: JSON values kept with it; they don't enter equality or `sha256`.

    Raises:
        InputError: a repeated query, a passage twice under one query, a NaN or infinite score.

    Attributes:
        query_ids: The queries in order.
        offsets: Where each query's rows begin in ``codes`` and ``flat_scores`` (int64), and one end more.
        codes: Per row its passage (int32) as a place in ``vocabulary``.
        vocabulary: Every passage id in the run once, ascending; an Arrow large_string array.
        flat_scores: Per row its score (float64).
        name: What made it.
        metadata: JSON values kept with it.

    Example:
        >>> run = Run.from_dict({"q1": {"b": 1.0, "a": 1.0, "c": 2.0}})
        >>> run.passage_ids("q1")
        ['c', 'a', 'b']
    """

    def __init__(
        self,
        query_ids: Iterable[str],
        counts: "ArrayLike",
        passage_ids: "Sequence[str] | pa.Array",
        scores: "ArrayLike",
        *,
        name: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        queries = tuple(query_ids)
        lengths = np.asarray(counts, np.int64).reshape(-1)
        values = np.asarray(scores, np.float64).reshape(-1)
        codes, vocabulary = encode_ids(passage_ids)
        if len(lengths) != len(queries) or not lengths.sum() == len(codes) == len(values):
            raise InputError(
                f"a run of {len(queries)} queries got {len(lengths)} counts that sum to "
                f"{lengths.sum()}, {len(codes)} passage ids and {len(values)} scores",
                expected="one count a query; one id and one score a row",
            )
        rows = RunRows(
            queries, row_offsets(lengths), codes, vocabulary, values, name, metadata or {}
        )
        self._take(checked_rows(rows))

    def _take(self, rows: RunRows) -> None:
        """Becomes a run of rows that are checked and in order."""
        self._places = {query_id: place for place, query_id in enumerate(rows.query_ids)}
        if len(self._places) < len(rows.query_ids):
            twice = next(q for i, q in enumerate(rows.query_ids) if self._places[q] != i)
            raise InputError(f"query '{twice}' is in the run twice", expected="each query once")
        for array in (rows.offsets, rows.codes, rows.flat_scores):
            array.setflags(write=False)
        values = {field.name: getattr(rows, field.name) for field in fields(RunRows)}
        super().__init__(**values | {"metadata": dict(rows.metadata)})

    @classmethod
    def _of(cls, rows: RunRows) -> Self:
        run = cls.__new__(cls)
        run._take(rows)
        return run

    def _with(self, **changes: Any) -> "Run":
        """The run with other values of some attributes, which are checked and in order."""
        values = {field.name: getattr(self, field.name) for field in fields(RunRows)}
        return Run._of(RunRows(**values | changes))

    @classmethod
    def from_dict(
        cls, ranking: Mapping[str, Mapping[str, float]], *, name: str = "", **metadata: Any
    ) -> Self:
        """A run from ``{query id: {passage id: score}}``."""
        return cls.from_lists(
            list(ranking),
            [list(scored) for scored in ranking.values()],
            [list(scored.values()) for scored in ranking.values()],
            name=name,
            metadata=metadata,
        )

    @classmethod
    def from_lists(
        cls,
        query_ids: Sequence[str],
        passage_ids: Sequence[Sequence[str]],
        scores: "Sequence[ArrayLike]",
        *,
        name: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """A run from one list of passage ids and one of scores per query."""
        flat = [passage for ids in passage_ids for passage in ids]
        values = [np.asarray(part, np.float64).reshape(-1) for part in scores]
        counts = [len(ids) for ids in passage_ids]
        if counts != [len(part) for part in values]:
            raise InputError("a query's passage ids and scores differ in number")
        joined = np.concatenate(values) if values else np.empty(0)
        return cls(query_ids, counts, flat, joined, name=name, metadata=metadata)

    @classmethod
    def from_rows(
        cls,
        query_ids: Sequence[str],
        ids: "pa.Array | pa.ChunkedArray",
        rows: "NDArray[np.int64]",
        scores: "NDArray[np.float64]",
        *,
        name: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """A run from what a search returns: rows of the pool, without a string per result.

        Args:
            query_ids: Queries in the order of ``rows``.
            ids: The pool's id column.
            rows: (queries x k) rows of the pool; -1 pads a shorter list.
            scores: (queries x k) scores; ignored where the row is -1.
            name: What made the run.
            metadata: JSON values kept with it.
        """
        from m2kr.data.lookup import values_at

        real = rows >= 0
        used, codes = np.unique(rows[real], return_inverse=True)
        column = ids if isinstance(ids, pa.ChunkedArray) else pa.chunked_array([ids])
        names = pa.array(values_at(column, used), pa.large_string())
        passages = pa.DictionaryArray.from_arrays(codes.astype(np.int32), names)
        return cls(query_ids, real.sum(1), passages, scores[real], name=name, metadata=metadata)

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.query_ids)

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._places

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {len(self)} queries, {len(self.codes)} rows)"

    def _repr_html_(self) -> str:
        first = list(itertools.islice(self.items(), _PREVIEW))
        return html_table(
            f"Run {self.name}: {len(self):,} queries, {len(self.codes):,} rows",
            [(query, ", ".join(ids[:_PREVIEW]) or "–") for query, ids, _ in first],
            ("query", "its first passages"),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.sha256() == other.sha256()

    def __hash__(self) -> int:
        return hash(self.sha256())

    def _slice(self, query_id: str) -> slice:
        if query_id not in self._places:
            raise UsageError(f"query '{query_id}' is not in the run", expected="one of query_ids")
        place = self._places[query_id]
        return slice(int(self.offsets[place]), int(self.offsets[place + 1]))

    def passage_ids(self, query_id: str) -> list[str]:
        """The passages of one query, best first."""
        return self.ids_of(self.codes[self._slice(query_id)]).to_pylist()  # type: ignore[no-any-return]

    def scores(self, query_id: str) -> "NDArray[np.float64]":
        """The scores of one query, in the order of `passage_ids`."""
        return self.flat_scores[self._slice(query_id)]

    def items(self) -> Iterator[tuple[str, list[str], "NDArray[np.float64]"]]:
        """Query id, passage ids and scores, query after query."""
        for query_id, codes, scores in self.by_query():
            yield query_id, self.ids_of(codes).to_pylist(), scores

    def to_dict(self) -> dict[str, dict[str, float]]:
        """``{query id: {passage id: score}}``, best first."""
        return {q: dict(zip(ids, s.tolist(), strict=True)) for q, ids, s in self.items()}

    @property
    def recorded(self) -> dict[str, Any]:
        """What its metadata tell of how it was made, as an evaluation of ours writes it.

        Anybody may have written them: what has another form is left out.
        """
        records = {
            name: value
            for name, value in self.metadata.items()
            if name in _RECORDED and isinstance(value, Mapping)
        }
        if not _is_coverage(records.get("images", {})):
            del records["images"]
        if not _is_search(records.get("search", {})):
            del records["search"]
        return records

    @property
    def depth(self) -> int | None:
        """How deep whoever made it was asked to go; None where the run doesn't say."""
        k = self.metadata.get("k")
        return k if type(k) is int and k > 0 else None

    def top(self, k: int) -> "Run":
        """The first ``k`` passages of every query."""
        counts = self.counts()
        if not len(counts) or counts.max() <= k:
            return self
        place = np.arange(len(self.codes)) - np.repeat(self.offsets[:-1], counts)
        return self._derive(self.query_ids, np.minimum(counts, k), place < k)

    def select(self, query_ids: Sequence[str]) -> "Run":
        """The given queries only, in the given order.

        Raises:
            UsageError: one of them is not in the run.
        """
        if tuple(query_ids) == self.query_ids:
            return self
        slices = [self._slice(query_id) for query_id in query_ids]
        rows = [np.arange(s.start, s.stop) for s in slices]
        picked = np.concatenate(rows) if rows else np.empty(0, np.int64)
        return self._derive(tuple(query_ids), np.array([len(r) for r in rows], np.int64), picked)

    def named(self, name: str, **metadata: Any) -> "Run":
        """The same rankings under another name, with metadata added."""
        run = self._with(name=name, metadata={**self.metadata, **metadata})
        if "_sha256" in vars(self):
            vars(run)["_sha256"] = self._sha256
        return run

    def with_empty(self, query_ids: Sequence[str]) -> "Run":
        """The run with further queries that have no results."""
        if not query_ids:
            return self
        offsets = np.concatenate([self.offsets, np.full(len(query_ids), self.offsets[-1])])
        return self._with(query_ids=(*self.query_ids, *query_ids), offsets=offsets)

    def ordered(self, ties: Ties) -> "Run":
        """The same rows, those that score alike in another order; see `m2kr.retrieval.run_rows.Ties`.

        For scoring: every other way to make a run, or to read one, brings THE tie rule back.
        """
        order = tie_order(self, ties)
        if order is None:
            return self
        return self._with(codes=self.codes[order], flat_scores=self.flat_scores[order])

    def _derive(
        self, query_ids: tuple[str, ...], counts: "NDArray[np.int64]", rows: "NDArray[Any]"
    ) -> "Run":
        used, codes = np.unique(self.codes[rows], return_inverse=True)
        return self._with(
            query_ids=query_ids,
            offsets=row_offsets(counts),
            codes=codes.astype(np.int32),
            vocabulary=self.vocabulary.take(pa.array(used)),
            flat_scores=self.flat_scores[rows],
        )

    @cached_property
    def _sha256(self) -> str:
        return rows_sha256(self)

    def sha256(self) -> str:
        """Hash of the rankings: ids, order and score bits, whatever the file format or query order."""
        return self._sha256

    def to_pandas(self) -> "pd.DataFrame":
        """A frame of ``q_id, doc_id, score, rank``, best first; queries without results are lost."""
        import pandas as pd

        counts = self.counts()
        ids = self.ids_of(self.codes)
        return pd.DataFrame(
            {
                "q_id": np.repeat(np.array(self.query_ids, object), counts),
                "doc_id": ids.to_numpy(zero_copy_only=False),
                "score": self.flat_scores,
                "rank": np.arange(len(ids)) - np.repeat(self.offsets[:-1], counts) + 1,
            }
        )

    @staticmethod
    def from_pandas(frame: "pd.DataFrame", *, name: str = "") -> "Run":
        """A run from a frame with columns such as ``q_id, doc_id, score`` or ``qid, docno, rank``.

        Levels of its index that have such a name are columns, too. Where there is a score, a rank is
        only compared with it.

        Raises:
            InputError: a column is lacking, holds nulls or the wrong type.
        """
        from m2kr.retrieval.run_io import rows_of_table

        named = [level for level in frame.index.names if level is not None]
        table = pa.Table.from_pandas(frame.reset_index(named), preserve_index=False)
        return Run._of(checked_rows(rows_of_table(table, name)))

    def to_ranx(self) -> Any:
        """A ``ranx.Run`` of the same name. It orders passages that score alike by itself.

        Raises:
            MissingError: ranx is not installed.
            UsageError: no query has results, which ranx can't hold.
        """
        try:
            import ranx
        except ImportError as error:
            raise MissingError("ranx is not installed", fix="pip install ranx") from error
        if not len(self.codes):
            raise UsageError("ranx can't hold a run without results")
        return ranx.Run(self.to_dict(), name=self.name or None)

    @staticmethod
    def from_ranx(run: Any) -> "Run":
        """A run from a ``ranx.Run``.

        Raises:
            InputError: it is something else.
        """
        if not hasattr(run, "run"):
            raise InputError(
                f"a {type(run).__name__} is no ranx.Run",
                expected="a ranx.Run; Run.from_dict takes {query: {passage: score}}",
            )
        rankings = {query: dict(scored.items()) for query, scored in run.run.items()}
        return Run.from_dict(rankings, name=run.name or "")

    def save(self, path: str | Path) -> Path:
        """Writes the form that the name says, whole or not at all.

        ``.parquet`` keeps everything. ``.json`` (``{query: {passage: score}}``) and ``.mteb.json`` lose
        metadata; TREC (``.trec .run .txt .res``) and ``.tsv`` queries without results, too (logged).
        All but Parquet also as ``.gz``.
        """
        from m2kr.retrieval.run_io import save_rows

        return save_rows(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> "Run":
        """Reads a run file, ours or another tool's: Parquet, JSON, or text (see `m2kr.retrieval.run_text`).

        The name says which, or else the content. A column without a name that counts up from 0 or 1
        in every query is ranks; what can be read in two ways is refused.

        Raises:
            MissingError: no such file.
            InputError: a line or column is not as it should be; names file and line.
        """
        from m2kr.retrieval.run_io import load_rows

        return Run._of(load_rows(Path(path)))
