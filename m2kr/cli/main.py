"""The ``m2kr`` command: commands, exit codes and how errors are shown."""

import functools
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from m2kr import __version__
from m2kr.cli import (
    build,
    demo,
    diff,
    doctor,
    eval_,
    explain,
    images,
    import_,
    index,
    index_tools,
    info,
    list_,
    merge,
    model,
    search,
    verify,
)
from m2kr.errors import M2KRError

INTERNAL_ERROR, INTERRUPTED = 70, 130


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command that turns errors into messages and exit codes, with its signature kept."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except M2KRError as error:
            if kwargs.get("json"):
                sys.stdout.write(json.dumps(error.as_dict()) + "\n")
            sys.stderr.write(f"error: {error}\n")
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; the same command goes on where this one stopped\n")
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            # The reader of our output left (``| head``): not our error, and nothing left to say.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception:  # noqa: BLE001 - the last resort before the user
            traceback.print_exc()
            sys.stderr.write("\nThis is a bug in m2kr; please report it with the lines above.\n")
            sys.exit(INTERNAL_ERROR)

    return run


def _paragraphs(doc: str) -> str:
    """A docstring whose lines flow to the width of the terminal."""
    return "\n\n".join(" ".join(part.split()) for part in doc.split("\n\n"))


app = typer.Typer(
    name="m2kr",
    help="Build, load and evaluate M2KR, the multimodal knowledge retrieval benchmark.",
    epilog="Start with: m2kr demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(group: typer.Typer, name: str, command: Callable[..., None], examples: Any) -> None:
    group.command(
        name,
        help=_paragraphs(command.__doc__ or ""),
        epilog="\n\n".join(("Examples:", *examples)),
    )(guarded(command))


for name, module in {
    "build": build,
    "images": images,
    "import": import_,
    "eval": eval_,
    "search": search,
    "explain": explain,
    "demo": demo,
    "list": list_,
    "info": info,
    "verify": verify,
    "diff": diff,
    "merge": merge,
    "doctor": doctor,
}.items():
    _add(app, name, module.command, module.EXAMPLES)
for name, modules in {"index": (index, index_tools), "model": (model,)}.items():
    group = typer.Typer(
        help=_paragraphs((modules[0].__doc__ or "").partition(": ")[2]),
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    for module in modules:
        for word, (command, examples) in module.SUBCOMMANDS.items():
            _add(group, word, command, examples)
    app.add_typer(group, name=name)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"m2kr {__version__}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False,
    version: Annotated[  # noqa: ARG001 - handled by its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Build, load and evaluate M2KR, the multimodal knowledge retrieval benchmark."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(name)s: %(message)s",
        stream=sys.stderr,
    )


def main() -> None:
    """Runs the command line and leaves with its exit code.

    0 ok, 1 check failed or input refused, 2 usage, 3 missing data or dependency, 4 upstream or
    network, 70 internal error, 130 interrupted.
    """
    app()
