"""``m2kr train``."""

import json as json_text
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from m2kr.rag.training.reader_recipe import ReaderRecipe
    from m2kr.training.loop import Trained
    from m2kr.training.recipe import Recipe

EXAMPLES = (
    "m2kr train stage1 --plan",
    "m2kr train stage1 --set start.vision=vit-l --set steps.batch=4",
    "m2kr train fine-tuning --set data.sources=okvqa --set optimiser.lr=1e-5",
    "m2kr train my_recipe.yaml --mix m2kr:0.5",
    "m2kr train reader-okvqa --set data.run=results/okvqa.train.preflmr.1a2b3c4d.json",
    "torchrun --nproc-per-node 4 -m m2kr train stage3 --set start.checkpoint=trained/…/model",
)
_EVALUATED = 3  # sources that the next commands name


def command(
    recipe: Annotated[
        str,
        typer.Argument(
            help="stage0, stage1, stage2, stage3, stage3-distilled, fine-tuning; reader-okvqa, "
            "reader-infoseek, reader-evqa; or a .yaml file.",
            show_default=False,
        ),
    ] = "",
    set_: options.Settings = None,
    mix: Annotated[
        str | None,
        typer.Option(
            "--mix",
            metavar="SOURCE:SHARE",
            help="Add a built source's train split, or all of m2kr's, with a share of visits.",
        ),
    ] = None,
    plan: options.Plan = False,
    images: options.Images = None,
    out: options.OutFolder = Path("trained"),
    data: options.Data = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Train a PreFLMR model, or a reader, by a recipe; the same command goes on where a run stopped.

    A recipe is a YAML file: start weights, trained parts, data, negatives, losses, optimiser, steps.
    --set KEY=VALUE changes a value of it (optimiser.lr=1e-4, data.sources=okvqa,evqa,
    data.sources.okvqa.weight=2). Ctrl-C and SIGTERM save first.

    The run goes to OUT/NAME.FINGERPRINT: recipe.yaml, log.jsonl, checkpoints, and the model in the
    official layout; a reader's is a LoRA adapter in peft's. --plan says rows, parameters, memory and
    hours, from arithmetic and some seconds of real steps (of a reader no hours), and trains nothing.
    """
    from importlib.util import find_spec

    from m2kr import paths
    from m2kr.cli import output
    from m2kr.errors import UsageError, missing_dependency
    from m2kr.rag.training.reader_recipe import ReaderRecipe
    from m2kr.rag.training.reader_recipe_file import load_reader_recipe, trains_a_reader
    from m2kr.training.mix import mixed
    from m2kr.training.recipe_file import load_recipe

    load: Any = load_reader_recipe if trains_a_reader(recipe) else load_recipe
    chosen: Recipe | ReaderRecipe = load(recipe, options.settings(set_))
    for package in ("torch", "transformers", "safetensors"):
        if find_spec(package) is None:
            raise missing_dependency(package, "models", "training")
    root = paths.data_root(data)
    if mix is not None:
        if isinstance(chosen, ReaderRecipe):
            raise UsageError("a reader is trained on one source", where=f"--mix {mix}")
        chosen = mixed(chosen, mix, root)
    if plan:
        words = ["m2kr", "train", recipe]
        words += [word for pair in set_ or () for word in ("--set", pair)]
        words += [word for image in images or () for word in ("--images", str(image))]
        given = {"--mix": mix, "--data": data}
        given |= {"--out": out if out != Path("trained") else None}
        given |= {"--device": device if device != "auto" else None}
        words += [str(word) for pair in given.items() if pair[1] is not None for word in pair]
        _plan(chosen, root, images or (), device, shlex.join(words), json)
        return
    train = _training(chosen)
    leads = os.environ.get("RANK", "0") == "0"
    if leads:
        output.say(f"data root: {root}", json_mode=json)
    with output.Bars() as bars:
        more: dict[str, Any] = {}
        if leads:
            more = {"progress": bars, "tell": lambda line: output.say(line, json_mode=True)}
        trained = train(chosen, data=root, images=images or (), out=out, device=device, **more)
    if not leads:
        return
    validation = list(_validations(trained.folder))
    if json:
        output.emit(
            {
                "recipe": chosen.name,
                "folder": str(trained.folder),
                "checkpoint": str(trained.checkpoint),
                "steps": trained.steps,
                "seconds": trained.seconds,
                "losses": list(trained.losses),
                "validation": validation,
            }
        )
        return
    _show(chosen, trained, validation)
    for line in _next(chosen, trained, data, images or ()):
        output.say(f"next: {line}")


def _plan(
    recipe: "Recipe | ReaderRecipe",
    data: Path,
    images: "Sequence[Path]",
    device: str,
    following: str,
    json: bool,
) -> None:
    from m2kr.cli.training_plan import show_plan, show_reader_plan
    from m2kr.training.recipe import Recipe

    if isinstance(recipe, Recipe):
        show_plan(recipe, data, images, device, following=following, json=json)
    else:
        show_reader_plan(recipe, data, images, following=following, json=json)


def _training(recipe: "Recipe | ReaderRecipe") -> Any:
    """What trains by a recipe of this kind."""
    from m2kr.training.recipe import Recipe

    if isinstance(recipe, Recipe):
        from m2kr.training.loop import train

        return train
    from m2kr.rag.training.reader_task import train_reader

    return train_reader


def _validations(folder: Path) -> "list[dict[str, Any]]":
    """The validations of a run's log; where what they are on was changed, those since."""
    with (folder / "log.jsonl").open(encoding="utf-8") as lines:
        rows = [json_text.loads(line) for line in lines]
    rows = [row for row in rows if "validation" in row]
    now = rows[-1].get("on") if rows else None
    return [{"step": row["step"], **row["validation"]} for row in rows if row.get("on") == now]


def _show(
    recipe: "Recipe | ReaderRecipe", trained: "Trained", validation: "Sequence[dict[str, Any]]"
) -> None:
    from m2kr.cli import output

    losses = trained.losses
    begun = json_text.loads((trained.folder / "run.json").read_text(encoding="utf-8"))
    body = [("steps", f"{trained.steps:,}")]
    if begun["processes"] > 1:
        queries = begun["processes"] * begun["batch"] * begun["accumulate"]
        body += [("processes", f"{begun['processes']:,}"), ("queries a step", f"{queries:,}")]
    body += [
        ("seconds", f"{trained.seconds:,.1f}"),
        ("loss, first step", f"{losses[0]:.4f}" if losses else "–"),
        ("loss, last step", f"{losses[-1]:.4f}" if losses else "–"),
    ]
    if validation:
        first, last = validation[0], validation[-1]
        for name, value in last.items():
            if name != "step":
                before = (
                    f" (at first {first[name]:.4f})" if first is not last and name in first else ""
                )
                body.append((name, f"{value:.4f}{before}"))
    body.append(("checkpoint", str(trained.checkpoint)))
    output.table(("", recipe.name), body)


def _next(
    recipe: "Recipe | ReaderRecipe",
    trained: "Trained",
    data: Path | None,
    images: "Sequence[Path]",
) -> "list[str]":
    """Commands that say what the trained model is worth."""
    from m2kr.training.recipe import Recipe

    roots = [] if data is None else ["--data", str(data)]
    roots += [word for image in images for word in ("--images", str(image))]
    if not isinstance(recipe, Recipe):
        return [shlex.join(_answering(recipe, trained) + roots)]
    lines = []
    for share in recipe.data.sources[:_EVALUATED]:
        which = [] if share.edition is None else ["--edition", share.edition]
        setting = f"checkpoint={trained.checkpoint}"
        words = ("m2kr", "eval", share.source, "-r", "preflmr", "--set", setting, *which, *roots)
        lines.append(shlex.join(words))
    return lines


def _answering(recipe: "ReaderRecipe", trained: "Trained") -> list[str]:
    """The command that answers a source's test questions with a trained adapter."""
    told = recipe.data
    begun = json_text.loads((trained.folder / "run.json").read_text(encoding="utf-8"))
    sees = begun["data_facts"]["sees_images"]
    run = ["--run", "RETRIEVER_OR_FILE", "--k", str(told.top)] if told.run else []
    reader = "blip2" if sees else f"hf:{recipe.reader.model}"
    words = ["m2kr", "rag", told.source, *run, "--reader", reader]
    words += ["--set", f"model={recipe.reader.model}"] if sees else []
    words += ["--set", f"adapter={trained.checkpoint}"]
    return words + (["--edition", told.edition] if told.edition else [])
