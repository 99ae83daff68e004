"""OVEN: image and question to the entity's passage.

Valid and test are both of upstream's validation set, since the labels of upstream's test are withheld.
Which 339,137 of upstream's 4,926,314 training rows the release has isn't public; ours are as many of
each entity, so that their number comes near to that. Its pools have as many passages as upstream's files
have entities, 7,943 and 3,192.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.sampling import draw
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.schema import Column
from m2kr.sources import Option, Rule, Source

from . import _oven
from ._images import OVEN_IMAGES, OVEN_NAMES
from ._images import oven_ending as oven_ending  # a rule
from ._oven import ANNOTATIONS, KEYS, UPSTREAM, WIKI, WIKI_KEYS, Asked

_LICENCE = "Apache-2.0 (annotations); images keep the terms of their 14 source sets"

SOURCE = Source(
    name="oven",
    config="OVEN",
    title="OVEN: image and question to the entity's passage",
    task="IQ2T",
    pools={"train": "train_passages", "valid": "valid_passages", "test": "test_passages"},
    headline="hit_rate@5",
    version=2,
    licence=f"{_LICENCE}; CC BY-SA 3.0 (passages)",
    homepage="https://github.com/open-vision-language/oven",
    citation="""@inproceedings{hu2023oven,
  title={Open-domain Visual Entity Recognition: Towards Recognizing Millions of Wikipedia Entities},
  author={Hu, Hexiang and others},
  booktitle={ICCV}, year={2023}
}""",
    summary="A question about what an image shows must retrieve the passage of the entity.",
    expected={
        "train": 339_137,
        "valid": 119_136,
        "test": 5_120,
        "train_passages": 7_943,
        "valid_passages": 3_192,
        "test_passages": 3_192,
    },
    aliases=(),
    released=True,
    query_columns=(
        Column("wiki_entity", nullable=True, doc="Name of the entity in the image."),
        Column("wiki_entity_id", nullable=True, doc="Its Wikidata id."),
    ),
    options=(
        Option(
            "per_entity",
            "nearest",
            "Rows of train for each entity at most, all, or nearest: so many that train comes "
            "nearest to the release's 339,137 rows.",
            ("nearest", "all"),
            kind="count",
        ),
        Option("test_queries", "5120", "Queries of the test split.", kind="count"),
    ),
    rules=(
        Rule(
            "kept_of_train",
            "train has of each entity the rows with the smallest keyed hashes of their data_id, so "
            "many that it comes nearest to the release's 339,137 rows",
            "ours",
            "per_entity",
        ),
        Rule(
            "kept_of_test",
            "test is the 5,120 rows of upstream's validation set with the smallest keyed hashes of "
            "their data_id, at most half of them; valid is the others: 121,079 of upstream's 126,199, "
            "where the release lacks 1,943 more by a rule that isn't public",
            "ours",
            "test_queries",
        ),
        Rule(
            "in_pool",
            "a pool has one passage for each entity of its split's upstream file",
            "inferred",
        ),
        Rule(
            "layout",
            "a passage is Wiki6M's summary of the entity as it is, or, where that is empty, its "
            "content or else its title: the release lost no entity",
            "inferred",
        ),
        Rule("passage_id", "a passage bears the entity's Wikidata id", "ours"),
        Rule(
            "oven_ending",
            "image files end in .JPEG under the questions that are asked of ImageNet's images, else "
            "in .jpg: so do 3,007 of 3,015 that are known",
            "inferred",
        ),
    ),
    image_notes=(
        "OVEN images: the hub's BByrneLab/M2KR_Images, OVEN/ (about 260 GB: shard00 and shard05_2 in "
        "parts of a zip, the others tar files), or ychenNLP/oven there (terms to be accepted); point "
        "--images at the files, or at the folder that holds 00/ to 05/",
    ),
    image_names=OVEN_NAMES,
)

Places = NDArray[np.int64]
_BASE = "http://storage.googleapis.com/gresearch/open-vision-language/"


class OVEN(Builder):
    """Wikipedia's summaries of entities, found by questions about images of them."""

    source = SOURCE
    image_archives = OVEN_IMAGES
    # The release's own ids aren't known upstream.
    release_keys = {"passages": ("passage_content",), "queries": ("image_id", "question")}

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """The annotations of train and val, and Wikipedia's summaries."""
        about = {"train": 962 << 20, "val": 26 << 20}
        found = [
            Asset(
                name,
                (_BASE + name,),
                about=about[part],
                licence=_LICENCE,
                shape=Shape("jsonl", KEYS),
            )
            for part, name in ANNOTATIONS.items()
        ]
        wiki = Asset(
            WIKI,
            (_BASE + WIKI.removeprefix("oven/"),),
            about=7_408_031_599,
            licence="CC BY-SA 3.0 (Wikipedia, October 2022)",
            shape=Shape("jsonl", WIKI_KEYS),
        )
        return [*found, wiki]

    def same_pools(self, options: Mapping[str, str]) -> Sequence[Sequence[str]]:
        """Valid and test share a pool."""
        return [("valid_passages", "test_passages")]

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """The passages of the entities of one split's upstream file."""
        return _passages(ctx, {UPSTREAM[pool.removesuffix("_passages")]})

    def all_passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """The passages of the entities of all splits."""
        return _passages(ctx, set(UPSTREAM.values()))

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The rows of one split whose entity has a passage."""
        part = UPSTREAM[split]
        file = ctx.files[ANNOTATIONS[part]].name
        found = {each["entity"] for each in _oven.entities(ctx).rows() if each["problem"] is None}
        sound = _oven.sound(ctx, part)
        repeated = set(sound.repeated.tolist())
        chosen = set(_kept(ctx, split, sound, found).tolist())
        others = "more of the entity than are kept" if split == "train" else "in the other split"
        for asked in _oven.asked_rows(ctx, part, ctx.ledger):
            entity = asked.entity_id
            if asked.row in repeated:
                ctx.ledger.drop("a data_id used twice", file=file, row=asked.row, detail=asked.id)
            elif entity not in found:
                ctx.ledger.drop("no passage of the entity", file=file, row=asked.row, detail=entity)
            elif asked.row not in chosen:
                ctx.ledger.filter(others, file=file, row=asked.row)
            else:
                ctx.ledger.use(file, asked.row)
                yield _query(ctx, asked) | {"pos_item_ids": [passage_id(entity)]}

    def all_queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """Every sound row of upstream's file, without judgements."""
        part = UPSTREAM[split]
        for asked in _oven.asked_rows(ctx, part, ctx.ledger):
            ctx.ledger.use(ctx.files[ANNOTATIONS[part]].name, asked.row)
            yield _query(ctx, asked)


