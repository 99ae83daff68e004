"""``m2kr reproduce``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options, output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from m2kr.reproduce.plan import Plan
    from m2kr.reproduce.run import Reproduction
    from m2kr.reproduce.targets import Target

EXAMPLES = (
    "m2kr reproduce preflmr-vit-l --plan",
    "m2kr reproduce preflmr-vit-l --sources okvqa,evqa",
    "m2kr reproduce --suite paper-baselines --plan",
    "m2kr reproduce preflmr-vit-l --sources okvqa --set device=cuda --images /data/coco",
    "m2kr reproduce my_paper.yaml",
)


def command(
    target: Annotated[
        str | None,
        typer.Argument(
            help="What was published: preflmr-vit-b, -l or -g; or a .yaml file of figures."
        ),
    ] = None,
    sources: Annotated[
        str | None, typer.Option("--sources", help="Only these sources, joined by commas.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", help="Several targets: paper-baselines.")
    ] = None,
    plan: options.Plan = False,
    set_: options.Settings = None,
    images: options.Images = None,
    out: options.Out = Path("results/reproduce"),
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Compute published figures anew, and say how far ours are from them.

    Fetches the test split of the authors' release, its images and the weights, encodes, searches as
    the figures were made and exactly, and compares: within 0.3 points is reproduced. What is here
    already is used, and a run that was cut off goes on by the same command. Results go to
    results/reproduce/TARGET, with reproduction.json and reproduction.md.

    Exit code 0 if every figure was reproduced, 1 if one differs, 3 if data, images or a package are
    missing, 4 if something can't be fetched. --plan says bytes and hours, and needs no network.
    """
    from m2kr import paths
    from m2kr.errors import UsageError
    from m2kr.reproduce.targets import find_suite, find_target, published_names

    if (target is None) == (suite is None):
        raise UsageError(
            "give a target, or a suite",
            expected=", ".join(published_names()["targets"]) + ", or a .yaml file",
            fix="m2kr reproduce preflmr-vit-l --plan",
        )
    not_run: Mapping[str, str] = {}
    if suite is not None:
        chosen = find_suite(suite)
        targets, not_run = list(chosen.targets), chosen.not_run
    else:
        targets = [find_target(str(target))]
    if sources is not None:
        targets = [one.only(sources.split(",")) for one in targets]
    root, given = paths.data_root(data), options.settings(set_)
    if plan:
        _plan(targets, root, given, not_run, json=json)
        return
    output.say(f"data root: {root}", json_mode=json)
    _run(targets, root, given, not_run, images=images or (), out=out, json=json)


def _run(
    targets: "Sequence[Target]",
    root: Path,
    given: "Mapping[str, str]",
    not_run: "Mapping[str, str]",
    *,
    images: "Sequence[Path]",
    out: Path,
    json: bool,
) -> None:
    from m2kr.reproduce.run import Reproducer

    done = []
    for target in targets:
        with output.Bars() as bars:
            reproducer = Reproducer(
                root,
                out,
                images,
                given,
                tell=lambda line: output.say(line, json_mode=json),
                progress=bars,
            )
            done.append(reproducer.reproduce(target))
        if not json:
            _show(done[-1])
    if json:
        told = {"data": str(root), "reproductions": [one.as_dict() for one in done]}
        output.emit({**told, "not_run": dict(not_run)})
    else:
        _show_not_run(not_run)
    code = max(one.exit_code for one in done)
    if code:
        raise typer.Exit(code)


def _show(done: "Reproduction") -> None:
    from m2kr.reproduce.table import lines, rows

    output.table(*rows(done), title=done.target.title)
    for line in lines(done):
        output.say(line)
    output.say(f"results, reproduction.json and reproduction.md are in {done.folder.absolute()}")


def _show_not_run(not_run: "Mapping[str, str]") -> None:
    for what, why in not_run.items():
        output.say(f"not run: {what}: {why}")


def _plan(
    targets: "Sequence[Target]",
    root: Path,
    given: "Mapping[str, str]",
    not_run: "Mapping[str, str]",
    *,
    json: bool,
) -> None:
    from m2kr.reproduce.plan import plan_target

    plans = [plan_target(target, root, given) for target in targets]
    if json:
        told: dict[str, Any] = {"data": str(root), "plans": [plan.as_dict() for plan in plans]}
        output.emit({**told, "not_run": dict(not_run)})
        return
    output.say(f"data root: {root}")
    for plan, target in zip(plans, targets, strict=True):
        _show_plan(plan, target)
    if len(plans) > 1:
        output.say("tables and images are the same for all of these, and are fetched once")
    _show_not_run(not_run)


def _show_plan(plan: "Plan", target: "Target") -> None:
    heads = ("source", "tables", "images", "disk", "encode", "exact search")
    body = []
    for one in plan.sources:
        images = "here" if one.images_here == 1 else _about(one.image_bytes)
        body.append(
            (
                one.source,
                "here" if one.built else _about(one.data_bytes),
                images,
                _size(one.disk_bytes),
                _flop(one.encode_flop),
                _flop(one.search_flop),
            )
        )
    output.table(heads, body, title=target.title)
    for one in plan.sources:
        if one.image_bytes and one.images_here != 1:
            output.say(f"images of {one.source}: {one.images_from}")
    if plan.weights:
        state = "here" if plan.weights_here else f"{_size(plan.weights_bytes)} to fetch"
        output.say(f"weights: {plan.weights}, {state}")
    totals = plan.totals()
    unknown = f", and {totals['unknown']} sizes unknown" if totals["unknown"] else ""
    output.say(f"to fetch: about {_size(totals['fetch_bytes'])}{unknown}")
    disk = _size(totals["disk_bytes"])
    output.say(f"disk: {disk} more, for token embeddings (float16) and an index of 8 bits")
    for machine, hours in totals["hours"].items():
        parts = [f"{what} {output.hours(*span)}" for what, span in hours.items()]
        output.say(f"{machine}: {', '.join(parts)}")
    if totals["hours"]:
        output.say("hours are arithmetic, not measured; official search takes its index besides")


def _size(size: int | None) -> str:
    return "?" if size is None else output.size(size)


def _about(size: int | None) -> str:
    return "?" if size is None else f"~{output.size(size)}" if size else "none"


def _flop(flop: float | None) -> str:
    return "?" if flop is None else f"{flop / 1e15:.1f} PFLOP"
