"""Pages that need nothing from elsewhere: no other file, no network; from the folder templates."""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from m2kr.display import fit_for_html, jpeg_uri

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATES = Path(__file__).parent / "templates"
_LONGEST_SIDE = 720


def number(value: float) -> str:
    """A similarity or score, two places."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def percent(share: float) -> str:
    """A share of the score."""
    return f"{share * 100:.1f} %".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True, slots=True)
class InlineImage:
    """An image in a page itself.

    Attributes:
        uri: It as a ``data:`` URI.
        width: Pixels.
        height: Pixels.
    """

    uri: str
    width: int
    height: int

    @classmethod
    def of(cls, image: "Image") -> "InlineImage":
        """An image, re-encoded as a JPEG of at most 720 pixels a side."""
        uri, size = jpeg_uri(image, _LONGEST_SIDE)
        return cls(uri, *size)


@cache
def templates(*folders: Path) -> Environment:
    """The templates; all that they show is escaped.

    Args:
        folders: With templates of another part, searched before those of reports.
    """
    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_fit,
    )
    environment.filters |= {"number": number, "percent": percent, "digest": _digest}
    return environment


def render(template: str, *scripts: str, **values: Any) -> str:
    """A page.

    Args:
        template: Name of a template that extends ``base.html``.
        scripts: Files that make up the one script that the page's policy lets run, whatever its texts hold.
        values: What the template shows.
    """
    return render_from((), template, *scripts, **values)


def render_from(folders: tuple[Path, ...], template: str, *scripts: str, **values: Any) -> str:
    """The same with templates and scripts of another part; see `templates`."""
    code = "".join(template_text(script, *folders) for script in scripts)
    return templates(*folders).get_template(template).render(script=code, **values) + "\n"


def template_text(name: str, *folders: Path) -> str:
    """A file of the templates as it is, such as a script or a style; see `templates`."""
    environment = templates(*folders)
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _fit(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return fit_for_html(value)
    return value


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
