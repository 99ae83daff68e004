"""The site: a folder of pages that need no server and nothing from elsewhere."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from m2kr.errors import InputError, plainly
from m2kr.progress import SILENT, Progress
from m2kr.report.page.data_files import write_synced
from m2kr.report.page.folder import replacing_folder

from ..boards import Board, BoardEntry
from ..claims import Claim
from .board_page import board_pages
from .compare_page import compare_pages
from .context import SiteContext, site_style
from .downloads import download_files
from .index_page import index_pages
from .ledger_page import ledger_pages
from .submit_page import submit_pages
from .system_page import system_pages

MARKER = "m2kr-leaderboard-site"
_PARTS: tuple[Callable[[SiteContext], Iterator[tuple[str, bytes]]], ...] = (
    index_pages,
    board_pages,
    system_pages,
    compare_pages,
    ledger_pages,
    submit_pages,
    download_files,
)


def build_site(
    boards: Sequence[Board],
    claims: Sequence[Claim],
    out: Path,
    *,
    history: Sequence[BoardEntry] = (),
    progress: Progress = SILENT,
) -> Path:
    """Writes the site, whole or not at all; an older one of this name is replaced.

    Two builds from the same boards and claims are byte-equal.

    Args:
        boards: What is shown.
        claims: The ledger beside it.
        out: Folder to write.
        history: Earlier submissions, which stand on no board.
        progress: Told of parts.

    Returns:
        The folder.

    Raises:
        InputError: something else than a site of ours is there.
    """
    target = out.resolve()
    ours = (target / MARKER).is_file()
    if target.exists() and not ours and (not target.is_dir() or any(target.iterdir())):
        raise InputError(
            "something else than a site of the leaderboard is there",
            where=str(out),
            expected="a new name, an empty folder, or an older site, which is replaced",
        )
    context = SiteContext(sorted(boards, key=lambda board: board.key), claims, history)
    progress.start("site", None, "pages")
    with plainly(target), replacing_folder(target) as aside:
        aside.mkdir(parents=True)
        for path, content in site_files(context):
            _require_plain(path)
            place = aside / path
            place.parent.mkdir(exist_ok=True)
            write_synced(place, content)
            progress.advance("site", 1)
        write_synced(aside / MARKER, b"")
    progress.done("site")
    return out


def _require_plain(path: str) -> None:
    """Refuses a path that a name of a stranger could lead out of the site."""
    parts = path.split("/")
    if len(parts) > 2 or not all(
        re.fullmatch(r"[A-Za-z0-9_@+-][A-Za-z0-9._@+-]*", part) for part in parts
    ):
        raise InputError(f"no file of a site can have the name {path!r}")


def site_files(context: SiteContext) -> Iterator[tuple[str, bytes]]:
    """Every file of the site by its path."""
    yield site_style()
    for part in _PARTS:
        yield from part(context)
