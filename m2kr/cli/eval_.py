"""``m2kr eval``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from m2kr.evaluation.result import Result
    from m2kr.search.config import SearchConfig

EXAMPLES = (
    "m2kr eval mini --retriever bm25",
    "m2kr eval mini -r bm25 -r dense_text --split seen --out results",
    "m2kr eval mini -r my_model.py:MyRetriever --set batch_size=32",
    "m2kr eval mini -r image_concepts --ablate --bands",
    "m2kr eval okvqa -r preflmr --search compressed --nbits 4 --audit 200",
    "m2kr eval okvqa -r preflmr --search official --seeds 3",
    "m2kr eval mini -r run:others.trec --missing-queries empty --metrics ndcg@10,hit_rate@5",
)


def command(
    source: Annotated[
        str,
        typer.Argument(
            help="Source, several joined by commas, 'all' that is built, or a judge file."
        ),
    ],
    retriever: options.Retrievers,
    split: options.Split = "test",
    k: options.KOrNone = None,
    metrics: options.Metrics = "default",
    set_: options.Settings = None,
    images: options.Images = None,
    missing_images: options.MissingImages = "error",
    missing_queries: options.MissingQueries = "error",
    ties: Annotated[
        Literal["m2kr", "trec", "trec9"],
        typer.Option(
            "--ties",
            help="Of passages that score alike, the lower id first, or the higher as in trec_eval "
            "(trec9: before its version 10).",
        ),
    ] = "m2kr",
    label: Annotated[
        str, typer.Option("--label", help="Put behind the retrievers' names in tables and files.")
    ] = "",
    search: Annotated[
        Literal["exact", "compressed", "official"],
        typer.Option(
            "--search",
            help="How late interaction is searched: exactly; in a compressed index; or by the "
            "published protocol, index and all.",
        ),
    ] = "exact",
    nbits: options.Nbits = None,
    seeds: Annotated[
        int,
        typer.Option("--seeds", min=1, help="Indexes to build, for mean and range of the scores."),
    ] = 1,
    ablate: Annotated[
        bool,
        typer.Option(
            "--ablate",
            help="Search without image, question, instruction, and with others, too: what reads what.",
        ),
    ] = False,
    bands: Annotated[
        bool,
        typer.Option(
            "--bands", help="Search with what should not matter changed, too: how far scores move."
        ),
    ] = False,
    audit: options.Audit = 0,
    max_hours: Annotated[
        float,
        typer.Option(
            "--max-hours", help="Stop exact search after its first block if it would take longer."
        ),
    ] = 4.0,
    device: options.Device = "auto",
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache", help="Keep encoded rows below the data root, and use them."
        ),
    ] = True,
    out: options.OutOrNone = Path("results"),
    data: options.Data = None,
    edition: options.Edition = None,
    json: options.Json = False,
) -> None:
    """Evaluate retrievers on a built source and show a table.

    Rankings are 500 deep, or as deep as a run; results and runs go to the folder results. Settings of
    the index are search.KEY: seed, centroids, iterations, threads, final=exact, probes, candidates,
    scored; official: ncells, threshold, ndocs, head_rows.

    R@K is M2KR's hit rate (any right passage in the top K); PR@K is pseudo recall. Intervals are
    95 % bootstrap intervals over queries. Results and runs are named after what was done: another
    experiment never overwrites them, the same one does.

    Rows that were encoded before are not encoded again, and what is cut off is gone on with by the
    same command: they are kept in cache/embeddings below the data root, for retrievers that say what
    decides them (the shipped encoders, and any with a cache_key). Exact search is the default
    and never gives way to another by itself.
    """
    from m2kr import api, paths
    from m2kr.cli import output, swapped
    from m2kr.cli.next_commands import next_commands
    from m2kr.data.built_sources import BuiltSources
    from m2kr.data.load import Split, load
    from m2kr.errors import UsageError

    root = paths.data_root(data)
    given = options.settings(set_)
    searching = _searching(
        given, mode=search, nbits=nbits, audit=audit, max_hours=max_hours, device=device
    )
    judge_file = source.endswith(".parquet") and Path(source).is_file()
    wanted: list[str | Split] = [source] if judge_file else [*source.split(",")]
    output.say(f"data root: {root}", json_mode=json)
    if source == "all":
        wanted, lacking = [], []
        here = BuiltSources.below(root)
        here.warn_of_damaged()
        for name, each in [(n, e) for n, found in sorted(here.editions.items()) for e in found]:
            if edition not in (None, each):
                continue
            try:
                wanted.append(
                    load(
                        name,
                        split,
                        edition=each,
                        data=root,
                        images=images or (),
                        missing_images=missing_images,
                    )
                )
            except UsageError as error:  # it has other splits, as CC3M, which is for training alone
                lacking.append(f"left out: {name} ({each}): {error.what}")
        if lacking and not wanted:
            raise UsageError(f"nothing that is built has a split '{split}'", where=str(root))
        for line in lacking:
            output.say(line, json_mode=json)
    with swapped.hint(root, "eval", source, "-r", retriever), output.Bars() as bars:
        results = api.evaluate(
            wanted if len(wanted) != 1 else wanted[0],
            retriever,
            split=split,
            k=k,
            metrics=metrics,
            settings=given,
            edition=edition,
            data=root,
            images=images or (),
            missing_images=missing_images,
            missing_queries=missing_queries,
            ties=ties,
            label=label,
            search=searching,
            seeds=seeds,
            ablate=ablate,
            bands=bands,
            cache=cache,
            out=out,
            progress=bars,
        )
    if json:
        told: dict[str, Any] = {"data": str(root), "results": [r.as_dict() for r in results]}
        if results.unsaved:
            told["error"] = results.unsaved[0].as_dict()
        output.emit(told)
        if results.unsaved:
            raise typer.Exit(results.unsaved[0].exit_code)
        return
    show(results)
    for result in results:
        _show_robustness(result)
    if results.unsaved:
        raise results.unsaved[0]
    if out is not None:
        output.say(f"results and runs are in {out.absolute()}:")
        for result in results:
            output.say(f"  {result.name}.json")
        for command in next_commands(results, out, data=data, edition=edition, images=images or ()):
            output.say(f"next: {command}")


_SEARCH = "search."
# Settings of `SearchConfig` by ``--set search.NAME``; all others are widths.
_TYPES = {"seed": int, "centroids": int, "iterations": int, "threads": int, "final": str}


def _searching(given: dict[str, str], **chosen: Any) -> "SearchConfig":
    """The search that options and ``search.KEY`` settings ask for; takes the latter out of ``given``."""
    from m2kr.errors import UsageError
    from m2kr.search.config import SearchConfig

    widths: dict[str, float] = {}
    for key in [key for key in given if key.startswith(_SEARCH)]:
        name, text = key.removeprefix(_SEARCH), given.pop(key)
        try:
            if name in _TYPES:
                chosen[name] = _TYPES[name](text)
            else:
                widths[name] = float(text)
        except ValueError as error:
            raise UsageError(f"--set {key}={text} is no number", expected="a number") from error
    return SearchConfig(widths=widths, **chosen)


def _show_robustness(result: "Result") -> None:
    """Ablations and bands of a result, where it has them."""
    from m2kr.cli import output
    from m2kr.report import robustness

    who = f"{result.source}/{result.split}, {result.retriever['name']}"
    kinds = (result.bands or {}).get("kinds")
    for what, rows, table, legend in (
        ("ablations", result.ablations, robustness.ablation_table, robustness.ABLATIONS),
        ("bands", kinds, robustness.band_table, robustness.BANDS),
    ):
        if rows is None:
            continue
        output.say("")
        heads, body = table(result)
        output.table(heads, body, title=f"{who}: {what}")
        for line in (legend, *robustness.skipped(rows)):
            output.say(line)


def show(results: "Sequence[Result]") -> None:
    """Results as a table for people."""
    from rich import box
    from rich.measure import Measurement
    from rich.table import Table

    from m2kr.cli import output
    from m2kr.report.tables import INTERVALS, notes, rows, upright

    screen = output.console()
    whole = screen.options.update(width=10_000)
    layouts = (
        (rows(results), box.HEAVY_HEAD),
        (rows(results, intervals=False), box.SIMPLE_HEAD),
        (upright(results), box.SIMPLE_HEAD),
    )
    widest = 0
    for (header, body), lines in layouts:
        tight = lines is not box.HEAVY_HEAD
        table = Table(box=lines, padding=(0, 0 if tight else 1), show_edge=not tight)
        for head in header:  # names may go on in the next line, numbers never
            wraps = head in ("source", "retriever", "result", "queries")
            table.add_column(head, no_wrap=not wraps, overflow="fold")
        for row in body:
            table.add_row(*row)
        needed = Measurement.get(screen, whole, table)
        widest = widest or needed.maximum
        if (needed.minimum if tight else needed.maximum) <= screen.width:
            break
    screen.print(table)
    plain = body == rows(results, intervals=False)[1]
    for note in notes(results):
        if plain and note == INTERVALS:
            note = f"95 % intervals are left out: a terminal of {widest} columns shows them, or --json."
        output.say(note)
