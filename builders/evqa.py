"""E-VQA (Encyclopedic-VQA): image and question to a section of a Wikipedia page.

Single-hop questions only, each with one image. The pools of the release have a common part and each
split's own evidence; how the common part was drawn isn't public.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa

from m2kr.building.fetch.assets import Asset, ImageArchive, Shape
from m2kr.building.formats.archives import members
from m2kr.building.formats.json_stream import array_items, object_members
from m2kr.building.sampling import keyed_hash
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.errors import InputError
from m2kr.schema import Column
from m2kr.sources import Option, Rule, Source

from ._images import hub, inat_path, landmark_path
from ._rows import Selection, csv_records, image_query

_LICENCE = "not stated upstream (annotations); CC BY-SA 3.0 (Wikipedia)"

SOURCE = Source(
    name="evqa",
    config="EVQA",
    title="E-VQA: image and question to Wikipedia sections",
    task="IQ2T",
    pools={"train": "train_passages", "valid": "valid_passages", "test": "test_passages"},
    headline="pseudo_recall@5",
    version=2,
    licence=f"{_LICENCE}; iNaturalist images: non-commercial; Landmarks images: CC BY",
    homepage="https://github.com/google-research/google-research/tree/master/encyclopedic_vqa",
    citation="""@inproceedings{mensink2023encyclopedic,
  title={Encyclopedic {VQA}: Visual Questions About Detailed Properties of Fine-Grained Categories},
  author={Mensink, Thomas and others},
  booktitle={ICCV}, year={2023}
}""",
    summary="Species and landmarks; the answer is in one section of the page of what is shown.",
    groups=("question_type",),
    expected={
        "train": 167_369,
        "valid": 9_852,
        "test": 3_750,
        "train_passages": 50_205,
        "valid_passages": 50_753,
        "test_passages": 51_472,
    },
    aliases=("e-vqa", "encyclopedic-vqa"),
    query_columns=(
        Column(
            "dataset_name", nullable=True, doc="Where the image is from: inaturalist or landmarks."
        ),
        Column("wikipedia_url", nullable=True, doc="Page of what is shown."),
        Column("evidence", nullable=True, doc="The words that answer, where upstream names them."),
    ),
    passage_columns=(
        Column("url", nullable=True, doc="Wikipedia page of the section."),
        Column("section_title", nullable=True, doc="Heading of the section."),
        Column("scored_as", nullable=True, doc="Id that it counts as, where that isn't its own."),
    ),
    released=True,
    options=(
        Option(
            "shared_passages", "50000", "Sections that the pools of all splits share.", kind="count"
        ),
        Option("images", "first", "Image of a question with several.", ("first", "drawn")),
    ),
    rules=(
        Rule(
            "image_of", "a question keeps one image, the first of up to five", "inferred", "images"
        ),
        Rule(
            "in_pool",
            "50,000 sections are in every pool: the evidence of train, filled up by a keyed sample "
            "of all sections; each split adds its own evidence",
            "ours",
            "shared_passages",
        ),
        Rule("layout", "a passage reads 'title: … section title: … content: …'", "ours"),
        Rule("positives", "the section of the evidence is the one right passage", "inferred"),
    ),
    image_notes=(
        "evaluation images: the hub's BByrneLab/M2KR_Images, EVQA/inat.zip and google-landmark.tar; "
        "point --images at both",
        "training images: iNaturalist 2021 train.tar.gz (224 GB) under inat/, and Google Landmarks "
        "v2 train (500 tar files of 1 GB) under google-landmark/train/",
    ),
    # iNaturalist's own archives have no folder inat/ around theirs.
    image_names=("{inner}",),
)

_ARTICLES = "encyclopedic_kb_wiki.json"
_SECTIONS = f"{_ARTICLES}, sections"
_BASE = "https://storage.googleapis.com/encyclopedic-vqa/"
_TEST_SHA256 = "dbf3cf7336b7904cb0f996d2cea1762f0ae5186cd42f0c9f6a74c1c16d1d9bb5"
_INAT = "https://ml-inat-competition-datasets.s3.amazonaws.com/2021/"
# What is read of the CSV files, which have other columns, too.
COLUMNS = (
    "question",
    "question_type",
    "answer",
    "evidence",
    "evidence_section_id",
    "wikipedia_url",
    "dataset_name",
    "dataset_image_ids",
)
KB = "evqa/encyclopedic_kb_wiki.zip"
INAT = {"train": "evqa/inat2021_train.json.tar.gz", "val": "evqa/inat2021_val.json.tar.gz"}
_TYPES = ("templated", "automatic", "multi_answer", "2_hop")
_SELECTED = pa.schema(
    [
        ("row", pa.int64()),
        ("passage_id", pa.string()),
        ("title", pa.string()),
        ("section_title", pa.string()),
        ("text", pa.string()),
        ("url", pa.string()),
        ("address", pa.string()),
        ("number", pa.int64()),
        ("splits", pa.list_(pa.string())),
        ("shared", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class _Question:
    """One single-hop question of the CSV.

    Attributes:
        row: Its record number.
        images: Ids in the image's data set.
        dataset: ``inaturalist`` or ``landmarks``.
        section: Wikipedia address and section number of the evidence.
    """

    row: int
    question: str
    answers: tuple[str, ...]
    images: tuple[str, ...]
    dataset: str
    kind: str
    section: tuple[str, int]
    evidence: str


class _Sample:
    """Of the passages that are offered, those with the smallest keyed hashes of their id.

    Args:
        seed: Of the hashes.
        size: How many are kept. They may repeat evidence, so that fewer are taken.
    """

    def __init__(self, seed: int, size: int) -> None:
        self._seed, self._size = seed, size
        # The largest hash is on top, negated: it goes when a smaller one comes.
        self._heap: list[tuple[int, int, tuple[str, str, str]]] = []
        # Sections that say the same under one id are one passage.
        self._held: dict[tuple[str, str, str], list[dict[str, Any]]] = {}

    def offer(self, section: dict[str, Any]) -> None:
        """Takes a section in, if its hash is small enough."""
        key = -keyed_hash(section["passage_id"], "evqa pool", self._seed)
        full = len(self._heap) >= self._size
        if full and (not self._heap or key < self._heap[0][0]):
            return  # most sections end here, their text not looked at
        said = _said(section)
        if said in self._held:
            self._held[said].append(section)
            return
        entry = (key, section["row"], said)
        if not full:
            heapq.heappush(self._heap, entry)
        elif key > self._heap[0][0]:
            del self._held[heapq.heapreplace(self._heap, entry)[2]]
        else:
            return
        self._held[said] = [section]

    def in_order(self) -> Iterator[list[dict[str, Any]]]:
        """The sections of each passage, the smallest hash first."""
        for _, _, said in sorted(self._heap, key=lambda entry: (-entry[0], entry[1])):
            yield self._held[said]


class EVQA(Builder):
    """Sections of Wikipedia pages, found by questions about what an image shows."""

    source = SOURCE
    image_archives = (
        ImageArchive(
            "evqa/inat.zip",
            files=((hub("EVQA/inat.zip"),),),
            kind="zip",
            about=8_920_000_000,
            holds="inat/.*",
        ),
        ImageArchive(
            "evqa/google-landmark.tar",
            files=((hub("EVQA/google-landmark.tar"),),),
            kind="tar",
            about=2_790_000_000,
            holds="google-landmark/.*",
        ),
        ImageArchive(
            "evqa/inat-val.tar.gz",
            files=((f"{_INAT}val.tar.gz",),),
            kind="tar.gz",
            about=8_400_000_000,
            holds="inat/val/.*",
            strip="inat/",
        ),
        ImageArchive(
            "evqa/inat-train.tar.gz",
            files=((f"{_INAT}train.tar.gz",),),
            kind="tar.gz",
            about=224_000_000_000,
            holds="inat/train/.*",
            strip="inat/",
            ask=True,
        ),
    )
    # The release's own ids aren't known upstream, a question and its image are.
    release_keys = {"queries": ("question", "image_id")}

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """Questions, the knowledge base, and iNaturalist's lists of images."""
        files = [
            Asset(
                f"evqa/{csv_name(split)}",
                (_BASE + csv_name(split),),
                about={"train": 74_000_000, "valid": 1_000_000, "test": 2_000_000}[split],
                sha256=_TEST_SHA256 if split == "test" else None,
                licence=_LICENCE,
                shape=Shape("csv", COLUMNS),
            )
            for split in self.source.pools
        ]
        kb = Shape(
            "json", ("title", "section_titles", "section_texts"), member="encyclopedic_kb_wiki.json"
        )
        files.append(
            Asset(
                KB,
                (f"{_BASE}encyclopedic_kb_wiki.zip",),
                about=4_900_000_000,
                licence=_LICENCE,
                shape=kb,
            )
        )
        sums = {
            "train": "38a7bb733f7a09214d44293460ec0021",
            "val": "4d761e0f6a86cc63e8f7afc91f6a8f0b",
        }
        for part, name in INAT.items():
            files.append(
                Asset(
                    name,
                    (f"{_INAT}{part}.json.tar.gz",),
                    about={"train": 221_000_000, "val": 9_400_000}[part],
                    md5=sums[part],
                    licence="iNaturalist 2021 terms: non-commercial",
                    shape=Shape("json", ("id", "file_name"), path="images"),
                )
            )
        return files

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """The sections in the pool of one split.

        The ledger is told of articles first, then, as an input of its own, of their sections with text.
        """
        split, selected = pool.removesuffix("_passages"), _selected(ctx)
        articles, faulty = selected.facts["articles"], selected.facts["faulty"]
        ctx.ledger.read(_ARTICLES, articles)
        for number, url in faulty:
            ctx.ledger.drop("no article", file=_ARTICLES, row=number, detail=url)
        for before, mark in pairwise([0, *(number for number, _ in faulty), articles + 1]):
            ctx.ledger.use(_ARTICLES, range(before + 1, mark), out=0)
        seen, total = set[str](), selected.facts["sections"]
        for section in selected.accounted(ctx.ledger, _SECTIONS, total, "not in any pool"):
            row, own = section["row"], section["passage_id"]
            if not self.in_pool(section, split):
                ctx.ledger.filter("not in the pool", file=_SECTIONS, row=row)
            elif own in seen:
                address = section["address"]
                ctx.ledger.drop("a section twice", file=_SECTIONS, row=row, detail=address)
            else:
                seen.add(own)
                ctx.ledger.use(_SECTIONS, row)
                yield _row_of(section)

    def all_passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """Every section of the knowledge base that holds text."""
        path, number = ctx.files[KB], 0
        with _only_json(path) as stream:
            for url, article in object_members(stream, where=str(path)):
                if not _is_article(article):
                    continue
                for section in _sections(url, article):
                    number += 1
                    ctx.ledger.read(_SECTIONS)
                    ctx.ledger.use(_SECTIONS, number)
                    yield _row_of(section)

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The questions of one split whose evidence the knowledge base holds."""
        file = csv_name(split)
        evidence = {
            (section["address"], section["number"]): section["passage_id"]
            for section in _selected(ctx).rows()
            if split in section["splits"]
        }
        for asked in single_hop_questions(ctx, split):
            section = evidence.get(asked.section)
            row = _query(ctx, split, asked)
            if section is None:
                detail = f"{asked.section[0]}, section {asked.section[1]}"
                ctx.ledger.drop(
                    "evidence not in the knowledge base", file=file, row=asked.row, detail=detail
                )
            elif row["img_path"] is None:
                image = ", ".join(asked.images)
                ctx.ledger.drop("unknown iNaturalist image", file=file, row=asked.row, detail=image)
            else:
                ctx.ledger.use(file, asked.row)
                yield row | {"pos_item_ids": self.positives(section)}

    def all_queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """Every single-hop question with each of its images."""
        file = csv_name(split)
        for asked in single_hop_questions(ctx, split):
            ctx.ledger.use(file, asked.row, out=len(asked.images))
            for image in asked.images:
                yield _query(ctx, split, asked, image)

    @staticmethod
    def image_of(ctx: BuildContext, key: str, asked: _Question) -> str:
        """The image a question keeps."""
        if ctx.options["images"] == "first":
            return asked.images[0]
        return min(
            asked.images, key=lambda image: keyed_hash(f"{key}\0{image}", "evqa image", ctx.seed)
        )

    @staticmethod
    def in_pool(section: Mapping[str, Any], split: str) -> bool:
        """Whether the pool of a split takes a section: shared ones, and the split's own evidence."""
        return bool(section["shared"]) or split in section["splits"]

    @staticmethod
    def layout(section: Mapping[str, Any]) -> str:
        """The text of a passage."""
        return (
            f"title: {section['title']} section title: {section['section_title']} "
            f"content: {section['text']}"
        )

    @staticmethod
    def positives(passage_id: str) -> list[str]:
        """The right passages of a question: the section of its evidence."""
        return [passage_id]


