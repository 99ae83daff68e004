"""Whether exact search will be done in time, by how long its first block took.

The first block discards least, so that all of them take less than this says, down to half of it.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from m2kr.errors import UsageError

if TYPE_CHECKING:
    from m2kr.search.config import SearchConfig


def require_short(seconds: float, searching: "SearchConfig") -> None:
    """Stops a search that would take more than ``searching.max_hours``.

    Args:
        seconds: What all of it will take, by its first block.
        searching: As it was asked for.

    Raises:
        UsageError: that is too long; says the estimate, and what else there is.
    """
    hours = seconds / 3600
    if hours <= searching.max_hours:
        return
    torch = find_spec("torch") is not None
    faster = "a GPU (--device cuda)" if torch else "pip install 'm2kr[models]'"
    raise UsageError(
        f"exact search would take about {_hours(hours)}",
        expected=f"at most {searching.max_hours:g} hours (--max-hours)",
        fix=f"--search compressed --audit 200; or --max-hours {_above(hours)}; or {faster}",
    )


def _hours(hours: float) -> str:
    if hours >= 0.1:
        return f"{hours:.1f} hours"
    return f"{hours * 3600:.2g} seconds"


def _above(hours: float) -> str:
    """A limit in which it fits, estimates being what they are."""
    return f"{2 * hours:.2g}" if hours < 5 else f"{2 * hours:.0f}"
