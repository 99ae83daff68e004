"""``m2kr report``."""

from pathlib import Path
from typing import Annotated

import typer

from m2kr.cli import options

EXAMPLES = (
    "m2kr report results --html report",
    "m2kr report results/mini.test.*.json --html report --out plots",
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
    """
    from m2kr.api import Results
    from m2kr.cli import output
    from m2kr.report.page.folder import require_report_folder, write_report
    from m2kr.report.plots import write_plots

    loaded = Results.load(*results)
    if html is not None:
        require_report_folder(html)
    page, plots = None, []
    if html is not None:
        with output.Bars() as bars:
            page = write_report(loaded, html, data=data, images=images or (), progress=bars)
        size = sum(file.stat().st_size for file in page.parent.rglob("*") if file.is_file())
        output.say(f"the page is {page} ({output.size(size)} with its data)", json_mode=json)
    if out is not None:  # last: drawing may need a package that is not there
        plots = write_plots(loaded, out)
    if json:
        output.emit(
            {
                "results": [result.name for result in loaded],
                "page": None if page is None else str(page),
                "plots": [str(plot) for plot in plots],
            }
        )
        return
    if plots:
        output.say(f"{len(plots)} plots are in {out}")
    if html is None and out is None:
        from m2kr.cli.eval_ import show

        show(loaded)
        output.say("next: --html report makes a page of this, --out plots its plots")
