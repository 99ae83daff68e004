"""What a reader's training takes, before it begins: questions, inputs, parameters.

Hours and memory are not told: no step is tried, and the model may not be here.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.errors import MissingError
from m2kr.rag.readers.local_model import LocalModel
from m2kr.rag.training.questions import is_missing, open_questions, run_command

if TYPE_CHECKING:
    from m2kr.rag.training.questions import TrainingQuestions
    from m2kr.rag.training.reader_recipe import ReaderRecipe

_LOOKED_AT = 1_000  # visits


def plan_reader(
    recipe: "ReaderRecipe", data: Path, images: Sequence[str | Path] = ()
) -> dict[str, Any]:
    """What is known of a run, as JSON; nothing is fetched or written.

    Args:
        recipe: To be run.
        data: The data root.
        images: Image roots searched before the source's own.

    Returns:
        ``questions, validated, epochs, inputs_per_step, targets_in_passages`` (of the first 1,000 visits, the
        part of inputs whose target occurs in the passage), ``parameters, trained, adapted_layers``; None
        where it can't be told, and ``notes`` why.

    Raises:
        M2KRError: The source is not built, or a run doesn't fit it.
    """
    steps, notes = recipe.steps, []
    looks = recipe.validation
    missing = {
        key: (path, split)
        for key, path, split in (
            ("data.run", recipe.data.run, recipe.data.split),
            ("validation.run", looks.run if looks.every else None, looks.split or ""),
        )
        if path is not None and is_missing(path)
    }
    for key, (path, split) in missing.items():
        how = run_command(recipe.data.source, split, key)
        notes.append(f"{key} {path} is not here, so all questions are counted: {how}")
    counted = recipe
    if missing:
        none = replace(recipe.data, run=None)
        counted = replace(recipe, data=none, validation=replace(looks, run=None))
    trained, held = open_questions(counted, data, images)
    model = _model(recipe, notes)
    notes.append("hours and memory are not told: no steps are tried")
    inputs = 1 if recipe.data.run is None else recipe.data.sampled
    questions = steps.batch * steps.accumulate
    return {
        "recipe": recipe.name,
        "steps": steps.steps,
        "questions_per_step": questions,
        "inputs_per_step": questions * inputs,
        "epochs": steps.steps * questions / len(trained.rows),
        "questions": trained.facts(),
        "validated": None if held is None else held.facts(),
        "targets_in_passages": None if counted.data.run is None else _answerable(trained),
        "model": recipe.reader.model,
        **model,
        "notes": notes,
    }


def _answerable(questions: "TrainingQuestions") -> float:
    visits = [questions.visit(n) for n in range(min(_LOOKED_AT, len(questions.rows)))]
    found = [
        target.lower() in passage.text.lower()
        for visit in visits
        for target, passage in zip(visit.targets, visit.passages, strict=True)
    ]
    return sum(found) / len(found)


def _model(recipe: "ReaderRecipe", notes: list[str]) -> dict[str, int | None]:
    """Parameters, counted on a model without memory, where its configuration is here."""
    import torch

    from m2kr.rag.training.adapted_reader import reader_class
    from m2kr.rag.training.lora import add_lora

    name = recipe.reader.model
    unknown: dict[str, int | None] = dict.fromkeys(("parameters", "trained", "adapted_layers"))
    try:
        config = LocalModel(
            name, "the reader", revision=recipe.reader.revision, dtype="float32"
        ).config()
    except MissingError as error:
        notes.append(
            f"reader.model {name} is not here, so its parameters are unknown: {error.what}"
        )
        return unknown
    with torch.device("meta"):
        model = reader_class(config)(config)
    every = sum(each.numel() for each in model.parameters())
    layers = add_lora(model, recipe.lora)
    own = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return {"parameters": every, "trained": own, "adapted_layers": len(layers)}
