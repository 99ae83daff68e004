"""What a training run takes, before it begins: data, parameters, memory, products, hours.

Sizes are arithmetic over a model without memory (torch's meta device), so that any size can be planned.
Where weights and data are here, some seconds of real steps say how fast this machine is.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.data.built_sources import BuiltSources
from m2kr.preflmr.model.presets import PRESETS
from m2kr.sources import build_command, normalise
from m2kr.training.measured_steps import Measured, NotMeasured, measure_steps
from m2kr.training.recipe import Data, Recipe, Share, Start, Steps
from m2kr.training.recipe_checks import PARTS
from m2kr.training.start import EMBEDDED, new_config, weight_names
from m2kr.training.step_cost import memory_bytes, once_flop, step_flop
from m2kr.training.trained_parts import part_modules, set_trained

if TYPE_CHECKING:
    from m2kr.preflmr.model.configuration import PreFLMRConfig
    from m2kr.preflmr.model.modeling import PreFLMRModel

# Rows to train on and passages of M2KR, as published, for sources that aren't built.
PUBLISHED = {
    "wit": (2_800_000, 4_100_000),
    "kvqa": (65_000, 16_300),
    "cc3m": (595_000, 595_000),
    "msmarco": (400_000, 8_800_000),
    "oven": (339_000, 10_000),
    "llava": (351_000, 351_000),
    "okvqa": (9_000, 110_000),
    "infoseek": (676_000, 100_000),
    "evqa": (212_000, 50_000),
}
# Products a second of training, least and most: of float32 and of bfloat16. The CPUs' are those of
# encoding (`m2kr reproduce --plan`); a GPU of the H100's kind makes a tenth to a third of its peak.
MACHINES = {
    "2 CPU cores": {"float32": (7e10, 2.4e11), "bfloat16": (4e10, 2.4e11)},
    "16 CPU cores": {"float32": (5.6e11, 1.9e12), "bfloat16": (3e11, 4e12)},
    "a data-centre GPU": {"float32": (1e13, 5e13), "bfloat16": (1e14, 4e14)},
}


@dataclasses.dataclass(frozen=True, slots=True)
class SourceVisits:
    """A source's part in the training.

    Attributes:
        source: Its name.
        split: Its split.
        built: Whether it is here; if not, rows are the published ones.
        rows: That are visited; None if unknown.
        visits_per_epoch: Of an epoch of the mixture; None if unknown.
        visits: In all steps, of all processes; None if unknown.
        passages: In its pool; None if unknown.
        fix: The command that builds it, if it isn't.
    """

    source: str
    split: str
    built: bool
    rows: int | None
    visits_per_epoch: int | None
    visits: int | None
    passages: int | None
    fix: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a run takes on one process; see `plan_training`.

    Attributes:
        recipe: Its name.
        steps: Optimiser steps.
        queries_per_step: Of one process.
        sources: The mixture.
        epochs: How often the whole mixture is visited; None if a source's rows are unknown.
        model: Which sizes are counted, and what is assumed.
        parameters: All, by part, and trained ones by part.
        memory: Bytes on a CPU by what they are for; activations are an estimate, at passages of full
            length.
        gpu_activations: Bytes of them on a GPU, whose attention keeps no matrices.
        flop: Products of a step by part (a multiply-add is 2), at passages of full length.
        hours: By machine, least and most; and of this one, where steps were measured.
        measured: The steps that were made here, or why none were.
        notes: What is not as it seems.
    """

    recipe: str
    steps: int
    queries_per_step: int
    sources: tuple[SourceVisits, ...]
    epochs: float | None
    model: str
    parameters: dict[str, Any]
    memory: dict[str, int]
    gpu_activations: int
    flop: dict[str, float]
    hours: dict[str, tuple[float, float]]
    measured: Measured | NotMeasured
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return dataclasses.asdict(self)


