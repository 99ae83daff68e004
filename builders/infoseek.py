"""Infoseek: image and question about an entity to passages of its Wikipedia page.

Test is upstream's validation set, since the answers of upstream's test are withheld. Which images the
authors had, and with them which 4,708 rows of it the release holds, can't be told from upstream.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.building.fetch.assets import Asset, ImageArchive, Shape
from m2kr.building.formats.phrase_index import IndexedPassage, PhraseIndex
from m2kr.building.ledger import Ledger
from m2kr.building.sampling import draw_places, keyed_numbers
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.schema import Column
from m2kr.sources import Option, Rule, Source

from . import _wiki
from ._images import OVEN_IMAGES, OVEN_NAMES, flat_oven_path, hub
from ._rows import image_query, json_records, most_frequent

if TYPE_CHECKING:
    import pyarrow as pa

_LICENCE = "Apache-2.0 (annotations); images keep the terms of OVEN's source sets"

SOURCE = Source(
    name="infoseek",
    config="Infoseek",
    title="Infoseek: image and question to passages about the entity",
    task="IQ2T",
    pools={"train": "train_passages", "test": "test_passages"},
    headline="pseudo_recall@5",
    version=2,
    licence=f"{_LICENCE}; CC BY-SA 3.0 (passages)",
    homepage="https://github.com/open-vision-language/infoseek",
    citation="""@inproceedings{chen2023infoseek,
  title={Can Pre-trained Vision and Language Models Answer Visual Information-Seeking Questions?},
  author={Chen, Yang and others},
  booktitle={EMNLP}, year={2023}
}""",
    summary="Test is upstream's validation set. Train is whole here; the paper draws 100,000 rows of it.",
    groups=("data_split", "question_type"),
    expected={
        "train": 676_441,
        "test": 4_708,
        "train_passages": 98_276,
        "test_passages": 98_276,
    },
    aliases=("info-seek",),
    query_columns=(
        Column("answer_eval", "list<string>", doc="Further accepted forms; empty for numbers."),
        Column("data_split", nullable=True, doc="Upstream's split, such as val_unseen_entity."),
        Column("wikidata_value", "float64", nullable=True, doc="The number asked for."),
        Column("wikidata_range", "list<float64>", doc="Accepted range of it: low and high."),
        Column("entity_id", nullable=True, doc="Wikidata id of what the image shows."),
        Column("entity_text", nullable=True, doc="Its name."),
        Column("image_path", nullable=True, doc="The authors' own path of the image."),
        Column("objects", nullable=True, doc="JSON: objects the authors detected, a list."),
        Column("img_caption", nullable=True, doc="The authors' caption of the image."),
        Column("related_item_ids", "list<string>", doc="Passages of the entity's page."),
        Column("found", "bool", nullable=True, doc="The authors had the image."),
    ),
    released=True,
    options=(
        Option(
            "test_images",
            "2000",
            "Images of upstream's validation set whose questions make up test, or all.",
            ("all",),
            kind="count",
        ),
        Option("distractors", "30000", "Passages of other pages in the pool.", kind="count"),
    ),
    rules=(
        Rule(
            "of_entity",
            "related passages are those whose title is the title that a phrase search of the "
            "entity's name over psgs_w100's titles ranks first",
            "inferred",
        ),
        Rule(
            "positives",
            "of these, those that hold an answer (or a number within 0.01 of the value) count as "
            "right; rows without any are left out",
            "inferred",
        ),
        Rule(
            "test_images",
            "test has the questions of 2,000 images of upstream's validation set, drawn by keyed hash",
            "ours",
            "test_images",
        ),
        Rule(
            "answers",
            "answers are answer and answer_eval together, as the release has them, without blank ones",
            "inferred",
        ),
        Rule(
            "pool_rows",
            "the pool is all related passages of both splits and 30,000 others, drawn by keyed hash",
            "ours",
            "distractors",
        ),
        Rule("flat_oven_path", "image files end in .jpg; upstream's may end otherwise", "ours"),
    ),
    image_notes=(
        "OVEN images, all in one folder: the hub's BByrneLab/M2KR_Images, Infoseek/*.tar; point "
        "--images at the tar files",
    ),
    image_names=OVEN_NAMES,
)

_TARS = {"val": 8.96, "train": 48.0, "test": 41.6}
_BASE = "http://storage.googleapis.com/gresearch/open-vision-language/infoseek/"
# A sign is one at the beginning of a word alone: a hyphen between numbers, as in 1990-2005, is none.
# Commas are passed over between groups of thousands, or as in 12,34,567.
_NUMBER = re.compile(
    r"(?:(?<![^\s(\[{=<>~≈:/$€£])[-+−])?"
    r"(?:\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)|\d+)(?:\.\d+)?|(?<!\S)[-+−]?\.\d+"
)
MAIN = ("data_id", "image_id", "question", "answer", "answer_eval", "data_split")
KB = ("data_id", "entity_id", "entity_text")
UPSTREAM = {"train": "train", "test": "val"}
_TYPES = "infoseek_val_qtype.jsonl"


@dataclass(frozen=True, slots=True)
class _Question:
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


class _EntityPages:
    """Finds the passages of an entity's page, once for each name."""

    def __init__(self, index: PhraseIndex) -> None:
        self._index = index
        self._known: dict[str, list[IndexedPassage]] = {}

    def passages(self, name: str) -> list[IndexedPassage]:
        """Its passages in the order of the search."""
        if name not in self._known:
            if len(self._known) > 20_000:
                self._known.clear()
            self._known[name] = Infoseek.of_entity(self._index, name)
        return self._known[name]


