"""One split's queries, rankings and passages as data of a page: written in blocks, read when looked at."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.data.lookup import values_at
from m2kr.data.records import Queries
from m2kr.display import fit_for_html as fit
from m2kr.errors import M2KRError
from m2kr.evaluation.judgements import JudgedRun
from m2kr.evaluation.scoring import counted_as
from m2kr.progress import Progress, task
from m2kr.report.page.thumbnails import Thumbnails

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.data.load import Split
    from m2kr.report.page.data_files import DataFiles
    from m2kr.retrieval.run import Run

MOST = 100_000  # queries shown of a split
K = 10  # passages shown of each ranking
LISTED = 2048  # queries in a file of what the list shows
RANKED = 256  # queries in a file of rankings
_POSITIVES = 5  # right passages shown of a query
_TEXT_BYTES = 1 << 18  # of texts in a file
LONGEST = 2_000  # characters shown of a text
MOST_ANSWERS = 100  # shown of a query
_MOST_VALUES = 60  # of a column that queries can be filtered by
_OTHERS = "(others)"
_FILTERS = ("task", "question_type")  # besides the source's groups
RIGHT, ANSWER = 1, 2  # marks of a passage


@dataclass(frozen=True)
class _Tops:
    """The first passages of every run.

    Attributes:
        rows: Of the pool, (systems, queries, K) int64; -1 where a ranking is shorter.
        scores: Alike, float32.
        marks: Alike, uint8: `RIGHT`.
        ranks: Of the first right passage in the whole ranking, (systems, queries) int32; 0 if none is. Where
            a query has answers alone, of the first passage that holds one.
        depths: Per system the longest ranking; None where it could not be loaded.
        faults: Why, by system.
    """

    rows: "NDArray[np.int64]"
    scores: "NDArray[np.float32]"
    marks: "NDArray[np.uint8]"
    ranks: "NDArray[np.int32]"
    depths: list[int | None]
    faults: dict[int, str]


def write_queries(
    split: "Split",
    runs: "Sequence[Callable[[], Run]]",
    files: "DataFiles",
    folder: str,
    progress: Progress,
) -> dict[str, Any]:
    """Writes what the page shows of a split's queries below a folder of its own.

    Memory is that of one run, of K rows for each query and system, and of a block's texts.

    Args:
        split: The split.
        runs: Load the systems' rankings, in their order.
        files: Where to.
        folder: Name of the folder.
        progress: Told of runs, images and queries.

    Returns:
        What was left out: ``queries_left_out``, ``images_missing``, ``images_left_out``, ``texts_cut``, and
        ``faults``: why some systems' rankings could not be loaded, by system.
    """
    queries = split.queries_view
    if len(queries) > MOST:
        queries = queries.part(0, MOST)
    count = len(queries)
    paths = query_column(queries, "img_path")
    expected = len(set(paths) - {None})
    thumbnails = Thumbnails(split.images, files, folder, expected, progress)
    images = thumbnails.numbers(paths)
    positives, judged = right_passage_rows(split, queries)
    answers = [row or [] for row in queries.column("answers")]
    tops = _tops(split, queries, judged, answers, runs, progress)
    passages = PagePassages(split, files, folder, thumbnails)
    with task(progress, "queries", count):
        for start in range(0, count, RANKED):
            block = slice(start, min(start + RANKED, count))
            right = positives[block]
            passages.take(_first_met(tops.rows[:, block], right))
            _mark_answers(passages, tops, answers, block)
            files.write(f"{folder}/hits-{start // RANKED}", _hits(passages, tops, right, block))
            progress.advance("queries", block.stop - start)
    starts = passages.close()
    thumbnails.close()
    filters, codes = value_filters(filter_columns(split, queries))
    instructions = {text: n for n, text in enumerate(dict.fromkeys(queries.column("instruction")))}
    of_query = [instructions[text] for text in queries.column("instruction")]
    for start in range(0, count, LISTED):
        block = slice(start, min(start + LISTED, count))
        listed = {
            "id": [fit(each) for each in queries.ids[start : block.stop].to_pylist()],
            "question": [fit(each) for each in queries.table.column("question")[block].to_pylist()],
            "instruction": of_query[block],
            "answers": [
                [fit(each.strip()) for each in row[:MOST_ANSWERS]] for row in answers[block]
            ],
            "image": images[block],
            "judged": judged[block],
            "filters": {name: values[block] for name, values in codes.items()},
            "ranks": tops.ranks[:, block].tolist(),
        }
        files.write(f"{folder}/list-{start // LISTED}", listed)
    files.write(
        f"{folder}/meta",
        {
            "count": count,
            "k": K,
            "listed": LISTED,
            "ranked": RANKED,
            "texts": starts,
            "instructions": [fit(text or "") for text in instructions],
            "filters": filters,
            "depths": tops.depths,
        },
    )
    return {
        "queries_left_out": len(split.queries_view) - count,
        "images_missing": thumbnails.missing,
        "images_left_out": thumbnails.left_out,
        "texts_cut": passages.cut,
        "faults": tops.faults,
    }


def query_column(queries: Queries, name: str) -> list[Any]:
    """A column as a list, Nones where the table has none of that name."""
    if name not in queries.table.column_names:
        return [None] * len(queries)
    return queries.column(name)


def _tops(
    split: "Split",
    queries: Queries,
    judged_by: Sequence[int],
    answers: Sequence[Sequence[str]],
    runs: "Sequence[Callable[[], Run]]",
    progress: Progress,
) -> _Tops:
    # As marks are: a blank answer is in no passage.
    alone = np.array([by == 2 for by in judged_by], bool)
    looked_for = [
        [answer for answer in row if answer.strip()] if by == 2 else []
        for by, row in zip(judged_by, answers, strict=True)
    ]
    texts = split.passages_view.table.column("passage_content")
    ids = queries.ids.to_pylist()
    shape = (len(runs), len(ids), K)
    tops = _Tops(
        np.full(shape, -1, np.int64),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.uint8),
        np.zeros(shape[:2], np.int32),
        [],
        {},
    )
    qrels = queries.judgements()
    place = np.arange(K)
    with task(progress, "runs", len(runs), unit="runs"):
        for system, load in enumerate(runs):
            try:
                run = load()
            except M2KRError as error:
                tops.depths.append(None)
                tops.faults[system] = error.what
                continue
            run = run.with_empty([each for each in ids if each not in run]).select(ids)
            rows = split.passages_view.row_numbers(run.vocabulary)
            judged = JudgedRun(
                run,
                qrels,
                looked_for,
                lambda places, rows=rows: _texts(texts, rows[places]),  # type: ignore[misc]
                same=counted_as(split, rows),
                threshold=split.relevance_threshold,
            )
            counts = run.counts()
            there = place < counts[:, None]
            at = (run.offsets[:-1, None] + place)[there]
            tops.rows[system][there] = rows[run.codes[at]]
            tops.scores[system][there] = _rounded(run.flat_scores[at])
            tops.marks[system][there] = judged.right[at] * np.uint8(RIGHT)
            first = judged.first_hit
            if alone.any():
                first = np.where(alone, judged.first_answer, first)
            tops.ranks[system] = np.where(np.isfinite(first), first, 0)
            tops.depths.append(int(counts.max(initial=0)))
            progress.advance("runs", 1)
    return tops


def _texts(column: pa.ChunkedArray, rows: "NDArray[np.int64]") -> list[str]:
    """Texts at some rows; empty at -1."""
    texts = values_at(column, rows.clip(0))
    return [text or "" if row >= 0 else "" for text, row in zip(texts, rows.tolist(), strict=True)]


def _rounded(scores: "NDArray[np.float64]") -> "NDArray[np.float32]":
    """Four significant digits: what is shown."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        scale = 10.0 ** (3 - np.floor(np.log10(np.abs(scores))))
        rounded = np.where(scores == 0, 0, np.round(scores * scale) / scale)
        return np.where(np.isfinite(rounded), rounded, scores).astype(np.float32)