def plan_training(
    recipe: Recipe,
    data: Path,
    images: Sequence[str | Path] = (),
    device: str = "auto",
    *,
    seconds: float = 10.0,
) -> TrainingPlan:
    """What a run takes; nothing is fetched or written.

    Args:
        recipe: To be run.
        data: The data root.
        images: Image roots searched before the sources' own.
        device: Where steps are tried.
        seconds: That they may take; 0 tries none.

    Raises:
        InputError: The recipe doesn't fit its model.
        UsageError: There is no such source or split.
        MissingError: A source is not built in an edition.
    """
    from m2kr.preflmr.checkpoint.load import empty
    from m2kr.preflmr.model.modeling import PreFLMRModel

    config, named, assumed = planned_config(recipe.start)
    model = empty(PreFLMRModel, config)
    trained = {id(each) for group in set_trained(model, recipe).values() for each in group}
    steps = recipe.steps
    queries = steps.batch * steps.accumulate
    sources, facts_notes = _sources(recipe, data)
    visits = [each.visits_per_epoch for each in sources]
    epoch = None if None in visits else sum(each or 0 for each in visits)
    flop = step_flop(recipe, config)
    rows, passages = (sum(getattr(s, name) or 0 for s in sources) for name in ("rows", "passages"))
    memory, gpu_memory = (
        memory_bytes(recipe, config, model, trained, on_cpu=each) for each in (True, False)
    )
    once = once_flop(recipe, config, rows, passages)
    total = sum(flop.values()) * steps.steps + once
    kind = "bfloat16" if steps.precision == "bfloat16" else "float32"
    hours = {
        name: (total / rates[kind][1] / 3600, total / rates[kind][0] / 3600)
        for name, rates in MACHINES.items()
    }
    measured: Measured | NotMeasured
    if assumed:
        measured = NotMeasured(assumed[0])
    elif lacking := [each.source for each in sources if not each.built]:
        measured = NotMeasured(f"not built: {', '.join(lacking)}")
    else:
        whole = dataclasses.replace(
            recipe, data=dataclasses.replace(recipe.data, keep_frozen=False)
        )
        query = sum(step_flop(whole, config).values()) / queries
        measured = measure_steps(whole, data, images, device, query, seconds)
    if isinstance(measured, Measured):
        here = total / measured.flop_per_second / 3600
        hours["this machine, measured"] = (here, here)
    return TrainingPlan(
        recipe.name,
        steps.steps,
        queries,
        sources,
        None if not epoch else queries * steps.steps / epoch,
        named,
        _parameters(model, trained),
        memory,
        gpu_memory["activations"],
        flop,
        hours,
        measured,
        (*assumed, *_missing_files(recipe), *facts_notes, *_kept_note(once)),
    )


def _missing_files(recipe: Recipe) -> list[str]:
    """Mined files and teachers that are not here, by key."""
    from m2kr.training.mixture import mine_command

    wanted = {
        "negatives.file": recipe.negatives.mined and recipe.negatives.file,
        "distillation.file": recipe.distillation.kind != "none" and recipe.distillation.file,
    }
    how = mine_command(recipe.data.sources[0].source if recipe.data.sources else "SOURCE")
    return [
        f"{key} {file} is not here: {how}, --set {key}=FILE"
        for key, file in wanted.items()
        if file and not Path(file).exists()
    ]


def _kept_note(once: float) -> tuple[str, ...]:
    if not once:
        return ()
    return (f"{once / 1e12:,.2f} TFLOP once, for what frozen layers make of all texts and images",)


def planned_config(start: Start) -> "tuple[PreFLMRConfig, str, tuple[str, ...]]":
    """The configuration of the model that training starts from, without fetching anything.

    Returns:
        The configuration; what it is of; and what had to be assumed, since it is not here.
    """
    from m2kr.preflmr.model.configuration import PreFLMRConfig

    if start.checkpoint == EMBEDDED:
        from m2kr.preflmr import tiny

        return tiny.config(), "the embedded model", ()
    if start.checkpoint is not None:
        if folder := _here(start.checkpoint):
            return PreFLMRConfig.from_folder(folder), start.checkpoint, ()
        released = {preset.weights: name for name, preset in PRESETS.items() if preset.weights}
        name = released.get(start.checkpoint, "vit-b")
        known = (
            ""
            if start.checkpoint in released
            else f" (--set start.checkpoint=FOLDER); sizes of {name} with BERT-base are assumed"
        )
        missing = f"start.checkpoint {start.checkpoint} is not here{known}"
        return PRESETS[name].config, start.checkpoint, (missing,)
    assumed = []
    vision, text = weight_names(start)
    if vision is not None and not _here(vision):
        assumed.append(f"start.vision_weights {vision} are not here")
        start = dataclasses.replace(start, vision_weights=None)
    if text is not None and not _here(text):
        size = start.text or "base"
        known = "" if start.text_weights == "bert" else f"; the sizes of {size} are assumed"
        assumed.append(f"start.text_weights {text} are not here{known}")
        start = dataclasses.replace(start, text_weights=None)
    name = f"a new model, {start.vision or 'vit-b'} and text {start.text or 'base'}"
    if start.text_weights or start.vision_weights:
        name = f"a new model of {vision or 'random vision'} and {text or 'random text'}"
    return new_config(start), name, tuple(assumed)


