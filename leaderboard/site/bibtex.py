"""BibTeX that any text may stand in."""

import re
from collections.abc import Mapping
from urllib.parse import quote

from m2kr.display import on_one_line

# BibTeX counts every brace, escaped ones too, so that braces of a text become commands.
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\textbraceleft{}",
    "}": r"\textbraceright{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: "\\" + character for character in "&%$#_"},
}


def bibtex_text(text: str) -> str:
    """A text as the value of a field, without its braces."""
    return "".join(_ESCAPES.get(character, character) for character in on_one_line(text))


def bibtex_url(link: str) -> str:
    """A link as the value of a field: what could end the field or break the line is quoted."""
    return quote(on_one_line(link), safe=":/?#[]@!$&'()*+,;=%~._-")


def bibtex_key(*parts: str) -> str:
    """A key of letters, digits and hyphens."""
    return "-".join(
        filter(None, (re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in parts))
    )


def bibtex_entry(kind: str, key: str, fields: Mapping[str, str]) -> str:
    """An entry of fields that are escaped already; empty ones are left out.

    Args:
        kind: Such as ``misc``.
        key: Of the entry.
        fields: By name.
    """
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])
