"""One array's comparison, and how far each kind of number may differ from the official one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Most that a number may differ. ``exact``: ids and masks. ``unit``: entries of unit vectors.
#: ``hidden``: states, in units of the array's largest entry where that exceeds 1. ``gradient``:
#: relative; see `golden_model`.
TOLERANCES = {
    "exact": 0.0,
    "unit": 2e-6,
    "hidden": 2e-6,
    "score": 1e-4,
    "loss": 1e-5,
    "gradient": 1e-3,
    "pixels": 1e-5,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One array's outcome.

    Attributes:
        file: The golden file.
        array: The array's name.
        worst: Its largest difference; None for an input, which there is nothing to compare with.
        tolerance: What ``worst`` may be at most.
        note: What is wrong, where a number can't say it.
    """

    file: str
    array: str
    worst: float | None = None
    tolerance: float | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the array is an input or within its tolerance."""
        return self.worst is None or (self.tolerance is not None and self.worst <= self.tolerance)


def unknown(file: str, array: str) -> Line:
    """The line of an array that nothing compares: a failure, never a silent pass."""
    return Line(file, array, float("inf"), None, "not compared: unknown to this comparison")


def missing(file: str, array: str) -> Line:
    """The line of an array that the format asks for and the file lacks."""
    return Line(file, array, float("inf"), None, "missing from the file")


def compare(
    file: str,
    array: str,
    actual: "NDArray[np.generic]",
    expected: "NDArray[np.generic]",
    kind: str,
) -> Line:
    """Compares an array with the official one.

    Args:
        file: The golden file.
        array: The array's name.
        actual: Ours.
        expected: The official one.
        kind: A key of `TOLERANCES`.
    """
    tolerance = TOLERANCES[kind]
    if actual.shape != expected.shape:
        note = f"shape {actual.shape}, not {expected.shape}"
        return Line(file, array, float("inf"), tolerance, note)
    ours, theirs = actual.astype(np.float64), expected.astype(np.float64)
    scale = max(1.0, float(np.abs(theirs).max(initial=0.0))) if kind == "hidden" else 1.0
    worst = float(np.abs(ours - theirs).max(initial=0.0)) / scale
    if np.isnan(worst):
        return Line(file, array, float("inf"), tolerance, "not a number")
    return Line(file, array, worst, tolerance)
