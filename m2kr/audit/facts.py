"""What the checks need to know of a benchmark, each computed once and only if a check asks for it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.audit.benchmark import Benchmark, Corpus, QuerySet
from m2kr.audit.image_looks import ImageLook, look_of
from m2kr.audit.near_texts import TextSketches, exact_groups, near_pairs, pieces, sketches
from m2kr.data.lookup import values_at
from m2kr.errors import M2KRError
from m2kr.progress import SILENT, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

KS = (1, 5, 10, 20, 50, 100, 500)
SAMPLE = 300  # queries of a split that searches look at
CORPUS_SAMPLE = 20_000  # passages that they search in
IMAGES_SAMPLE = 4_000  # images that are opened
ROWS_SAMPLE = 20_000  # queries that are looked at one by one
DEPTH = 5


class CorpusFacts:
    """What is to be known of a corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self.name, self.table = corpus.name, corpus.table
        self.ids, self.texts = self.table.column("passage_id"), self.table.column("text")

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def distinct(self) -> pa.Array:
        """Distinct ids, in order of their first rows."""
        return _large(self.ids).unique()

    @cached_property
    def first_rows(self) -> "NDArray[np.int64]":
        """The first row of each distinct id."""
        if len(self.distinct) == len(self.ids):
            return np.arange(len(self.ids))
        return np.unique(_places(self.ids, self.distinct), return_index=True)[1]

    def text_at(self, rows: Iterable[int]) -> list[str]:
        """Texts at some rows."""
        return [text or "" for text in values_at(self.texts, np.asarray(list(rows), np.int64))]

    def ids_at(self, rows: Iterable[int]) -> list[str]:
        """Ids at some rows."""
        return list(values_at(self.ids, np.asarray(list(rows), np.int64)))

    @cached_property
    def sketched(self) -> TextSketches:
        """Words and MinHash bands of each text."""
        return sketches(self.texts)

    @cached_property
    def same_text(self) -> "NDArray[np.int64]":
        """Per row the first row with the same text, blanks at the ends aside; itself if it is empty."""
        keys = (hash(t) for piece in _stripped(self.texts) for t in piece.to_pylist())
        first = exact_groups(keys, len(self))
        if self.empty.any():
            first[self.empty] = np.flatnonzero(self.empty)
        return first

    @cached_property
    def empty(self) -> "NDArray[np.bool_]":
        """Per row whether the text is blank."""
        blank = [
            pc.equal(pc.utf8_length(piece), 0).to_numpy(False) for piece in _stripped(self.texts)
        ]
        return np.concatenate([np.empty(0, bool), *blank])

    @cached_property
    def near(self) -> "tuple[NDArray[np.int64], bool]":
        """Pairs of rows whose texts are nearly the same, and whether some were not compared."""
        repeated = self.same_text != np.arange(len(self))
        return near_pairs(self.sketched, self.text_at, repeated)


