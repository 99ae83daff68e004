"""Passages drawn at random: the floor that any retriever has to beat."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.errors import UsageError
from m2kr.ranking import id_ranks
from m2kr.retrieval.protocol import Modalities
from m2kr.retrieval.run import Run

if TYPE_CHECKING:
    from m2kr.data.records import Passages, Queries


class Random:
    """Ranks passages drawn uniformly from the pool, without repeats.

    A draw depends on the seed, the question id and the pool's ids alone: not on the order of rows,
    other queries or ``k``; a longer ranking begins with the shorter one.

    Args:
        seed: Another seed, another draw.
    """

    name = "random"
    modalities = Modalities(frozenset(), frozenset())

    def __init__(self, *, seed: int = 0) -> None:
        self.settings: dict[str, Any] = {"seed": seed}
        self._passages: Passages | None = None

    def index(self, passages: "Passages", *, workdir: Path) -> None:  # noqa: ARG002
        """Sorts the pool's ids, so that a draw does not depend on the order of rows."""
        self._passages = passages
        self._row_of_rank = np.unique(id_ranks(passages.ids), return_index=True)[1]

    def search(self, queries: "Queries", k: int) -> Run:
        """Draws ``k`` passages for each query, in time proportional to ``k``.

        Raises:
            UsageError: nothing was indexed.
        """
        if self._passages is None:
            raise UsageError("search() came before index()", fix="retriever.index(passages, ...)")
        ids = queries.ids.to_pylist()
        width = min(k, len(self._row_of_rank))
        rows = np.empty((len(ids), width), np.int64)
        for place, query_id in enumerate(ids):
            rows[place] = draw_rows(len(self._row_of_rank), width, query_id, self.settings["seed"])
        scores = np.tile(1.0 / np.arange(1, width + 1), (len(ids), 1))
        return Run.from_rows(
            ids, self._passages.ids, self._row_of_rank[rows], scores, name=self.name
        )


def draw_rows(n: int, k: int, key: str, seed: int) -> list[int]:
    """``k`` different numbers below ``n`` in random order, from a keyed hash.

    The first ``k`` steps of a Fisher-Yates shuffle that stores only the places it has touched.
    """
    stream = hashlib.shake_128(f"m2kr-random\0{seed}\0{key}".encode()).digest(8 * k)
    moved: dict[int, int] = {}
    drawn = []
    for place, number in enumerate(np.frombuffer(stream, "<u8").tolist()):
        other = place + number % (n - place)
        drawn.append(moved.get(other, other))
        moved[other] = moved.get(place, place)
    return drawn


RETRIEVER = Random
