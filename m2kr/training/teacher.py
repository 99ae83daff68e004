"""A teacher's scores: what distillation learns from, by query and passage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from m2kr.training.scored_pairs import ScoredPairs, files_by_split, read_pairs, row_of_query

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.data.load import Split


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """Scores of passages for a split's queries, by whatever retriever, fusion or re-ranker gave them.

    A file of `m2kr mine` has scores of the candidates and, where its retriever can score chosen
    passages, of all right passages. A run has those of what it ranks.

    Attributes:
        path: The file.
        provenance: What it says of how it was made.
        fingerprint: Hash (hex) of all scores.
    """

    path: Path
    provenance: Mapping[str, Any]
    fingerprint: str
    _split: "Split"
    _pairs: ScoredPairs

    @classmethod
    def open(cls, path: "str | Path", split: "Split") -> Self:
        """Opens a mined file or a run; 9 bytes a score are held in memory.

        Raises:
            MissingError: there is no such file.
            InputError: it is neither, or damaged.
            CheckError: it was made for other queries or passages, or names some that the split lacks.
        """
        pairs = read_pairs(Path(path), split)
        return cls(Path(path), pairs.provenance, pairs.fingerprint, split, pairs)

    @classmethod
    def of_splits(cls, path: "str | Path", splits: "Sequence[Split]") -> "list[Self]":
        """For each split its teacher; see `MinedFile.of_splits`."""
        files = files_by_split(Path(path), splits)
        return [cls.open(file, split) for file, split in zip(files, splits, strict=True)]

    def scores(
        self, query: int | str, passages: "Sequence[int] | Sequence[str] | NDArray[np.integer]"
    ) -> "NDArray[np.float32]":
        """Scores of some passages; NaN where the teacher has none.

        Args:
            query: The query's row in the split, or its id.
            passages: Rows of the split's pool, or ids.
        """
        row = row_of_query(self._split, query)
        names = [passage for passage in passages if isinstance(passage, str)]
        rows = self._split.passage_rows(names) if names else np.asarray(passages, np.int64)
        start, stop = self._pairs.offsets[row : row + 2]
        scores = np.full(len(rows), np.nan, np.float32)
        place, pair = np.nonzero(rows[:, None] == self._pairs.rows[start:stop])
        scores[place] = self._pairs.scores[start:stop][pair]
        return scores
