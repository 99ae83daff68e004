"""Which passages are right for a query, or may be: its positives, their texts, and its answers."""

import hashlib
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from m2kr.data.lookup import values_at
from m2kr.evaluation.answer_ranks import normalised
from m2kr.evaluation.answer_search import ANCHOR, AnswerSearch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.data.load import Split

    Ints = NDArray[np.int64]

_MATCHED = 256  # queries whose answers are looked for at once


def plain(text: str) -> str:
    """A text as others are compared with it: texts that differ in case and blanks are the same."""
    return " ".join(text.split()).casefold()


def scored_as(split: "Split") -> "tuple[Ints, Ints] | None":
    """Pool rows that count as other ones, and those; None where the source has no such passages."""
    data = split.passages_view.table
    if "scored_as" not in data.column_names:
        return None
    column = data.column("scored_as")
    rows = np.flatnonzero(column.is_valid().to_numpy())
    ids = pa.array(values_at(column, rows), pa.string()).dictionary_encode()
    others = split.passages_view.row_numbers(ids.dictionary)[ids.indices.to_numpy()]
    return rows[others >= 0], others[others >= 0]


class RightPassages:
    """A split's right passages: all that are judged above 0, whatever the threshold, and their texts.

    Attributes:
        rows: int64, their rows in the pool, query after query; those that the pool lacks are left out.
        offsets: Where each query's begin, and one end more.
    """

    def __init__(self, split: "Split") -> None:
        self._split = split
        pool, queries = split.passages_view, split.queries_view
        self._pool = max(1, len(pool))
        table = queries.judgements()
        coded = table.column("passage_id").combine_chunks().dictionary_encode()
        if isinstance(coded, pa.ChunkedArray):
            coded = coded.unify_dictionaries().combine_chunks()
        rows = pool.row_numbers(coded.dictionary)[coded.indices.to_numpy(zero_copy_only=False)]
        names = table.column("question_id").combine_chunks().dictionary_encode()
        owners = queries.row_numbers(names.dictionary)[names.indices.to_numpy(zero_copy_only=False)]
        use = rows >= 0
        pairs = np.unique(owners[use] * self._pool + rows[use])
        owners, self.rows = pairs // self._pool, pairs % self._pool
        self._owners = owners
        self.offsets = np.searchsorted(owners, np.arange(len(queries) + 1))
        self._keys = np.unique(owners * self._pool + self.counted_as(self.rows))

    @cached_property
    def _same_passage(self) -> "Ints | None":
        """Per row of the pool the row that it counts as, where the source has such passages."""
        twins = scored_as(self._split)
        if twins is None:
            return None
        rows, others = twins
        same = np.arange(self._pool)
        same[rows] = others
        return same

    def counted_as(self, rows: "Ints") -> "Ints":
        """The rows that rows of the pool count as."""
        return rows if self._same_passage is None else self._same_passage[rows]

    def hold(self, owners: "Ints", rows: "Ints") -> "NDArray[np.bool_]":
        """Whether passages are right for their queries."""
        return np.isin(owners * self._pool + rows, self._keys)

    def same_text(self, owners: "Ints", rows: "Ints") -> "NDArray[np.bool_]":
        """Whether passages have the text of one that is right for their query."""
        texts = self._texts
        own = np.unique(self._owners * self._pool + texts[self.rows])
        return np.isin(owners * self._pool + texts[rows], own)

    @cached_property
    def _texts(self) -> "Ints":
        """Per row of the pool a number that only passages of equal text share; case and blanks are alike.

        A passage without text is like no other.
        """
        hashes = np.zeros(self._pool, np.uint64)
        done = 0
        for chunk in self._split.passages_view.table.column("passage_content").chunks:
            for text in chunk.to_pylist():
                words = plain(text).encode()
                digest = hashlib.blake2b(words, digest_size=8).digest()
                hashes[done] = int.from_bytes(digest, "little") if words else done
                done += 1
        return np.unique(hashes, return_inverse=True)[1].astype(np.int64)


class QueryAnswers:
    """Whether passages hold an answer of their query, as official pseudo recall finds them.

    A blank answer, which is in every text, is left out.

    Attributes:
        blank: How many were.
    """

    def __init__(self, split: "Split") -> None:
        self._split = split
        column = normalised([given or [] for given in split.queries_view.column("answers")])
        self.blank = sum(answer == "" for of_query in column for answer in of_query)
        self._of_query = [[a for a in dict.fromkeys(of_query) if a] for of_query in column]

    def within(self, owners: "Ints", rows: "Ints") -> "NDArray[np.bool_]":
        """Per pair of a query and a passage whether the text holds an answer; owners ascend."""
        hits = np.zeros(len(owners), bool)
        bounds = np.flatnonzero(np.diff(owners // _MATCHED, prepend=-1))
        for start, stop in pairwise([*bounds.tolist(), len(owners)]):
            part = slice(start, stop)
            hits[part] = self._hits(owners[part], rows[part])
        return hits

    def _hits(self, owners: "Ints", rows: "Ints") -> "NDArray[np.bool_]":
        hits = np.zeros(len(owners), bool)
        accepted = {q: self._of_query[q] for q in np.unique(owners).tolist()}
        number: dict[str, int] = {}
        for of_query in accepted.values():
            for answer in of_query:
                if len(answer.encode()) >= ANCHOR:
                    number.setdefault(answer, len(number))
        use = np.flatnonzero(np.array([bool(accepted[q]) for q in owners.tolist()], bool))
        if not len(use):
            return hits
        search = AnswerSearch(list(number)) if number else None
        distinct, column = np.unique(rows[use], return_inverse=True)
        order = np.argsort(column, kind="stable")
        step = search.texts_at_once if search else len(distinct)
        texts = self._split.passages_view.table.column("passage_content")
        for first in range(0, len(distinct), step):
            lowered = [text.lower() for text in values_at(texts, distinct[first : first + step])]
            table = search.matches(lowered) if search else np.empty((0, 0), np.uint8)
            low, high = np.searchsorted(column[order], (first, first + len(lowered)))
            for pair in order[low:high].tolist():
                text = int(column[pair]) - first
                for answer in accepted[int(owners[use[pair]])]:
                    known = number.get(answer)
                    if table[known, text] if known is not None else answer in lowered[text]:
                        hits[use[pair]] = True
                        break
        return hits
