"""Scorers by name; each is imported where it is used."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from m2kr.errors import UsageError
from m2kr.rag.scorer import AnswerScorer

# Name -> module and class.
_SCORERS = {
    "okvqa": ("okvqa", "OkvqaScorer"),
    "infoseek": ("infoseek", "InfoseekScorer"),
    "evqa": ("evqa", "EvqaScorer"),
    "exact_match": ("exact_match", "ExactMatchScorer"),
    "token_f1": ("token_f1", "TokenF1Scorer"),
    "judge": ("judge", "JudgeScorer"),
}
# How the settings begin that a scorer is made from, and whether it takes them without that.
_SETTINGS = {"evqa": ("bem", False), "judge": ("judge", True)}
_ALIASES = {"em": "exact_match", "f1": "token_f1", "vqa": "okvqa", "encyclopedicvqa": "evqa"}
_OFFICIAL = {"okvqa": ["okvqa"], "infoseek": ["infoseek"], "evqa": ["evqa"]}
_ANY = ["exact_match", "token_f1"]


def scorer_names() -> list[str]:
    """The names that `open_scorer` takes."""
    return list(_SCORERS)


def default_scorers(source: str) -> list[str]:
    """The scorers of a source: its official one, else exact match and token F1.

    mini's questions have one to three accepted answers, which are no annotators: so it takes these
    two in all its forms.
    """
    return list(_OFFICIAL.get(source, _ANY))


def open_scorer(spec: str, settings: Mapping[str, str]) -> AnswerScorer:
    """A scorer by its name.

    Args:
        spec: One of `scorer_names`; case and punctuation don't matter.
        settings: All that ``--set`` gave; the scorer takes its own: ``bem`` and ``bem.…`` are evqa's,
            ``judge.…`` the judge's.

    Raises:
        UsageError: there is no such scorer, or a setting of its own is wrong.
    """
    name = scorer_name(spec)
    module, kind = _SCORERS[name]
    scorer: Any = getattr(importlib.import_module(f"m2kr.rag.scorers.{module}"), kind)
    if name not in _SETTINGS:
        made: AnswerScorer = scorer()
        return made
    begin, without = _SETTINGS[name]
    own = {
        key.removeprefix(f"{begin}.") if without else key: value
        for key, value in settings.items()
        if key.partition(".")[0] == begin
    }
    opened: AnswerScorer = scorer.from_settings(own)
    return opened


def is_scorer_setting(key: str, names: Iterable[str]) -> bool:
    """Whether a setting is one of some scorers' own, by the name it begins with."""
    return key.partition(".")[0] in {_SETTINGS[name][0] for name in names if name in _SETTINGS}


def scorer_name(spec: str) -> str:
    """The name of a scorer as tables and files have it.

    Raises:
        UsageError: there is no such scorer.
    """
    plain = {_plain(name): name for name in _SCORERS} | _ALIASES
    name = plain.get(_plain(spec))
    if name is None:
        near = difflib.get_close_matches(_plain(spec), plain, n=1)
        raise UsageError(
            f"there is no scorer {spec!r}",
            expected="one of " + ", ".join(_SCORERS),
            fix=f"did you mean '{plain[near[0]]}'?" if near else None,
        )
    return name


def _plain(name: str) -> str:
    return "".join(c for c in name if c.isalnum()).lower()
