"""OVEN: image and question to the entity's passage.

Valid and test are both of upstream's validation set, since the labels of upstream's test are withheld.
Which 339,137 of upstream's 4,926,314 training rows the release has isn't public; ours are as many of
each entity, so that their number comes near to that. Its pools have as many passages as upstream's files
have entities, 7,943 and 3,192.
"""

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.formats.delimited import BadRecord
from m2kr.building.formats.json_stream import read_json_lines
from m2kr.building.sampling import draw_places, keyed_hash
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.schema import Column
from m2kr.sources import Option, Rule, Source

from ._images import OVEN_IMAGES, OVEN_NAMES, oven_path
from ._images import oven_ending as oven_ending  # a rule
from ._rows import Selection, image_query, json_records, no_records, opened

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
ANNOTATIONS = {
    "train": "oven/oven_entity_train.jsonl",
    "val": "oven/oven_entity_val.jsonl",
}
WIKI = "oven/Wiki6M_ver_1_0.jsonl.gz"
KEYS = ("data_id", "image_id", "question", "entity_id", "entity_text")
WIKI_KEYS = ("wikidata_id", "wikipedia_title", "wikipedia_summary")  # the others may lack
# Split -> upstream's part: the labels of its test are withheld.
UPSTREAM = {"train": "train", "valid": "val", "test": "val"}
_CHUNK = 1_000
_TWICE = "a wikidata_id used twice"
_SELECTED = pa.schema(
    [
        ("row", pa.int64()),
        ("problem", pa.string()),
        ("detail", pa.string()),
        ("entity", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("parts", pa.list_(pa.string())),
        ("instead", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class _Annotation:
    """One upstream row.

    Attributes:
        row: Its line number.
        id: Upstream's.
        image_id: Such as ``oven_01963180``.
        img_path: Path of the image, as the release has it.
        question: What is asked about the image.
        entity_id: Wikidata id of what it shows.
        entity_text: Its name.
    """

    row: int
    id: str
    image_id: str
    img_path: str
    question: str
    entity_id: str
    entity_text: str


class Sound(NamedTuple):
    """The sound rows of an upstream file in arrays: millions of them in 20 bytes each.

    Attributes:
        rows: Line numbers, of rows with equal data_id that of the first.
        keys: A uniform 64-bit number for each, by seed and data_id alone.
        entities: Place of each row's entity in ``names``.
        names: Wikidata ids.
        repeated: Line numbers of rows whose data_id an earlier one has.
    """

    rows: NDArray[np.int64]
    keys: NDArray[np.uint64]
    entities: NDArray[np.int32]
    names: list[str]
    repeated: NDArray[np.int64]


class OVEN(Builder):
    """Wikipedia's summaries of entities, found by questions about images of them."""

    source = SOURCE
    image_archives = OVEN_IMAGES
    # The release's own ids aren't known upstream.
    release_keys = {"passages": ("passage_content",), "queries": ("image_id", "question")}

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """The annotations of train and val, and Wikipedia's summaries."""
        about = {"train": 962 << 20, "val": 26 << 20}
        files = [
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
        return [*files, wiki]

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
        with_passage = {each["entity"] for each in _entities(ctx).rows() if each["problem"] is None}
        sound = _sound(ctx, part)
        repeated = set(sound.repeated.tolist())
        chosen = set(_kept(ctx, split, sound, with_passage).tolist())
        others = "more of the entity than are kept" if split == "train" else "in the other split"
        for annotation in _annotations(ctx, part):
            entity = annotation.entity_id
            if annotation.row in repeated:
                ctx.ledger.drop(
                    "a data_id used twice", file=file, row=annotation.row, detail=annotation.id
                )
            elif entity not in with_passage:
                ctx.ledger.drop(
                    "no passage of the entity", file=file, row=annotation.row, detail=entity
                )
            elif annotation.row not in chosen:
                ctx.ledger.filter(others, file=file, row=annotation.row)
            else:
                ctx.ledger.use(file, annotation.row)
                yield _query(ctx, annotation) | {"pos_item_ids": [self.passage_id(entity)]}

    def all_queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """Every sound row of upstream's file, without judgements."""
        part = UPSTREAM[split]
        for annotation in _annotations(ctx, part):
            ctx.ledger.use(ctx.files[ANNOTATIONS[part]].name, annotation.row)
            yield _query(ctx, annotation)

    @staticmethod
    def kept_of_train(ctx: BuildContext, sound: Sound) -> Places:
        """Places of the rows that train keeps: of each entity those with the smallest keys.

        A release of 339,137 rows for 7,943 entities, 43 each, of five million suggests a cap on the rows of
        an entity. How high it was isn't known, so it is the one that gives about as many rows.
        """
        counts = np.bincount(sound.entities)
        most = ctx.options["per_entity"]
        if most == "all":
            return np.arange(len(sound.rows))
        cap = nearest_cap(counts, SOURCE.expected["train"]) if most == "nearest" else int(most)
        return smallest(sound.keys, sound.entities, cap)

    @staticmethod
    def kept_of_test(ctx: BuildContext, sound: Sound) -> Places:
        """Places of the rows of upstream's validation set that are test: those with the smallest keys.

        At most half of them, so that something is left for valid whatever the options.
        """
        return draw_places(sound.keys, min(ctx.count("test_queries"), len(sound.keys) // 2))

    @staticmethod
    def in_pool(entity: Mapping[str, Any], parts: Collection[str]) -> bool:
        """Whether some of upstream's files ask about an entity."""
        return not set(parts).isdisjoint(entity["parts"])

    @staticmethod
    def layout(entity: Mapping[str, Any]) -> str:
        """The text of a passage."""
        text: str = entity["text"]
        return text

    @staticmethod
    def passage_id(entity_id: str) -> str:
        """The id of an entity's passage."""
        return entity_id


BUILDER = OVEN


def _kept(ctx: BuildContext, split: str, sound: Sound, with_passage: Collection[str]) -> Places:
    """Line numbers of the rows that a split takes, of those whose entity has a passage."""
    has = np.fromiter((name in with_passage for name in sound.names), bool, len(sound.names))
    judged = has[sound.entities]
    sound = sound._replace(
        rows=sound.rows[judged], keys=sound.keys[judged], entities=sound.entities[judged]
    )
    if split == "train":
        return sound.rows[OVEN.kept_of_train(ctx, sound)]
    test = OVEN.kept_of_test(ctx, sound)
    rows: Places = sound.rows[test] if split == "test" else np.delete(sound.rows, test)
    return rows


def _passages(ctx: BuildContext, parts: Collection[str]) -> Iterator[Row]:
    selected, file = _entities(ctx), ctx.files[WIKI].name
    rule, lines = "no entity of the pool", selected.facts["lines"]
    for entity in selected.accounted(ctx.ledger, file, lines, rule):
        row = entity["row"]
        if entity["problem"] is not None:
            ctx.ledger.drop(entity["problem"], file=file, row=row, detail=entity["detail"])
        elif not OVEN.in_pool(entity, parts):
            ctx.ledger.filter(rule, file=file, row=row)
        else:
            ctx.ledger.use(file, row)
            if instead := entity["instead"]:
                repair = f"no summary: {instead} in its place"
                ctx.ledger.repair(repair, file=file, row=row, detail=entity["entity"])
            yield {
                "passage_id": OVEN.passage_id(entity["entity"]),
                "passage_content": OVEN.layout(entity),
                "title": entity["title"],
            }


def _query(ctx: BuildContext, asked: _Annotation) -> dict[str, Any]:
    return image_query(ctx, asked.id, asked.image_id, asked.img_path, asked.question) | {
        "wiki_entity": asked.entity_text,
        "wiki_entity_id": asked.entity_id,
    }


def _annotations(ctx: BuildContext, part: str) -> Iterator[_Annotation]:
    """The sound rows of an upstream file, repeated ids included; the ledger is told of the others.

    Raises:
        InputError: Not one row has the keys of an annotation: it is another file.
    """
    path = ctx.files[ANNOTATIONS[part]]
    for row, record in json_records(path, ctx.ledger, KEYS):
        annotation = _annotation(row, record)
        if isinstance(annotation, _Annotation):
            yield annotation
        else:
            ctx.ledger.drop(annotation, file=path.name, row=row, detail=_shown(record["data_id"]))


def _annotation(row: int, record: Mapping[str, Any]) -> _Annotation | str:
    """A row, or what is wrong with it."""
    values = [record[key] for key in KEYS]
    if not all(isinstance(value, str) for value in values):
        return "a field is no text"
    data_id, image_id, question, entity_id, entity_text = values
    img_path = oven_path(image_id, oven_ending(question))
    if not data_id.strip():
        return "no data_id"
    if img_path is None:
        return "no OVEN image"
    if not question.strip():
        return "no question"
    return _Annotation(row, data_id, image_id, img_path, question, entity_id, entity_text)


def _shown(value: Any) -> str:
    """An id for the ledger, cut; nothing if it is no text."""
    return value[:80] if isinstance(value, str) else ""


def _sound(ctx: BuildContext, part: str) -> Sound:
    """The sound rows of an upstream file; read once for all tables of a build."""

    def make(path: Path) -> None:
        rows, keys, entities = array("q"), array("Q"), array("i")
        places: dict[str, int] = {}
        for annotation in _annotations(ctx.quiet(), part):
            rows.append(annotation.row)
            keys.append(keyed_hash(annotation.id, "oven", ctx.seed))
            entities.append(places.setdefault(annotation.entity_id, len(places)))
        first = _first(np.frombuffer(keys, np.uint64))
        with path.open("wb") as file:
            np.savez(
                file,
                rows=np.frombuffer(rows, np.int64)[first],
                keys=np.frombuffer(keys, np.uint64)[first],
                entities=np.frombuffer(entities, np.int32)[first],
                names=np.frombuffer(orjson.dumps(list(places)), np.uint8),
                repeated=np.frombuffer(rows, np.int64)[~first],
            )

    with np.load(ctx.once(f"oven-{part}.npz", make), allow_pickle=False) as arrays:
        names = orjson.loads(arrays["names"].tobytes())
        return Sound(arrays["rows"], arrays["keys"], arrays["entities"], names, arrays["repeated"])


def _first(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which keys are the first of their value. Equal 64 bits of unequal ids: one build in a million."""
    order = np.argsort(keys, kind="stable")
    first = np.ones(len(keys), bool)
    first[order[1:]] = keys[order[1:]] != keys[order[:-1]]
    return first


def smallest(keys: NDArray[np.uint64], groups: NDArray[np.int32], most: int) -> NDArray[np.int64]:
    """Places of the ``most`` smallest keys of each group, ascending."""
    order = np.lexsort((keys, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    ranks = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return np.sort(order[ranks < most])


def nearest_cap(counts: NDArray[np.int64], total: int) -> int:
    """The cap on counts with which their sum comes nearest to a number; of two equals the lower one."""
    caps = np.arange(1, int(counts.max(initial=1)) + 1)
    ordered = np.sort(counts)
    whole = np.concatenate([[0], np.cumsum(ordered)])
    below = np.searchsorted(ordered, caps, side="right")
    sums = whole[below] + caps * (len(ordered) - below)
    return int(caps[np.argmin(np.abs(sums - total))])


def _entities(ctx: BuildContext) -> Selection:
    """Rows of Wiki6M of the entities of all splits of a build, and faulty ones; made once for its tables.

    ``problem`` says what is wrong with a row, or is null; of lines, a blank one counts as a row, too.
    """

    def make(path: Path) -> None:
        parts: dict[str, set[str]] = {}
        for part in sorted({UPSTREAM[split] for split in ctx.source.pools}):
            for name in _sound(ctx, part).names:
                parts.setdefault(name, set()).add(part)
        _select(ctx.files[WIKI], parts, path)

    return Selection.read(ctx.once("oven-entities.arrow", make))


def _select(source: Path, parts: Mapping[str, set[str]], path: Path) -> None:
    """Writes the rows of Wiki6M whose entity some part asks about, and faulty ones, in their order."""
    seen, spare = set[str](), dict[str, dict[str, Any]]()
    pending, chunks = list[dict[str, Any]](), list[pa.RecordBatch]()
    last, good = 0, False

    def note(least: int = _CHUNK, **facts: Any) -> None:
        if facts:
            pending.append({"row": last, **facts})
        if len(pending) >= least:
            chunks.append(pa.RecordBatch.from_pylist(pending, schema=_SELECTED))
            pending.clear()

    def fault(record: BadRecord) -> None:
        nonlocal last
        last = record.row
        note(problem="unreadable record", detail=f"{record.problem}: {record.text}")

    with opened(source) as stream:
        for row, record in read_json_lines(stream, on_fault=fault, keys=WIKI_KEYS[:1]):
            last, good = row, True
            own = record["wikidata_id"]
            if not isinstance(own, str):
                note(problem="a wikidata_id that is no text", detail="")
                continue
            if own not in parts:
                continue
            title, (instead, text) = record.get("wikipedia_title"), _text(record)
            facts: dict[str, Any] = {
                "entity": own,
                "title": title if isinstance(title, str) else None,
                "text": text,
                "parts": sorted(parts[own]),
                "instead": instead,
            }
            if not text:
                note(problem="no summary, content or title", detail=_shown(own))
            elif own in seen:
                note(problem=_TWICE, detail=_shown(own))
            elif instead is None:
                seen.add(own)
                note(**facts)
            elif own not in spare:  # a later row may have the summary
                spare[own] = {"row": row, **facts}
            elif instead < spare[own]["instead"]:  # content before title
                note(**_repeated(spare[own]))
                spare[own] = {"row": row, **facts}
            else:
                note(problem=_TWICE, detail=_shown(own))
    if not good:
        raise no_records(source, WIKI_KEYS)
    for own, facts in spare.items():
        note(**(_repeated(facts) if own in seen else facts))
    note(least=1)
    table = pa.Table.from_batches(chunks, schema=_SELECTED)
    Selection.write(path, table.sort_by("row"), lines=last)


def _repeated(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"row": facts["row"], "problem": _TWICE, "detail": _shown(facts["entity"])}


def _text(record: Mapping[str, Any]) -> tuple[str | None, str]:
    """The text of an entity's passage, and what it is in place of the summary, if it is."""
    for key in ("wikipedia_summary", "wikipedia_content", "wikipedia_title"):
        value = record.get(key)
        if isinstance(value, str) and value.strip():
            return (None if key == "wikipedia_summary" else key), value
    return None, ""
