"""``m2kr model``: What a PreFLMR or FLMR checkpoint is, and whether it computes what it should."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options
from m2kr.errors import UsageError

if TYPE_CHECKING:
    from m2kr.preflmr.golden_lines import Line

_SHOWN = 6


def info(
    checkpoint: Annotated[
        str,
        typer.Argument(help="A folder, a hub id, or a preset: vit-b, vit-l, vit-h, vit-g, flmr."),
    ],
    revision: Annotated[
        str | None, typer.Option("--revision", help="Commit, tag or branch of a hub id.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Show a checkpoint's parameters, rows, lengths and missing tensors.

    Only configs, vocabularies and the headers of the weights are read.
    """
    from m2kr.cli import output

    _needs_torch()
    from m2kr.preflmr.info import describe

    found = describe(checkpoint, revision=revision)
    if json:
        output.emit(found)
    else:
        _show_info(found)
    if not found.get("complete", True):
        raise typer.Exit(1)


def check_golden(
    folder: Annotated[Path, typer.Argument(help="A folder of the official code's outputs.")],
    vocab: Annotated[
        Path | None,
        typer.Option("--vocab", help="The vocab.txt of bert-base-uncased, where it is not found."),
    ] = None,
    attention: Annotated[
        str,
        typer.Option(
            "--attention",
            help="eager rounds as the official code did; sdpa is the models' default.",
        ),
    ] = "eager",
    failed: Annotated[
        bool, typer.Option("--failed", help="Show only arrays that are out of tolerance.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Compare this implementation with the official code's outputs, array by array.

    A folder holds checkpoints NAME/, their NAME_io.npz and NAME_tokens.npz, and more (see the README
    of tests/golden). Exits with 1 if an array is out of tolerance or unknown.
    """
    from m2kr.cli import output

    _needs_torch()
    from m2kr.preflmr.golden import check

    lines = list(check(folder, vocab=vocab, attention=attention))
    wrong = [each for each in lines if not each.ok]
    if json:
        output.emit(_golden_json(lines))
    else:
        _show_golden(wrong if failed else lines)
        compared = sum(each.worst is not None for each in lines)
        output.say(
            f"{compared} arrays compared, {len(lines) - compared} inputs used, "
            f"{len(wrong)} out of tolerance ({attention} attention)"
        )
    if wrong:
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
    between them is UNTRAINED, so its scores say nothing about PreFLMR. About 105 MB; the same seed
    gives the same bytes.
    """
    from m2kr.cli import output

    _needs_torch("demo")
    from m2kr.preflmr.embedded import assemble

    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        # It may hold a model that somebody trained from this one.
        raise UsageError(
            "there is something already", where=str(folder), expected="a new or an empty folder"
        )
    assemble(folder, seed=seed)
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
    "check-golden": (
        check_golden,
        ("m2kr model check-golden tests/golden", "m2kr model check-golden FOLDER --failed"),
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


def _show_golden(lines: "list[Line]") -> None:
    from rich.table import Table

    from m2kr.cli import output

    table = Table(box=None, pad_edge=False)
    for name in ("file", "array"):
        table.add_column(name, no_wrap=True)
    for name in ("worst", "tolerance"):
        table.add_column(name, justify="right")
    table.add_column("")
    for each in lines:
        if each.worst is None:
            cells = ("", "", "input")
        else:
            limit = "" if each.tolerance is None else f"{each.tolerance:.0e}"
            verdict = "ok" if each.ok else f"FAILED {each.note}".rstrip()
            cells = (f"{each.worst:.2e}", limit, verdict)
        table.add_row(each.file, each.array, *cells)
    output.console().print(table)


def _golden_json(lines: "list[Line]") -> dict[str, Any]:
    def finite(value: float | None) -> float | str | None:
        return value if value is None or value < float("inf") else "inf"

    return {
        "ok": all(each.ok for each in lines),
        "arrays": [
            {
                "file": each.file,
                "array": each.array,
                "worst": finite(each.worst),
                "tolerance": each.tolerance,
                "ok": each.ok,
                "note": each.note,
            }
            for each in lines
        ],
    }
