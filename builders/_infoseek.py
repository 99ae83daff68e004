"""Infoseek's upstream rows: questions joined with their entities and, for test, question types."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m2kr.build.ledger import Ledger
from m2kr.build.spec import BuildContext

from ._rows import json_records

MAIN = ("data_id", "image_id", "question", "answer", "answer_eval", "data_split")
KB = ("data_id", "entity_id", "entity_text")
UPSTREAM = {"train": "train", "test": "val"}
_TYPES = "infoseek_val_qtype.jsonl"


@dataclass(frozen=True, slots=True)
class Asked:
    """One upstream row, joined with its entity."""

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
        yield asked
    for data_id, (row, _, _) in entities.items():
        if data_id not in seen:
            ledger.drop("the entity of no question", file=kb.name, row=row, detail=data_id)
    for data_id, (row, _) in types.items():
        if data_id in seen:
            ledger.use(_TYPES, row, out=0)
        else:
            ledger.drop("the type of no question", file=_TYPES, row=row, detail=data_id)


def _types(ctx: BuildContext, ledger: Ledger) -> dict[str, tuple[int, str]]:
    path, found = ctx.files[f"infoseek/{_TYPES}"], dict[str, tuple[int, str]]()
    for row, record in json_records(path, ledger, ("data_id", "question_type")):
        data_id = str(record["data_id"])
        if data_id in found:
            ledger.drop("a data_id used twice", file=_TYPES, row=row, detail=data_id)
        else:
            found[data_id] = row, str(record["question_type"])
    return found


def _asked(
    row: int,
    record: Mapping[str, Any],
    entities: Mapping[str, tuple[int, str, str]],
    types: Mapping[str, tuple[int, str]],
) -> Asked | str:
    """An upstream row, or what is wrong with it."""
    texts = [record[key] for key in ("data_id", "image_id", "question", "data_split")]
    if not all(isinstance(text, str) for text in texts):
        return "a field is no text"
    data_id, image_id, question, data_split = texts
    answer, accepted = record["answer"], record["answer_eval"]
    if not isinstance(answer, list) or not isinstance(accepted, list) or not answer:
        return "no list of answers"
    value: float | None = None
    bounds: tuple[float, ...] = ()
    if any(isinstance(each, dict) for each in accepted):
        try:
            value, bounds = _number(accepted)
        except (KeyError, TypeError, ValueError):
            return "answer_eval is neither texts nor one number with its range"
        accepted = []
    if not all(isinstance(each, str) for each in (*answer, *accepted)):
        return "an answer is no text"
    _, entity, name = entities.get(data_id, (0, "", ""))
    return Asked(
        row,
        data_id,
        image_id,
        question,
        tuple(answer),
        tuple(accepted),
        value,
        bounds,
        data_split,
        entity,
        name,
        types[data_id][1] if data_id in types else None,
    )


def _number(accepted: Sequence[Any]) -> tuple[float, tuple[float, ...]]:
    (entry,) = accepted
    low, high = entry["range"]
    return float(entry["wikidata"]), (float(low), float(high))
