"""What commands write: tables for people, one JSON object for machines, progress on a terminal."""

import codecs
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from m2kr.display import printable
from m2kr.progress_bars import Bars, size

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Bars",
    "Formatter",
    "complain",
    "console",
    "emit",
    "hours",
    "not_shown_yet",
    "prepare_streams",
    "printable",
    "say",
    "size",
    "table",
]

# Our own texts' characters that an old terminal's encoding may lack.
_PLAIN = {
    "–": "-",
    "—": "-",
    "…": "...",
    "’": "'",
    "×": "x",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "→": "->",
    "✓": "*",
}


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    """Codec error handler: `_PLAIN`, and escapes for all else (an id stays one that can be told)."""
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lost)
    return plain, error.end


def prepare_streams() -> None:
    """Makes stdout and stderr take any text, whatever their encoding."""
    codecs.register_error("m2kr", _replace)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream: Any = getattr(sys, name)
        if (
            stream is None
        ):  # closed by the caller: the next file to be opened must not get its number
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            setattr(sys, name, open(number, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="m2kr")


class Formatter(logging.Formatter):
    """Log lines of `printable` text; ``%(level)s`` is the level in small letters."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        record.level = record.levelname.lower()
        return printable(super().format(record))


def not_shown_yet(record: logging.LogRecord) -> bool:
    """Whether a log line is still to be shown: some libraries show theirs, and pass them on as well."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None and logger.parent is not None:  # our own handler is the root's
        shown = (
            type(h) is logging.StreamHandler and record.levelno >= h.level for h in logger.handlers
        )
        if any(shown):
            return False
        logger = logger.parent if logger.propagate else None
    return True


def console(*, stderr: bool = False) -> "Console":
    """A rich console; piped output is plain and as wide as it needs.

    Text is shown as it is: ``[red]`` or ``:smile:`` in an id are no markup, and see `printable`. What
    is to be styled is a ``rich.text.Text``.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, *args: Any, **kwargs: Any) -> Text:
            return super().render_str(printable(text), *args, **kwargs)

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterator[Segment]:
            for part in super().render(renderable, options):
                yield part if part.control else part._replace(text=printable(part.text))

        def on_broken_pipe(self) -> None:
            raise  # rich would exit with 1; `main` knows what the end of a pipe means

    def made(width: int | None = None) -> Console:
        return Plain(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)

    screen = made()
    return screen if screen.is_terminal else made(max(screen.width, 160))


def say(text: str, *, json_mode: bool = False) -> None:
    """A line for people: on stdout, or on stderr where stdout carries JSON."""
    console(stderr=json_mode).print(text, soft_wrap=True)


def hours(least: float, most: float) -> str:
    """A time between two, in the unit of the longer one: ``4 to 14 hours``, ``1 to 6 minutes``."""
    if most * 60 < 0.5:
        return "less than a minute"
    if most < 1:
        low, high = (f"{max(1, round(time * 60))}" for time in (least, most))
        unit = "minute"
    else:
        low, high = (f"{time:,.{1 if most < 10 else 0}f}" for time in (least, most))
        unit = "hour"
    span = low if low == high else f"{low} to {high}"
    return f"{span} {unit if span == '1' else f'{unit}s'}"


def complain(error: object) -> None:
    """An error on stderr, where the command goes on."""
    sys.stderr.write(printable(f"error: {error}\n"))


def emit(obj: Any) -> None:
    """The one JSON object of a ``--json`` call."""
    # An escape for a character that the encoding lacks would not be JSON's.
    narrow = codecs.lookup(sys.stdout.encoding or "ascii").name != "utf-8"
    sys.stdout.write(json.dumps(obj, ensure_ascii=narrow, sort_keys=True) + "\n")


_NUMBER = re.compile(r"[-–?]?|~?[-+]?[\d,.]+( ?([kMGT]?B|%))?( of [\d,]+)?")
_LEAST_WORDS = 12  # characters of a column of words, below which nobody reads it


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Shows rows as a table that fits the screen: words go on in the next line, numbers never.

    Where even that is too narrow, each row is listed, a line a column.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    screen, body = console(), [tuple(map(str, row)) for row in rows]
    columns: list[dict[str, Any]] = []
    needed = 1
    for number, head in enumerate(heads):
        cells = [row[number] for row in body]
        widest = max((len(line) for cell in cells for line in cell.split("\n")), default=0)
        if cells and all(map(_NUMBER.fullmatch, cells)):
            head = "\n".join(head.split())  # rich must not wrap this column, so its head is here
            columns.append({"header": head, "justify": "right", "no_wrap": True})
        else:
            columns.append({"header": head, "overflow": "fold"})
            widest = min(widest, _LEAST_WORDS)
        needed += 3 + max(widest, *map(len, head.split()), 0)
    slim = needed > screen.width
    if needed - 2 * slim * len(heads) <= screen.width:
        shown = Table(
            title=title,
            title_justify="left",
            show_header=any(heads),
            box=box.SIMPLE_HEAD if slim else box.HEAVY_HEAD,
            padding=(0, 0 if slim else 1),
            show_edge=not slim,
        )
        for column in columns:
            shown.add_column(**column)
        for row in body:
            shown.add_row(*map(Text, row))  # as text: a cell may hold what looks like markup
        screen.print(shown)
        return
    if title:
        say(title)
    for row in body:
        for head, cell in zip(heads, row, strict=True):
            say(f"{head}: {cell}" if head else cell)
        say("")