def _here(name: str) -> Path | None:
    """A folder, or the folder of a hub's id in the hub's cache."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
        weights = try_to_load_from_cache(name, "model.safetensors")
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) and isinstance(weights, str) else None


def _sources(recipe: Recipe, data: Path) -> tuple[tuple[SourceVisits, ...], tuple[str, ...]]:
    """Rows and visits, from the data where all are built, else from what is published."""
    from m2kr.training.mixture import Mixture, open_splits

    shares = recipe.data.sources
    visits_in_all = recipe.steps.steps * recipe.steps.batch * recipe.steps.accumulate
    notes: list[str] = []
    facts: list[dict[str, Any] | None] = []
    built = BuiltSources.below(data)
    for share in shares:
        if built.name_of(share.source) not in built.editions:
            facts.append(None)
            continue
        # Of its rows alone: what else the recipe says is not looked at here.
        rows_of = Data(sources=(dataclasses.replace(share, weight=None),))
        alone = Recipe(recipe.name, data=rows_of, steps=Steps(seed=recipe.steps.seed))
        facts.append(Mixture(alone, open_splits(alone, data)).facts()["sources"][0])
    counts = [_per_epoch(share, fact) for share, fact in zip(shares, facts, strict=True)]
    rows = [
        fact["rows_visited"] if fact else _published(share)
        for share, fact in zip(shares, facts, strict=True)
    ]
    parts: list[float | None] = list(counts)
    if all(share.weight is not None for share in shares):
        parts = [share.weight for share in shares]
        whole = sum(each or 0 for each in counts)
        scale = sum(share.weight or 0 for share in shares)
        counts = [
            None if None in counts else round(whole * (share.weight or 0) / scale)
            for share in shares
        ]
    total = None if None in parts else sum(each or 0 for each in parts)
    result = []
    for number, share in enumerate(shares):
        fact, part = facts[number], parts[number]
        result.append(
            SourceVisits(
                share.source,
                share.split,
                fact is not None,
                rows[number],
                counts[number],
                None if not total or part is None else round(visits_in_all * part / total),
                fact["passages"] if fact else PUBLISHED.get(share.source, (None, None))[1],
                None if fact else build_command(built.name_of(share.source)),
            )
        )
    if recipe.validation.every:
        names = [built.name_of(share.source) for share in recipe.validation.sources]
        lacking = [name for name in dict.fromkeys(names) if name not in built.editions]
        notes += [f"validation.sources lacks {name}: {build_command(name)}" for name in lacking]
        if lacking:
            from m2kr.training.validation import instead_of_validation

            notes.append(f"in place of what isn't built: {instead_of_validation(recipe, data)}")
    if any(fact is None for fact in facts):
        notes.append("rows of sources that aren't built are the published ones, about")
    return tuple(result), tuple(notes)


def _published(share: Share) -> int | None:
    rows = PUBLISHED.get(normalise(share.source), (None, None))[0]
    if rows is None or share.split != "train" or share.tasks or share.where:
        return None
    return rows if share.take is None else min(rows, share.take)


def _per_epoch(share: Share, fact: dict[str, Any] | None) -> int | None:
    if fact is not None:
        return int(fact["rows_visited"]) * share.repeat
    rows = _published(share)
    return None if rows is None else rows * share.repeat


def _parameters(model: "PreFLMRModel", trained: set[int]) -> dict[str, Any]:
    parts = {}
    for part in PARTS:
        own = [p for m in part_modules(model, part).values() for p in m.parameters()]
        parts[part] = {
            "all": sum(p.numel() for p in own),
            "trained": sum(p.numel() for p in own if id(p) in trained),
        }
    return {
        "all": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if id(p) in trained),
        "by_part": {name: each for name, each in parts.items() if each["all"]},
    }
