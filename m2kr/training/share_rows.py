"""The rows of one source that training visits, and which passages are right for them."""

import difflib
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.data.load import Split, load
from m2kr.errors import InputError, UsageError
from m2kr.training.draws import Purpose, generator
from m2kr.training.recipe_checks import TASKS
from m2kr.training.right_passages import scored_as

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from m2kr.training.recipe import Share


class Column:
    """A column of a mapped table, read one value at a time."""

    def __init__(self, table: "pa.Table", name: str) -> None:
        self._chunks = table.column(name).chunks
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks], dtype=np.int64)

    def __getitem__(self, row: int) -> Any:
        chunk = int(np.searchsorted(self._ends, row, side="right"))
        values = self._chunks[chunk]
        return values[row - int(self._ends[chunk]) + len(values)].as_py()


def open_share(
    share: "Share",
    key: str,
    data: "str | os.PathLike[str] | None" = None,
    images: "Sequence[str | Path]" = (),
) -> Split:
    """A share's split.

    Args:
        share: Whose.
        key: What a recipe calls the share, for errors: ``data.sources[0]``.
        data: Data root.
        images: Image roots searched before the source's own.

    Raises:
        UsageError: There is no such source, split or edition, or several editions.
        MissingError: It is not built.
    """
    try:
        return load(share.source, share.split, edition=share.edition, data=data, images=images)
    except UsageError as error:
        fix = error.fix
        if fix is None and "split" in error.what:
            fix = f"--set {key}.split=...; or import one: m2kr import ... --split {share.split}"
        # There is no --edition where several sources are named.
        fix = fix and fix.replace("--edition ", f"--set {key}.edition=")
        where = f"{key}: {share.source}"
        raise UsageError(error.what, where=where, expected=error.expected, fix=fix) from error


