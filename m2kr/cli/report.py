"""``m2kr report``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from m2kr.api import Results
    from m2kr.rag.records import RagResult

EXAMPLES = (
    "m2kr report results --html report",
    "m2kr report results/mini.test.*.json --html report --out plots",
    "m2kr report 'results/*.rag.*.json' --html answers",
)


def command(
    results: Annotated[list[Path], typer.Argument(help="Result files, or folders of them.")],
    html: options.Html = None,
    out: options.OutOrNone = None,
    images: options.Images = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Show results side by side: a page with tables, plots and every query, or plots as files.

    --html names a folder, which is made, or an older report's, replaced: its index.html opens in any
    browser, without a network and from a disk, and shows scores, intervals, groups, cost and, query by
    query, what each system retrieved. The queries are those of the split and the runs that the results
    were made with, where they are still there.
    --out names a folder for all plots as PNG and SVG (needs the extra 'report').

    Of results of m2kr rag the page shows scores by arm and against K, and each question with its image,
    the answers, how they were judged, and the passages that they were read from.
    """
    from m2kr.api import Results
    from m2kr.cli import output
    from m2kr.rag.given_results import given_answers
    from m2kr.rag.page import write_answers_page
    from m2kr.rag.score_plots import write_score_plots
    from m2kr.report.page.folder import require_report_folder, write_report
    from m2kr.report.plots import write_plots

    answers = given_answers(results, "m2kr report")
    loaded = Results() if answers else Results.load(*results)
    if html is not None:
        require_report_folder(html)
    page, plots = None, []
    if html is not None:
        with output.Bars() as bars:
            how: dict[str, Any] = {"data": data, "images": images or (), "progress": bars}
            page = (
                write_answers_page(answers, html, **how)
                if answers
                else write_report(loaded, html, **how)
            )
        size = sum(file.stat().st_size for file in page.parent.rglob("*") if file.is_file())
        output.say(f"the page is {page} ({output.size(size)} with its data)", json_mode=json)
    if out is not None:  # last: drawing may need a package that is not there
        plots = write_score_plots(answers, out) if answers else write_plots(loaded, out)
    if json:
        output.emit(
            {
                "results": [result.name for result in answers or loaded],
                "page": None if page is None else str(page),
                "plots": [str(plot) for plot in plots],
            }
        )
        return
    if plots:
        output.say(f"{len(plots)} plots are in {out}")
    if html is None and out is None:
        _show(loaded, answers)
        output.say("next: --html report makes a page of this, --out plots its plots")


def _show(loaded: "Results", answers: "list[RagResult]") -> None:
    from m2kr.cli import output
    from m2kr.cli.eval_ import show
    from m2kr.rag.tables import AnswerTable

    for result in answers:
        output.say(f"{AnswerTable.of(result)}\n")
    if loaded:
        show(loaded)
