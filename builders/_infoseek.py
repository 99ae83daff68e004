"""Infoseek's upstream rows: questions joined with their entities and, for test, question types."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m2kr.building.ledger import Ledger
from m2kr.building.spec import BuildContext

from ._rows import json_records

MAIN = ("data_id", "image_id", "question", "answer", "answer_eval", "data_split")
KB = ("data_id", "entity_id", "entity_text")
UPSTREAM = {"train": "train", "test": "val"}
_TYPES = "infoseek_val_qtype.jsonl"


@dataclass(frozen=True, slots=True)
class Asked:
    """One upstream row, joined with its entity.

    Attributes:
        row: Its line number.
        answer: Upstream's answers, blank ones left out.
        answer_eval: Further accepted texts, blank ones left out; none of a number.
        value: The number asked for.
        range: Its bounds.
        blank: How many blank answers were left out.
    """

    row: int
    id: str
    image_id: str
    question: str
    answer: tuple[str, ...]
    answer_eval: tuple[str, ...]
    value: float | None
    range: tuple[float, ...]
    data_split: str
    entity_id: str
    entity_text: str
    question_type: str | None
    blank: int

    @property
    def answers(self) -> tuple[str, ...]:
        """Answer and answer_eval together, as they come: the authors extend the one by the other."""
        return (*self.answer, *self.answer_eval)


def joined(ctx: BuildContext, split: str, *, quiet: bool = False) -> Iterator[Asked]:
    """Upstream's rows with their entities and, for test, question types."""
    ledger = Ledger("quiet") if quiet else ctx.ledger
    part = UPSTREAM[split]
    entities: dict[str, tuple[int, str, str]] = {}
    kb = ctx.files[f"infoseek/infoseek_{part}_withkb.jsonl"]
    for row, record in json_records(kb, ledger, KB):
        data_id, entity, name = (record[key] for key in KB)
        if not all(isinstance(value, str) for value in (data_id, entity, name)):
            ledger.drop("an id or a name is no text", file=kb.name, row=row)
        elif data_id in entities:
            ledger.drop("a data_id used twice", file=kb.name, row=row, detail=data_id)
        else:
            entities[data_id] = (row, entity, name)
    types = _types(ctx, ledger) if part == "val" else {}
    main = ctx.files[f"infoseek/infoseek_{part}.jsonl"]
    seen: set[str] = set()
    for row, record in json_records(main, ledger, MAIN):
        problem, asked = "", _asked(row, record, entities, types)
        if isinstance(asked, str):
            problem = asked
        elif asked.id in seen:
            problem = "a data_id used twice"
        if isinstance(asked, str) or problem:
            ledger.drop(problem, file=main.name, row=row, detail=str(record["data_id"])[:80])
            continue
        seen.add(asked.id)
        if asked.id not in entities:
            ledger.filter("no entity", file=main.name, row=row)
            continue
        ledger.use(kb.name, entities[asked.id][0], out=0)
        if asked.blank:
            ledger.repair("a blank answer, left out", file=main.name, row=row, detail=asked.id)
        yield asked
    for data_id, (row, _, _) in entities.items():
        if data_id not in seen:
            ledger.drop("the entity of no question", file=kb.name, row=row, detail=data_id)
    for data_id, (row, _) in types.items():
        if data_id in seen:
            ledger.use(_TYPES, row, out=0)
        else:
            ledger.drop("the type of no question", file=_TYPES, row=row, detail=data_id)


def _types(ctx: BuildContext, ledger: Ledger) -> dict[str, tuple[int, str | None]]:
    path, found = ctx.files[f"infoseek/{_TYPES}"], dict[str, tuple[int, str | None]]()
    for row, record in json_records(path, ledger, ("data_id", "question_type")):
        data_id = str(record["data_id"])
        if data_id in found:
            ledger.drop("a data_id used twice", file=_TYPES, row=row, detail=data_id)
        else:
            kind = record["question_type"]
            found[data_id] = row, kind if isinstance(kind, str) and kind.strip() else None
    return found


def _asked(
    row: int,
    record: Mapping[str, Any],
    entities: Mapping[str, tuple[int, str, str]],
    types: Mapping[str, tuple[int, str | None]],
) -> Asked | str:
    """An upstream row, or what is wrong with it."""
    texts = [record[key] for key in ("data_id", "image_id", "question", "data_split")]
    if not all(isinstance(text, str) for text in texts):
        return "a field is no text"
    data_id, image_id, question, data_split = texts
    accepted = record["answer_eval"]
    # Upstream's scorer takes one object or a list, and of a list its first entry.
    first = accepted[0] if isinstance(accepted, list) and accepted else accepted
    value: float | None = None
    bounds: tuple[float, ...] = ()
    if isinstance(first, dict):
        try:
            value, bounds = _number(first)
        except (KeyError, TypeError, ValueError):
            return "answer_eval is neither texts nor a number with its range"
        accepted = []
    answers, more = _texts(record["answer"]), _texts(accepted)
    if answers is None or more is None:
        return "an answer is no text"
    answer, accepted = (tuple(a for a in given if a.strip()) for given in (answers, more))
    if not answer and not accepted:
        return "no answer"
    _, entity, name = entities.get(data_id, (0, "", ""))
    return Asked(
        row,
        data_id,
        image_id,
        question,
        answer,
        accepted,
        value,
        bounds,
        data_split,
        entity,
        name,
        types[data_id][1] if data_id in types else None,
        len(answers) + len(more) - len(answer) - len(accepted),
    )


def _texts(value: Any) -> Sequence[str] | None:
    """A list of texts, which one text or none may stand for; None if it is something else."""
    if value is None or isinstance(value, str):
        return [] if value is None else [value]
    return value if isinstance(value, list) and all(isinstance(v, str) for v in value) else None


def _number(entry: Mapping[str, Any]) -> tuple[float, tuple[float, ...]]:
    low, high = entry["range"]
    value, low, high = (float(number) for number in (entry["wikidata"], low, high))
    if not all(map(math.isfinite, (value, low, high))):
        raise ValueError("no finite number")
    return value, (low, high)
