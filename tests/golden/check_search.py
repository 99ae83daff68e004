"""Checks our search, codec and lists against the official code's stored results, step by step.

    python tests/golden/check_search.py FOLDER [--json]

FOLDER holds golden ``.npz`` files of the format that tests/golden/search/README.md describes, or is one
of them. Of each step the first difference is shown: cells, living centroids, candidates, both prunings,
scores, ranking, what was returned; and codes, residuals and inverted lists. Exits with 0 only if all is
equal.

What must be equal: cells, living centroids, candidates and both pruned sets exactly, the second in
order; scores of the same document to 1e-4; ranks except within runs of official scores of which each is
closer to the next than a millionth of it; codes and residuals of the sample tokens and the inverted
lists bit for bit.
"""

import argparse
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from m2kr.cli import output
from m2kr.concurrency import full_precision
from m2kr.errors import InputError, M2KRError
from m2kr.search.index import official
from m2kr.search.index.codec import OfficialCodec
from m2kr.search.index.official import IndexArrays, OfficialSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.search.index.ivf import InvertedLists

SCORE_TOLERANCE = 1e-4
TIE = 1e-6  # of the score

CODES, RESIDUALS, LISTS = "sample codes", "sample residuals", "inverted lists"
STAGES = ("cells", "living", "candidates", "stage1", "stage2", "scores", "ranking")
RETURNED = "returned"

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

    def _codec(self) -> OfficialCodec:
        codec = OfficialCodec(
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


@dataclass(slots=True)
class Stage:
    """How one step of one file fared.

    Attributes:
        checked: Comparisons made.
        failed: Those that differed.
        first: What the first difference was, and where.
    """

    checked: int = 0
    failed: int = 0
    first: str | None = None

    def take(self, difference: str | None, where: str) -> None:
        """Counts a comparison; ``difference`` is None where it held."""
        self.checked += 1
        if difference is not None:
            self.failed += 1
            self.first = self.first or f"{where}: {difference}"


@dataclass(slots=True)
class Checked:
    """What the check of one file found.

    Attributes:
        path: The file.
        stages: Outcome by step, in the order of the search.
        skipped: Pairs of setting and query without results of the official code itself.
        score_error: Largest difference of a score.
    """

    path: "Path"
    stages: dict[str, Stage] = field(default_factory=dict)
    skipped: int = 0
    score_error: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether all comparisons held."""
        return not any(stage.failed for stage in self.stages.values())

    def take(self, stage: str, difference: str | None, where: str) -> None:
        """Counts one comparison of a step."""
        self.stages.setdefault(stage, Stage()).take(difference, where)


Search = Callable[
    [official.IndexArrays, "NDArray[np.floating]", official.OfficialSettings], official.Trace
]


def check_folder(folder: "Path", search: Search = official.trace_search) -> list[Checked]:
    """Checks every golden file of a folder (or one file).

    Args:
        folder: Where the ``.npz`` files are.
        search: What searches; ours, unless another implementation is to be checked.

    Raises:
        InputError: there is no golden file, or one is malformed.
    """
    with full_precision():
        return [check(file, search) for file in GoldenFile.all_in(folder)]


def check(file: GoldenFile, search: Search = official.trace_search) -> Checked:
    """Checks one golden file."""
    done = Checked(file.path)
    _check_codec(file, done)
    _check_lists(file, done)
    rankings: dict[tuple[str, int], official.Trace] = {}
    for name, settings in file.settings.items():
        for number in range(len(file)):
            if not file.judged(name, number):
                done.skipped += 1
                continue
            trace = search(file.index, file.query(number), settings)
            rankings[name, number] = trace
            where = f"setting {name}, query {number}"
            kind = file.kind(number)
            _check_stages(
                trace, file.expected(name, number), done, f"{where} ({kind})" if kind else where
            )
    _check_returned(file, rankings, done)
    return done


def _check_codec(file: GoldenFile, done: Checked) -> None:
    if file.sample is None:
        return
    codec, count = file.index.codec, len(file.sample)
    codes = file.index.codes[:count].astype(np.int64)
    found = codec.nearest(file.sample)
    done.take(CODES, _unequal(found, codes, "token"), "sample_tokens")
    packed = codec.encode(file.sample, codes)
    done.take(
        RESIDUALS,
        _unequal(packed.ravel(), file.index.residuals[:count].ravel(), "byte"),
        f"sample_tokens, {codec.packed_bytes} bytes each",
    )


def _check_lists(file: GoldenFile, done: Checked) -> None:
    made: InvertedLists = file.index.lists
    difference = _unequal(made.counts, file.array("ivf_lengths").astype(np.int64), "list length")
    if difference is None:
        stored = file.array("ivf_pids").astype(np.int64)
        difference = _unequal(made.documents.astype(np.int64), stored, "entry")
    done.take(LISTS, difference, "ivf")


def _check_stages(trace: official.Trace, truth: Expected, done: Checked, where: str) -> None:
    done.take("cells", _unlike(trace.cells, truth.cells), where)
    living = np.flatnonzero(trace.living), np.flatnonzero(truth.living)
    done.take("living", _unlike(*living), where)
    done.take("candidates", _unlike(trace.candidates, truth.candidates), where)
    done.take("stage1", _unlike(trace.stage1, truth.stage1), where)
    done.take("stage2", _unequal(trace.stage2, truth.stage2, "rank"), where)
    error, difference = _score_difference(trace, truth)
    done.score_error = max(done.score_error, error)
    done.take("scores", difference, where)
    difference = _rank_difference(trace.documents, truth.documents, truth.scores)
    done.take("ranking", difference, where)


def _check_returned(
    file: GoldenFile, traces: dict[tuple[str, int], official.Trace], done: Checked
) -> None:
    for k, (documents, scores) in file.returned().items():
        name = file.setting_of(k)
        if name is None:
            done.take(RETURNED, "no setting's ranking begins like these results", f"k {k}")
            continue
        for number in range(len(file)):
            if (name, number) in traces:
                found = traces[name, number].documents[:k]
                difference = _rank_difference(found, documents[number], scores[number])
                done.take(RETURNED, difference, f"k {k} (setting {name}), query {number}")


def _unequal(found: "NDArray[np.integer]", truth: "NDArray[np.integer]", noun: str) -> str | None:
    """The first place where two sequences differ."""
    if len(found) != len(truth):
        return f"{len(found)} entries, expected {len(truth)}"
    different = np.flatnonzero(found != truth)
    if not len(different):
        return None
    at = int(different[0])
    return f"{noun} {at} is {found[at]}, expected {truth[at]} ({len(different)} of {len(truth)} differ)"


def _unlike(found: "NDArray[np.integer]", truth: "NDArray[np.integer]") -> str | None:
    """How two sets differ."""
    lacking, extra = np.setdiff1d(truth, found), np.setdiff1d(found, truth)
    if not len(lacking) and not len(extra):
        return None
    parts = [
        f"{len(numbers)} {what}, first {numbers[0]}"
        for numbers, what in ((lacking, "missing"), (extra, "too many"))
        if len(numbers)
    ]
    return f"{len(found)} found, expected {len(truth)}: " + "; ".join(parts)


def _score_difference(trace: official.Trace, truth: Expected) -> tuple[float, str | None]:
    """The largest difference of a score of a document that both have, and words if it's too much."""
    common, ours, theirs = np.intersect1d(trace.documents, truth.documents, return_indices=True)
    if not len(common):
        return 0.0, None if not len(truth.documents) else "no document in common"
    errors = np.abs(trace.scores[ours].astype(np.float64) - truth.scores[theirs])
    # A NaN is the worst of errors, and must not pass as no error.
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    if errors[worst] <= SCORE_TOLERANCE:
        return float(errors[worst]), None
    return float(errors[worst]), (
        f"document {common[worst]} scores {trace.scores[ours[worst]]!r}, "
        f"expected {truth.scores[theirs[worst]]!r}"
    )


def _rank_difference(
    found: "NDArray[np.integer]", truth: "NDArray[np.integer]", scores: "NDArray[np.float32]"
) -> str | None:
    """The first rank that differs by more than the order of scores that tie."""
    if len(found) != len(truth):
        return f"{len(found)} ranked, expected {len(truth)}"
    exact = np.abs(scores.astype(np.float64))
    tied = np.abs(np.diff(scores.astype(np.float64))) <= TIE * np.maximum(exact[1:], exact[:-1])
    runs = np.concatenate([[0], np.cumsum(~tied)])
    # Within a run sorted by number, equal sets are equal sequences.
    left, right = found[np.lexsort((found, runs))], truth[np.lexsort((truth, runs))]
    different = np.flatnonzero(left != right)
    if not len(different):
        return None
    rank = int(np.searchsorted(runs, runs[different[0]]))
    return f"rank {rank + 1} is document {found[rank]}, expected {truth[rank]}"


def _show(done: list[Checked]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("file", "step"):
        table.add_column(name, no_wrap=True)
    table.add_column("checked", justify="right")
    table.add_column("differ", justify="right")
    table.add_column("first difference")
    for each in done:
        for name, stage in each.stages.items():
            cells = (str(stage.checked), str(stage.failed), stage.first or "")
            table.add_row(each.path.name, name, *cells)
    output.console().print(table)
    for each in done:
        skipped = f", {each.skipped} results without the official code's own skipped"
        output.say(
            f"{each.path.name}: {'ok' if each.ok else 'DIFFERS'}, "
            f"scores within {each.score_error:.1e}{skipped if each.skipped else ''}"
        )


def _as_json(done: Checked) -> dict[str, Any]:
    return {
        "file": done.path.name,
        "ok": done.ok,
        "skipped": done.skipped,
        "score_error": done.score_error,
        "steps": {
            name: {"checked": stage.checked, "differ": stage.failed, "first": stage.first}
            for name, stage in done.stages.items()
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 only if all is equal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of golden .npz files, or one")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args(arguments)
    try:
        done = check_folder(given.folder)
    except M2KRError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    ok = all(each.ok for each in done)
    if given.json:
        output.emit({"ok": ok, "files": [_as_json(each) for each in done]})
    else:
        _show(done)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
