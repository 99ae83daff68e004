"""What every page of the site is made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2kr._version import __version__
from m2kr.report import html

from ..boards import Board, BoardEntry
from ..claims import Claim

STYLE = "assets/site.css"
_TEMPLATES = Path(__file__).parent / "templates"
_STYLES = ("report.css", "site.css")


@dataclass(frozen=True, slots=True)
class SiteContext:
    """The boards and claims of a site, and how its pages are written.

    Attributes:
        boards: All of them, by key.
        claims: The ledger.
        history: Earlier submissions, which stand on no board.
    """

    boards: Sequence[Board]
    claims: Sequence[Claim]
    history: Sequence[BoardEntry] = ()

    def page(
        self,
        path: str,
        template: str,
        *scripts: str,
        title: str,
        reads_data: bool = False,
        **values: Any,
    ) -> tuple[str, bytes]:
        """A page, by its path in the site.

        Args:
            path: Such as ``boards/okvqa.test.html``; links on it begin with its way to the root.
            template: One that extends ``page.html``; all that it shows is escaped.
            scripts: Files of the templates that make up the one script that may run.
            title: Of the window.
            reads_data: Whether its script loads others of the site.
            values: What the template shows.
        """
        text = html.render_from(
            (_TEMPLATES,),
            template,
            *scripts,
            title=title,
            reads_data=reads_data,
            root="../" * path.count("/"),
            here=path,
            style=STYLE,
            version=__version__,
            dated=max(
                (e.date for b in self.boards for r in b.rows if (e := r.entry).date), default=""
            ),
            **values,
        )
        return path, text.encode()

    def entries_by_system(self) -> dict[str, list[BoardEntry]]:
        """All entries by their system's name: those on boards, then earlier ones, the newest first."""
        systems: dict[str, list[BoardEntry]] = {}
        for board in self.boards:
            for row in board.rows:
                systems.setdefault(row.entry.card.name, []).append(row.entry)
        for entries in systems.values():
            entries.sort(key=lambda e: (e.date, e.card.version), reverse=True)
        for entry in sorted(self.history, key=lambda e: (e.date, e.card.version), reverse=True):
            systems.setdefault(entry.card.name, []).append(entry)
        return dict(sorted(systems.items()))


def site_style() -> tuple[str, bytes]:
    """The style of all pages, by its path in the site."""
    texts = (html.template_text(name, _TEMPLATES) for name in _STYLES)
    return STYLE, "".join(texts).encode()