BUILDER = EVQA


def _selected(ctx: BuildContext) -> Selection:
    """The sections that some pool takes: one pass through the knowledge base for all tables of a build."""

    def make(path: Path) -> None:
        gold: dict[tuple[str, int], set[str]] = {}
        for split in SOURCE.pools:
            for asked in single_hop_questions(ctx.quiet(), split):
                gold.setdefault(asked.section, set()).add(split)
        select_sections(ctx, gold, ctx.count("shared_passages"), "train", path)

    return Selection.read(ctx.once("sections.arrow", make))


def _row_of(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "passage_id": section["passage_id"],
        "passage_content": EVQA.layout(section),
        "title": section["title"],
        "url": section["url"],
        "section_title": section["section_title"],
    }


def _query(
    ctx: BuildContext, split: str, asked: _Question, image: str | None = None
) -> dict[str, Any]:
    row_id = f"EVQA_{split}_{asked.row}"
    image = image or EVQA.image_of(ctx, row_id, asked)
    if asked.dataset == "landmarks":
        path: str | None = landmark_path(image)
    else:
        name = _inat(ctx).get(image)
        path = None if name is None else inat_path(name)
    return image_query(ctx, row_id, image, path, asked.question) | {
        "answers": list(asked.answers),
        "gold_answer": asked.answers[0],
        "question_type": asked.kind,
        "dataset_name": asked.dataset,
        "wikipedia_url": asked.section[0],
        "evidence": asked.evidence or None,
    }


