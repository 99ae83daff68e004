"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from m2kr import retrievers


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
    typer.Option(
        "--edition", help="Name of the edition; the source's own, or the only one, if absent."
    ),
]
_SPLIT = typer.Option("--split", help="Split of the source's queries.")
Split = Annotated[str, _SPLIT]
SplitOrNone = Annotated[str | None, _SPLIT]
Splits = Annotated[
    list[str] | None,
    typer.Option("--split", help="Only this split and its passages; may be repeated."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of what the command works with, or NAME.KEY=VALUE for one of several; "
        "may be repeated.",
    ),
]
_RETRIEVER = typer.Option(
    "--retriever",
    "-r",
    help=f"{', '.join(retrievers.names())}; package.module:Class, file.py:Class, st:NAME, mteb:NAME, "
    "or run:FILE.",
)
Retriever = Annotated[str, _RETRIEVER]
RetrieverOrNone = Annotated[str | None, _RETRIEVER]
Retrievers = Annotated[list[str], _RETRIEVER]
_CHECKPOINT = typer.Option("--checkpoint", help="PreFLMR or FLMR model: a folder or a hub id.")
Checkpoint = Annotated[str, _CHECKPOINT]
CheckpointOrNone = Annotated[str | None, _CHECKPOINT]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Commit, tag or branch of what is on the hub.")
]
Instruction = Annotated[
    str | None,
    typer.Option("--instruction", help="Instruction of queries that bring none."),
]
_K = typer.Option("--k", "-k", min=1, help="Passages a query.", show_default=False)
K = Annotated[int, _K]
KOrNone = Annotated[int | None, _K]
Ks = Annotated[
    str, typer.Option("--k", "-k", metavar="K,K,...", help="Passages a question, several numbers.")
]
MissingImages = Annotated[
    Literal["error", "black", "skip"],
    typer.Option("--missing-images", help="What to do where no root has an image."),
]
MissingQueries = Annotated[
    Literal["error", "empty"],
    typer.Option(
        "--missing-queries",
        help="What queries that a run or a file of answers lacks lead to; 'empty' counts them as not "
        "found, or wrong.",
    ),
]
Nbits = Annotated[
    int | None,
    typer.Option("--nbits", help="Bits a dimension of the index; 4, official 8."),
]
Audit = Annotated[
    int,
    typer.Option(
        "--audit", min=0, help="Search this many queries exactly, too, to tell the index's recall."
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="auto (a GPU where one works), cpu, cuda, cuda:1 ...")
]
Plan = Annotated[
    bool,
    typer.Option(
        "--plan", help="Say what would be fetched or done, and what it takes; do nothing."
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Fetch nothing; use what is already here.")
]
Force = Annotated[bool, typer.Option("--force", help="Do it again even if nothing changed.")]
_JOBS = typer.Option("--jobs", min=1, help="How much is done at once.")
Jobs = Annotated[int, _JOBS]
JobsOrNone = Annotated[int | None, _JOBS]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do one of N shares, as a job of an array; 'merge' then puts them together.",
    ),
]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="Who does the work: this machine, or a Ray cluster."),
]
Address = Annotated[
    str, typer.Option("--address", help="Of the Ray cluster: HOST:PORT, auto, or local.")
]
_QUESTION = typer.Option("--question", "-q", help="What is asked.", show_default=False)
Question = Annotated[str, _QUESTION]
QuestionOrNone = Annotated[str | None, _QUESTION]
ImageOrNone = Annotated[
    Path | None, typer.Option("--image", "-i", help="Image file that it is asked about.")
]
Html = Annotated[
    Path | None,
    typer.Option("--html", help="Page to write, for a browser; of a report its folder."),
]
_RUN = "Run file, whose best passages of each query are taken"
RunOrNone = Annotated[Path | None, typer.Option("--run", help=f"{_RUN}.")]
Runs = Annotated[
    list[str] | None,
    typer.Option("--run", help=f"{_RUN}; or a retriever's name, which then searches."),
]
Scorers = Annotated[
    list[str] | None,
    typer.Option(
        "--scorer",
        help="How answers are judged; may be repeated. By default as the source's own evaluation does.",
    ),
]
METRICS = typer.Option(
    "--metrics",
    help="'full' adds nDCG, MAP and precision; or names joined by commas, such as "
    "ndcg@10,hit_rate@5,my_metric.py:fn@5.",
)
Metrics = Annotated[str, METRICS]
FORMAT = typer.Option("--format", help="What is written.")
_OUT = typer.Option("--out", help="File or folder to write.")
Out = Annotated[Path, _OUT]
OutOrNone = Annotated[Path | None, _OUT]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
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