class SplitFacts:
    """What is to be known of a split.

    Attributes:
        name: Of the split.
        data: Queries, judgements, threshold.
        corpus: Its corpus.
    """

    def __init__(self, data: QuerySet, corpus: CorpusFacts) -> None:
        self.name, self.data, self.corpus = data.name, data, corpus
        self.table, self.qrels = data.table, data.qrels
        self.ids = self.table.column("question_id")

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> list[Any]:
        """A column of the queries."""
        return self.table.column(name).to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def questions(self) -> list[str]:
        """Questions."""
        return [q or "" for q in self.column("question")]

    @cached_property
    def answers(self) -> list[list[str]]:
        """Answers as pseudo recall compares them: trimmed, in lower case."""
        return [[(a or "").strip().lower() for a in of or ()] for of in self.column("answers")]

    @cached_property
    def grades(self) -> "NDArray[np.float64]":
        """Grade of each judgement."""
        return np.asarray(self.qrels.column("grade").to_numpy())

    @cached_property
    def owners(self) -> "NDArray[np.int64]":
        """Row of each judgement's query; -1 if there is none."""
        return _places(self.qrels.column("question_id"), _large(self.ids).unique(), self.first_rows)

    @cached_property
    def first_rows(self) -> "NDArray[np.int64]":
        """The first row of each distinct id: judgements are of these."""
        distinct = _large(self.ids).unique()
        return np.unique(_places(self.ids, distinct), return_index=True)[1]

    @cached_property
    def rows(self) -> "NDArray[np.int64]":
        """Row of each judgement's passage; -1 if the corpus lacks it."""
        corpus = self.corpus
        return _places(self.qrels.column("passage_id"), corpus.distinct, corpus.first_rows)

    @cached_property
    def positive(self) -> "NDArray[np.int64]":
        """Judgements of right passages of the split's queries, each pair once, by query."""
        return self.pairs(self.grades >= self.data.threshold)

    def pairs(self, wanted: "NDArray[np.bool_]") -> "NDArray[np.int64]":
        """The judgements wanted of the split's queries, each pair of query and passage once, by query."""
        use = np.flatnonzero(wanted & (self.owners >= 0))
        if not len(use):
            return use
        code = _places(self.qrels.column("passage_id"), self._judged_ids)
        key = self.owners[use] * (len(self._judged_ids) + 1) + code[use]
        return use[np.unique(key, return_index=True)[1]]

    @cached_property
    def _judged_ids(self) -> pa.Array:
        return _large(self.qrels.column("passage_id")).unique()

    @cached_property
    def positives(self) -> "NDArray[np.int64]":
        """Per query the number of its right passages."""
        return np.bincount(self.owners[self.positive], minlength=len(self))

    @cached_property
    def reachable(self) -> "NDArray[np.int64]":
        """Per query the number of those in the corpus."""
        inside = self.positive[self.rows[self.positive] >= 0]
        return np.bincount(self.owners[inside], minlength=len(self))

    def right_rows(self, query: int) -> "NDArray[np.int64]":
        """Rows of a query's right passages in the corpus."""
        start, stop = np.searchsorted(self._sorted_owners, [query, query + 1])
        rows = self.rows[self.positive[start:stop]]
        return rows[rows >= 0]

    def right_ids(self, queries: Iterable[int]) -> dict[int, set[str]]:
        """Ids of the right passages of some queries, in the corpus or not."""
        ids: dict[int, set[str]] = {query: set() for query in queries}
        wanted = self.positive[np.isin(self._sorted_owners, list(ids))]
        names = self.qrels.column("passage_id").take(pa.array(wanted)).to_pylist()
        for owner, name in zip(self.owners[wanted].tolist(), names, strict=True):
            ids[owner].add(name)
        return ids

    @cached_property
    def _sorted_owners(self) -> "NDArray[np.int64]":
        return self.owners[self.positive]

    @cached_property
    def with_image(self) -> "NDArray[np.bool_]":
        """Per query whether it names an image."""
        return np.asarray(self.table.column("image").is_valid().to_numpy())

    def keys(self, image_key: Callable[[str | None], str | None]) -> "NDArray[np.int64]":
        """A hash of what each query asks: its question in lower case, and its image; 0 if nothing."""
        asked = (
            (" ".join((question or "").lower().split()), image_key(image))
            for batch in self.table.select(["question", "image"]).to_batches()
            for question, image in zip(*(column.to_pylist() for column in batch), strict=True)
        )
        hashes = (hash(key) if key != ("", None) else 0 for key in asked)
        return np.fromiter(hashes, np.int64, len(self))

    @cached_property
    def sample(self) -> "NDArray[np.int64]":
        """Judged queries, whose mean hit_rate is; those with answers if none is judged; 300 at most."""
        judged = np.flatnonzero(self.positives > 0)
        return drawn(judged if len(judged) else self.answered, SAMPLE)

    @cached_property
    def answered(self) -> "NDArray[np.int64]":
        """Queries with answers, blank ones too: those whose mean pseudo recall is."""
        return np.flatnonzero([bool(of) for of in self.answers])

    @property
    def sampled(self) -> str:
        """What the size of `sample` is called: ``sampled`` if it is a part, and what was drawn from."""
        judged = int((self.positives > 0).sum())
        part = "sampled " if len(self.sample) < (judged or len(self.answered)) else ""
        return f"{part}judged " if judged else part

    def example(self, query: int) -> str:
        """A query for people."""
        question = " ".join(self.questions[query].split())
        name = self.ids[query].as_py()
        return f"{name}: {question[:70]}" if question else str(name)