def _inat(ctx: BuildContext) -> dict[str, str]:
    """File names of the iNaturalist images that any question asks about, by id; for all tables."""

    def make(path: Path) -> None:
        asked = {
            image
            for split in SOURCE.pools
            for question in single_hop_questions(ctx.quiet(), split)
            if question.dataset == "inaturalist"
            for image in question.images
        }
        names: dict[str, str] = {}
        for file in map(ctx.files.__getitem__, INAT.values()):
            with _only_json(file) as stream:
                for image in array_items(stream, where=str(file), key="images"):
                    try:
                        image_id, name = str(image["id"]), image["file_name"]
                    except (TypeError, KeyError) as error:
                        raise InputError(
                            "an image without id or file_name",
                            where=str(file),
                            expected='{"images": [{"id": 1, "file_name": "train/…/….jpg", …}, …]}',
                        ) from error
                    if image_id in asked:
                        names.setdefault(image_id, str(name))
        path.write_bytes(orjson.dumps(names, option=orjson.OPT_SORT_KEYS))

    return _names_in(ctx.once("inat.json", make))


@lru_cache(maxsize=1)
def _names_in(path: Path) -> dict[str, str]:
    names: dict[str, str] = orjson.loads(path.read_bytes())
    return names


def csv_name(split: str) -> str:
    """Upstream's file of a split."""
    return "val.csv" if split == "valid" else f"{split}.csv"


