"""What goes wrong in a step: a loss that is no finite number, and the end of memory."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from m2kr.errors import CheckError, M2KRError
from m2kr.training.recipe import Recipe

if TYPE_CHECKING:
    from m2kr.training.parallel import Team
    from m2kr.training.training_task import LoopRecipe

_SHOWN = 3


def name_batch(
    described: Callable[[Any], list[dict[str, Any]]],
    team: "Team",
    batches: Sequence[Any],
    losses: Sequence[Mapping[str, float]],
    step: int,
    figures: Mapping[str, float],
    save: Callable[..., Any],
) -> None:
    """Saves what the step began with and the batch's visits, and raises.

    Args:
        described: Tells a batch's visits: which queries and passages they are of.
        team: The step's processes, all of which call this.
        batches: The step's micro-batches here.
        losses: Of each.
        step: Steps done before.
        figures: The step's losses and the gradients' norm.
        save: Writes a checkpoint; its arguments are the step, a name, and the batch.

    Raises:
        CheckError: Always.
    """
    broken = [
        batch
        for batch, own in zip(batches, losses, strict=True)
        if not all(map(math.isfinite, own.values()))
    ]
    theirs = team.gather([visit for batch in broken for visit in described(batch)])
    visits = [visit for own in theirs for visit in own]
    if not visits:  # the losses are finite, the gradients are not
        theirs = team.gather([visit for batch in batches for visit in described(batch)])
        visits = [visit for own in theirs for visit in own]
    name = f"nan-step-{step + 1:08}"
    told = {key: str(value) for key, value in figures.items()}
    kept = save(step, name=name, batch={"step": step + 1, "figures": told, "visits": visits})
    folder = team.gather(str(kept.folder) if kept else "")[0]  # whichever process tells it
    what = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
    shown = "; ".join(
        f"visit {visit['visit']}: {visit['source']} query {visit['question_id']!r}, passages "
        + ", ".join(repr(each["passage_id"]) for each in visit["passages"][:_SHOWN])
        for visit in visits[:_SHOWN]
    )
    rest = f"; and {len(visits) - _SHOWN} more visits" if len(visits) > _SHOWN else ""
    raise CheckError(
        f"step {step + 1} has a loss or gradient that is no finite number ({what}): {shown}{rest}",
        where=folder,
        expected="finite numbers; the folder holds the weights before the step and all its visits "
        "(batch.json)",
        fix="look at these queries and passages; or lower optimiser.lr, set optimiser.clip, or "
        "steps.precision=float32",
    )


@contextmanager
def enough_memory(recipe: "LoopRecipe") -> Iterator[None]:
    """Says what to lower where memory is not enough."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        kind, said = type(error).__name__, str(error)
        if not (
            isinstance(error, MemoryError)
            or kind == "OutOfMemoryError"
            or "allocate memory" in said
        ):
            raise
        where, fix = _sizes(recipe)
        raise M2KRError(
            f"the memory is not enough for a step: {said.strip().splitlines()[0] if said else kind}",
            where=where,
            fix=fix,
        ) from error


def _sizes(recipe: "LoopRecipe") -> tuple[str, str]:
    """What decides a step's memory, and what lowers it."""
    steps, again = recipe.steps, "--set steps.checkpoint_activations=true"
    if not isinstance(recipe, Recipe):
        fix = f"{again} gives the same gradient with less memory; else shorter inputs"
        if steps.batch > 1:
            fix = f"--set steps.batch=1 with more steps.accumulate, or {fix}"
        return f"steps.batch {steps.batch}", fix
    chunk = max(1, (steps.chunk or steps.batch) // 2)
    return (
        f"steps.batch {steps.batch}, steps.chunk {steps.chunk}, "
        f"data.passage_tokens {recipe.data.passage_tokens}",
        f"--set steps.chunk={chunk} gives the same gradient with less memory, so does "
        f"{again}; else fewer passage_tokens or negatives",
    )