@dataclass(frozen=True, slots=True)
class Searched:
    """What BM25 ranks first for a split's sample.

    Attributes:
        queries: Rows of the queries.
        top: (queries, 5) rows of passages, -1 where fewer share a word.
        pool: Passages searched.
    """

    queries: "NDArray[np.int64]"
    top: "NDArray[np.int64]"
    pool: int

    def hits(self, split: SplitFacts) -> "NDArray[np.bool_]":
        """Per query whether a right passage is among the top."""
        return np.array(
            [
                bool(np.isin(split.right_rows(query), top).any())
                for query, top in zip(self.queries.tolist(), self.top, strict=True)
            ],
            bool,
        )


class Facts:
    """All of a benchmark that checks ask for."""

    def __init__(self, benchmark: Benchmark, progress: Progress = SILENT) -> None:
        self.benchmark, self.progress = benchmark, progress
        self.corpora = {name: CorpusFacts(c) for name, c in benchmark.corpora.items()}
        self.splits = [SplitFacts(s, self.corpora[s.corpus]) for s in benchmark.splits.values()]
        self._searched: dict[tuple[str, str], Searched] = {}
        self._bm25: dict[str, tuple[Any, NDArray[np.int64]]] = {}

    def splits_of(self, corpus: CorpusFacts) -> list[SplitFacts]:
        """The splits that are searched in a corpus."""
        return [split for split in self.splits if split.corpus is corpus]

    def pairs_of_splits(self) -> list[tuple[SplitFacts, SplitFacts]]:
        """Each split but ``train`` with each other split that it may leak from, that one first."""
        order = {"train": 0, "valid": 1}
        ranked = sorted(self.splits, key=lambda s: order.get(s.name.rpartition("/")[2], 2))
        return [
            (one, other)
            for i, one in enumerate(ranked)
            for other in ranked[i + 1 :]
            if order.get(one.name.rpartition("/")[2], 2)
            < order.get(other.name.rpartition("/")[2], 2)
        ]

    def bm25(self, split: SplitFacts, what: str) -> Searched:
        """BM25 on a split's sample.

        Args:
            split: The split.
            what: Column that is the query: ``question`` or ``instruction``.
        """
        if (split.name, what) not in self._searched:
            self._searched[split.name, what] = self._search(split, what)
        return self._searched[split.name, what]

    def _search(self, split: SplitFacts, what: str) -> Searched:
        from m2kr.data.records import Queries

        retriever, pool = self._indexed(split.corpus)
        texts = [split.table.column(what)[int(i)].as_py() or "" for i in split.sample]
        asked = pa.table(
            {
                "question_id": pa.array([str(i) for i in split.sample], pa.string()),
                "question": pa.array(texts, pa.string()),
                "instruction": pa.array([""] * len(texts), pa.string()),
            }
        )
        run = retriever.search(Queries(asked), DEPTH)
        top = np.full((len(texts), DEPTH), -1)
        for place, query in enumerate(split.sample):
            found = run.passage_ids(str(query))
            top[place, : len(found)] = pool[[int(row) for row in found]]
        return Searched(split.sample, top, len(pool))

    def _indexed(self, corpus: CorpusFacts) -> "tuple[Any, NDArray[np.int64]]":
        """BM25 over a corpus, or a sample of it with all that the samples' queries ask for."""
        if corpus.name not in self._bm25:
            from pathlib import Path
            from tempfile import gettempdir

            from m2kr.data.records import Passages
            from m2kr.retrievers.bm25 import BM25

            rows = np.arange(len(corpus))
            if len(rows) > CORPUS_SAMPLE:
                rows = np.random.default_rng(0).choice(rows, CORPUS_SAMPLE, replace=False)
                right = [
                    split.right_rows(int(q))
                    for split in self.splits_of(corpus)
                    for q in split.sample
                ]
                rows = np.unique(np.concatenate([rows, *right]))
            table = pa.table(
                {
                    "passage_id": pa.array([str(i) for i in range(len(rows))], pa.string()),
                    "passage_content": pa.array(corpus.text_at(rows), pa.string()),
                }
            )
            retriever = BM25(stopwords="none")
            retriever.index(Passages(table), workdir=Path(gettempdir()))
            self._bm25[corpus.name] = retriever, rows
        return self._bm25[corpus.name]

    @cached_property
    def paths(self) -> dict[str, list[str]]:
        """Distinct image paths of each split's queries, and of each corpus' passages (by ``corpus NAME``)."""
        tables = {split.name: split.table for split in self.splits}
        tables |= {f"corpus {name}": corpus.table for name, corpus in self.corpora.items()}
        return {
            name: [path for path in table.column("image").unique().to_pylist() if path is not None]
            for name, table in tables.items()
        }

    @cached_property
    def looks(self) -> "dict[str, ImageLook | None]":
        """Of the images that are opened their looks; None where no root has one."""
        every = list(dict.fromkeys(path for paths in self.paths.values() for path in paths))
        known = self.benchmark.embedded
        looks: dict[str, ImageLook | None] = {}
        chosen = [path for path in every if path in known]
        store = self.benchmark.images
        if store is not None:
            chosen += [path for path in every if not path.startswith("embedded:")]
        step = max(1, -(-len(chosen) // IMAGES_SAMPLE))
        self.progress.start("images", len(chosen[::step]), "images")
        for path in chosen[::step]:
            if path in known:
                looks[path] = known[path]
            elif store is not None:
                try:
                    looks[path] = look_of(store.read(path))
                except M2KRError as error:
                    missing = type(error).__name__ == "MissingError"
                    looks[path] = None if missing else ImageLook("", fault=error.what)
            self.progress.advance("images", 1)
        self.progress.done("images")
        return looks

    @property
    def named_images(self) -> int:
        """Distinct images that are named."""
        return len({path for paths in self.paths.values() for path in paths})

    @property
    def some_images(self) -> str:
        """What to say where not all images were opened."""
        opened, named = len(self.looks), self.named_images
        return f" ({opened:,} of {named:,} images opened)" if opened < named else ""

    def image_key(self, path: str | None) -> str | None:
        """What equal images share: the hash of the file where it was opened, else the path."""
        if path is None:
            return None
        look = self.looks.get(path)
        return look.sha256 or path if look is not None else path


def some_of(rows: "NDArray[np.int64]") -> "tuple[NDArray[np.int64], str]":
    """Rows, or of very many a sample, and what its size is called: ``sampled`` or nothing."""
    return drawn(rows, ROWS_SAMPLE), "sampled " if len(rows) > ROWS_SAMPLE else ""


def drawn(rows: "NDArray[np.int64]", most: int) -> "NDArray[np.int64]":
    """Rows, or that many of them, seeded and in order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def _large(ids: pa.ChunkedArray) -> pa.Array:
    array = ids.cast(pa.large_string()).combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)


def _places(
    ids: pa.ChunkedArray, distinct: pa.Array, rows: "NDArray[np.int64] | None" = None
) -> "NDArray[np.int64]":
    """Where each id is among distinct ones (or the row of that), -1 if nowhere."""
    found = pc.fill_null(pc.index_in(ids.cast(pa.large_string()), value_set=distinct), -1)
    places = np.asarray(found.to_numpy()).astype(np.int64)
    if rows is None:
        return places
    if not len(rows):
        return np.full(len(places), -1)
    return np.where(places >= 0, rows[places], -1)


def _stripped(column: pa.ChunkedArray) -> Iterator[pa.Array]:
    """The texts of a column without blanks around them, some at a time; null is empty."""
    for _, texts in pieces(column):
        yield pc.fill_null(pc.utf8_trim_whitespace(texts), "")
