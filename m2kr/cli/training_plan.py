"""``m2kr train --plan``: what a training run takes, as tables."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from m2kr.cli import output

if TYPE_CHECKING:
    from m2kr.rag.training.reader_recipe import ReaderRecipe
    from m2kr.training.plan import TrainingPlan
    from m2kr.training.recipe import Recipe

_wrapped = textwrap.TextWrapper(
    80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
)


def show_plan(
    recipe: "Recipe",
    data: Path,
    images: Sequence[Path],
    device: str,
    *,
    following: str,
    json: bool,
) -> None:
    """Shows what a recipe takes, and the command that runs it."""
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
        body.append((one.source, one.split, *counts, "here" if one.built else "not built"))
    output.table(heads, body, title=f"{recipe.name}: data")
    for fix in dict.fromkeys(one.fix for one in plan.sources if one.fix):
        output.say(f"not built: {fix}")
    output.say(f"model: {plan.model}")
    parts = plan.parameters["by_part"].items()
    rows = [(name, _millions(part["all"]), _millions(part["trained"])) for name, part in parts]
    rows.append(("all", _millions(plan.parameters["all"]), _millions(plan.parameters["trained"])))
    output.table(("part", "parameters, M", "trained, M"), rows)
    for line in _lines(plan):
        for part in _wrapped.wrap(line):
            output.say(part)
    output.say(f"next: {following}")


def show_reader_plan(
    recipe: "ReaderRecipe", data: Path, images: Sequence[Path], *, following: str, json: bool
) -> None:
    """Shows what is known of a reader's training, what isn't, and the command that runs it."""
    from m2kr.rag.training.reader_plan import plan_reader
    from m2kr.training.recipe_file import recipe_fingerprint

    plan = plan_reader(recipe, data, images)
    if json:
        facts = {"data": str(data), "fingerprint": recipe_fingerprint(recipe)}
        output.emit(facts | plan)
        return
    output.say(f"data root: {data}")
    body = []
    for name in ("questions", "validated"):
        if (facts := plan[name]) is not None:
            counts = (facts[key] for key in ("questions", "without_answer", "without_passages"))
            body.append((name, facts["split"], *(f"{n:,}" for n in counts)))
    heads = ("", "split", "questions", "without answer", "without passages")
    output.table(heads, body, title=f"{recipe.name}: {recipe.data.source}")
    lines = [
        f"steps: {plan['steps']:,} of {_count(plan['questions_per_step'], 'question', 'questions')} "
        f"in {_count(plan['inputs_per_step'], 'input', 'inputs')}, {plan['epochs']:,.2f} epochs"
    ]
    if (part := plan["targets_in_passages"]) is not None:
        lines.append(f"of the first inputs, {part:.0%} hold the answer that they are to give")
    if plan["trained"] is not None:
        lines.append(
            f"model: {plan['model']}, {_millions(plan['parameters'])} M parameters, of which "
            f"{_millions(plan['trained'])} M are trained, on {plan['adapted_layers']:,} layers"
        )
    lines += [f"note: {note}" for note in plan["notes"]]
    for line in lines:
        for text in _wrapped.wrap(line):
            output.say(text)
    output.say(f"next: {following}")


def _lines(plan: "TrainingPlan") -> Iterator[str]:
    from m2kr.training.measured_steps import Measured

    epochs = "" if plan.epochs is None else f", {plan.epochs:,.2f} epochs"
    yield (
        f"steps: {plan.steps:,} of {plan.queries_per_step:,} queries a process{epochs}; "
        "N processes visit N times as many"
    )
    activations = {"a GPU": plan.gpu_activations, "this processor": plan.memory["activations"]}
    for place, size in activations.items():
        memory = plan.memory | {"activations": size}
        yield (
            f"memory a process on {place}: about {output.size(sum(memory.values()))}, "
            f"of which activations {output.size(size)}"
        )
    rest = (f"{name} {output.size(n)}" for name, n in plan.memory.items() if name != "activations")
    yield f"memory besides activations: {', '.join(rest)}"
    flop = ", ".join(f"{name} {size / 1e12:,.2f}" for name, size in plan.flop.items())
    yield f"TFLOP a step: {sum(plan.flop.values()) / 1e12:,.2f}: {flop}"
    for machine, (least, most) in plan.hours.items():
        yield f"{machine}: {output.hours(least, most)}"
    if isinstance(plan.measured, Measured):
        done = plan.measured
        yield (
            f"measured on {done.device}: {_count(done.steps, 'step', 'steps')} of "
            f"{_count(done.batch, 'query', 'queries')}, "
            f"{done.seconds:.2f} s each"
        )
    else:
        yield f"no steps were measured here: {plan.measured.why}"
    yield (
        "memory (without Python and torch themselves), TFLOP and the other machines' hours are "
        "arithmetic, at passages of full length; validation and saving are not counted"
    )
    for note in plan.notes:
        if isinstance(plan.measured, Measured) or note != plan.measured.why:
            yield f"note: {note}"


def _count(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


def _millions(number: int) -> str:
    return f"{number / 1e6:,.2f}"
