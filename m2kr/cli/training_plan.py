"""``m2kr train --plan``: what a training run takes, as tables."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from m2kr.cli import output

if TYPE_CHECKING:
    from m2kr.training.plan import TrainingPlan
    from m2kr.training.recipe import Recipe


def show_plan(
    recipe: "Recipe", data: Path, images: Sequence[Path], device: str, *, json: bool
) -> None:
    """Shows what a recipe takes."""
    from m2kr.training.plan import plan_training
    from m2kr.training.recipe_file import recipe_fingerprint

    plan = plan_training(recipe, data, images, device)
    if json:
        facts = {"data": str(data), "fingerprint": recipe_fingerprint(recipe)}
        output.emit(facts | plan.as_dict())
        return
    output.say(f"data root: {data}")
    heads = ("source", "split", "rows", "passages", "visits", "state")
    body = []
    for one in plan.sources:
        about = "" if one.built else "~"
        counts = (
            "?" if n is None else f"{about}{n:,}" for n in (one.rows, one.passages, one.visits)
        )
        state = "here" if one.built else f"not built: {one.fix}"
        body.append((one.source, one.split, *counts, state))
    output.table(heads, body, title=f"{recipe.name}: data")
    output.say(f"model: {plan.model}")
    parts = plan.parameters["by_part"].items()
    rows = [(name, _millions(part["all"]), _millions(part["trained"])) for name, part in parts]
    rows.append(("all", _millions(plan.parameters["all"]), _millions(plan.parameters["trained"])))
    output.table(("part", "parameters, M", "trained, M"), rows)
    for line in _lines(plan):
        output.say(line)


def _lines(plan: "TrainingPlan") -> Iterator[str]:
    from m2kr.training.measured_steps import Measured

    epochs = "" if plan.epochs is None else f", {plan.epochs:,.2f} epochs"
    yield (
        f"steps: {plan.steps:,} of {plan.queries_per_step:,} queries a process{epochs}; "
        "N processes visit N times as many"
    )
    memory = ", ".join(f"{name} {output.size(size)}" for name, size in plan.memory.items())
    yield f"memory: about {output.size(sum(plan.memory.values()))} a process: {memory}"
    if plan.gpu_activations != plan.memory["activations"]:
        yield f"that is on the CPU; on a GPU activations take {output.size(plan.gpu_activations)}"
    flop = ", ".join(f"{name} {size / 1e12:,.2f}" for name, size in plan.flop.items())
    yield f"TFLOP a step: {sum(plan.flop.values()) / 1e12:,.2f}: {flop}"
    for machine, (least, most) in plan.hours.items():
        yield f"{machine}: {_hours(least, most)}"
    if isinstance(plan.measured, Measured):
        done = plan.measured
        yield (
            f"measured on {done.device}: {done.steps} steps of {done.batch} queries, "
            f"{done.seconds:.2f} s each"
        )
    else:
        yield f"no steps were measured here: {plan.measured.why}"
    yield (
        "memory (without Python and torch themselves), TFLOP and the other machines' hours are arithmetic, "
        "at passages of full length; validation and saving are not counted"
    )
    for note in plan.notes:
        yield f"note: {note}"


def _millions(number: int) -> str:
    return f"{number / 1e6:,.2f}"


def _hours(least: float, most: float) -> str:
    if least == most:
        return _time(most)
    return f"{_time(least)} to {_time(most)}"


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} hours" if hours < 10 else f"{hours:,.0f} hours"
    return f"{hours * 60:.0f} minutes" if hours * 60 >= 2 else f"{hours * 3600:.0f} seconds"
