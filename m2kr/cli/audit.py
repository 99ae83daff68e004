"""``m2kr audit``."""

import textwrap
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from m2kr.audit.audit import AuditReport
    from m2kr.audit.findings import Finding

EXAMPLES = (
    "m2kr audit mini",
    "m2kr audit okvqa --split test --html audit.html",
    "m2kr audit downloads/scifact --fail-on warning",
    "m2kr audit ./my_mteb_export --json",
)
_WIDTH = 80


def command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE|FOLDER",
            help="A built source; or a folder of BEIR, M-BEIR, ReT-M2KR or MTEB's form.",
        ),
    ],
    split: options.Splits = None,
    fail_on: Annotated[
        Literal["error", "warning", "never"],
        typer.Option("--fail-on", help="Findings that lead to exit code 1."),
    ] = "error",
    html: options.Html = None,
    images: options.Images = None,
    data: options.Data = None,
    edition: options.Edition = None,
    json: options.Json = False,
) -> None:
    """Look for what makes a benchmark's scores wrong or doubtful.

    Positives that the corpus lacks, duplicates within and across splits, shortcuts, broken texts and
    images: each with its count, its effect on the score, and what to do. docs/audit.md has every check.
    """
    from m2kr import atomic
    from m2kr.audit.audit import audit
    from m2kr.cli import output

    if html is not None:
        atomic.require_file(html)
    with output.Bars() as bars:
        report = audit(
            target, split, edition=edition, data=data, images=images or (), progress=bars
        )
    if html is not None:
        from m2kr.audit.page import audit_page

        atomic.write_text(html, audit_page(report))
    if json:
        output.emit(report.as_dict() | {"page": None if html is None else str(html)})
    else:
        _show(report)
        if html is not None:
            output.say(f"page: {html}")
    if report.fails(fail_on):
        raise typer.Exit(1)


def _show(report: "AuditReport") -> None:
    from m2kr.cli import output

    output.say(f"{report.name}: {report.kind}")
    output.say("")
    for finding in report.findings:
        _show_finding(finding)
    ks = (1, 5, 10, 50, 100, 500)
    rows = []
    for name, split in report.splits.items():
        for title, values, metric in (
            ("hit_rate at most", split.ceilings, "hit_rate"),
            ("set_recall at most", split.ceilings, "set_recall"),
            ("hit_rate by chance", split.by_chance, "hit_rate"),
        ):
            if values:
                rows.append((name, title, *(f"{values[f'{metric}@{k}']:.3f}" for k in ks)))
    if rows:
        output.table(("split", "", *(f"@{k}" for k in ks)), rows)
    for name, split in report.splits.items():
        output.say(
            f"{name}: {split.queries:,} queries ({split.judged:,} judged) in {split.passages:,} passages"
        )
    counts = ", ".join(f"{n} {s}{'s' if n != 1 else ''}" for s, n in report.counts.items())
    output.say(f"{len(report.checks)} checks: {counts}")


def _show_finding(finding: "Finding") -> None:
    from m2kr.cli import output

    hit = finding.hit
    where = f" [{hit.where}]" if hit.where else ""
    share = f" of {hit.total:,}" if hit.total else ""
    output.say(f"{hit.severity.upper():8}{finding.code}{where}")
    for text in (
        f"{hit.count:,}{share} {hit.unit}: {hit.effect}.",
        f"To do: {finding.advice}.",
        *(f"- {example}" for example in hit.examples),
    ):
        indent = " " * 8
        for line in textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=indent + "  " * text.startswith("- "),
        ):
            output.say(line)
    output.say("")
