"""Mined negatives: a file of `m2kr mine`, opened for the split that it was made for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from m2kr.errors import InputError
from m2kr.training.scored_pairs import files_by_split, read_pairs, read_provenance, row_of_query

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.data.load import Split


@dataclass(frozen=True, slots=True, eq=False)
class MinedFile:
    """The negatives of a split's queries, best first.

    Attributes:
        path: The file.
        provenance: Retriever, settings, fingerprints, filters and their counts.
        fingerprint: Hash (hex) of what it offers to whom.
    """

    path: Path
    provenance: Mapping[str, Any]
    fingerprint: str
    _split: "Split"
    _offsets: "NDArray[np.int64]"
    _rows: "NDArray[np.int32]"

    @classmethod
    def open(cls, path: "str | Path", split: "Split") -> Self:
        """Opens a mined file; 4 bytes a negative are held in memory.

        Args:
            path: A file of `m2kr mine`.
            split: Which must be what the file was made for: queries, right passages, answers and pool.

        Raises:
            MissingError: there is no such file.
            InputError: it is no mined file, or damaged.
            CheckError: it was made for other data.
        """
        path = Path(path)
        if read_provenance(path) is None:
            raise InputError(
                "it is no mined file, so nothing tells negatives from right passages",
                where=str(path),
                fix=f"m2kr mine {split.source} --split {split.split} -r run:{path} --out FILE",
            )
        pairs = read_pairs(path, split, ("queries", "judgements", "pool"))
        kept = np.concatenate([[0], np.cumsum(pairs.kept)])
        return cls(
            path,
            pairs.provenance,
            pairs.fingerprint,
            split,
            kept[pairs.offsets],
            pairs.rows[pairs.kept],
        )

    @classmethod
    def of_splits(cls, path: "str | Path", splits: "Sequence[Split]") -> "list[Self]":
        """For each split its mined file.

        Args:
            path: A mined file, or a folder with those of several sources.
            splits: Of a mixture.

        Raises:
            InputError: a split has no file, or two.
        """
        files = files_by_split(Path(path), splits)
        return [cls.open(file, split) for file, split in zip(files, splits, strict=True)]

    def negatives(self, query: int | str) -> "NDArray[np.int32]":
        """Rows of the split's pool, best first; none for a query that the file has nothing for.

        Args:
            query: The query's row in the split, or its id.
        """
        row = row_of_query(self._split, query)
        return self._rows[self._offsets[row] : self._offsets[row + 1]]

    def counts(self) -> "NDArray[np.int64]":
        """Negatives by query, in the split's order."""
        return np.diff(self._offsets)
