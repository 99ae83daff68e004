"""The ledger of claims: every published number, how it was measured, and what became of it."""

import csv
import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal, cast, get_args

from m2kr.errors import InputError

from .protocols import PROTOCOLS

CLAIMS = Path(__file__).parent / "data" / "claims.csv"
ClaimTask = Literal["retrieval", "answering"]
Confidence = Literal["high", "medium", "low", "do-not-use"]
ClaimState = Literal["reproduced", "differs", "blocked", "superseded", "buggy input"]

# What numbers of a claim measure; the first three as of m2kr's own metrics.
CLAIM_METRICS: Mapping[str, str] = {
    "hit_rate": "any right passage among the first K (M2KR's R@K)",
    "pseudo_recall": "any passage with an answer in its text among the first K (PR@K)",
    "mrr": "one divided by the rank of the first right passage, 0 below K",
    "unclear": "printed as R@K; whether it is the hit rate or pseudo recall isn't known",
    "entity_recall": "a page of the right entity among the first K",
    "mean_recall": "the mean of several R@K over all right passages",
    "vqa_soft_accuracy": "OK-VQA's soft accuracy over ten annotators",
    "infoseek_accuracy": "answers that match an alias or lie in the range",
    "bem_accuracy": "E-VQA: exact match, sets, and BEM's judgement of equivalence",
    "vqa_accuracy": "printed as VQA accuracy; how answers were judged isn't known",
}

_BLOCKERS = ("code", "weights", "data", "images")
_MAY_BE_EMPTY = {"variant", "size", "corpus", "split", "k", "command", "no_command"}
_KEY = ("system", "variant", "size", "source", "corpus", "split", "metric", "protocol")


@dataclass(frozen=True, slots=True)
class Claim:
    """A number that somebody published; nobody recomputed it here.

    Attributes:
        id: Stable and unique.
        system: Its name, one spelling for a system.
        variant: Which of its versions, or whose run, or what was wrong with it.
        size: Such as ``ViT-L`` or ``7B``.
        source: Name of a source of m2kr, if it is one.
        corpus: Language or collection, where the protocol has several.
        split: Split name; empty if it isn't stated.
        metric: Such as ``pseudo_recall@5``; its first part is of `CLAIM_METRICS`.
        k: Cut-off as printed; empty if there is none.
        printed: The number as printed, in points of 100.
        value: The same, 0 to 1.
        protocol: Key of `PROTOCOLS`.
        task: ``retrieval`` or ``answering``.
        origin: Where it was printed.
        confidence: How sure it is that this was published so and means this.
        confidence_reason: Why.
        status: ``reproduced``, ``differs by -0.4 points``, ``blocked by weights, data``, ``superseded``
            or ``buggy input``.
        status_reason: Why.
        command: What would check it; empty where nothing in m2kr could.
        no_command: Why there is none.
        listed_model: How the list of published results that this was made from called the system.
        listed_dataset: The same of the source.
        listed_metric: The same of the metric.
    """

    id: str
    system: str
    variant: str
    size: str
    source: str
    corpus: str
    split: str
    metric: str
    k: str
    printed: str
    value: float
    protocol: str
    task: ClaimTask
    origin: str
    confidence: Confidence
    confidence_reason: str
    status: str
    status_reason: str
    command: str
    no_command: str
    listed_model: str
    listed_dataset: str
    listed_metric: str

    @property
    def system_and_size(self) -> str:
        """Such as ``PreFLMR ViT-L``."""
        return f"{self.system} {self.size}".strip()

    @property
    def state(self) -> ClaimState:
        """What became of it, without how far or by what."""
        return next(state for state in get_args(ClaimState) if self.status.startswith(state))

    @property
    def blocked_by(self) -> tuple[str, ...]:
        """What is missing to check it."""
        _, _, rest = self.status.partition("blocked by ")
        return tuple(rest.split(", ")) if rest else ()


def load_claims(path: Path = CLAIMS) -> list[Claim]:
    """All claims, in the order of the file.

    Args:
        path: A ledger; the packaged one by default.

    Raises:
        InputError: rows that can't be read; names each with its field.
    """
    claims, faults = [], []
    names = [field.name for field in fields(Claim)]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if header != names:
                raise InputError(
                    "not a ledger of claims", where=str(path), expected="columns " + ",".join(names)
                )
            for cells in reader:
                where = f"line {reader.line_num}"
                if len(cells) != len(names):
                    faults.append(f"{where}: {len(cells)} fields, expected {len(names)}")
                    continue
                row = dict(zip(names, cells, strict=True))
                faulty = list(_faults(row))
                faults += [f"{where} ({row['id']}): {fault}" for fault in faulty[:1]]
                if not faulty:
                    claims.append(_claim(row))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a CSV in UTF-8: {error}", where=str(path)) from error
    faults += list(_doubled(claims))
    if faults:
        raise InputError("\n  ".join([f"faulty claims: {len(faults)}", *faults]), where=str(path))
    return claims


