"""Reading golden files of the official search: index arrays, queries, and results of every step."""

import re
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from m2kr.errors import InputError
from m2kr.search.late.index.codec import Codec
from m2kr.search.late.official import IndexArrays, OfficialSettings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

INDEX_ARRAYS = (
    *("nbits", "dim", "centroids", "bucket_cutoffs", "bucket_weights", "codes", "residuals"),
    *("doclens", "ivf_pids", "ivf_lengths", "queries", "query_len"),
)
STAGE_ARRAYS = (
    *("cells", "cells_count", "alive_centroids", "candidates", "stage1", "stage2"),
    *("pids", "scores"),
)
_LARGEST = 4 << 30  # bytes of one array, unpacked
_CONFIG = re.compile(r"(.+)_config")
_RETURNED = re.compile(r"pids_k(\d+)")


@dataclass(frozen=True, slots=True)
class Expected:
    """What the official search did with one query in one setting; fields as in `official.Trace`."""

    cells: "NDArray[np.int64]"
    living: "NDArray[np.bool_]"
    candidates: "NDArray[np.int64]"
    stage1: "NDArray[np.int64]"
    stage2: "NDArray[np.int64]"
    documents: "NDArray[np.int64]"
    scores: "NDArray[np.float32]"


class GoldenFile:
    """One ``.npz`` of the format that tests/golden/search/README.md describes.

    Raises:
        InputError: an array is missing, pickled, too large, or doesn't fit the others.
    """

    def __init__(self, path: "Path") -> None:
        self.path = path
        self._arrays = _read(path)
        for name in INDEX_ARRAYS:
            self.array(name)
        self.settings = {name: self._settings(name) for name in self._setting_names()}
        if not self.settings:
            raise InputError("no results are in it", where=str(path), expected="X_config arrays")
        self.index = IndexArrays.of(
            self._codec(), self.array("codes"), self.array("residuals"), self.array("doclens")
        )

    def array(self, name: str) -> "NDArray[Any]":
        """An array by its name."""
        if name not in self._arrays:
            raise InputError(f"the array '{name}' is missing", where=str(self.path))
        return self._arrays[name]

    @property
    def sample(self) -> "NDArray[np.float16] | None":
        """The first tokens before compression, where the file has them."""
        return self._arrays.get("sample_tokens")

    def __len__(self) -> int:
        return len(self.array("queries"))

    def query(self, number: int) -> "NDArray[np.float16]":
        """A query's rows as the official search got them, filling cut off."""
        rows: NDArray[np.float16] = self.array("queries")[number]
        return rows[: int(self.array("query_len")[number])]

    def kind(self, number: int) -> str:
        """What a query was made to try, or ''."""
        kinds = self._arrays.get("query_kind")
        return "" if kinds is None else str(kinds[number])

    def judged(self, setting: str, number: int) -> bool:
        """Whether the official code's own results are stored for this query."""
        valid = self._arrays.get(f"{setting}_valid")
        return valid is None or bool(valid[number])

    def expected(self, setting: str, number: int) -> Expected:
        """The stored steps of one query."""
        counts = self.array(f"{setting}_cells_count").astype(np.int64)
        start = int(counts[:number].sum())
        cells = self.array(f"{setting}_cells")[start : start + int(counts[number])]
        documents = len(self.array("doclens"))
        living = self._bits(f"{setting}_alive_centroids", number, len(self.array("centroids")))
        return Expected(
            cells.astype(np.int64),
            living,
            np.flatnonzero(self._bits(f"{setting}_candidates", number, documents)),
            np.flatnonzero(self._bits(f"{setting}_stage1", number, documents)),
            self.array(f"{setting}_stage2")[number].astype(np.int64),
            self.array(f"{setting}_pids")[number].astype(np.int64),
            self.array(f"{setting}_scores")[number].astype(np.float32),
        )

    def returned(self) -> "dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]]":
        """For each k what the search calls returned: documents and scores, both (queries x k)."""
        ks = sorted(int(m[1]) for m in map(_RETURNED.fullmatch, self._arrays) if m)
        return {
            k: (
                self.array(f"pids_k{k}").astype(np.int64),
                self.array(f"scores_k{k}").astype(np.float32),
            )
            for k in ks
        }

    def setting_of(self, k: int) -> str | None:
        """The setting whose ranking the results for k were cut from, or None if none fits."""
        scores = self.returned()[k][1]
        usual = OfficialSettings.for_k(k)
        for name in sorted(self.settings, key=lambda n: (self.settings[n] != usual, n)):
            whole = self.array(f"{name}_scores")
            judged = [n for n in range(len(self)) if self.judged(name, n)]
            if whole.shape[1] >= k and np.allclose(whole[judged, :k], scores[judged], atol=1e-4):
                return name
        return None

    def _bits(self, name: str, number: int, count: int) -> "NDArray[np.bool_]":
        return np.unpackbits(self.array(name)[number], count=count).astype(bool)

    def _setting_names(self) -> list[str]:
        found = [m[1] for m in map(_CONFIG.fullmatch, self._arrays) if m]
        for name in found:
            for part in STAGE_ARRAYS:
                self.array(f"{name}_{part}")
        return sorted(found)

    def _settings(self, name: str) -> OfficialSettings:
        ncells, threshold, ndocs = self.array(f"{name}_config").tolist()
        return OfficialSettings(int(ncells), float(threshold), int(ndocs))

    def _codec(self) -> Codec:
        codec = Codec(
            self.array("centroids").astype(np.float32),
            self.array("bucket_cutoffs").astype(np.float32),
            self.array("bucket_weights").astype(np.float32),
        )
        said = int(self.array("nbits")), int(self.array("dim"))
        if said != (codec.nbits, codec.dim):
            raise InputError(
                f"nbits and dim are {said}, the arrays hold {(codec.nbits, codec.dim)}",
                where=str(self.path),
            )
        return codec

    @classmethod
    def all_in(cls, folder: "Path") -> list[Self]:
        """Every ``.npz`` of a folder, by name.

        Raises:
            InputError: there is none.
        """
        paths = [folder] if folder.is_file() else sorted(folder.glob("*.npz"))
        if not paths:
            raise InputError("no golden file (.npz) is here", where=str(folder))
        return [cls(path) for path in paths]


def _read(path: "Path") -> "dict[str, NDArray[Any]]":
    try:
        with zipfile.ZipFile(path) as file:
            for member in file.infolist():
                if member.file_size > _LARGEST:
                    raise InputError(f"{member.filename} takes {member.file_size} bytes unpacked")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"not a golden file: {error}", where=str(path)) from error
