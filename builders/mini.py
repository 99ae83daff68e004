"""mini: the small benchmark that travels inside the package, for a first look and for tests.

412 real pictures (193 photographs, 219 flags), 3,290 passages and 3,475 queries in the form of nine
M2KR sources. It is not M2KR data. How its files are made, and from what: ``tools/mini/make_mini.py``.

Splits are by entity: no entity of ``train`` occurs in ``valid`` or ``test``. ``seen`` asks about
entities of ``train``, but never a question that ``train`` asks about them, and never with an image
of which ``train`` asks the same.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from m2kr.building.fetch.assets import Asset
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.instructions import TEMPLATES, keyed_choice
from m2kr.schema import Column
from m2kr.sources import Source

SOURCE = Source(
    name="mini",
    config="MINI",
    title="mini: photographs, flags and real texts, inside the package",
    task="mixed",
    pools={
        "train": "train_passages",
        "valid": "valid_passages",
        "test": "test_passages",
        "seen": "test_passages",
    },
    headline="hit_rate@5",
    version=1,
    licence=(
        "Images: public domain or CC0, by file in mini/ATTRIBUTION.csv. Texts: CIA World Factbook "
        "(public domain), WordNet 3.0 (mini/WORDNET_LICENSE), our own (CC0-1.0)."
    ),
    summary=(
        "A small real benchmark with the tasks and query forms of M2KR. It is not M2KR data: it "
        "shows how the toolkit works and compares retrievers with each other on mini alone. The split "
        "seen asks of train's entities, with train's images and never the same of one, on purpose: "
        "m2kr audit says so under `images-across-splits`."
    ),
    groups=("task", "form"),
    expected={
        "train": 1783,
        "valid": 402,
        "test": 1007,
        "seen": 283,
        "train_passages": 3290,
        "valid_passages": 3290,
        "test_passages": 3290,
    },
    default_edition="mini",
    query_columns=(
        Column("task", doc="Task of the query: I2T, Q2T or IQ2T."),
        Column("form", doc="M2KR source whose form the query takes, such as wit or evqa."),
        Column("entity", doc="What the query is about; splits are disjoint in it."),
    ),
    passage_columns=(
        Column("origin", doc="Where the text is from: own, factbook or wordnet."),
        Column("entity", doc="What the passage is about."),
    ),
    comparable="mini is not M2KR data",
)

TASKS = {"wit": "I2T", "kvqa": "I2T", "cc3m": "I2T", "msmarco": "Q2T"}
# mini shows no people, so its kvqa form takes the instructions of wit and not kvqa's own.
INSTRUCTIONS = {
    "wit": "wit",
    "kvqa": "wit",
    "cc3m": "caption",
    "msmarco": "msmarco",
    "llava": "llava",
}
IMAGES = ("photos.zip", "flags.tar")
IMAGE_LICENCE = "public domain or CC0-1.0"
TEXT_LICENCE = "public domain, WordNet 3.0, CC0-1.0"
FILES = (*IMAGES, "passages.jsonl", "entities.jsonl", "questions.jsonl")
# Percent of entities in (test, valid); the rest is train.
SHARES = {"photo": (40, 10), "flag": (15, 10)}
SPLIT_SEED = 41
SEEN_ONE_IN = 6


class Mini(Builder):
    """Pictures and texts that travel inside the package."""

    source = SOURCE

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """The five files inside the package."""
        sums = json.loads(
            (resources.files(__package__) / "mini" / "checksums.json").read_text(encoding="utf-8")
        )
        return [
            Asset(
                f"mini/{name}",
                (f"package:m2kr_builders/mini/{name}",),
                licence=IMAGE_LICENCE if name in IMAGES else TEXT_LICENCE,
                images=name in IMAGES,
                **sums[name],
            )
            for name in FILES
        ]

    def same_pools(self, options: Mapping[str, str]) -> Sequence[Sequence[str]]:
        """One pool serves every split."""
        return [tuple(dict.fromkeys(self.source.pools.values()))]

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """Every passage: all splits share one pool. Texts with a title take the layout of WIT."""
        for raw in _records(ctx, "passages"):
            text = raw["text"]
            if raw["title"]:
                text = f"title: {raw['title']} section title: {raw['section']} content: {text}"
            yield {
                "passage_id": raw["id"],
                "passage_content": text,
                "title": raw["title"],
                "origin": raw["source"],
                "entity": raw["entity"],
            }

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The queries of one split, by entity: those on its pictures, then those on its facts."""
        asked: dict[str, list[dict[str, Any]]] = {}
        for question in _records(ctx, "questions"):
            asked.setdefault(question["entity"], []).append(question)
        for entity in _records(ctx, "entities"):
            home = split_of(entity["id"], entity["group"])
            if split not in (home, "seen") or (split == "seen" and home != "train"):
                continue
            for image, part in _images(entity, home):
                if part == split:
                    yield from _picture_queries(entity, image)
            for question in asked.get(entity["id"], ()):
                part = home
                if home == "train" and keyed_choice(SEEN_ONE_IN, question["id"]) == 0:
                    part = "seen"
                if part == split:
                    images = [i for i, p in _images(entity, home) if p == part or part == "seen"]
                    yield from _question_queries(entity, question, images)


