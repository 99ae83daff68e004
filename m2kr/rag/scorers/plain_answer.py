"""Answers as they are compared: SQuAD's normalisation, and when two are the same."""

import re
import string
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_SHORT = 200  # characters of a text that is remembered
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# With what a typographer or a phone writes in place of the ASCII signs.
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation + "‘’‛ʼ′“”„‟″‐‑‒–—―−…")


def plain_answer(text: str) -> str:
    r"""A text as SQuAD's evaluation compares it, such as ``eiffel tower`` for ``The "Eiffel" tower!``.

    Lower case, no ASCII punctuation, no articles, blanks of any sort and line ends as one blank. Ours
    beside that: case is folded (``Straße`` is ``STRASSE``), texts that Unicode calls equivalent are
    equal (a letter and its accent, composed or not), and curly quotes, dashes and ellipses go as the
    ASCII signs do. Of ASCII text it is SQuAD's own result.

    Example:
        >>> plain_answer("  The “Eiffel”\ntower! ")
        'eiffel tower'
    """
    return _plain_once(text) if len(text) <= _SHORT else _plain(text)


def is_same_answer(prediction: str, answer: str) -> bool:
    """Whether two texts are the same answer.

    Where the normalisation leaves nothing of either (``A.``, ``?``), they are compared with their articles,
    then as they are, and a blank is never an answer: so an empty prediction is right nowhere.
    """
    for form in (plain_answer, _unpunctuated, _bare):
        one, other = form(prediction), form(answer)
        if one or other:
            return one == other
    return False


def first_same(prediction: str, answers: Iterable[str]) -> str | None:
    """The first accepted answer that a prediction is, None if it is none of them."""
    return next((answer for answer in answers if is_same_answer(prediction, answer)), None)


def _plain(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", _unpunctuated(text)).split())


_plain_once = lru_cache(1 << 16)(_plain)


def _unpunctuated(text: str) -> str:
    return " ".join(_folded(text).translate(_NO_PUNCTUATION).split())


def _bare(text: str) -> str:
    return " ".join(_folded(text).split())


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