def right_passage_rows(
    split: "Split", queries: Queries
) -> "tuple[list[NDArray[np.int64]], list[int]]":
    """Per query the pool's rows of its first right passages, and what it is judged by.

    That is 1 by right passages (also where having none counts as missed), 2 by answers alone, 0 by
    nothing.
    """
    table = queries.judgements()
    missed = split.manifest.get("unjudged") == "miss" and len(table) > 0
    right = table.column("relevance").to_numpy() >= split.relevance_threshold
    table = table.filter(pa.array(right))
    owners = pc.index_in(table.column("question_id"), queries.ids.combine_chunks())
    owners = owners.to_numpy().astype(np.int64)
    names = table.column("passage_id").unique()
    codes = pc.index_in(table.column("passage_id"), names).to_numpy().astype(np.int64)
    rows = split.passages_view.row_numbers(names)[codes]
    order = np.argsort(owners, kind="stable")
    owners, rows = owners[order], rows[order]
    edges = np.searchsorted(owners, np.arange(len(queries) + 1))
    of_query = [rows[a:b][rows[a:b] >= 0][:_POSITIVES] for a, b in zip(edges, edges[1:])]  # noqa: B905, RUF007
    answered = [bool(each) for each in queries.column("answers")]
    counts = np.diff(edges)
    return of_query, [1 if n or missed else 2 * a for n, a in zip(counts, answered, strict=True)]


