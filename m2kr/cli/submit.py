"""``m2kr submit``: Hand in systems to the leaderboard: init, check, pack."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2kr.cli import options, output

if TYPE_CHECKING:
    from m2kr_leaderboard.scored import ScoredSubmission

Handed = Annotated[Path, typer.Argument(help="A submission: a folder, or what was packed of it.")]


def init(
    results: Annotated[
        list[str], typer.Argument(help="Results of one system, one for each source and split.")
    ],
    out: options.Out,
    set_: options.Settings = None,
) -> None:
    """Make a submission of results: their runs, and a card with what they know of themselves.

    Settings are fields of the card: title, version, authors (parted by semicolons), contact, licence,
    kind (single-stage, re-rank, fusion), parameters, training_data (okvqa:train,a crawl; or none),
    zero_shot, query_modalities, passage_modalities, hardware, note, links.paper, links.code, links.model,
    links.page; k cuts the rankings. What nobody says stays empty in system.yaml, to be filled in.
    """
    from m2kr_leaderboard.init import init_submission

    folder, lacking = init_submission(results, out, options.settings(set_))
    output.say(f"made {folder}: system.yaml, runs/")
    if lacking:
        output.say("to be filled in, by hand or by --set KEY=VALUE:")
        for fault in lacking:
            output.say(fault)
    output.say(f"next: m2kr submit check {shlex.quote(str(folder))}")


def check(
    path: Handed,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Check a submission as the leaderboard does: its card, its files, its runs, and its scores.

    All faults are told at once, each with what to do; nothing is written, and nothing of the submission
    is executed.
    """
    from m2kr_leaderboard.recompute import recompute
    from m2kr_leaderboard.submission import opened_submission

    with output.Bars() as bars, opened_submission(path) as submission:
        scored = recompute(submission, data, progress=bars)
    if json:
        output.emit(scored_facts(scored))
        return
    show_scored(scored)


def show_scored(scored: "ScoredSubmission") -> None:
    """A submission's scores as a board has them, and what must be said of them."""
    heads = ("source", "split", "metric", "score", "n")
    rows = []
    for run in scored.runs:
        for name in run.result.shown:
            facts = run.result.metrics[name]
            value = facts["value"]
            shown = "–" if value is None else f"{value:.4f}"
            rows.append((run.submitted.source, run.submitted.split, name, shown, f"{facts['n']:,}"))
    output.table(heads, rows, title=f"{scored.card.title} {scored.card.version}: all checks hold")
    for run in scored.runs:
        for note in run.notes if run.verified else ("unverified data: not ranked", *run.notes):
            output.say(f"{run.submitted.source}/{run.submitted.split}: {note}")


def scored_facts(scored: "ScoredSubmission") -> dict[str, object]:
    """The same for ``--json``."""
    return {
        "name": scored.card.name,
        "version": scored.card.version,
        "sha256": scored.sha256,
        "runs": [
            {
                "source": run.submitted.source,
                "split": run.submitted.split,
                "verified": run.verified,
                "metrics": {name: facts["value"] for name, facts in run.result.metrics.items()},
                "notes": list(run.notes),
            }
            for run in scored.runs
        ],
    }


def pack_submission(
    path: Annotated[Path, typer.Argument(help="A submission's folder.")], out: options.Out
) -> None:
    """Pack a submission into one file: equal submissions make equal files."""
    from m2kr_leaderboard.pack import pack

    output.say(f"packed {pack(path, out)}")


SUBCOMMANDS = {
    "init": (
        init,
        (
            "m2kr submit init 'results/mini.test.bm25.*.json' --out my-system --set authors='Ada Lovelace'",
        ),
    ),
    "check": (check, ("m2kr submit check my-system",)),
    "pack": (pack_submission, ("m2kr submit pack my-system --out my-system.zip",)),
}
