"""The page that says how to submit a system, what is checked, and what its words mean."""

from collections.abc import Iterator
from pathlib import Path

from .context import SiteContext
from .downloads import DOWNLOADS

VERIFIED = Path(__file__).parent.parent / "data" / "verified.md"
STEPS = (
    ("m2kr build mini", "The embedded benchmark; any other source that the board knows will do."),
    (
        "m2kr eval mini -r my_retriever.py:Letters --out results",
        "A file of yours with a class of yours; a run that you have is run:FILE.",
    ),
    (
        "m2kr submit init 'results/mini.test.Letters.*.json' --out my-system "
        "--set authors='Ada Lovelace' --set contact=ada@example.org --set licence=MIT "
        "--set parameters=0 --set training_data=none",
        "It writes system.yaml, and puts the runs beside it. What nobody says stays empty there, to be "
        "filled in.",
    ),
    (
        "m2kr submit check my-system",
        "It checks and recomputes as the board does, and tells all faults of a stage at once.",
    ),
    (
        "m2kr leaderboard build my-system --out site",
        "The site as it would be with your system: open site/index.html.",
    ),
)
STATUSES = (
    (
        "recomputed",
        "recomputed",
        "Our harness computed the score from the run that was handed in, on data whose fingerprint is "
        "known. Whether the system really made the run is not known.",
    ),
    (
        "reproduced",
        "reproduced",
        "Somebody beside the submitter ran the system as well, and the very rankings came out again.",
    ),
    (
        "reported",
        "reported",
        "Somebody printed the number. It stands in the ledger of published numbers alone, in another "
        "style, and is never ranked.",
    ),
    (
        "unverified data",
        "unverified-data",
        "The score was recomputed, but no two independent builds of the data are known to agree yet: it "
        "is shown and not ranked.",
    ),
)


def submit_pages(site: SiteContext) -> Iterator[tuple[str, bytes]]:
    """``submit.html``."""
    heads, rows = verified_table()
    yield site.page(
        "submit.html",
        "submit.html",
        title="Submit",
        steps=STEPS,
        statuses=STATUSES,
        checks=_checks(),
        verified_heads=heads,
        verified=rows,
        downloads=list(DOWNLOADS.items()),
    )


def verified_table() -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table that README has under "What is verified"."""
    lines = VERIFIED.read_text(encoding="utf-8").splitlines()
    heads, _, *rows = (
        [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        for line in lines
    )
    return heads, rows


def _checks() -> list[tuple[str, str]]:
    """Names of the checks on runs, and what each asks for."""
    from ..checks import RUN_CHECKS

    return [(check.name, check.doc) for check in RUN_CHECKS.values()]
