"""E-VQA (Encyclopedic-VQA): image and question to a section of a Wikipedia page.

Single-hop questions only, each with one image. The pools of the release have a common part and each
split's own evidence; how the common part was drawn isn't public.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.formats.json_stream import object_members
from m2kr.building.images.declared import ImageArchive
from m2kr.building.ledger import Ledger
from m2kr.building.sampling import keyed_hash
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.schema import Column
from m2kr.sources import Option, Rule, Source

from . import _evqa
from ._evqa import Asked, asked_rows, csv_name
from ._images import hub, inat_path, landmark_path

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
        found = [
            Asset(
                f"evqa/{csv_name(split)}",
                (_BASE + csv_name(split),),
                about={"train": 74_000_000, "valid": 1_000_000, "test": 2_000_000}[split],
                sha256=_TEST_SHA256 if split == "test" else None,
                licence=_LICENCE,
                shape=Shape("csv", _evqa.COLUMNS),
            )
            for split in self.source.pools
        ]
        kb = Shape(
            "json", ("title", "section_titles", "section_texts"), member="encyclopedic_kb_wiki.json"
        )
        found.append(
            Asset(
                _evqa.KB,
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
        for part, name in _evqa.INAT.items():
            found.append(
                Asset(
                    name,
                    (f"{_INAT}{part}.json.tar.gz",),
                    about={"train": 221_000_000, "val": 9_400_000}[part],
                    md5=sums[part],
                    licence="iNaturalist 2021 terms: non-commercial",
                    shape=Shape("json", ("id", "file_name"), path="images"),
                )
            )
        return found

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """The sections in the pool of one split.

        The ledger is told of articles first, then, as an input of its own, of their sections with text.
        """
        split, selected = pool.removesuffix("_passages"), _selected(ctx)
        ctx.ledger.read(_ARTICLES, selected.articles)
        faulty = [number for number, _ in selected.faulty]
        for number, url in selected.faulty:
            ctx.ledger.drop("no article", file=_ARTICLES, row=number, detail=url)
        for before, mark in pairwise([0, *faulty, selected.articles + 1]):
            ctx.ledger.use(_ARTICLES, range(before + 1, mark), out=0)
        seen: set[str] = set()
        ctx.ledger.read(_SECTIONS, selected.sections)
        before = 0
        for section in selected.rows():
            number = section["place"] + 1
            ctx.ledger.filter("not in any pool", file=_SECTIONS, row=range(before + 1, number))
            before = number
            if not in_pool(section, split):
                ctx.ledger.filter("not in the pool", file=_SECTIONS, row=number)
                continue
            if section["passage_id"] not in seen:
                seen.add(section["passage_id"])
                ctx.ledger.use(_SECTIONS, number)
                yield _row_of(section)
            else:
                address = section["address"]
                ctx.ledger.drop("a section twice", file=_SECTIONS, row=number, detail=address)
        rest = range(before + 1, selected.sections + 1)
        ctx.ledger.filter("not in any pool", file=_SECTIONS, row=rest)

    def all_passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """Every section of the knowledge base that holds text."""
        path, number = ctx.files[_evqa.KB], 0
        with _evqa.only_json(path) as stream:
            for url, article in object_members(stream, where=str(path)):
                if not _evqa.is_article(article):
                    continue
                for section in _evqa.sections(url, article):
                    number += 1
                    ctx.ledger.read(_SECTIONS)
                    ctx.ledger.use(_SECTIONS, number)
                    yield _row_of(section)

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The questions of one split whose evidence the knowledge base holds."""
        evidence, file = _evidence(_selected(ctx), split), csv_name(split)
        for asked in asked_rows(ctx, split, ctx.ledger):
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
                yield row | {"pos_item_ids": positives(section)}

    def all_queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """Every single-hop question with each of its images."""
        file = csv_name(split)
        for asked in asked_rows(ctx, split, ctx.ledger):
            ctx.ledger.use(file, asked.row, out=len(asked.images))
            for image in asked.images:
                yield _query(ctx, split, asked, image)