class ShareRows:
    """A source in the mixture. Memory: 8 bytes a row, 4 a row visited, 4 a positive.

    Args:
        share: What the recipe says of it.
        number: Its number in the mixture.
        split: Its split.
        seed: Of ``take`` and of the order of rows.

    Attributes:
        rows: Rows that are visited, in the order of the table (uint32).
        other_tasks: How many rows are left out for their task, or by ``where``.
        without_positive: How many of the others are, because the pool has no passage that is right.

    Raises:
        UsageError: The share is impossible: no such task or column, more rows than there are.
        InputError: No row is left, or the pool is empty.
    """

    def __init__(self, share: "Share", number: int, split: "Split", seed: int) -> None:
        self.share, self.number, self.split = share, number, split
        self._seed = seed
        if not len(split.passages_view):
            raise InputError("the pool has no passages", where=split.label)
        self._starts, self._judged, self._right = self._judgements()
        wanted = self._of_tasks() & self._where()
        self.other_tasks = len(split) - int(wanted.sum())
        trainable = wanted & self._has_positive()
        self.without_positive = int(wanted.sum() - trainable.sum())
        self.rows = np.flatnonzero(trainable).astype(np.uint32)
        if not len(self.rows):
            raise InputError(
                f"no query is left to train on: {len(split):,} rows, {self.other_tasks:,} of other "
                f"tasks, {self.without_positive:,} without a right passage in the pool",
                where=split.label,
                expected="queries with right passages (positives in the queries, or m2kr import --qrels)",
            )
        if share.take is not None:
            if not 1 <= share.take <= len(self.rows):
                raise UsageError(
                    f"take is {share.take:,}, but there are {len(self.rows):,} rows to take from",
                    where=split.label,
                    expected=f"1 to {len(self.rows):,}; `repeat` or `weight` visits rows more often",
                )
            rng = generator(seed, Purpose.TAKE, number)
            self.rows = np.sort(rng.permutation(self.rows)[: share.take])
        self._order = lru_cache(maxsize=2)(self._permutation)

    def row(self, visit: int) -> int:
        """The row of the share's visit: a pass over all rows in random order, then another one.

        The orders of two passes are kept, 4 bytes a row each.
        """
        around, place = divmod(visit, len(self.rows))
        return int(self._order(around)[place])

    def judged(self, row: int) -> "NDArray[np.int32]":
        """Passages (pool rows) judged with a grade above 0."""
        return self._judged[self._starts[row] : self._starts[row + 1]]

    def no_negatives(self, row: int) -> list[int]:
        """Passages (pool rows) that are no negatives of a query: judged ones, and what counts as them."""
        judged: list[int] = self.judged(row).tolist()
        base, twins = self._twins
        roots = [base.get(each, each) for each in judged] if twins else []
        return [
            *dict.fromkeys([*judged, *(twin for root in roots for twin in twins.get(root, ()))])
        ]

    @cached_property
    def _twins(self) -> tuple[dict[int, int], dict[int, list[int]]]:
        """Of pool rows that evaluation counts as another one: that one, and by it all of them."""
        rows, others = scored_as(self.split) or ((), ())
        base = dict(zip(map(int, rows), map(int, others), strict=True))
        twins: dict[int, list[int]] = {}
        for row, other in base.items():
            twins.setdefault(other, [other]).append(row)
        return base, twins

    @property
    def most_judged(self) -> int:
        """The row visited that has the most of them."""
        return int(self.rows[np.argmax(np.diff(self._starts)[self.rows])])

    def positives(self, row: int) -> "NDArray[np.int32]":
        """Passages (pool rows) that count as right for a query."""
        judged = self.judged(row)
        if self._right is None:
            return judged
        return judged[self._right[self._starts[row] : self._starts[row + 1]]]

    def other(self, row: int) -> int:
        """The row whose positives a query gets where labels are shuffled: never its own if there are two."""
        place = int(np.searchsorted(self.rows, row))
        return int(self.rows[self._dealt[place]])

    @cached_property
    def texts(self) -> Column:
        """Texts of the pool."""
        return Column(self.split.passages_view.table, "passage_content")

    def question_id(self, row: int) -> str:
        """Id of a query."""
        return str(self._queries["question_id"][row])

    def passage_id(self, row: int) -> str:
        """Id of a passage of the pool."""
        return str(self._passage_ids[row])

    def question(self, row: int) -> tuple[str, str]:
        """A query's question and instruction."""
        return self._queries["question"][row] or "", self._queries["instruction"][row] or ""

    def image(self, row: int) -> str | None:
        """Path of a query's image."""
        path: str | None = self._queries["img_path"][row]
        return path

    @cached_property
    def _queries(self) -> dict[str, Column]:
        names = ("question_id", "question", "instruction", "img_path")
        return {name: Column(self.split.queries_view.table, name) for name in names}

    @cached_property
    def _passage_ids(self) -> Column:
        return Column(self.split.passages_view.table, "passage_id")

    def _permutation(self, around: int) -> "NDArray[np.uint32]":
        return generator(self._seed, Purpose.ROWS, self.number, around).permutation(self.rows)

    @cached_property
    def _dealt(self) -> "NDArray[np.uint32]":
        circle = generator(self._seed, Purpose.LABELS, self.number).permutation(len(self.rows))
        dealt = np.empty(len(circle), np.uint32)
        dealt[circle] = np.roll(circle, 1)
        return dealt

    def _judgements(
        self,
    ) -> "tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.bool_] | None]":
        """Where a row's passages begin, their pool rows, and which count as right (None: all)."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self.split.queries_view.table
        lists = table.column("pos_item_ids").chunks
        counts = np.concatenate(
            [pc.fill_null(pc.list_value_length(each), 0).to_numpy() for each in lists]
            or [np.empty(0, np.int32)]
        )
        flat = [pc.list_flatten(each).cast(pa.large_string()) for each in lists]
        ids = pa.concat_arrays(flat or [pa.array([], pa.large_string())]).dictionary_encode()
        known = self.split.passages_view.row_numbers(ids.dictionary)
        places = known[ids.indices.to_numpy()].astype(np.int32)
        kept = places >= 0
        right = None
        if "pos_item_grades" in table.column_names:
            grades = np.concatenate(
                [
                    pc.list_flatten(each).to_numpy()
                    for each in table.column("pos_item_grades").chunks
                ]
            )
            right = (grades >= self.split.relevance_threshold)[kept]
        before = np.concatenate([[0], np.cumsum(kept)])  # kept ones before each place
        ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return before[ends], places[kept], right

    def _has_positive(self) -> "NDArray[np.bool_]":
        right = np.ones(len(self._judged), bool) if self._right is None else self._right
        before = np.concatenate([[0], np.cumsum(right)])[self._starts]
        return np.diff(before) > 0

    def _of_tasks(self) -> "NDArray[np.bool_]":
        """Which rows are of the tasks asked for."""
        wanted = self.share.tasks
        if not wanted:
            return np.ones(len(self.split), bool)
        tasks = np.concatenate([*self._tasks(), np.empty(0, "U4")])
        if lacking := sorted({*wanted} - {*np.unique(tasks).tolist()}):
            raise UsageError(
                f"there is no row of the task {lacking[0]}",
                where=self.split.label,
                expected=" or ".join(np.unique(tasks).tolist()),
            )
        return np.isin(tasks, wanted)

    def _where(self) -> "NDArray[np.bool_]":
        """Which rows meet the share's conditions."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table, chosen = self.split.queries_view.table, np.ones(len(self.split), bool)
        for condition in self.share.where:
            column, equals, values = condition.partition("=")
            column = column.strip()
            plain = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
            if not equals or column not in plain:
                near = difflib.get_close_matches(column, plain, n=1)
                raise UsageError(
                    f"there is no column '{column}'" if equals else f"'{condition}' has no =",
                    where=f"where of {self.split.label}",
                    expected=f"COLUMN=VALUE, of the columns {', '.join(plain)}",
                    fix=f"did you mean {near[0]}={values}?" if near and equals else None,
                )
            texts = pc.cast(table.column(column), pa.string())
            wanted = pa.array([value.strip() for value in values.split("|")])
            met = pc.is_in(texts, value_set=wanted).to_numpy(zero_copy_only=False)
            if not met.any():
                known = ", ".join(sorted(str(v) for v in pc.unique(texts).slice(0, 12).to_pylist()))
                raise UsageError(
                    f"no row has {condition}", where=f"where of {self.split.label}", expected=known
                )
            chosen &= met
        return chosen

    def _tasks(self) -> "Iterator[NDArray[np.str_]]":
        """The rows' tasks: as the table says, or else the source, or else what a query consists of."""
        import pyarrow.compute as pc

        table, own = self.split.queries_view.table, self.split.manifest["source"]["task"]
        if "task" in table.column_names:
            for chunk in table.column("task").chunks:
                yield chunk.to_numpy(zero_copy_only=False).astype(str)
            return
        if own in TASKS:
            yield np.full(len(self.split), own)
            return
        for batch in table.to_batches():
            image = pc.is_valid(batch.column("img_path")).to_numpy(zero_copy_only=False)
            asked = pc.greater(pc.binary_length(batch.column("question")), 0)
            named = np.where(asked.to_numpy(zero_copy_only=False), "IQ2T", "I2T")
            yield np.where(image, named, "Q2T")
