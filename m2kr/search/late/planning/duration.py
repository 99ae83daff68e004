"""Whether exact search of a token store will be done in time, by `plan`'s estimate."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from m2kr.errors import UsageError

if TYPE_CHECKING:
    from m2kr.search.late.modes import Searching
    from m2kr.search.late.store import TokenStore

# Multiplications an hour that any machine does: with fewer, no estimate (some 5 seconds) is made.
_SLOWEST = 10**13
_REFERENCE = 3600 * 10**9  # multiplications an hour without torch


def require_short(
    queries: "TokenStore", documents: "TokenStore", k: int, searching: "Searching"
) -> None:
    """Stops a search that would take more than ``searching.max_hours``.

    Raises:
        UsageError: it would; says the estimate, and what else there is.
    """
    work = queries.tokens * documents.tokens * documents.dim
    if find_spec("torch") is None:
        if work / _REFERENCE > searching.max_hours:
            raise _too_long(work / _REFERENCE, None, searching, "pip install 'm2kr[models]'")
        return
    if work <= searching.max_hours * _SLOWEST:
        return
    from m2kr.search.late.planning.plan import Pool, plan

    pool = Pool(len(documents), documents.tokens / len(documents), documents.dim)
    rows = max(1, round(queries.tokens / len(queries)))
    told = plan(pool, rows=rows, k=k, threads=searching.threads)
    hours = {mode: told.total(mode, len(queries)) / 3600 for mode in ("exact", "compressed")}
    if hours["exact"] > searching.max_hours:
        raise _too_long(hours["exact"], hours["compressed"], searching, "a GPU (--device cuda)")


def _too_long(
    exact: float, compressed: float | None, searching: "Searching", faster: str
) -> UsageError:
    also = "" if compressed is None else f" (about {_hours(compressed)} when its index is built)"
    return UsageError(
        f"exact search would take about {_hours(exact)}",
        expected=f"at most {searching.max_hours:g} hours (--max-hours)",
        fix=f"--search compressed --audit 200{also}; or --max-hours {_above(exact)}; or {faster}",
    )


def _hours(hours: float) -> str:
    if hours >= 0.1:
        return f"{hours:.1f} hours"
    return f"{hours * 3600:.2g} seconds"


def _above(hours: float) -> str:
    """A limit in which it fits, estimates being what they are."""
    return f"{2 * hours:.2g}" if hours < 5 else f"{2 * hours:.0f}"
