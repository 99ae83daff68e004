"""What a retriever is given: the queries and passages of one split, with their images, read lazily."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

from m2kr.instructions import join_question
from m2kr.schema import GRADES, LOST_GRADES, LOST_IDS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset
    from numpy.typing import NDArray
    from PIL.Image import Image

    from m2kr.data.images.store import ImageStore

# What a retriever must not read: the right answers.
_JUDGED = frozenset(
    {
        *("pos_item_ids", "pos_item_contents", "answers", "gold_answer"),
        *(column.name for column in (GRADES, LOST_IDS, LOST_GRADES)),
    }
)

_HASHES: dict[int, dict[str, str]] = {}  # by the identity of a table, as long as it lives


@dataclass(frozen=True)
class _Records:
    """A memory-mapped table and the store its images come from.

    Attributes:
        given: The rows; a table or a dataset of the schema's columns.
        images: Resolves ``img_path``; None where the source has no images.
        fingerprint: What scores depend on (``queries`` or ``pool``), in whatever order it lies.
    """

    given: "pa.Table | Dataset"
    images: "ImageStore | None" = None
    fingerprint: str = ""
    _id: ClassVar[str]

    @cached_property
    def table(self) -> "pa.Table":
        """The rows as an Arrow table."""
        import pyarrow as pa

        return self.given if isinstance(self.given, pa.Table) else self.dataset.data.table

    @cached_property
    def dataset(self) -> "Dataset":
        """The rows as a dataset: ``dataset[i]`` is a dict. To import its library takes a second."""
        import pyarrow as pa
        from datasets import Dataset

        if isinstance(self.given, pa.Table):
            # Of its own it would take the fingerprint of all bytes.
            return Dataset(self.given, fingerprint=f"m2kr-{self._id}-{self.order[:32]}")
        if self.given._indices is None:
            return self.given
        return self.given.flatten_indices(keep_in_memory=True)  # the table's rows in its order

    def part(self, start: int, stop: int) -> Self:
        """Some rows after each other, with the same images and fingerprint."""
        return replace(self, given=self.table.slice(start, max(0, stop - start)))

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, row: int) -> dict[str, Any]:
        place = range(len(self))[row]
        return self.table.slice(place, 1).to_pylist()[0]  # type: ignore[no-any-return]

    @property
    def ids(self) -> "pa.ChunkedArray":
        """Ids in row order: an Arrow string column on the mapped file, not a Python list."""
        return self.table.column(self._id)

    @property
    def order(self) -> str:
        """Hash (hex) of the ids in row order. What is kept by row number is kept under it."""
        from m2kr.data.row_hash import order_of

        return self._once(f"order of {self._id}", lambda: order_of(self.ids))

    @property
    def content(self) -> str:
        """Hash (hex) of all that a retriever may read in these rows, in row order; images apart."""
        from m2kr.data.row_hash import content_of

        names = (name for name in self.table.column_names if name not in _JUDGED)
        return self._once("content", lambda: content_of(self.table, names))

    def _once(self, name: str, make: Callable[[], str]) -> str:
        """A hash of the table, made once for all records of it: millions of rows take seconds."""
        place = id(self.table)
        if place not in _HASHES:
            _HASHES[place] = {}
            weakref.finalize(self.table, _HASHES.pop, place)
        known = _HASHES[place]
        if name not in known:
            known[name] = make()
        return known[name]

    def column(self, name: str) -> list[Any]:
        """A whole column as a Python list. For splits of queries; on a big pool use `batches`."""
        return self.table.column(name).to_pylist()  # type: ignore[no-any-return]

    def batches(self, size: int) -> Iterator[list[dict[str, Any]]]:
        """Rows in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.table.slice(start, size).to_pylist()

    def row_numbers(self, ids: "pa.Array") -> "NDArray[np.int64]":
        """Rows by id: -1 for ids that are not there, the first row of an id that repeats.

        Args:
            ids: Strings, each once; only these are held in memory, not the table's.
        """
        import numpy as np
        import pyarrow.compute as pc

        places = pc.index_in(self.ids, ids.cast(self.ids.type))
        rows = np.full(len(ids), -1, np.int64)
        met = np.flatnonzero(pc.is_valid(places).to_numpy())[::-1]  # backwards: the first stays
        rows[pc.drop_null(places).to_numpy()[::-1]] = met
        return rows

    def rows(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The rows at some indices."""
        from m2kr.data.lookup import values_at

        names = self.table.column_names
        columns = [values_at(column, indices) for column in self.table.columns]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def image(self, row: dict[str, Any]) -> "Image | None":
        """The decoded RGB image of a row, or None where the row has none.

        Raises:
            MissingError: the row names an image that no root holds (policy ``error``).
        """
        if self.images is None or row.get("img_path") is None:
            return None
        return self.images.open(row["img_path"])


class Passages(_Records):
    """The pool of one split: ``passage_id, passage_content, language, title, img_id, img_path`` + extras."""

    _id = "passage_id"


class Queries(_Records):
    """The queries of one split: ``question_id, question, instruction, img_path, ...``.

    A retriever must not read ``pos_item_ids``, ``pos_item_contents``, ``answers`` or ``gold_answer``,
    nor grades.
    """

    _id = "question_id"

    def judgements(self) -> "pa.Table":
        """Every passage that is judged with a grade above 0.

        Columns ``question_id``, ``passage_id`` (string) and ``relevance`` (float64); without a column
        of grades all are 1. Passages that the pool lacks (``lost_item_ids``) are among them. From
        which grade a passage counts as right is `m2kr.data.load.Split.relevance_threshold`.
        """
        import pyarrow as pa

        schema = pa.schema(
            [("question_id", pa.string()), ("passage_id", pa.string()), ("relevance", pa.float64())]
        )
        batches = [
            _judged(batch, ids, grades, schema)
            for batch in self.table.to_batches()
            for ids, grades in (
                ("pos_item_ids", "pos_item_grades"),
                ("lost_item_ids", "lost_item_grades"),
            )
            if ids in batch.schema.names
        ]
        return pa.Table.from_batches(batches, schema)

    @staticmethod
    def text(row: dict[str, Any], *, instruction: bool = True) -> str:
        """The query text: instruction and question joined as the official evaluation does."""
        return join_question(row["instruction"] if instruction else "", row["question"])


def _judged(
    batch: "pa.RecordBatch", ids: str, grades: str, schema: "pa.Schema"
) -> "pa.RecordBatch":
    """One row for each passage of a list column of a batch."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = batch.column(ids)
    passages = pc.list_flatten(lists)
    queries = batch.column("question_id").take(pc.list_parent_indices(lists))
    if grades in batch.schema.names:
        relevance = pc.list_flatten(batch.column(grades))
    else:
        relevance = pa.repeat(pa.scalar(1.0), len(passages))
    return pa.record_batch([queries, passages, relevance], schema=schema)