class Infoseek(Builder):
    """Passages of the pages of entities, found by questions about images of them."""

    source = SOURCE
    # The release's test split are images of upstream's validation set; OVEN's files hold all of them, too.
    image_archives = (
        *(
            ImageArchive(
                f"infoseek/infoseek_{split}_images.tar",
                files=((hub(f"Infoseek/infoseek_{split}_images.tar"),),),
                kind="tar",
                about=int(size * 1e9),
            )
            for split, size in _TARS.items()
        ),
        *OVEN_IMAGES,
    )

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """Questions, entities and question types, and Wikipedia."""
        names = {
            "infoseek_train.jsonl": (MAIN, 245 << 20),
            "infoseek_val.jsonl": (MAIN, 21 << 20),
            "infoseek_train_withkb.jsonl": (KB, 84 << 20),
            "infoseek_val_withkb.jsonl": (KB, 21 << 20),
            "infoseek_val_qtype.jsonl": (("data_id", "question_type"), None),
        }
        files = [
            Asset(
                f"infoseek/{name}",
                (_BASE + name,),
                about=about,
                licence=_LICENCE,
                shape=Shape("jsonl", keys),
            )
            for name, (keys, about) in names.items()
        ]
        return [*files, _wiki.ASSET]

    def same_pools(self, options: Mapping[str, str]) -> Sequence[Sequence[str]]:
        """One pool for both splits."""
        return [("train_passages", "test_passages")]

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """The related passages of all rows, and others."""
        index = _wiki.index(ctx)
        return _wiki.found_passages(ctx, index, self.pool_rows(ctx, index))

    def all_passages(self, ctx: BuildContext, pool: str) -> "Iterator[pa.RecordBatch]":
        """Every Wikipedia passage."""
        return _wiki.every_passage(ctx)

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The rows of one split that have a right passage."""
        index = _wiki.index(ctx)
        entities = _EntityPages(index)
        file = f"infoseek_{UPSTREAM[split]}.jsonl"
        for asked in _sampled(ctx, split):
            hits = entities.passages(asked.entity_text)
            right = self.positives(asked, hits)
            if not right:
                rule = "no passage holds the answer" if hits else "no page of the entity"
                ctx.ledger.filter(rule, file=file, row=asked.row)
                continue
            ctx.ledger.use(file, asked.row)
            related = [hit.id for hit in hits]
            yield _row(ctx, asked, right) | {"related_item_ids": related}

    def all_queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """Every row of upstream's split, without judgements."""
        file = f"infoseek_{UPSTREAM[split]}.jsonl"
        for asked in joined_questions(ctx, split):
            ctx.ledger.use(file, asked.row)
            yield _row(ctx, asked, [])

    @staticmethod
    def of_entity(index: PhraseIndex, name: str) -> list[IndexedPassage]:
        """Passages of the page whose title the search for a name ranks first, of 1,000 hits."""
        hits = next(iter(index.search_many([name], k=1000, fields=_wiki.TITLE)))
        ranked = index.passages([hit.row for hit in hits])
        return [passage for passage in ranked if passage.title == ranked[0].title]

    @staticmethod
    def positives(asked: _Question, hits: Sequence[IndexedPassage]) -> list[str]:
        """Ids of the passages that hold an answer, or a number within 0.01 of the value asked for."""
        answers = [answer.lower() for answer in asked.answers if answer.strip()]
        right = []
        for hit in hits:
            text = _wiki.content(hit.title, hit.text)
            lower = text.lower()
            if any(answer in lower for answer in answers) or holds_number(asked.value, text):
                right.append(hit.id)
        return right

    @staticmethod
    def test_images(ctx: BuildContext, images: Sequence[str]) -> set[str]:
        """The images of upstream's validation set whose questions make up test."""
        if ctx.options["test_images"] == "all":
            return set(images)
        return ctx.sample(images, ctx.count("test_images"), "infoseek test")

    @staticmethod
    def pool_rows(ctx: BuildContext, index: PhraseIndex) -> set[int]:
        """Rows of Wikipedia in the pool: those related to a row with a right passage, and others."""
        entities, related = _EntityPages(index), set[int]()
        for split in ("train", "test"):
            for asked in _sampled(ctx.quiet(), split):
                hits = entities.passages(asked.entity_text)
                if not related.issuperset(hit.row for hit in hits) and Infoseek.positives(
                    asked, hits
                ):
                    related.update(hit.row for hit in hits)
        others = np.setdiff1d(np.arange(len(index)), np.fromiter(related, np.int64))
        keys = keyed_numbers(others, "infoseek pool", ctx.seed)
        return related | {int(row) for row in others[draw_places(keys, ctx.count("distractors"))]}


