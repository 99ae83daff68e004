"""The ``m2kr`` command: commands, exit codes and how errors are shown."""

import functools
import json
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TextIO

import typer

from m2kr._version import __version__
from m2kr.cli import (
    audit,
    build,
    check_retriever,
    compare,
    demo,
    diff,
    doctor,
    eval_,
    explain,
    export,
    images,
    import_,
    index,
    info,
    leaderboard,
    list_,
    merge,
    mine,
    model,
    rag,
    remove,
    report,
    reproduce,
    score_answers,
    search,
    show,
    study,
    submit,
    train,
    verify,
)
from m2kr.cli.output import Formatter, not_shown_yet, prepare_streams, printable
from m2kr.errors import from_system

INTERNAL_ERROR, INTERRUPTED = 70, 130
log = logging.getLogger("m2kr.cli")


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command that turns errors into messages and exit codes, with its signature kept."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        with _told(json_mode=bool(kwargs.get("json")) or kwargs.get("format_") == "json"):
            command(*args, **kwargs)
            sys.stdout.flush()

    return run


class _Ended(SystemExit):
    """A signal asked this process to end; folders and files for the time being are removed on the way."""


@contextmanager
def _told(*, json_mode: bool = False) -> Iterator[None]:
    """THE place where an error becomes lines on stderr and an exit code."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except _Ended as ended:
        name = signal.Signals(int(str(ended.code)) - 128).name
        _complain(f"ended by {name}; the same command goes on where this one stopped")
        raise SystemExit(ended.code) from ended  # no `_Ended`: it is said once
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on where this one stopped")
        sys.exit(INTERRUPTED)
    except BrokenPipeError as error:
        if _reader_left():
            # As of ``| head``: not our error, and nothing left to say.
            _silence(sys.stdout)
            return
        _fail(error, json_mode=json_mode)
    except Exception as error:  # noqa: BLE001 - the last resort before the user
        _fail(error, json_mode=json_mode)


def _fail(error: Exception, *, json_mode: bool) -> NoReturn:
    """Ends the process with what is to be said of an error."""
    ours = from_system(error)
    if ours is None:
        _complain(printable(traceback.format_exc()))
        _complain("This is a bug in m2kr; please report it with the lines above.")
        sys.exit(INTERNAL_ERROR)
    if ours is not error or error.__cause__ is not None:
        log.info("the error was", exc_info=error)
    if json_mode:
        try:
            sys.stdout.write(json.dumps(ours.as_dict()) + "\n")
            sys.stdout.flush()
        except OSError:
            _silence(sys.stdout)
    _complain(printable(f"error: {ours}"))
    try:
        sys.stdout.flush()
    except OSError:
        _silence(sys.stdout)  # Python itself flushes once more, and would end with its own words
    sys.exit(ours.exit_code)


def _complain(text: str) -> None:
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _reader_left() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    try:
        sys.stdout.flush()
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except BrokenPipeError:
        return True
    except (AttributeError, OSError, ValueError):  # no poll on this platform, no file
        return os.name == "nt"


def _paragraphs(doc: str) -> str:
    """A docstring whose lines flow to the width of the terminal."""
    return "\n\n".join(" ".join(part.split()) for part in doc.split("\n\n"))


app = typer.Typer(
    name="m2kr",
    help="Build, load and evaluate M2KR, the multimodal knowledge retrieval benchmark.",
    epilog="Start with: m2kr demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(
    group: typer.Typer, name: str, command: Callable[..., None], examples: Any, **how: Any
) -> None:
    group.command(
        name,
        **how,
        help=_paragraphs(command.__doc__ or ""),
        epilog="\n\n".join(("Examples:", *examples)),
    )(guarded(command))


PANELS: dict[str, dict[str, Any]] = {
    "Data": {
        "build": build,
        "images": images,
        "import": import_,
        "list": list_,
        "info": info,
        "verify": verify,
        "diff": diff,
        "merge": merge,
        "remove": remove,
    },
    "Scores": {
        "eval": eval_,
        "compare": compare,
        "report": report,
        "show": show,
        "explain": explain,
        "audit": audit,
        "reproduce": reproduce,
        "export": export,
        "check-retriever": check_retriever,
        "rag": rag,
        "score-answers": score_answers,
    },
    "Training": {"train": train, "mine": mine, "study": study},
    "Leaderboard": {"submit": submit, "leaderboard": leaderboard},
    "Search": {"search": search, "index": index, "model": model},
    "Help": {"demo": demo, "doctor": doctor},
}
for panel, modules in PANELS.items():
    for name, module in modules.items():
        if hasattr(module, "command"):
            _add(app, name, module.command, module.EXAMPLES, rich_help_panel=panel)
            continue
        group = typer.Typer(
            help=_paragraphs((module.__doc__ or "").partition(": ")[2]),
            no_args_is_help=True,
            rich_markup_mode="rich",
        )
        for word, (command, examples) in module.SUBCOMMANDS.items():
            _add(group, word, command, examples)
        app.add_typer(group, name=name, rich_help_panel=panel)


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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        Formatter("%(name)s: %(message)s" if verbose else "%(level)s: %(message)s")
    )
    handler.addFilter(not_shown_yet)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    logging.raiseExceptions = False  # where stderr is closed or full, a lost line is no error


def main() -> None:
    """Runs the command line and leaves with its exit code.

    0 ok, 1 check failed or input refused, 2 usage, 3 missing data or dependency, 4 upstream or
    network, 70 internal error, 130 interrupted, 143 ended by SIGTERM.
    """
    prepare_streams()
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
            signal.signal(number, _end)
    with _told():
        try:
            app()
        finally:
            sys.stdout.flush()


def _end(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    raise _Ended(128 + number)