def single_hop_questions(ctx: BuildContext, split: str) -> Iterator[_Question]:
    """The single-hop questions of a split; the ledger is told of all rows but those given."""
    path = ctx.files[f"evqa/{csv_name(split)}"]
    for row, record in csv_records(path, ctx.ledger, COLUMNS):
        kind = record["question_type"]
        if kind in {"multi_answer", "2_hop"}:
            ctx.ledger.filter(f"question type {kind}", file=path.name, row=row)
            continue
        asked = _question(row, record)
        if isinstance(asked, _Question):
            yield asked
        else:
            ctx.ledger.drop(asked, file=path.name, row=row, detail=record["question"][:80])


def _question(row: int, record: Mapping[str, str]) -> _Question | str:
    """A row of the CSV, or what is wrong with it."""
    if record["question_type"] not in _TYPES:
        return "an unknown question type"
    if record["dataset_name"] not in {"inaturalist", "landmarks"}:
        return "an unknown image data set"
    images = tuple(i for i in record["dataset_image_ids"].split("|") if i)
    answers = tuple(dict.fromkeys(a.strip() for a in record["answer"].split("|") if a.strip()))
    section = record["evidence_section_id"].strip()
    if not images:
        return "no image"
    if not answers:
        return "no answer"
    if not section.isdecimal() or not record["wikipedia_url"]:
        return "no evidence section"
    return _Question(
        row,
        record["question"],
        answers,
        images,
        record["dataset_name"],
        record["question_type"],
        (record["wikipedia_url"], int(section)),
        record["evidence"],
    )


