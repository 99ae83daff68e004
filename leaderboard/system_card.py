"""What a submitter says of a system: the file ``system.yaml`` of a submission."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FORMAT = "m2kr-submission-1"
CARD = "system.yaml"
SHALLOWEST, DEEPEST = 100, 500  # ranks of a run

_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_@.-]*")
SystemKind = Literal["single-stage", "re-rank", "fusion"]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Data that a system was trained on.

    Attributes:
        source: A source of M2KR by its name, or any other data's name.
        split: Which part of it.
    """

    source: str
    split: str = ""


@dataclass(frozen=True, slots=True)
class SubmittedRun:
    """One run of a submission, and what is claimed of it.

    Attributes:
        source: Source name.
        split: Split name.
        edition: Edition that was searched.
        file: Its path in the submission: ``runs/<source>.<split>.parquet`` or ``.trec.gz``.
        fingerprint: The split's ``eval`` fingerprint.
        k: Depth of its rankings: 100 at least, or the whole pool; 500 for the full grid of cut-offs.
        run_sha256: Hash of the rankings, as of `m2kr.Run.sha256`.
        scores: Claimed values by metric, such as ``{"hit_rate@5": 0.87}``; recomputed and compared.
        cost: What searching took, as measured by the submitter: ``seconds_per_query``,
            ``cpu_seconds_per_query``, ``encode_seconds``, ``index_seconds``, ``bytes_per_passage``,
            ``peak_host_bytes``, ``peak_device_bytes``, ``device``; any may be absent.
    """

    source: str
    split: str
    edition: str
    file: str
    fingerprint: str
    k: int
    run_sha256: str
    scores: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SystemCard:
    """A system, as its submitter describes it.

    Attributes:
        name: Name of its folder: small letters, digits and hyphens.
        title: What people call it.
        version: Of the system; a new one is a new entry.
        authors: People or groups.
        contact: Mail address or https link.
        licence: SPDX name, or ``proprietary``.
        kind: ``single-stage``, ``re-rank`` or ``fusion``.
        query_modalities: Of ``text``, ``image``; what the retriever reads of a query.
        passage_modalities: The same of a passage.
        parameters: Number of weights, 0 for none; None where it isn't known.
        training_data: What it was trained on, all stages together; empty if nothing.
        zero_shot: By source, whether no training data are of that source.
        hardware: What the runs were made on.
        m2kr_version: Version that made the runs.
        links: https links by ``paper``, ``code``, ``model``, ``page``.
        note: What readers must know, in a sentence or two.
        runs: The runs, ordered by source and split.
    """

    name: str
    title: str
    version: str
    authors: tuple[str, ...]
    contact: str
    licence: str
    kind: SystemKind
    query_modalities: tuple[str, ...]
    passage_modalities: tuple[str, ...]
    parameters: int | None
    training_data: tuple[TrainingData, ...]
    zero_shot: Mapping[str, bool]
    hardware: str
    m2kr_version: str
    runs: tuple[SubmittedRun, ...]
    links: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


class PlainWord(str):
    """A word of a card that stands there without quotes, as numbers and flags do."""

    __slots__ = ()


def card_as_yaml(card: SystemCard) -> str:
    """A card as `read_card` reads it."""
    return fields_as_yaml({"format": FORMAT} | asdict(card))


def fields_as_yaml(fields: Mapping[str, Any]) -> str:
    """Some fields of a card, each on lines of its own."""
    return "\n".join(_yaml_lines(fields, "")) + "\n"


def _yaml_lines(value: Any, indent: str) -> list[str]:
    if isinstance(value, Mapping):
        made = []
        for name, inner in value.items():
            key = name if _PLAIN_KEY.fullmatch(name) else _yaml_word(name)
            block = _yaml_lines(inner, indent + "  ")
            inline = len(block) == 1 and not isinstance(inner, Mapping | list | tuple)
            made += [f"{indent}{key}: {block[0]}"] if inline else [f"{indent}{key}:", *block]
            if isinstance(inner, Mapping | list | tuple) and not inner:
                made[-1] = f"{indent}{key}: " + ("{}" if isinstance(inner, Mapping) else "[]")
        return made
    if isinstance(value, list | tuple):
        made = []
        for inner in value:
            block = _yaml_lines(inner, indent + "  ")
            made += [f"{indent}- {block[0].lstrip()}", *block[1:]]
        return made
    return [value if isinstance(value, PlainWord) else _yaml_word(value)]


def _yaml_word(value: Any) -> str:
    """A word in quotes, or a number or flag; what isn't printed is escaped, as `parse_card_yaml` demands."""
    shown = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in shown)
