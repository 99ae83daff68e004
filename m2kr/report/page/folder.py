"""A report as a folder: ``index.html``, and beside it the data that its query browser reads."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import atomic
from m2kr._version import __version__
from m2kr.errors import InputError, M2KRError, UsageError, plainly
from m2kr.evaluation.compare import compare_results
from m2kr.evaluation.metrics import heading, metrics
from m2kr.evaluation.result_data import open_split
from m2kr.progress import SILENT, Progress
from m2kr.report import html
from m2kr.report.page.data_files import DataFiles, as_script, fitted, write_synced
from m2kr.report.page.queries import write_queries
from m2kr.report.summary import PRIMARY, Column, Summary, costs
from m2kr.report.tables import INTERVALS, REUSED, notes, shown_metrics
from m2kr.retrieval.run import Run

if TYPE_CHECKING:
    from os import PathLike

    from m2kr.evaluation.result import Result

# By metric and system.
Letters = Mapping[str, Mapping[str, str]]

logger = logging.getLogger("m2kr.report")

MARKER = "m2kr-report.json"
FORMAT = "m2kr-report-1"
INDEX = "index.html"
_MOST_GROUPS = 40  # values of a column that its table shows


def require_report_folder(folder: Path) -> None:
    """Refuses, before the work, a place where no report can be written.

    Raises:
        InputError: Something else than a report of ours is there.
        MissingError: Its parent folder is not there.
    """
    target = folder.resolve()
    with plainly(target):
        if target.is_dir():
            if not all(map(_is_ours, target.iterdir())):
                raise InputError(
                    "this folder has something else in it than a report of m2kr",
                    where=str(folder),
                    expected="a new name, an empty folder, or an older report, which is replaced",
                )
        elif target.exists() or target.suffix.lower() in {".html", ".htm"}:
            raise UsageError(
                "this is no folder, as a report is, with an index.html in it",
                where=str(folder),
                expected="a folder to write",
                fix=f"--html {folder.parent if folder.name == INDEX and folder.parent.name else 'report'}",
            )
        atomic.require_parent(folder if target == folder.absolute() else target)


def _is_ours(path: Path) -> bool:
    """Whether a report's folder has something of this name; of data alone it may be anybody's."""
    data = path.name.isdecimal() and path.is_dir()
    return (path.name in (INDEX, MARKER) or data) and (path.parent / MARKER).is_file()


def write_report(
    results: "Sequence[Result]",
    folder: "str | PathLike[str]",
    *,
    data: "str | PathLike[str] | None" = None,
    images: Sequence[str | Path] = (),
    progress: Progress = SILENT,
) -> Path:
    """Writes a report, whole or not at all; an older one of this name is replaced.

    Where a split or its runs are not there any more, the page is made without their queries, and says so.

    Args:
        results: Of any systems and splits.
        folder: What is written.
        data: Data root searched first for the splits.
        images: Image roots searched first.
        progress: Told of runs, images and queries.

    Returns:
        Path of the page.

    Raises:
        InputError: Something else than a report of ours is there.
        UsageError: There are no results.
    """
    if not results:
        raise UsageError("there are no results to report")
    target = Path(folder).resolve()
    require_report_folder(Path(folder))
    summary = Summary.of(results)
    with plainly(target), replacing_folder(target) as aside:
        aside.mkdir()
        files = DataFiles(aside)
        browsers = [
            _browser(column, number, files, data, images, progress)
            for number, column in enumerate(summary.columns)
        ]
        tests = [_tests(column, progress) for column in summary.columns]
        write_page(aside, summary, browsers, tests)
    return target / INDEX


def write_page(
    folder: Path,
    summary: Summary,
    browsers: Sequence[Mapping[str, Any]],
    tests: Sequence[Letters | str],
) -> None:
    """Writes ``index.html`` and what marks the folder as a report.

    Args:
        folder: It exists, and has the data of the queries.
        summary: What the page shows first.
        browsers: Per column the ``folder`` of its queries' data, the ``systems`` in their order and what
            `write_queries` says; or a ``fault`` where there is none.
        tests: Per column the systems' significance letters, or why there are none.
    """
    title = "Results" if len(summary.columns) > 1 else f"Results on {summary.columns[0].label}"
    facts = _facts(summary, browsers, tests)
    write_report_page(
        folder, facts, "report.js", title=title, noun="query", nouns="queries", one="system"
    )


def write_report_page(folder: Path, facts: Mapping[str, Any], script: str, **words: str) -> None:
    """Writes the page itself and what marks its folder as a report.

    Args:
        folder: It exists, and has the data that the page reads.
        facts: What the page's script shows.
        script: File of the templates that shows it, after ``page.js``.
        words: The page's ``title``, what it lists (``noun`` and ``nouns``), and ``one`` of those compared.
    """
    style = (html.TEMPLATES / "report.css").read_text(encoding="utf-8")
    data = as_script(fitted(facts)).decode()
    page = html.render("report.html", "page.js", script, style=style, data=data, **words)
    write_synced(folder / INDEX, page.encode())
    write_synced(folder / MARKER, as_script({"format": FORMAT, "m2kr": __version__}) + b"\n")


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A free place for a new report, which takes the place of an old one when it is complete."""
    aside = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    atomic.discard(aside)
    try:
        yield aside
        for folder in (*filter(Path.is_dir, aside.iterdir()), aside):
            atomic.fsync_dir(folder)
        if target.exists():
            target.replace(old)
        try:
            aside.replace(target)
        except OSError:
            if old.exists():
                old.replace(target)
            raise
        atomic.fsync_dir(target.parent)
    finally:
        atomic.discard(aside)
        if target.exists():
            atomic.discard(old)


