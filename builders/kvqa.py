"""KVQA: people in images to passages about them.

Upstream is a question answering set; M2KR retrieves by the image alone. How its passages and queries
were made of upstream's records isn't public. Ours are made so that their numbers come near to the
release's: a train passage has 3.97 queries there and about 400 characters, and valid and test together
have 3.98 queries for each passage of the pool that they share.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.images.declared import ImageArchive
from m2kr.building.sampling import keyed_hash
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.sources import Option, Rule, Source

from ._images import hub
from ._kvqa import DATASET, FOLDS, KEYS, TEST, TRAIN, URL, VAL, Pictured, pictured

_LICENCE = "research use; exact terms not stated upstream"

SOURCE = Source(
    name="kvqa",
    config="KVQA",
    title="KVQA: people in images to passages about them",
    task="I2T",
    pools={"train": "train_passages", "valid": "valid_passages", "test": "test_passages"},
    headline="hit_rate@5",
    version=2,
    licence=_LICENCE,
    homepage="https://malllabiisc.github.io/resources/kvqa/",
    citation="""@inproceedings{shah2019kvqa,
  title={{KVQA}: Knowledge-Aware Visual Question Answering},
  author={Shah, Sanket and others},
  booktitle={AAAI}, year={2019}
}""",
    summary="An image of people must retrieve the passage about them.",
    expected={
        "train": 64_396,
        "valid": 13_365,
        "test": 5_120,
        "train_passages": 16_215,
        "valid_passages": 4_648,
        "test_passages": 4_648,
    },
    aliases=(),
    released=True,
    options=(
        Option(
            "fold",
            "0",
            "Which of upstream's five random splits.",
            tuple(str(fold) for fold in range(FOLDS)),
        ),
        Option(
            "held_out",
            "val",
            "Set of that split that valid and test are taken from: its val, its test, or both.",
            ("val", "test", "both"),
        ),
        Option(
            "questions",
            "4",
            "Questions of an image that are used: a query each, and a statement each in its passage.",
            kind="count",
        ),
        Option("test_queries", "5120", "Queries of the test split.", kind="count"),
    ),
    rules=(
        Rule(
            "set_of",
            "the first of upstream's five random splits counts: it and the third fit the released "
            "images",
            "inferred",
            "fold",
        ),
        Rule(
            "held_out",
            "valid and test share the images of upstream's val set, as the release has them",
            "inferred",
            "held_out",
        ),
        Rule(
            "used",
            "an image is a query once for each of its questions, without their texts, at most four "
            "times",
            "ours",
            "questions",
        ),
        Rule(
            "layout",
            "a passage is the image's caption and these questions with their answers as statements",
            "ours",
            "questions",
        ),
        Rule(
            "test_queries",
            "test is the 5,120 held-out queries with the smallest keyed hash of their id, at most "
            "half of them; valid is the others",
            "ours",
            "test_queries",
        ),
    ),
    image_notes=(
        "the hub's BByrneLab/M2KR_Images, KVQA/KVQAimgs.tar.gz (26 GB), or upstream's "
        "http://dosa.cds.iisc.ac.in/kvqa/KVQAimgs.tar.gz (25 GB, slow); point --images at the "
        "folder KVQAimgs, or at the tar that gunzip makes of it",
    ),
    # As the archive has them.
    image_names=("KVQAimgs/{path}",),
)


class KVQA(Builder):
    """Captions and statements about images of people, found by the image."""

    source = SOURCE
    image_archives = (
        ImageArchive(
            "kvqa/KVQAimgs.tar.gz",
            files=(
                (hub("KVQA/KVQAimgs.tar.gz"), "http://dosa.cds.iisc.ac.in/kvqa/KVQAimgs.tar.gz"),
            ),
            kind="tar.gz",
            about=26_000_000_000,
            folder="KVQAimgs/",
        ),
    )
    # The release's own ids aren't known upstream, the images' file names are.
    release_keys = {"passages": ("img_path",), "queries": ("img_path",)}

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """The one file of annotations."""
        return [
            Asset(
                DATASET,
                (URL,),
                about=50_000_000,  # 24,602 images, 183,000 questions of about 250 bytes
                licence=_LICENCE,
                manual="a slow university server, often down: fetch it with any program that can resume, "
                "or take dataset.json of the data set KVQA at opendatalab.com (login)",
                shape=Shape("json", KEYS),
            )
        ]

    def same_pools(self, options: Mapping[str, str]) -> Sequence[Sequence[str]]:
        """Valid and test share a pool."""
        return [("valid_passages", "test_passages")]

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """One passage for each image of the pool's set."""
        wanted = {TRAIN} if pool == "train_passages" else held_out(ctx)
        file = ctx.files[DATASET].name
        for image in pictured(ctx):
            if set_of(ctx, image) not in wanted:
                ctx.ledger.filter("in another set", file=file, row=image.row)
                continue
            _use(ctx, image, 1)
            yield _passage(ctx, image)

    def all_passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """The passages of all images, whatever their set."""
        for image in pictured(ctx):
            _use(ctx, image, 1)
            yield _passage(ctx, image)

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The queries of one split."""
        wanted = {TRAIN} if split == "train" else held_out(ctx)
        in_test = set[str]() if split == "train" else test_queries(ctx, wanted)
        file = ctx.files[DATASET].name
        for image in pictured(ctx):
            if set_of(ctx, image) not in wanted:
                ctx.ledger.filter("in another set", file=file, row=image.row)
                continue
            ids = _query_ids(ctx, image)
            kept = [own for own in ids if (own in in_test) == (split == "test")]
            if kept:
                _use(ctx, image, len(kept))
            else:
                rule = "all its queries are in the other split" if ids else "no question"
                ctx.ledger.filter(rule, file=file, row=image.row)
            for own in kept:
                yield _query(ctx, image, own)

    def all_queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """All images, whatever their set, once for each question and at least as often as one is used."""
        for image in pictured(ctx):
            times = max(len(image.said), ctx.count("questions"))
            _use(ctx, image, times)
            for number in range(times):
                yield _query(ctx, image, _query_id(image, number))


BUILDER = KVQA


def set_of(ctx: BuildContext, image: Pictured) -> int:
    """Upstream's set of an image in the split that counts."""
    return image.sets[int(ctx.options["fold"])]