@contextmanager
def _only_json(path: Path) -> Iterator[BinaryIO]:
    """The JSON member of an archive, as a stream.

    Raises:
        InputError: there is none.
    """
    for member in members(path):
        if member.name.endswith(".json"):
            with member.open() as stream:
                yield stream
            return
    raise InputError("there is no JSON file in this archive", where=str(path))


def select_sections(
    ctx: BuildContext, gold: Mapping[tuple[str, int], set[str]], base: int, first: str, path: Path
) -> None:
    """One pass through the knowledge base: writes every section that some pool takes.

    Args:
        ctx: The build.
        gold: Splits by (address, section number) of the evidence of their questions.
        base: Sections of the part that all pools share.
        first: The split whose gold sections fill that part first; a keyed sample fills the rest.
        path: The `Selection` to write, in the order of the knowledge base; its facts tell how many
            articles and sections there are, and which articles are none.
    """
    articles, row = 0, 0
    faulty: list[tuple[int, str]] = []
    sample, kept = _Sample(ctx.seed, base), dict[int, dict[str, Any]]()
    with _only_json(ctx.files[KB]) as stream:
        for articles, (url, article) in enumerate(
            object_members(stream, where=str(ctx.files[KB])), 1
        ):
            if not _is_article(article):
                faulty.append((articles, url))
                continue
            for section in _sections(url, article):
                row += 1
                splits = gold.get((url, section["number"]), ())
                section |= {"row": row, "splits": sorted(splits), "shared": first in splits}
                if splits:
                    kept[row] = section
                if not section["shared"]:
                    sample.offer(section)
    shared = {_said(section) for section in kept.values() if section["shared"]}
    for section, *again in sample.in_order():
        if len(shared) >= base:
            break
        shared.add(_said(section))
        for same in (section, *again):
            kept[same["row"]] = same | {"shared": True}
    rows = [kept[number] for number in sorted(kept)]
    _number(rows)
    table = pa.Table.from_pylist(rows, schema=_SELECTED)
    Selection.write(path, table, articles=articles, sections=row, faulty=faulty)


def _said(section: Mapping[str, Any]) -> tuple[str, str, str]:
    """What makes a section another passage than others of its id; titles aren't unique."""
    return section["passage_id"], section["section_title"], section["text"]


def _number(rows: Sequence[dict[str, Any]]) -> None:
    """Gives each passage an id of its own, for all pools, with a number where the id is taken.

    Sections that say the same under one id are the passage, and of the page, of the first of them.
    """
    known: dict[str, dict[tuple[str, str, str], tuple[str, str]]] = {}
    for row in rows:
        own = row["passage_id"]
        taken = known.setdefault(own, {})
        new = own if not taken else f"{own}#{len(taken) + 1}"
        row["passage_id"], row["url"] = taken.setdefault(_said(row), (new, row["url"]))


def _is_article(article: Any) -> bool:
    """Whether a value of the knowledge base has a title, and sections with a heading each."""
    return (
        isinstance(article, dict)
        and isinstance(article.get("title"), str)
        and _texts(article.get("section_titles"))
        and _texts(article.get("section_texts"))
        and len(article["section_titles"]) == len(article["section_texts"])
    )


def _sections(url: str, article: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The sections of an article that hold text, with their ids."""
    title, titles = article["title"], article["section_titles"]
    for number, text in enumerate(article["section_texts"]):
        if text.strip():
            yield {
                "passage_id": f"WikiWeb_{title}_{number}",
                "title": title,
                "section_title": titles[number],
                "text": text,
                "url": url,
                "address": url,
                "number": number,
            }


def _texts(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(each, str) for each in value)
    )
