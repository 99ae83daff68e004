"""A part of a split that is evaluated like a whole one: some queries, and a pool that holds their answers."""

import hashlib
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from m2kr.data.load import Split
from m2kr.data.records import Passages, Queries
from m2kr.training.right_passages import RightPassages

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from numpy.typing import NDArray

    from m2kr.data.images.store import ImageStore

SEED = 0  # of samples: the same for every recipe, so that their validations compare


@dataclass(frozen=True, repr=False)
class SampledSplit(Split):
    """Some queries of a split, and its pool or a part of it.

    Attributes:
        base: The split.
        chosen_queries: Of the queries, ascending.
        chosen_passages: Of the passages, ascending; None for all.
    """

    base: Split | None = None
    chosen_queries: "NDArray[np.int64]" = field(default_factory=lambda: np.empty(0, np.int64))
    chosen_passages: "NDArray[np.int64] | None" = None

    @property
    def whole(self) -> Split:
        """The split itself."""
        assert self.base is not None
        return self.base

    @property
    def _counts(self) -> dict[str, int]:
        of_pool = (
            self.whole._counts["passages"]
            if self.chosen_passages is None
            else len(self.chosen_passages)
        )
        return {"queries": len(self.chosen_queries), "passages": int(of_pool)}

    @property
    def fingerprints(self) -> dict[str, str]:
        """Those of the split, marked where they are of a part."""
        marks: dict[str, int] = {}
        if len(self.chosen_queries) < len(self.whole):
            marks |= dict.fromkeys(
                ("queries", "judgements", "image_paths"), len(self.chosen_queries)
            )
        if self.chosen_passages is not None:
            marks["pool"] = len(self.chosen_passages)
        if marks:
            marks["eval"] = len(self.chosen_queries)
        return {
            part: f"sample of {marks[part]}: {value}" if part in marks else value
            for part, value in self.whole.fingerprints.items()
        }

    @property
    def queries(self) -> "Dataset":
        """Its query rows."""
        return self.queries_view.dataset

    @property
    def passages(self) -> "Dataset":
        """Its passage rows."""
        return self.passages_view.dataset

    @cached_property
    def images(self) -> "ImageStore | None":
        """The split's."""
        return self.whole.images

    @cached_property
    def queries_view(self) -> Queries:
        """Its queries, without a fingerprint: nothing that is made of them is kept."""
        rows = _rows_in_memory(self.whole.queries_view.table, self.chosen_queries)
        return Queries(rows, self.images)

    @cached_property
    def passages_view(self) -> Passages:
        """Its passages."""
        whole, chosen = self.whole.passages_view.table, self.chosen_passages
        rows = whole if chosen is None else _rows_in_memory(whole, chosen)
        return Passages(rows, self.images, self.fingerprints["pool"])

    def require_unharmed(self) -> None:
        """As of the split."""
        self.whole.require_unharmed()


def _rows_in_memory(table: "pa.Table", rows: "NDArray[np.int64]") -> "pa.Table":
    """Rows of a table, ascending; taken batch by batch, as 32-bit offsets end at 2 GiB of text."""
    import pyarrow as pa

    parts, first = [], 0
    for batch in table.to_batches():
        low, high = np.searchsorted(rows, (first, first + len(batch)))
        if high > low:
            parts.append(batch.take(pa.array(rows[low:high] - first)))
        first += len(batch)
    return pa.Table.from_batches(parts, table.schema)


def sample(
    split: Split, rows: "NDArray[np.int64]", queries: int | None, passages: int | None
) -> SampledSplit:
    """Some of a split's queries, with a pool of their right passages and others.

    Draws have a fixed seed, so that every run and recipe gets the same.

    Args:
        split: The split.
        rows: Its queries that may be drawn.
        queries: How many are; all if None.
        passages: How many the pool has; more if there are more right ones; all if None.
    """
    rows = rows[_draw(len(rows), queries, f"{split.source}/{split.split} queries")]
    pool: NDArray[np.int64] | None = None
    total = len(split.passages_view)
    if passages is not None and passages < total:
        right = RightPassages(split)
        own = [right.rows[right.offsets[row] : right.offsets[row + 1]] for row in rows.tolist()]
        positives = np.unique(np.concatenate([*own, np.empty(0, np.int64)]))
        others = np.setdiff1d(np.arange(total), positives, assume_unique=True)
        count = max(0, passages - len(positives))
        drawn = others[_draw(len(others), count, f"{split.source}/{split.split} passages")]
        pool = np.union1d(positives, drawn).astype(np.int64)
    facts = {each.name: getattr(split, each.name) for each in fields(Split)}
    return SampledSplit(**facts, base=split, chosen_queries=rows, chosen_passages=pool)


def _draw(n: int, count: int | None, purpose: str) -> "NDArray[np.int64]":
    """``count`` different numbers below ``n``, ascending."""
    if count is None or count >= n:
        return np.arange(n)
    word = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    keys = np.random.Philox(key=np.array([SEED, word], np.uint64)).random_raw(n)
    return np.sort(np.argsort(keys, kind="stable")[:count])
