"""``m2kr eval``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from m2kr.cli.output import Bars
    from m2kr.evaluation.result import Result

EXAMPLES = (
    "m2kr eval mini --retriever bm25",
    "m2kr eval mini -r bm25 -r dense_text --split seen --out results",
    "m2kr eval mini -r my_model.py:MyRetriever --set batch_size=32",
)


def command(
    source: Annotated[
        str, typer.Argument(help="Source name; several joined by commas; or 'all' that is built.")
    ],
    retriever: Annotated[
        list[str],
        typer.Option(
            "--retriever",
            "-r",
            help="Name, package.module:Class, file.py:Class or run:FILE; may be repeated.",
        ),
    ],
    split: Annotated[str, typer.Option("--split", help="Split to evaluate.")] = "test",
    k: Annotated[int, typer.Option("--k", min=1, help="Depth of the rankings.")] = 500,
    metrics: Annotated[
        Literal["default", "full"],
        typer.Option("--metrics", help="'full' adds nDCG, MAP and precision (by ranx)."),
    ] = "default",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Setting of the retrievers; NAME.KEY=VALUE for one of several.",
        ),
    ] = None,
    images: options.Images = None,
    missing_images: Annotated[
        Literal["error", "black", "skip"],
        typer.Option("--missing-images", help="What to do where no root has an image."),
    ] = "error",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for results and runs."),
    ] = Path("results"),
    data: options.Data = None,
    edition: options.Edition = None,
    json: options.Json = False,
) -> None:
    """Evaluate retrievers on a built source and show a table.

    R@K is M2KR's hit rate (any right passage in the top K); PR@K is pseudo recall. Intervals are
    95 % bootstrap intervals over queries.
    """
    from m2kr import api, paths
    from m2kr.cli import output
    from m2kr.data.load import built

    root = paths.data_root(data)
    names = sorted(built(root)) if source == "all" else source.split(",")
    output.say(f"data root: {root}", json_mode=json)
    with output.Bars() as bars:
        results = api.evaluate(
            names,
            retriever,
            split=split,
            k=k,
            metrics=metrics,
            settings=options.settings(set_),
            edition=edition,
            data=root,
            images=images or (),
            missing_images=missing_images,
            out=out,
            progress=stages(bars),
        )
    if json:
        output.emit({"data": str(root), "results": [r.as_dict() for r in results]})
        return
    show(results)
    if out is not None:
        output.say(f"results and runs are in {out.absolute()}")


def stages(bars: "Bars") -> "Callable[[str, int, int], None]":
    """The harness's progress calls as bars."""
    seen: dict[str, int] = {}

    def advance(stage: str, done: int, total: int) -> None:
        if stage not in seen:
            bars.start(stage, total, "rows")
        bars.advance(stage, done - seen.get(stage, 0))
        seen[stage] = done
        if done >= total:
            bars.done(stage)
            del seen[stage]

    return advance


def show(results: "Sequence[Result]") -> None:
    """Results as a table for people."""
    from rich.table import Table

    from m2kr.cli import output
    from m2kr.evaluation.report import notes, rows

    header, body = rows(results)
    table = Table(*header)
    for row in body:
        table.add_row(*row)
    output.console().print(table)
    for note in notes(results):
        output.say(note)
