"""The rules of single fields of a card as a JSON Schema, made of what `read_card` itself goes by.

It says less than the check: how fields go together, which words YAML takes for others, and which characters
Unicode shows are beyond it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import card_reader, card_text
from .card_reader import PATTERNS
from .system_card import DEEPEST, FORMAT, SubmittedRun, SystemCard, TrainingData

SCHEMA_FILE = Path(__file__).parent / "data" / "submission.schema.json"
# Controls, blanks but the plain one, what joins, hides or turns text, and private characters.
_NOT_SHOWN = (
    "\\u0000-\\u001f\\u007f-\\u00a0\\u00ad\\u061c\\u1680\\u180e\\u2000-\\u200b\\u200e\\u200f"
    "\\u2028-\\u202f\\u205f-\\u206f\\u3000\\ue000-\\uf8ff\\ufeff\\ufff9-\\ufffb"
)
# Behind ``$``, which Python takes for the end and for a line feed at the end.
_END = r"$(?!\n)"


def card_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of ``system.yaml``; texts are to be written in quotes."""
    fields = {
        "format": {"const": FORMAT},
        "name": _string(rf"^(?!{card_text.RESERVED}$){card_text.NAME}{_END}"),
        **{key: _text(longest) for key, longest in card_reader.TEXTS.items()},
        "authors": _list(_text(card_reader.TITLE), 1, card_reader.MOST_AUTHORS),
        "contact": {"anyOf": [_mail(), _link()]},
        "licence": _matching("licence"),
        "m2kr_version": _matching("version"),
        "kind": {"enum": list(card_reader.KINDS)},
        "query_modalities": _modalities(),
        "passage_modalities": _modalities(),
        "parameters": _or_nothing(_whole(0, card_reader.MOST_PARAMETERS)),
        "training_data": _list(_training_data(), 0, card_reader.MOST_DATA),
        "zero_shot": _by_key("source", {"type": "boolean"}),
        "links": _object({key: _link() for key in card_reader.LINKS}),
        "note": _open_text(card_reader.NOTE),
        "runs": _list(_run(), 1, card_reader.MOST_RUNS),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "system.yaml of a submission to the leaderboard of M2KR",
        "$comment": "Made by m2kr_leaderboard.card_schema; m2kr submit check decides.",
        **_object(_described(fields, SystemCard), card_reader.REQUIRED),
    }


def card_schema_json() -> str:
    """The schema as its file has it."""
    return json.dumps(card_schema(), indent=1, ensure_ascii=True) + "\n"


def _run() -> dict[str, Any]:
    source, split = PATTERNS["source"], PATTERNS["split"]
    suffixes = "|".join(re.escape(suffix) for suffix in card_reader.SUFFIXES)
    numbers = {key: _or_nothing(_number(card_reader.MOST_COST)) for key in card_reader.COSTS}
    fields = {
        "source": _matching("source"),
        "split": _matching("split"),
        "edition": _matching("edition"),
        "file": _string(rf"^runs/{source}\.{split}({suffixes}){_END}"),
        "fingerprint": _matching("fingerprint"),
        "k": _whole(1, DEEPEST),
        "run_sha256": _matching("sha256"),
        "scores": _by_key("metric", _number(1)),
        "cost": _object(numbers | {"device": _open_text(card_reader.TITLE)}),
    }
    return _object(_described(fields, SubmittedRun), card_reader.RUN_REQUIRED)


def _training_data() -> dict[str, Any]:
    longest = card_reader.TITLE
    fields = {"source": _text(longest), "split": _open_text(longest)}
    return _object(_described(fields, TrainingData), ("source",))


def _described(fields: Mapping[str, dict[str, Any]], kind: type) -> dict[str, dict[str, Any]]:
    """Fields with the sentences that the class's docstring has on them."""
    text = (kind.__doc__ or "").partition("Attributes:")[2]
    found = re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w+: |\Z)", text, re.MULTILINE | re.DOTALL)
    said = {name: " ".join(words.replace("``", "").split()) for name, words in found}
    return {
        key: {"description": said[key], **rule} if key in said else rule
        for key, rule in fields.items()
    }


def _object(fields: Mapping[str, Any], required: Iterable[str] = ()) -> dict[str, Any]:
    rule: dict[str, Any] = {"type": "object", "properties": dict(fields)}
    return rule | {"required": [*required], "additionalProperties": False}


def _by_key(pattern: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "propertyNames": _matching(pattern),
        "additionalProperties": dict(values),
    }


def _list(item: Mapping[str, Any], least: int, most: int) -> dict[str, Any]:
    rule = {"type": "array", "items": dict(item), "minItems": least, "maxItems": most}
    return rule | {"uniqueItems": True}


def _modalities() -> dict[str, Any]:
    return _list({"enum": list(card_reader.MODALITIES)}, 1, len(card_reader.MODALITIES))


def _string(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


def _matching(name: str) -> dict[str, Any]:
    return _string(f"^{PATTERNS[name]}{_END}")


def _text(longest: int) -> dict[str, Any]:
    shown = f"[^{_NOT_SHOWN}]"
    return _string(f"^(?! ){shown}+(?<! ){_END}") | {"maxLength": longest}


def _open_text(longest: int) -> dict[str, Any]:
    """A text, or that there is none."""
    return {"anyOf": [_text(longest), {"enum": ["", None]}]}


def _link() -> dict[str, Any]:
    rest = rf"([/?#]({card_text.ADDRESS})?)?"
    pattern = rf"^https://(?!([^/?#]*\.)?[xX][nN]--){card_text.HOST}{rest}{_END}"
    return _string(pattern) | {"maxLength": card_text.LONGEST_LINK}


def _mail() -> dict[str, Any]:
    pattern = rf"^{card_text.MAILBOX}@(?!(.*\.)?[xX][nN]--){card_text.HOST}{_END}"
    return _string(pattern) | {"maxLength": card_text.LONGEST_LINK}


def _whole(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


def _number(most: float) -> dict[str, Any]:
    return {"type": "number", "minimum": 0, "maximum": most}


def _or_nothing(rule: Mapping[str, Any]) -> dict[str, Any]:
    return {**rule, "type": [rule["type"], "null"]}
