"""In what an id that is unknown differs from one that is known, where it can be said in a word."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote

from m2kr.data.lookup import nearest_ids

if TYPE_CHECKING:
    import pyarrow as pa

_LONGEST = 80  # characters of an id that a message shows
_MOST_FOLDED = 1_000_000  # ids; more would take minutes and gigabytes for the sake of a message
# Letters of other scripts that look like Latin ones, and the marks that look like a hyphen or apostrophe.
_LOOKS = str.maketrans(
    "АВЕЅІЈКМНОРСТУХԌԚԜаеорсухіјѕԁԛԝһӏνοραικΑΒΕΖΗΙΚΜΝΟΡΤΥΧⅼıɑɡօոս‐‑‒–—−ʼ’‘",
    "ABESIJKMHOPCTYXGQWaeopcyxijsdqwhlvopaikABEZHIKMNOPTYXliagonu------'''",
)


def _without(categories: Sequence[str]) -> Callable[[str], str]:
    def strip(text: str) -> str:
        return "".join(c for c in text if unicodedata.category(c) not in categories)

    return strip


def _normal_form(form: str) -> Callable[[str], str]:
    return lambda text: unicodedata.normalize(form, text)  # type: ignore[arg-type]


# In this order: what is left after one is what the next sees.
_STEPS: dict[str, Callable[[str], str]] = {
    "percent-encoding": lambda text: unquote(text) if "%" in text else text,
    "invisible characters": _without(("Cf", "Cc")),
    "blanks": lambda text: "".join(text.split()),
    "the Unicode normal form": _normal_form("NFC"),
    "compatibility forms of characters": _normal_form("NFKC"),
    "letters that look alike": lambda text: text.translate(_LOOKS),
    "case": str.casefold,
    "a point and zero behind a whole number": lambda text: re.sub(r"(?<=\d)\.0+$", "", text),
    "leading zeros": lambda text: re.sub(r"(?<!\d)0+(?=\d)", "", text),
}


def shown_id(text: str) -> str:
    """An id as a message shows it: quoted, in ASCII, and not longer than a line."""
    quoted = ascii(text)
    return quoted if len(quoted) <= _LONGEST else quoted[: _LONGEST - 1] + "…'"


class KnownIds:
    """The ids of a table, to be asked which of them an unknown one may mean.

    Args:
        ids: The column.
    """

    def __init__(self, ids: "pa.ChunkedArray") -> None:
        self._ids = ids
        self._plain: dict[str, str] | None = None

    def meant_by(self, unknown: str) -> str:
        """A known id that is like one that isn't, and in what they differ; empty if none is like it."""
        if self._plain is None:
            self._plain = {}
            for chunk in self._ids.chunks if len(self._ids) <= _MOST_FOLDED else ():
                for known in chunk.to_pylist():
                    self._plain.setdefault(_folded(known, _STEPS), known)
        known = self._plain.get(_folded(unknown, _STEPS))
        if known is not None:
            names = " and ".join(spelling_difference(unknown, known))
            return f"it differs from {shown_id(known)} only in {names}{_strange(unknown, known)}"
        near = nearest_ids(self._ids, unknown, 1)
        return f"the nearest is {shown_id(near[0])}" if near else ""


def spelling_difference(one: str, other: str) -> list[str]:
    """What has to be overlooked for two ids to be the same; empty where that isn't all."""
    if _folded(one, _STEPS) != _folded(other, _STEPS):
        return []
    needed = list(_STEPS)
    for name in _STEPS:
        fewer = [n for n in needed if n != name]
        if _folded(one, fewer) == _folded(other, fewer):
            needed = fewer
    return needed


def _folded(text: str, steps: Iterable[str]) -> str:
    if text.isascii() and text.isalnum() and not text.isdigit():  # of most ids
        chosen = [s for s in steps if s in ("case", "leading zeros")]
    else:
        chosen = list(steps)
    for name in chosen:
        text = _STEPS[name](text)
    return text


def _strange(one: str, other: str) -> str:
    """The characters beyond ASCII that one of them has alone."""
    unlike = [c for c in dict.fromkeys(one + other) if (c in one) != (c in other)]
    named = [
        f"U+{ord(c):04X} {unicodedata.name(c, '')}".strip()
        for c in itertools.islice((c for c in unlike if not c.isascii() or not c.isprintable()), 3)
    ]
    return f" ({', '.join(named)})" if named else ""