BUILDER = EVQA


class Selected(NamedTuple):
    """What one pass through the knowledge base found.

    Attributes:
        path: Arrow file of the sections that some pool takes.
        articles: Articles in all, faulty ones included.
        sections: Sections with text in all.
        faulty: Numbers and addresses of values that are no article.
    """

    path: Path
    articles: int
    sections: int
    faulty: list[tuple[int, str]]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The sections in the order of the knowledge base."""
        with pa.memory_map(str(self.path)) as source:
            for batch in pa.ipc.open_stream(source):
                yield from batch.to_pylist()


def in_pool(section: Mapping[str, Any], split: str) -> bool:
    """Whether the pool of a split takes a section: shared ones, and the split's own evidence."""
    return bool(section["shared"]) or split in section["splits"]


def positives(passage_id: str) -> list[str]:
    """The right passages of a question: the section of its evidence."""
    return [passage_id]


def image_of(ctx: BuildContext, key: str, asked: Asked) -> str:
    """The image a question keeps."""
    if ctx.options["images"] == "first":
        return asked.images[0]
    return min(
        asked.images, key=lambda image: keyed_hash(f"{key}\0{image}", "evqa image", ctx.seed)
    )


def layout(section: Mapping[str, Any]) -> str:
    """The text of a passage."""
    return (
        f"title: {section['title']} section title: {section['section_title']} "
        f"content: {section['text']}"
    )


def _selected(ctx: BuildContext) -> Selected:
    """The pass through the knowledge base, made once for all tables of a build."""

    def make(path: Path) -> None:
        gold: dict[tuple[str, int], set[str]] = {}
        for split in ("train", "valid", "test"):
            for asked in asked_rows(ctx, split, Ledger("quiet")):
                gold.setdefault(asked.section, set()).add(split)
        _evqa.select_sections(ctx, gold, ctx.count("shared_passages"), "train", path)

    path = ctx.once("sections.arrow", make)
    with pa.memory_map(str(path)) as source:
        facts = orjson.loads(pa.ipc.open_stream(source).schema.metadata[b"facts"])
    return Selected(path, facts["articles"], facts["sections"], facts["faulty"])


def _evidence(selected: Selected, split: str) -> dict[tuple[str, int], str]:
    """Passage id of each section that is evidence for a split."""
    return {
        (section["address"], section["number"]): section["passage_id"]
        for section in selected.rows()
        if split in section["splits"]
    }


def _row_of(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "passage_id": section["passage_id"],
        "passage_content": layout(section),
        "title": section["title"],
        "url": section["url"],
        "section_title": section["section_title"],
    }


def _query(ctx: BuildContext, split: str, asked: Asked, image: str | None = None) -> dict[str, Any]:
    row_id = f"EVQA_{split}_{asked.row}"
    image = image or image_of(ctx, row_id, asked)
    return {
        "question_id": row_id,
        "question": asked.question,
        "instruction": ctx.instruction(row_id),
        "img_id": image,
        "img_path": _image_path(ctx, asked.dataset, image),
        "image_id": image,
        "answers": list(asked.answers),
        "gold_answer": asked.answers[0],
        "question_type": asked.kind,
        "dataset_name": asked.dataset,
        "wikipedia_url": asked.section[0],
        "evidence": asked.evidence or None,
    }


def _image_path(ctx: BuildContext, dataset: str, image: str) -> str | None:
    if dataset == "landmarks":
        return landmark_path(image)
    name = _inat(ctx).get(image)
    return None if name is None else inat_path(name)


def _inat(ctx: BuildContext) -> dict[str, str]:
    """Names of iNaturalist's images, read once for all tables of a build."""

    def make(path: Path) -> None:
        path.write_bytes(orjson.dumps(_evqa.inat_names(ctx), option=orjson.OPT_SORT_KEYS))

    path = ctx.once("inat.json", make)
    if path not in _NAMES:
        _NAMES.clear()
        _NAMES[path] = orjson.loads(path.read_bytes())
    return _NAMES[path]


_NAMES: dict[Path, dict[str, str]] = {}
