"""Checking our search, codec and lists against golden files of the official code, step by step.

What must be equal: cells, living centroids, candidates and both pruned sets exactly, the second in
order; scores of the same document to 1e-4; ranks except within runs of official scores closer than
2e-5; codes and residuals of the sample tokens and the inverted lists bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from m2kr.search.late import official
from m2kr.search.late.index.golden_files import Expected, GoldenFile
from m2kr.search.late.workers import full_precision

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from m2kr.search.late.index.ivf import InvertedLists

SCORE_TOLERANCE = 1e-4
TIE = 2e-5

CODES, RESIDUALS, LISTS = "sample codes", "sample residuals", "inverted lists"
STAGES = ("cells", "living", "candidates", "stage1", "stage2", "scores", "ranking")
RETURNED = "returned"


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


def check_folder(folder: "Path", search: Search = official.search) -> list[Checked]:
    """Checks every golden file of a folder (or one file).

    Args:
        folder: Where the ``.npz`` files are.
        search: What searches; ours, unless another implementation is to be checked.

    Raises:
        InputError: there is no golden file, or one is malformed.
    """
    with full_precision():
        return [check(file, search) for file in GoldenFile.all_in(folder)]


def check(file: GoldenFile, search: Search = official.search) -> Checked:
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
    """The first rank that differs by more than the order of scores closer than `TIE`."""
    if len(found) != len(truth):
        return f"{len(found)} ranked, expected {len(truth)}"
    gaps = -np.diff(scores.astype(np.float64))
    runs = np.concatenate([[0], np.cumsum(gaps >= TIE)])
    # Within a run sorted by number, equal sets are equal sequences.
    left, right = found[np.lexsort((found, runs))], truth[np.lexsort((truth, runs))]
    different = np.flatnonzero(left != right)
    if not len(different):
        return None
    rank = int(np.searchsorted(runs, runs[different[0]]))
    return f"rank {rank + 1} is document {found[rank]}, expected {truth[rank]}"
