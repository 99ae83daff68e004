"""Questions about the photos: from the written facts to rows with answers and evidence."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, Any]
SINGULAR = {"is": "is", "was": "was", "does": "does", "has": "has"}
PLACES = ("building", "dam", "power station", "windmill")
PLURAL = {"is": "are", "was": "were", "does": "do", "has": "have"}


def contains(text: str, answer: str) -> bool:
    """Whether a text holds an answer as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None


def values(fact: str | list[str]) -> list[str]:
    """The accepted answers of a written fact; the first is the preferred one."""
    return [fact] if isinstance(fact, str) else list(fact)


def full(section: str, thing_id: str) -> str:
    """The passage id of a section of a thing; whole ids, ``caption`` and ``wordnet`` stay."""
    whole = "/" in section or section in ("caption", "wordnet")
    return section if whole else f"{thing_id}/{section}"


def noun(thing: Mapping[str, Any]) -> str:
    """The word a question about a picture may use: wide, so that it does not give the thing away."""
    if thing["group"] == "landmarks" or thing["kind"] in PLACES:
        return "landmark"
    singles = {"animals": "animal", "fish": "fish"}
    return "group" if thing["kind"] == "group" else singles.get(thing["group"], "object")


def ask(template: str, thing: Mapping[str, Any], it: str, plural: bool) -> str:
    """A question from its template."""
    place = noun(thing) == "landmark"
    return template.format(
        it=it,
        done=thing.get("done", "finished"),
        **{"from": "in" if place else "from"},
        **(PLURAL if plural else SINGULAR),
    )


def fact_sheet(thing: Mapping[str, Any], relations: Mapping[str, Row]) -> str:
    """A short list of facts about a thing, ``label: value`` as sentences."""
    lines = [f"{thing['name']}. Kind: {thing['kind']}."]
    for key, fact in thing["f"].items():
        label = relations[key]["label"]
        lines.append(f"{label[0].upper()}{label[1:]}: {values(fact)[0]}.")
    return " ".join(lines)


def fact_questions(
    thing: Mapping[str, Any],
    relations: Mapping[str, Row],
    passages: Iterable[Row],
    common: set[str],
    reviewed: Mapping[str, Row],
) -> list[Row]:
    """One row for each fact of a thing.

    Evidence is every passage about the thing that holds an accepted answer as whole words outside
    the thing's own name; for questions of general knowledge also passages about its kind.
    ``reviewed`` corrects that by hand.

    Args:
        thing: The written entry; ``kin`` holds the ids of passages about its kind and
            ``glosses`` those of dictionary entries that name the thing itself.
        relations: Relations by name: form, type, label, template.
        passages: All passages.
        common: Relations that several things have; only these are asked with a picture.
        reviewed: By question id: passages to ``add`` and to ``drop``.
    """
    rows = []
    name = re.compile(rf"(?<!\w){re.escape(thing['name'])}(?!\w)", re.IGNORECASE)
    near = [
        (p["id"], name.sub("", p["text"]))
        for p in passages
        if p["entity"] == thing["id"] or p["id"] in thing["kin"]
    ]
    for key, fact in thing["f"].items():
        relation = relations[key]
        accepted = values(fact)
        row_id = f"{thing['id']}/{key}"
        change = reviewed.get(row_id, {})
        drop = {full(d, thing["id"]) for d in change.get("drop", ())}
        evidence = [
            passage_id
            for passage_id, text in near
            if (
                relation["form"] == "okvqa"
                or passage_id not in thing["kin"]
                or passage_id in thing["glosses"]
            )
            and passage_id not in drop
            and passage_id.split("/")[0] not in drop
            and any(contains(text, answer) for answer in accepted)
        ]
        evidence += [full(a, thing["id"]) for a in change.get("add", ())]
        rows.append(
            {
                "id": row_id,
                "entity": thing["id"],
                "form": relation["form"],
                "type": relation["type"],
                # A question that only one thing could raise is found without its picture.
                "question": ask(relation["question"], thing, f"this {noun(thing)}", False)
                if key in common
                else None,
                "named": None
                if any(contains(thing["called"], answer) for answer in accepted)
                else ask(relation["question"], thing, thing["called"], thing.get("plural", False)),
                # Pseudo recall looks for substrings: a bare 2 would be found in nearly any text.
                "answers": [a for a in accepted if len(a) > 2 or not a.isdigit()] or accepted,
                "evidence": evidence,
            }
        )
    return [r for r in rows if r["question"] or r["named"]]
