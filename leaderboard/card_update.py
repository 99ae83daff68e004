"""A card brought up to date: what results know is new, what a person wrote stays, in their own layout."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .card_yaml import CardNode, parse_card_yaml
from .problems import SubmissionRefused
from .system_card import PlainWord, fields_as_yaml

_PLAIN = re.compile(r"~|[nN]ull|NULL||true|false|-?[0-9][0-9.]*([eE][-+]?[0-9]+)?")
_OPEN = ("", "~", "null", "Null", "NULL")
_FROM_RESULTS = ("m2kr_version",)
# Of these a result has an opinion, which may differ from the card's.
_TOLD = ("kind", "query_modalities", "passage_modalities", "hardware")
_KEY = re.compile(r"(?P<quote>['\"]?)(?P<key>[A-Za-z0-9_]+)(?P=quote)\s*:(\s|$)")


@dataclass(frozen=True, slots=True)
class CardUpdate:
    """A card and what became of an older one.

    Attributes:
        text: The card.
        changed: What is another than it was, a line each.
        kept: What stayed because a person may have written it.
    """

    text: str
    changed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def read_fields(data: bytes) -> dict[str, Any]:
    """A card's fields as they are written, whether they hold or not.

    Raises:
        SubmissionRefused: it is no YAML as cards are.
    """
    return {key: _value(node) for key, node in parse_card_yaml(data).items()}


def _value(node: CardNode) -> Any:
    if isinstance(node.value, dict):
        return {key: _value(inner) for key, inner in node.value.items()}
    if isinstance(node.value, list):
        return [_value(inner) for inner in node.value]
    return PlainWord(node.value) if node.plain and _PLAIN.fullmatch(node.value) else node.value


def is_filled(fields: Mapping[str, Any], key: str) -> bool:
    """Whether somebody has said what a field is; no training data are an answer."""
    value = fields.get(key)
    if key == "training_data" and value == []:
        return True
    if isinstance(value, str):
        return value not in _OPEN
    if isinstance(value, Mapping):
        return any(is_filled(value, inner) for inner in value)
    return isinstance(value, list) and any(is_filled({"": one}, "") for one in value)


def card_runs(fields: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The runs of a card by source and split, as far as they name them."""
    runs = fields.get("runs")
    named = {}
    for run in runs if isinstance(runs, list) else ():
        if isinstance(run, Mapping) and {"source", "split"} <= run.keys():
            named[str(run["source"]), str(run["split"])] = run
    return named


def update_card(old: bytes, fresh: Mapping[str, Any], given: Collection[str]) -> CardUpdate:
    """A card with what results know, and for all else what stood in it.

    Args:
        old: The card as it is.
        fresh: All fields of a new card; ``zero_shot`` of the old card's sources, too.
        given: Fields that were given anew.

    Raises:
        SubmissionRefused: the old card is no YAML as cards are.
    """
    before = read_fields(old)
    new = read_fields(fields_as_yaml(fresh).encode())
    changed: list[str] = []
    kept: list[str] = []
    merged: dict[str, Any] = {}
    for key in [*new, *(key for key in before if key not in new)]:
        if key == "runs":
            merged[key] = _runs(before, new, changed, kept)
        elif key == "zero_shot" and key not in given:
            merged[key] = _flags(before.get(key), new[key])
        elif key == "links" and isinstance(links := before.get(key), Mapping):
            merged[key] = {**links, **new.get(key, {})}
        elif key not in new or (
            key not in given and key not in _FROM_RESULTS and is_filled(before, key)
        ):
            merged[key] = before[key]
        else:
            merged[key] = new[key]
        if key == "runs":
            continue
        if key in before and merged[key] == before[key]:
            if key in new and is_filled(before, key) and key not in ("format", *_FROM_RESULTS):
                differs = key in _TOLD and is_filled(new, key) and new[key] != merged[key]
                says = f" ({_shown(merged[key])}; the results say {_shown(new[key])})"
                kept.append(key + (says if differs else ""))
        elif key in before:
            changed.append(f"{key}: {_shown(before[key])} -> {_shown(merged[key])}")
        elif is_filled(merged, key):
            changed.append(f"{key}: {_shown(merged[key])}")
    text = fields_as_yaml(merged)
    return CardUpdate(_laid_out(old.decode(), text, before, merged), tuple(changed), tuple(kept))


def _runs(
    before: Mapping[str, Any], new: Mapping[str, Any], changed: list[str], kept: list[str]
) -> list[Any]:
    """The new runs, and the old ones of other sources."""
    old, fresh = card_runs(before), card_runs(new)
    for key, run in fresh.items():
        if key not in old:
            changed.append(f"run {'/'.join(key)}: added")
        elif old[key] == run:
            kept.append(f"run {'/'.join(key)}")
        else:
            same = old[key].get("run_sha256") == run["run_sha256"]
            what = "the same rankings, other facts" if same else "other rankings"
            changed.append(f"run {'/'.join(key)}: {what}")
    kept += [
        f"run {'/'.join(key)} (none of the results is of it)" for key in old if key not in fresh
    ]
    listed = before.get("runs")
    unnamed = [run for run in listed if run not in old.values()] if isinstance(listed, list) else []
    return [*(run for _, run in sorted({**old, **fresh}.items())), *unnamed]


def _flags(before: Any, new: Mapping[str, Any]) -> dict[str, Any]:
    """What was said of each source, but for a claim that the training data contradict."""
    flags = dict(before) if isinstance(before, Mapping) else {}
    for source, flag in new.items():
        if flags.get(source) not in ("true", "false") or flag == "false":
            flags[source] = flag
    return dict(sorted(flags.items()))


def _laid_out(old: str, text: str, before: Mapping[str, Any], merged: Mapping[str, Any]) -> str:
    """The old text with the blocks of changed fields exchanged; the new text where that isn't the same."""
    lines = old.splitlines()
    starts = [(n, match["key"]) for n, line in enumerate(lines) if (match := _KEY.match(line))]
    ends = [start for start, _ in starts[1:]] + [len(lines)]
    if len({key for _, key in starts}) < len(starts) or not starts:
        return text
    made = lines[: starts[0][0]]
    for (start, key), end in zip(starts, ends, strict=True):
        block = lines[start:end]
        if key in merged and merged[key] != before.get(key):
            size = len(block)
            while size and (not block[size - 1].strip() or block[size - 1].startswith("#")):
                size -= 1  # what stands before the next field is that one's
            block = [*fields_as_yaml({key: merged[key]}).splitlines(), *block[size:]]
        made += block
    for key, value in merged.items():
        if key not in before:
            made += fields_as_yaml({key: value}).splitlines()
    laid_out = "\n".join(made) + "\n"
    try:
        same = read_fields(laid_out.encode()) == read_fields(text.encode())
    except SubmissionRefused:
        return text
    return laid_out if same else text


def _shown(value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(map(_shown, value)) or "none"
    elif isinstance(value, Mapping):
        shown = ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items()) or "none"
    else:
        shown = str(value) or "empty"
    return shown if len(shown) <= 80 else shown[:79] + "…"
