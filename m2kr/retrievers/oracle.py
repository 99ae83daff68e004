"""The right passages themselves: no system, but a check of the data and of the evaluation."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from m2kr.errors import UsageError
from m2kr.retrieval.protocol import Modalities
from m2kr.retrieval.run import Run
from m2kr.schema import GRADES

if TYPE_CHECKING:
    from m2kr.data.records import Passages, Queries


class Oracle:
    """Ranks each query's positives, which it reads from the judgements, and nothing else.

    Its scores are the most that any retriever can reach on the data: less than 1 means positives
    that are not in the pool, or a metric that this many passages can't fill.
    """

    name = "oracle"
    modalities = Modalities(frozenset(), frozenset())

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"reads": "pos_item_ids"}
        self._ids: pa.ChunkedArray | None = None

    def index(self, passages: "Passages", *, workdir: Path) -> None:  # noqa: ARG002
        """Remembers the pool, to leave out positives that it lacks."""
        self._ids = passages.ids

    def search(self, queries: "Queries", k: int) -> Run:
        """The positives of each query, ``k`` at most; the highest grade first, else as stored.

        Raises:
            UsageError: nothing was indexed.
        """
        if self._ids is None:
            raise UsageError("search() came before index()", fix="retriever.index(passages, ...)")
        positives = queries.column("pos_item_ids")
        judged = pa.array(sorted({i for ids in positives for i in ids}), self._ids.type)
        there = set(self._ids.filter(pc.is_in(self._ids, value_set=judged)).to_pylist())
        if GRADES.name in queries.table.column_names:
            graded = zip(positives, queries.column(GRADES.name), strict=True)
            positives = [_by_grade(ids, grades) for ids, grades in graded]
        ranked = [[i for i in dict.fromkeys(ids) if i in there][:k] for ids in positives]
        scores = [[1.0 / (place + 1) for place in range(len(ids))] for ids in ranked]
        return Run.from_lists(queries.ids.to_pylist(), ranked, scores, name=self.name)


def _by_grade(ids: list[str], grades: list[float]) -> list[str]:
    return [ids[i] for i in sorted(range(len(ids)), key=lambda i: -grades[i])]


RETRIEVER = Oracle
