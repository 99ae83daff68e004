"""An audit as one page for a browser."""

from typing import TYPE_CHECKING

from m2kr.audit.facts import KS
from m2kr.report.html import render

if TYPE_CHECKING:
    from m2kr.audit.audit import AuditReport

_ROWS = (
    ("hit_rate at most", "ceilings", "hit_rate"),
    ("set_recall at most", "ceilings", "set_recall"),
    ("hit_rate by chance", "by_chance", "hit_rate"),
)


def audit_page(report: "AuditReport") -> str:
    """The page, in one file that needs no other."""
    tables = [
        (name, title, [values[f"{metric}@{k}"] for k in KS])
        for name, split in report.splits.items()
        for title, part, metric in _ROWS
        if (values := getattr(split, part))
    ]
    counts = report.counts
    items = [
        report.kind,
        *(f"{n} {s}{'s' if n != 1 else ''}" for s, n in counts.items()),
        f"{len(report.checks)} checks",
    ]
    return render(
        "audit.html",
        title=f"Audit of {report.name}",
        items=items,
        report=report,
        tables=tables,
        ks=KS,
    )