def _browser(
    column: Column,
    number: int,
    files: DataFiles,
    data: "str | PathLike[str] | None",
    images: Sequence[str | Path],
    progress: Progress,
) -> dict[str, Any]:
    """Writes a split's queries and says where they are, or why they are not."""
    try:
        split = open_split(column.first, data=data, images=images)
        _ = split.queries_view, split.passages_view  # whose files are checked when they are opened
    except M2KRError as error:
        logger.warning("%s: no queries in the report: %s", column.label, error.what)
        return {"fault": f"The queries are not in this report: {error.what}."}
    runs = [_loader(result) for result in column.results.values()]
    left_out = write_queries(split, runs, files, str(number), progress)
    split.require_unharmed()
    names = list(column.results)
    faults = [
        f"The rankings of {names[system]} are not in this report: {fault}."
        for system, fault in left_out.pop("faults").items()
    ]
    for fault in faults:
        logger.warning("%s: %s", column.label, fault)
    return {"folder": str(number), "systems": names, "faults": faults, **left_out}


def _loader(result: "Result") -> Callable[[], Run]:
    # Of a copy, since a result keeps the run that it has loaded.
    return lambda: dataclasses.replace(result).scored_run()


def _tests(column: Column, progress: Progress) -> Letters | str:
    """By metric and system the letters of systems that can't be told apart, or why there are none."""
    if len(column.results) < 2:
        return ""
    try:
        compared = compare_results(column.results.values(), progress=progress)
    except M2KRError as error:
        return f"{column.label}: no tests of differences: {error.what}"
    names = dict(zip(compared.systems, column.results, strict=True))
    return {
        metric: {names[system]: letters for system, letters in one.letters.items()}
        for metric, one in compared.metrics.items()
    }


def _facts(
    summary: Summary,
    browsers: Sequence[Mapping[str, Any]],
    tests: Sequence[Letters | str],
) -> dict[str, Any]:
    """All that the page shows but the queries."""
    names = summary.metrics()
    known = metrics()
    results = [result for column in summary.columns for result in column.results.values()]
    # The page says in its own words what small numbers are, and shows no seconds.
    said = [*summary.notes, *(note for note in notes(results) if note not in (INTERVALS, REUSED))]
    said += [why for why in tests if why and isinstance(why, str)]
    return {
        "version": __version__,
        "systems": summary.systems,
        "metrics": [
            {
                "name": name,
                "label": heading(name),
                "doc": known[stem].doc if (stem := name.partition("@")[0]) in known else "",
            }
            for name in names
        ],
        "columns": [
            _column_facts(summary, column, browser, names)
            | {"letters": {} if isinstance(letters, str) else letters}
            for column, browser, letters in zip(summary.columns, browsers, tests, strict=True)
        ],
        "shown": [name for name in shown_metrics(results) if name in names],
        "notes": said,
    }


def _column_facts(
    summary: Summary, column: Column, browser: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    first = column.first
    return {
        "key": column.key,
        "label": column.label,
        "source": first.source,
        "split": first.split,
        "edition": first.edition,
        "queries": first.counts.get("queries", 0),
        "passages": first.counts.get("passages", 0),
        "primary": column.metric(PRIMARY),
        "partial": any(result.partial for result in column.results.values()),
        "results": [
            _result_facts(column.results[system], names) if system in column.results else None
            for system in summary.systems
        ],
        "groups": _group_facts(summary, column, names),
        "browser": browser,
    }


def _result_facts(result: "Result", names: Sequence[str]) -> dict[str, Any]:
    return {
        "values": [_numbers(result.metrics.get(name)) for name in names],
        "costs": costs(result),
    }


def _numbers(metric: Mapping[str, Any] | None) -> list[float | int] | None:
    """Value, interval and number of queries."""
    if not metric or metric["value"] is None:
        return None
    return [*(metric[end] for end in ("value", "low", "high")), metric["n"]]


def _group_facts(summary: Summary, column: Column, names: Sequence[str]) -> list[dict[str, Any]]:
    """Per column that results are broken down by: its values, their queries, and each system's scores."""
    by_name: dict[str, dict[str, int]] = {}
    for result in column.results.values():
        for name, values in result.groups.items():
            sizes = {value: facts["n"] for value, facts in values.items()}
            by_name.setdefault(name, {}).update(sizes)
    groups = []
    for name, found in by_name.items():
        if len(found) < 2:
            continue
        largest = set(sorted(found, key=lambda value: -found[value])[:_MOST_GROUPS])
        kept = [value for value in found if value in largest]
        groups.append(
            {
                "name": name,
                "values": kept,
                "sizes": [found[value] for value in kept],
                "left_out": len(found) - len(kept),
                "scores": [
                    [
                        _group_scores(column.results.get(system), name, value, names)
                        for value in kept
                    ]
                    for system in summary.systems
                ],
            }
        )
    return groups


def _group_scores(
    result: "Result | None", name: str, value: str, names: Sequence[str]
) -> list[float | None] | None:
    scored: Mapping[str, Any] = {}
    if result is not None:
        scored = result.groups.get(name, {}).get(value, {}).get("metrics", {})
    if not scored:
        return None
    return [(scored.get(metric) or {}).get("value") for metric in names]