BUILDER = Infoseek


def holds_number(value: float | None, text: str) -> bool:
    """Whether a text has a number within 0.01 of a value; it has none where there is no value."""
    if value is None:
        return False
    numbers = (n.replace(",", "").replace("−", "-") for n in _NUMBER.findall(text))
    return any(abs(float(number) - value) <= 0.01 for number in numbers if len(number) < 300)


def _sampled(ctx: BuildContext, split: str) -> Iterator[_Question]:
    """The rows of a split, of test those on the sampled images."""
    if split == "train":
        yield from joined_questions(ctx, split)
        return
    kept = list(joined_questions(ctx, split))
    images = Infoseek.test_images(ctx, sorted({asked.image_id for asked in kept}))
    for asked in kept:
        if asked.image_id in images:
            yield asked
        else:
            file = f"infoseek_{UPSTREAM[split]}.jsonl"
            ctx.ledger.filter("not among the sampled images", file=file, row=asked.row)


def _row(ctx: BuildContext, asked: _Question, right: Sequence[str]) -> dict[str, Any]:
    path = flat_oven_path(asked.image_id)
    return image_query(ctx, asked.id, asked.image_id, path, asked.question) | {
        "pos_item_ids": list(right),
        "answers": list(asked.answers),
        "gold_answer": most_frequent(asked.answer),
        "question_type": asked.question_type,
        "answer_eval": list(asked.answer_eval),
        "data_split": asked.data_split,
        "wikidata_value": asked.value,
        "wikidata_range": list(asked.range),
        "entity_id": asked.entity_id,
        "entity_text": asked.entity_text,
    }


def joined_questions(ctx: BuildContext, split: str) -> Iterator[_Question]:
    """Upstream's rows with their entities and, for test, question types."""
    ledger, part = ctx.ledger, UPSTREAM[split]
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
        problem, asked = "", _question(row, record, entities, types)
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
    path, types = ctx.files[f"infoseek/{_TYPES}"], dict[str, tuple[int, str | None]]()
    for row, record in json_records(path, ledger, ("data_id", "question_type")):
        data_id = str(record["data_id"])
        if data_id in types:
            ledger.drop("a data_id used twice", file=_TYPES, row=row, detail=data_id)
        else:
            kind = record["question_type"]
            types[data_id] = row, kind if isinstance(kind, str) and kind.strip() else None
    return types


def _question(
    row: int,
    record: Mapping[str, Any],
    entities: Mapping[str, tuple[int, str, str]],
    types: Mapping[str, tuple[int, str | None]],
) -> _Question | str:
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
    return _Question(
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
