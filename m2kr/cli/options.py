"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer


def folder(text: str) -> Path:
    """The folder that is named; an empty name, as of an unset variable, is none."""
    if not text:
        raise typer.BadParameter("an empty name; is a variable unset?")
    return Path(text)


Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        parser=folder,
        metavar="FOLDER",
        help="Data root; else $M2KR_DATA, else the user data folder.",
        show_default=False,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout; all else on stderr.")
]
Edition = Annotated[
    str | None,
    typer.Option("--edition", help="Edition to use, if several hold the source."),
]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--images",
        help="Image root (folder, zip, tar or Arrow file); may be repeated, searched in order.",
    ),
]


def settings(pairs: list[str] | None) -> dict[str, str]:
    """``key=value`` strings as a mapping.

    Raises:
        UsageError: one has no ``=``.
    """
    from m2kr.errors import UsageError

    found = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair!r} is not understood", expected="--set key=value")
        found[key.strip()] = value
    return found
