"""``m2kr submit``: Hand in systems to the leaderboard: init, check, pack."""

import shlex
from dataclasses import asdict
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
    json: options.Json = False,
) -> None:
    """Make a submission of results, or bring one up to date: their runs, and a card with what they know.

    Settings are fields of the card: title, version, authors (parted by semicolons), contact, licence,
    kind (single-stage, re-rank, fusion), parameters, training_data (okvqa:train,a crawl; or none),
    zero_shot, query_modalities, passage_modalities, hardware, note, links.paper, links.code, links.model,
    links.page; k cuts the rankings. What nobody says stays empty in system.yaml, to be filled in. Of a
    submission that is there, what you wrote stays: fields, README.md, runs of other sources.
    """
    from m2kr.evaluation.result_files import result_files
    from m2kr_leaderboard.card_settings import card_settings

    settings = options.settings(set_)
    card_settings(settings, out)  # a typing error is told before seconds of imports
    for path in results:
        result_files(path)
    from m2kr_leaderboard.init import init_submission

    made = init_submission(results, out, settings)
    following = shlex.join(["m2kr", "submit", "check", str(made.folder)])
    if json:
        facts = {"folder": str(made.folder), "new": made.new, "next": following}
        facts |= {"changed": list(made.changed), "kept": list(made.kept)}
        output.emit(facts | {"lacking": [asdict(problem) for problem in made.lacking]})
        return
    if made.new:
        output.say(f"made {made.folder}: system.yaml, runs/")
    else:
        output.say(f"brought {made.folder} up to date")
        output.say(f"kept: {', '.join(made.kept) or 'nothing'}")
        output.say("changed:" if made.changed else "changed: nothing")
        for line in made.changed:
            output.say(f"  {line}")
        if made.changed and not any(line.startswith("version:") for line in made.changed):
            output.say("if this version was handed in already, give it another: --set version=...")
    if made.lacking:
        output.say("to be filled in, by hand or by --set KEY=VALUE:")
        for fault in made.lacking:
            output.say(str(fault))
    output.say(f"next: {following}")


def check(
    path: Handed,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Check a submission as the leaderboard does: its card, its files, its runs, and its scores.

    All faults of a stage (form, card, runs) are told at once, each with what to do; nothing is written, and
    nothing of the submission is executed.
    """
    from m2kr_leaderboard.recompute import recompute
    from m2kr_leaderboard.submission import opened_submission

    with output.Bars() as bars, opened_submission(path) as submission:
        scored = recompute(submission, data, progress=bars)
    following = ["m2kr", "leaderboard", "validate", str(path)]
    if path.is_dir():
        following = ["m2kr", "submit", "pack", str(path), "--out", f"{scored.card.name}.zip"]
    if json:
        output.emit(scored_facts(scored) | {"next": shlex.join(following)})
        return
    show_scored(scored)
    output.say(f"next: {shlex.join(following)}")


def show_scored(scored: "ScoredSubmission") -> None:
    """A submission's scores as a board has them, and what must be said of them."""
    heads = ("source", "split", "metric", "score", "95 % interval", "n")
    rows = []
    for run in scored.runs:
        for name in run.result.shown:
            facts = run.result.metrics[name]
            shown = interval = "–"
            if facts["value"] is not None:
                shown = f"{facts['value']:.4f}"
                interval = f"[{facts['low']:.4f}, {facts['high']:.4f}]"
            run_of = (run.submitted.source, run.submitted.split)
            rows.append((*run_of, name, shown, interval, f"{facts['n']:,}"))
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
    path: Annotated[Path, typer.Argument(help="A submission's folder.")],
    out: options.Out,
    hub_yaml: Annotated[
        str | None,
        typer.Option(
            "--hub-yaml",
            metavar="OWNER/DATASET",
            help="Also recompute the scores and write them beside it, for the folder .eval_results of the "
            "model's repository on the Hugging Face Hub; OWNER/DATASET is the benchmark's dataset there.",
        ),
    ] = None,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Pack a submission into one file: equal submissions make equal files."""
    from m2kr_leaderboard.hub_yaml import require_dataset_id, write_hub_yaml
    from m2kr_leaderboard.pack import pack, require_packed_name

    require_packed_name(out)
    scored = entries = None
    if hub_yaml is not None:
        require_dataset_id(hub_yaml)
        from m2kr_leaderboard.recompute import recompute
        from m2kr_leaderboard.submission import open_submission

        with output.Bars() as bars:
            scored = recompute(open_submission(path), data, progress=bars)
    packed = pack(path, out)
    if scored and hub_yaml:
        entries = write_hub_yaml(scored, hub_yaml, out.with_suffix(".eval_results.yaml"))
    following = shlex.join(["m2kr", "leaderboard", "validate", str(packed)])
    if json:
        facts = {"file": str(packed), "bytes": packed.stat().st_size, "next": following}
        output.emit(facts | {"hub_yaml": str(entries) if entries else None})
        return
    output.say(f"packed {packed}")
    if scored and entries:
        inside = f".eval_results/{scored.card.name}.yaml"
        output.say(f"wrote {entries}: in the model's repository on the Hub it is {inside}")
    output.say(f"next: {following}")


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