BUILDER = OVEN


def _kept(ctx: BuildContext, split: str, sound: _oven.Sound, found: Collection[str]) -> Places:
    """Line numbers of the rows that a split takes, of those whose entity has a passage."""
    has = np.fromiter((name in found for name in sound.names), bool, len(sound.names))
    judged = has[sound.entities]
    sound = sound._replace(
        rows=sound.rows[judged], keys=sound.keys[judged], entities=sound.entities[judged]
    )
    if split == "train":
        return sound.rows[kept_of_train(ctx, sound)]
    test = kept_of_test(ctx, sound)
    rows: Places = sound.rows[test] if split == "test" else np.delete(sound.rows, test)
    return rows


def kept_of_train(ctx: BuildContext, sound: _oven.Sound) -> Places:
    """Places of the rows that train keeps: of each entity those with the smallest keys.

    A release of 339,137 rows for 7,943 entities, 43 each, of five million suggests a cap on the rows of
    an entity. How high it was isn't known, so it is the one that gives about as many rows.
    """
    counts = np.bincount(sound.entities)
    most = ctx.options["per_entity"]
    if most == "all":
        return np.arange(len(sound.rows))
    cap = _oven.nearest_cap(counts, SOURCE.expected["train"]) if most == "nearest" else int(most)
    return _oven.smallest(sound.keys, sound.entities, cap)


def kept_of_test(ctx: BuildContext, sound: _oven.Sound) -> Places:
    """Places of the rows of upstream's validation set that are test: those with the smallest keys.

    At most half of them, so that something is left for valid whatever the options.
    """
    return draw(sound.keys, min(ctx.count("test_queries"), len(sound.keys) // 2))


def in_pool(entity: Mapping[str, Any], parts: Collection[str]) -> bool:
    """Whether some of upstream's files ask about an entity."""
    return not set(parts).isdisjoint(entity["parts"])


def layout(entity: Mapping[str, Any]) -> str:
    """The text of a passage."""
    text: str = entity["text"]
    return text


def passage_id(entity_id: str) -> str:
    """The id of an entity's passage."""
    return entity_id


def _passages(ctx: BuildContext, parts: Collection[str]) -> Iterator[Row]:
    selected, file = _oven.entities(ctx), ctx.files[WIKI].name
    ctx.ledger.read(file, selected.lines)
    before = 0
    for each in selected.rows():
        row = each["row"]
        ctx.ledger.filter("no entity of the pool", file=file, row=range(before + 1, row))
        before = row
        if each["problem"] is not None:
            ctx.ledger.drop(each["problem"], file=file, row=row, detail=each["detail"])
        elif not in_pool(each, parts):
            ctx.ledger.filter("no entity of the pool", file=file, row=row)
        else:
            ctx.ledger.use(file, row)
            if instead := each["instead"]:
                rule = f"no summary: {instead} in its place"
                ctx.ledger.repair(rule, file=file, row=row, detail=each["entity"])
            yield {
                "passage_id": passage_id(each["entity"]),
                "passage_content": layout(each),
                "title": each["title"],
            }
    rest = range(before + 1, selected.lines + 1)
    ctx.ledger.filter("no entity of the pool", file=file, row=rest)


def _query(ctx: BuildContext, asked: Asked) -> dict[str, Any]:
    return {
        "question_id": asked.id,
        "question": asked.question,
        "instruction": ctx.instruction(asked.id),
        "img_id": asked.image_id,
        "img_path": asked.img_path,
        "image_id": asked.image_id,
        "wiki_entity": asked.entity_text,
        "wiki_entity_id": asked.entity_id,
    }
