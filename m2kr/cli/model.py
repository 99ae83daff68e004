"""``m2kr model``: What a PreFLMR or FLMR checkpoint is, and a small one that needs no download."""

from pathlib import Path
from typing import Annotated, Any

import typer

from m2kr.cli import options
from m2kr.errors import UsageError

_SHOWN = 6


def info(
    checkpoint: Annotated[
        str,
        typer.Argument(help="A folder, a hub id, or a preset: vit-b, vit-l, vit-h, vit-g, flmr."),
    ],
    revision: options.Revision = None,
    json: options.Json = False,
) -> None:
    """Show a checkpoint's parameters, rows, lengths and missing tensors.

    Only configs, vocabularies and the headers of the weights are read.
    """
    from m2kr.cli import output

    _needs_torch()
    from m2kr.preflmr.checkpoint.info import describe_checkpoint

    found = describe_checkpoint(checkpoint, revision=revision)
    if json:
        output.emit(found)
    else:
        _show_info(found)
    if not found.get("complete", True):
        raise typer.Exit(1)


def embedded(
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="The checkpoint's folder, made if absent.")
    ],
    seed: Annotated[
        int, typer.Option("--seed", help="Of the untrained parts.", min=0, max=2**63 - 1)
    ] = 0,
    json: options.Json = False,
) -> None:
    """Assemble a small model that needs no download: for tests and demos, and to train from.

    MiniLM reads texts, a frozen EfficientNet-Lite0 images; both come with the extra demo. Everything
    between them is UNTRAINED, so its scores say nothing about PreFLMR. About 108 MB; the same seed
    gives the same bytes.
    """
    from m2kr.cli import output

    _needs_torch("demo")
    from m2kr.preflmr.tiny import assemble_tiny

    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        # It may hold a model that somebody trained from this one.
        raise UsageError(
            "there is something already", where=str(folder), expected="a new or an empty folder"
        )
    assemble_tiny(folder, seed=seed)
    size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    if json:
        output.emit({"checkpoint": str(folder), "bytes": size, "seed": seed, "trained": False})
        return
    output.say(f"{folder}: {output.size(size)}, untrained but for its text encoder")
    output.say(
        f"next: m2kr model info {folder}  ·  m2kr eval mini -r preflmr --set checkpoint={folder}"
    )


SUBCOMMANDS = {
    "info": (
        info,
        (
            "m2kr model info LinWeizheDragon/PreFLMR_ViT-L",
            "m2kr model info ./my_checkpoint --json",
            "m2kr model info vit-g   (a released model's sizes, without a download)",
        ),
    ),
    "embedded": (
        embedded,
        (
            "m2kr model embedded ./embedded",
            "m2kr model embedded ./another --seed 1   (other random parts)",
        ),
    ),
}


def _needs_torch(extra: str = "models") -> None:
    from importlib.util import find_spec

    from m2kr.errors import missing_dependency

    for package in ("torch", "transformers", "safetensors"):
        if find_spec(package) is None:
            raise missing_dependency(package, extra, "a PreFLMR model")


def _show_info(found: dict[str, Any]) -> None:
    from m2kr.cli import output

    for key, value in found.items():
        if key == "parameters_by_part":
            for part, count in value.items():
                output.say(f"    {part:<34}{count:>16,}")
        elif key == "parameters":
            output.say(f"{key:<26}{value:,} ({value / 1e6:,.1f} M)")
        elif key == "bytes":
            output.say(f"{key:<26}{output.size(value)}")
        elif isinstance(value, list):
            shown = ", ".join(map(str, value[:_SHOWN]))
            more = f" and {len(value) - _SHOWN} more" if len(value) > _SHOWN else ""
            output.say(f"{key:<26}{shown + more or 'none'}")
        elif isinstance(value, dict):
            output.say(f"{key:<26}" + ", ".join(f"{n} {what}" for what, n in value.items()))
        else:
            output.say(f"{key:<26}{_words(value)}")


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