def _first_met(
    block: "NDArray[np.int64]", positives: "Sequence[NDArray[np.int64]]"
) -> "NDArray[np.int64]":
    """The distinct rows of a block in the order of its queries, so that a query's lie together."""
    ranked = block.transpose(1, 0, 2).reshape(block.shape[1], -1)
    all_rows = np.concatenate(
        [part for pair in zip(positives, ranked, strict=True) for part in pair]
        or [np.empty(0, np.int64)]
    )
    all_rows = all_rows[all_rows >= 0]
    distinct, first = np.unique(all_rows, return_index=True)
    met: NDArray[np.int64] = distinct[np.argsort(first, kind="stable")]
    return met


class PagePassages:
    """The passages of a page, numbered in the order met; each text is written once."""

    def __init__(
        self, split: "Split", files: "DataFiles", folder: str, thumbnails: Thumbnails
    ) -> None:
        self._table = split.passages_view.table
        self._files, self._folder, self._thumbnails = files, folder, thumbnails
        self._names = [name for name in ("title", "img_path") if name in self._table.column_names]
        self.number = np.full(len(split.passages_view), -1, np.int32)
        self._starts: list[int] = []
        self._count = self._bytes = self.cut = 0
        self._waiting: dict[str, list[Any]] = {}
        self.lowered: dict[int, str] = {}

    def take(self, rows: "NDArray[np.int64]") -> None:
        """Makes the passages at some rows known, and their texts readable until the next call."""
        texts = values_at(self._table.column("passage_content"), rows)
        self.lowered = {
            row: (text or "").lower() for row, text in zip(rows.tolist(), texts, strict=True)
        }
        new = np.flatnonzero(self.number[rows] < 0)
        self.number[rows[new]] = self._count + np.arange(len(new))
        columns = {"id": values_at(self._table.column("passage_id"), rows[new])}
        for name in self._names:
            columns[name] = values_at(self._table.column(name), rows[new])
        images = self._thumbnails.numbers(columns.get("img_path", [None] * len(new)))
        for place, passage, title, image in zip(
            new.tolist(),
            columns["id"],
            columns.get("title", [None] * len(new)),
            images,
            strict=True,
        ):
            self._add(fit(passage), fit(title or ""), fit(texts[place] or ""), image)

    def _add(self, passage_id: str, title: str, text: str, image: int) -> None:
        if not self._waiting:
            self._waiting = {name: [] for name in ("id", "title", "text", "image", "length")}
            self._starts.append(self._count)
        cut = len(text) > LONGEST
        self.cut += cut
        shown = text[:LONGEST] if cut else text
        for name, value in (
            ("id", passage_id),
            ("title", title),
            ("text", shown),
            ("image", image),
            ("length", len(text) if cut else 0),
        ):
            self._waiting[name].append(value)
        self._count += 1
        self._bytes += len(shown) + len(title) + len(passage_id)
        if self._bytes >= _TEXT_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._files.write(f"{self._folder}/texts-{len(self._starts) - 1}", self._waiting)
        self._waiting, self._bytes = {}, 0

    def close(self) -> list[int]:
        """Writes what is left; the number of the first passage of each file."""
        if self._waiting:
            self._flush()
        return self._starts