def held_out(ctx: BuildContext) -> set[int]:
    """Upstream's sets that valid and test are taken from."""
    return {"val": {VAL}, "test": {TEST}, "both": {VAL, TEST}}[ctx.options["held_out"]]


def used(ctx: BuildContext, image: Pictured) -> Sequence[tuple[str, str]]:
    """The questions of an image that count, with their answers: the first ones."""
    return image.said[: ctx.count("questions")]


def layout(caption: str, statements: Sequence[tuple[str, str]]) -> str:
    """The text of a passage: caption, then questions with their answers, full stops after each."""
    parts = (caption, *(f"{question} {answer}" for question, answer in statements))
    return " ".join(part if part.endswith((".", "!", "?")) else f"{part}." for part in parts)


def test_queries(ctx: BuildContext, wanted: set[int]) -> set[str]:
    """Ids of the held-out queries that are test: those with the smallest keyed hashes.

    At most half of them, so that something is left for valid whatever the options.
    """
    images = (image for image in pictured(ctx, quiet=True) if set_of(ctx, image) in wanted)
    ids = [own for image in images for own in _query_ids(ctx, image)]
    size = min(ctx.count("test_queries"), len(ids) // 2)
    return set(heapq.nsmallest(size, ids, key=lambda own: keyed_hash(own, "kvqa test", ctx.seed)))


def _use(ctx: BuildContext, image: Pictured, out: int) -> None:
    """Tells the ledger that a record gave ``out`` rows, and what of it didn't count."""
    file = ctx.files[DATASET].name
    ctx.ledger.use(file, image.row, out=out)
    if image.left_out:
        detail = f"{image.id}: {image.left_out} of {image.left_out + len(image.said)}"
        ctx.ledger.repair(
            "a question or an answer without text", file=file, row=image.row, detail=detail
        )


def _query_ids(ctx: BuildContext, image: Pictured) -> list[str]:
    return [_query_id(image, number) for number in range(len(used(ctx, image)))]


def _query_id(image: Pictured, number: int) -> str:
    return f"KVQA_{image.id}_{number}"


def _passage(ctx: BuildContext, image: Pictured) -> dict[str, Any]:
    return {
        "passage_id": f"KVQA_{image.id}",
        "passage_content": layout(image.caption, used(ctx, image)),
        "img_id": image.id,
        "img_path": image.img_path,
    }


def _query(ctx: BuildContext, image: Pictured, own: str) -> dict[str, Any]:
    return {
        "question_id": own,
        "question": "",
        "instruction": ctx.instruction(own),
        "img_id": image.id,
        "image_id": image.id,
        "img_path": image.img_path,
        "pos_item_ids": [f"KVQA_{image.id}"],
    }