def claims_of(key: str, claims: Iterable[Claim]) -> list[Claim]:
    """The claims on the source and split of a board.

    Args:
        key: A board's, such as ``okvqa.test``.
        claims: All claims.
    """
    source, _, split = key.partition(".")
    return [claim for claim in claims if claim.source == source and claim.split in ("", split)]


def by_protocol(claims: Iterable[Claim]) -> dict[str, list[Claim]]:
    """Claims by protocol, in the order of `PROTOCOLS`; protocols without any are left out."""
    groups: dict[str, list[Claim]] = {name: [] for name in PROTOCOLS}
    for claim in claims:
        groups[claim.protocol].append(claim)
    return {name: group for name, group in groups.items() if group}


def _claim(row: Mapping[str, str]) -> Claim:
    return Claim(
        **{name: text for name, text in row.items() if name not in ("value", "task", "confidence")},
        value=float(row["value"]),
        task=cast("ClaimTask", row["task"]),
        confidence=cast("Confidence", row["confidence"]),
    )


def _faults(row: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a row, each in words."""
    for name, text in row.items():
        if not text and name not in _MAY_BE_EMPTY:
            yield f"{name} is empty"
        if text != unicodedata.normalize("NFC", text).strip() or not text.isprintable():
            yield f"{name} is not one line of plain text: {text!r}"
    choices = {"protocol": list(PROTOCOLS), "task": get_args(ClaimTask)}
    choices |= {"confidence": get_args(Confidence), "split": ("", "train", "valid", "test")}
    for name, allowed in choices.items():
        if row[name] not in allowed:
            yield f"{name} is {row[name]!r}, expected one of {', '.join(filter(None, allowed))}"
    if not re.fullmatch(r"[a-z0-9][a-z0-9._@-]*", row["id"]):
        yield f"id is {row['id']!r}, expected small letters, digits and . _ @ -"
    stem, _, k = row["metric"].partition("@")
    if stem not in CLAIM_METRICS or k != row["k"]:
        yield (
            f"metric is {row['metric']!r} and k {row['k']!r}, expected one of "
            f"{', '.join(CLAIM_METRICS)}, with @k of that k"
        )
    if (row["task"] == "answering") == bool(k):
        yield f"task is {row['task']} and metric {row['metric']}: retrieval alone has a cut-off"
    yield from _value_faults(row["printed"], row["value"])
    if not _status_holds(row["status"]):
        yield (
            f"status is {row['status']!r}, expected reproduced, 'differs by -0.4 points', "
            f"'blocked by' some of {', '.join(_BLOCKERS)} in this order, superseded, or buggy input"
        )
    if bool(row["command"]) == bool(row["no_command"]):
        yield "expected either a command or, in no_command, why there is none"
    elif row["command"] and _program(row["command"]) != "m2kr":
        yield f"command is {row['command']!r}, expected one of m2kr"


def _program(command: str) -> str:
    """The first word of a command; empty if its quotes don't close."""
    try:
        return shlex.split(command)[0]
    except ValueError:
        return ""


def _value_faults(printed: str, value: str) -> Iterator[str]:
    plain = r"\d+(\.\d+)?"
    try:
        if not re.fullmatch(plain, printed) or not re.fullmatch(plain, value):
            raise InvalidOperation
        if Decimal(printed) != Decimal(value) * 100 or not 0 <= Decimal(value) <= 1:
            yield f"value is {value}, expected a hundredth of what is printed ({printed}), 0 to 1"
    except InvalidOperation:
        yield f"printed is {printed!r} and value {value!r}, expected plain numbers"


def _status_holds(status: str) -> bool:
    if status.startswith("blocked by "):
        named = status.removeprefix("blocked by ").split(", ")
        return named == [name for name in _BLOCKERS if name in named]
    if status.startswith("differs"):
        return bool(re.fullmatch(r"differs by [+-]\d+(\.\d+)? points", status))
    return status in ("reproduced", "superseded", "buggy input")


def _doubled(claims: Sequence[Claim]) -> Iterator[str]:
    """Claims that can't be told apart."""
    ids: dict[str, Claim] = {}
    keys: dict[tuple[str, ...], Claim] = {}
    for claim in claims:
        if claim.id in ids:
            yield f"two claims have the id {claim.id}"
        key = (*(getattr(claim, name) for name in _KEY), claim.origin)
        if key in keys:
            yield f"{claim.id} and {keys[key].id} are the same claim of the same origin"
        ids[claim.id] = keys[key] = claim