def _mark_answers(
    passages: PagePassages, tops: _Tops, answers: Sequence[Sequence[str]], block: slice
) -> None:
    """Marks the passages that hold an answer, as pseudo recall finds them; a blank one marks nothing."""
    for query in range(block.start, block.stop):
        accepted = {answer.strip().lower() for answer in answers[query]} - {""}
        if not accepted:
            continue
        rows = tops.rows[:, query]
        holding = [
            row
            for row in np.unique(rows).tolist()
            if row >= 0 and any(answer in passages.lowered[row] for answer in accepted)
        ]
        if holding:
            tops.marks[:, query] |= np.isin(rows, holding) * np.uint8(ANSWER)


def _hits(
    passages: PagePassages,
    tops: _Tops,
    positives: "Sequence[NDArray[np.int64]]",
    block: slice,
) -> dict[str, Any]:
    rows = tops.rows[:, block]
    numbers = np.where(rows >= 0, passages.number[rows], -1)
    digits = tops.marks[:, block].reshape(len(rows), -1) + np.uint8(ord("0"))
    return {
        "passages": np.ascontiguousarray(numbers.reshape(len(rows), -1)),
        "scores": np.ascontiguousarray(tops.scores[:, block].reshape(len(rows), -1)),
        "marks": [row.tobytes().decode() for row in digits],
        "right": [passages.number[each].tolist() for each in positives],
    }


def value_filters(
    columns: Iterable[tuple[str, list[str], bool]],
) -> tuple[list[dict[str, Any]], dict[str, list[int]]]:
    """Columns to filter queries by: name and values; and each query's value as a place among them.

    Args:
        columns: Names, each query's values, and whether scores are broken down by them.
    """
    filters: list[dict[str, Any]] = []
    codes: dict[str, list[int]] = {}
    for name, values, is_group in columns:
        if is_group:  # whose scores the page shows by the largest of its values
            largest = {value for value, _ in Counter(values).most_common(_MOST_VALUES)}
            if len(largest) < len(set(values)):
                values = [value if value in largest else _OTHERS for value in values]
        distinct = sorted(set(values), key=lambda value: (value == _OTHERS, value))
        if 1 < len(distinct) <= _MOST_VALUES + is_group:
            places = {value: n for n, value in enumerate(distinct)}
            filters.append({"name": fit(name), "values": [fit(value) for value in distinct]})
            codes[fit(name)] = [places[value] for value in values]
    return filters, codes


def filter_columns(split: "Split", queries: Queries) -> Iterator[tuple[str, list[str], bool]]:
    """A split's columns for `value_filters`."""
    parts = zip(query_column(queries, "question"), query_column(queries, "img_path"), strict=True)
    yield "query has", [_given(question, path) for question, path in parts], False
    groups = split.manifest.get("groups", ())
    for name in dict.fromkeys((*groups, *_FILTERS)):
        if name in queries.table.column_names:
            values = query_column(queries, name)
            told = ["(none)" if value is None else str(value) for value in values]
            yield name, told, name in groups


def _given(question: str | None, path: str | None) -> str:
    asked = bool((question or "").strip())
    if asked and path:
        return "both"
    return "question" if asked else "image" if path else "neither"