BUILDER = Mini


def split_of(entity_id: str, group: str) -> str:
    """The split of an entity, from a hash of its id."""
    test, valid = SHARES[group]
    place = keyed_choice(100, entity_id, SPLIT_SEED)
    return "test" if place < test else "valid" if place < test + valid else "train"


def _images(entity: Mapping[str, Any], home: str) -> list[tuple[str, str]]:
    """The images of an entity with their splits: in train, the last of several is kept for seen."""
    images = entity["images"]
    parts = [home] * len(images)
    if home == "train" and len(images) > 1:
        parts[-1] = "seen"
    return list(zip(images, parts, strict=True))


def _picture_queries(entity: Mapping[str, Any], image: str) -> Iterator[Row]:
    """Queries that are a picture alone, or ask for the name of what it shows."""
    stem = PurePosixPath(image).stem
    # Both forms accept every passage about what is shown, so a picture takes only one of them.
    form = "wit" if entity["group"] == "flag" or keyed_choice(2, image) else "kvqa"
    about = list(entity["about"])
    if entity["group"] == "photo":
        about.append(f"caption/{stem}")
        yield _query(entity, "cc3m", stem, "", image, [f"caption/{stem}"])
    yield _query(entity, form, stem, "", image, about)
    name = f"what is the name of this {entity['noun']}?"
    if entity["group"] == "flag":
        name = "which country or territory does this flag belong to?"
    yield _query(entity, "oven", stem, name, image, entity["named"], [entity["name"]])


def _question_queries(
    entity: Mapping[str, Any], question: Mapping[str, Any], images: Sequence[str]
) -> Iterator[Row]:
    """A fact asked about a picture, and by the name of the thing without a picture.

    Some facts can be asked in one of the two ways alone; for flags one of both is chosen.
    """
    key = question["id"].removeprefix("factbook/")
    facts = (question["evidence"], question["answers"], question["type"])
    drawn = keyed_choice(2, f"named {question['id']}") == 0
    by_name = question["named"] and (drawn or not question["question"])
    if question["question"] and not (by_name and entity["group"] == "flag"):
        image = images[keyed_choice(len(images), question["id"])]
        yield _query(entity, question["form"], key, question["question"], image, *facts)
    if by_name:
        yield _query(entity, "msmarco", key, question["named"], None, *facts)


def _query(
    entity: Mapping[str, Any],
    form: str,
    key: str,
    question: str,
    image: str | None,
    positives: Sequence[str],
    answers: Sequence[str] = (),
    question_type: str | None = None,
) -> Row:
    row_id = f"{form}/{key}"
    stem = PurePosixPath(image).stem if image else None
    return {
        "question_id": row_id,
        "question": question,
        "instruction": TEMPLATES[INSTRUCTIONS.get(form, "iq2t")].choose(row_id),
        "img_id": stem,
        "img_path": image,
        "image_id": stem,
        "pos_item_ids": list(positives),
        "answers": list(answers),
        "gold_answer": answers[0] if answers else None,
        "question_type": question_type or None,
        "task": TASKS.get(form, "IQ2T"),
        "form": form,
        "entity": entity["id"],
    }


def _records(ctx: BuildContext, name: str) -> Iterator[dict[str, Any]]:
    path: Path = ctx.files[f"mini/{name}.jsonl"]
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
