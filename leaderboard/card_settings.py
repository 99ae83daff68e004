"""What is said of a system on the command line, ``KEY=VALUE``, as fields of its card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2kr.errors import UsageError

from .card_reader import KINDS, LINKS, MODALITIES
from .card_text import name_fault
from .system_card import CARD, DEEPEST, TrainingData

_TEXTS = ("title", "version", "contact", "licence", "hardware", "note")
KEYS = (
    *("name", "title", "version", "authors", "contact", "licence", "kind", "parameters"),
    *("training_data", "zero_shot", "query_modalities", "passage_modalities"),
    *("hardware", "note", "k"),
    *(f"links.{kind}" for kind in LINKS),
)


def card_settings(given: Mapping[str, str], out: Path) -> dict[str, Any]:
    """Settings as values of the card's fields: ``links`` together, ``zero_shot`` one flag for all.

    It needs nothing heavy, so that a wrong one is refused at once.

    Args:
        given: By `KEYS`: ``authors`` are parted by semicolons, ``training_data`` by commas
            (``okvqa:train,a crawl``, or ``none``); ``k`` cuts rankings.
        out: The submission's folder; its name is the system's.

    Raises:
        UsageError: a setting is unknown or no such value; ``out`` is no system's name, or something else
            than a submission is there.
    """
    for key in given:
        if key not in KEYS:
            raise UsageError(f"there is no setting {key!r}", expected="one of " + ", ".join(KEYS))
    facts: dict[str, Any] = {"name": _name(given, out)}
    facts |= {key: given[key] for key in _TEXTS if key in given}
    if "authors" in given:
        facts["authors"] = tuple(_parted(given["authors"], ";"))
    if "kind" in given:
        facts["kind"] = _one_of("kind", given["kind"], KINDS)
    for key in ("query_modalities", "passage_modalities"):
        if key in given:
            read = [_one_of(key, word, MODALITIES) for word in _parted(given[key], ",")]
            facts[key] = tuple(word for word in MODALITIES if word in read)
    if "parameters" in given:
        facts["parameters"] = _parameters(given["parameters"])
    if "training_data" in given:
        facts["training_data"] = _training_data(given["training_data"])
    if "zero_shot" in given:
        facts["zero_shot"] = _one_of("zero_shot", given["zero_shot"], ("true", "false")) == "true"
    if links := {kind: given[f"links.{kind}"] for kind in LINKS if f"links.{kind}" in given}:
        facts["links"] = links
    facts["k"] = _depth(given.get("k"))
    return facts


def _name(given: Mapping[str, str], out: Path) -> str:
    folder = out.absolute().name
    name = given.get("name", folder)
    if fault := name_fault(name):
        raise UsageError(
            f"{name!r} can't be a system's name: {fault}",
            expected="small letters, digits and hyphens, as the folder's name",
            fix="m2kr submit init RESULTS --out my-system",
        )
    if name != folder:
        raise UsageError(
            f"the name is {name}, and the folder's {folder}",
            expected="the same name",
            fix=f"--out {out.parent / name}",
        )
    if out.is_symlink() or (out.exists() and not (out / CARD).is_file()):
        raise UsageError(
            "it is there already, and is no submission",
            where=str(out),
            expected="a new name, or a submission to bring up to date",
        )
    return name


def _parted(text: str, by: str) -> list[str]:
    return [part.strip() for part in text.split(by) if part.strip()]


def _one_of(key: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise UsageError(f"{key} is {value!r}", expected="one of " + ", ".join(allowed))
    return value


def _parameters(text: str) -> int | None:
    if text == "unknown":
        return None
    if not text.isdecimal():
        raise UsageError(f"parameters is {text!r}", expected="a whole number, or unknown")
    return int(text)


def _training_data(text: str) -> tuple[TrainingData, ...]:
    if text == "none":
        return ()
    parts = (part.partition(":") for part in _parted(text, ","))
    return tuple(TrainingData(source.strip(), split.strip()) for source, _, split in parts)


def _depth(text: str | None) -> int:
    if text is None:
        return DEEPEST
    if not text.isdecimal() or not 1 <= int(text) <= DEEPEST:
        raise UsageError(f"k is {text!r}", expected=f"a whole number from 1 to {DEEPEST}")
    return int(text)
