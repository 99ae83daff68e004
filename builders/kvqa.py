"""KVQA: people in images to passages about them.

Upstream is a question answering set; M2KR retrieves by the image alone. How its passages and queries
were made of upstream's records isn't public. Ours are made so that their numbers come near to the
release's: a train passage has 3.97 queries there and about 400 characters, and valid and test together
have 3.98 queries for each passage of the pool that they share.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m2kr.building.fetch.assets import Asset, ImageArchive, Shape
from m2kr.building.formats.json_stream import object_members
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.errors import InputError
from m2kr.sources import Option, Rule, Source

from ._images import flat_path, hub
from ._rows import WITHOUT_TEXT, image_query, problem_of

_LICENCE = "research use; exact terms not stated upstream"
FOLDS = 5

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

DATASET = "kvqa/dataset.json"
URL = "http://dosa.cds.iisc.ac.in/kvqa/dataset.json"
KEYS = ("imgPath", "wikiCap", "Questions", "Answers", "split")
TRAIN, VAL, TEST = 1, 2, 3


@dataclass(frozen=True, slots=True)
class _Picture:
    """One image.

    Attributes:
        row: Number of its record.
        id: Upstream's key of it.
        img_path: Path below the folder ``KVQAimgs``.
        caption: What Wikipedia says below it.
        said: Questions with their answers, in upstream's order.
        left_out: How many questions or answers hold no text, and are not in ``said``.
        sets: ``TRAIN``, ``VAL`` or ``TEST`` in each of upstream's five random splits.
    """

    row: int
    id: str
    img_path: str
    caption: str
    said: tuple[tuple[str, str], ...]
    left_out: int
    sets: tuple[int, ...]


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
        sets = {TRAIN} if pool == "train_passages" else self.held_out(ctx)
        file = ctx.files[DATASET].name
        for image in _pictures(ctx):
            if self.set_of(ctx, image) not in sets:
                ctx.ledger.filter("in another set", file=file, row=image.row)
                continue
            _use(ctx, image, 1)
            yield _passage(ctx, image)

    def all_passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """The passages of all images, whatever their set."""
        for image in _pictures(ctx):
            _use(ctx, image, 1)
            yield _passage(ctx, image)

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The queries of one split."""
        sets = {TRAIN} if split == "train" else self.held_out(ctx)
        in_test = set[str]() if split == "train" else self.test_queries(ctx, sets)
        file = ctx.files[DATASET].name
        for image in _pictures(ctx):
            if self.set_of(ctx, image) not in sets:
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
        for image in _pictures(ctx):
            times = max(len(image.said), ctx.count("questions"))
            _use(ctx, image, times)
            for number in range(times):
                yield _query(ctx, image, _query_id(image, number))

    @staticmethod
    def set_of(ctx: BuildContext, image: _Picture) -> int:
        """Upstream's set of an image in the split that counts."""
        return image.sets[int(ctx.options["fold"])]

    @staticmethod
    def held_out(ctx: BuildContext) -> set[int]:
        """Upstream's sets that valid and test are taken from."""
        return {"val": {VAL}, "test": {TEST}, "both": {VAL, TEST}}[ctx.options["held_out"]]

    @staticmethod
    def used(ctx: BuildContext, image: _Picture) -> Sequence[tuple[str, str]]:
        """The questions of an image that count, with their answers: the first ones."""
        return image.said[: ctx.count("questions")]

    @staticmethod
    def layout(caption: str, statements: Sequence[tuple[str, str]]) -> str:
        """The text of a passage: caption, then questions with their answers, full stops after each."""
        parts = (caption, *(f"{question} {answer}" for question, answer in statements))
        return " ".join(part if part.endswith((".", "!", "?")) else f"{part}." for part in parts)

    @staticmethod
    def test_queries(ctx: BuildContext, sets: set[int]) -> set[str]:
        """Ids of the held-out queries that are test: those with the smallest keyed hashes.

        At most half of them, so that something is left for valid whatever the options.
        """
        images = (image for image in _pictures(ctx.quiet()) if KVQA.set_of(ctx, image) in sets)
        ids = [own for image in images for own in _query_ids(ctx, image)]
        return ctx.sample(ids, min(ctx.count("test_queries"), len(ids) // 2), "kvqa test")


BUILDER = KVQA


def _use(ctx: BuildContext, image: _Picture, out: int) -> None:
    """Tells the ledger that a record gave ``out`` rows, and what of it didn't count."""
    file, row = ctx.files[DATASET].name, image.row
    ctx.ledger.use(file, row, out=out)
    if image.left_out:
        detail = f"{image.id}: {image.left_out} of {image.left_out + len(image.said)}"
        ctx.ledger.repair(WITHOUT_TEXT, file=file, row=row, detail=detail)


def _query_ids(ctx: BuildContext, image: _Picture) -> list[str]:
    return [_query_id(image, number) for number in range(len(KVQA.used(ctx, image)))]


def _query_id(image: _Picture, number: int) -> str:
    return f"KVQA_{image.id}_{number}"


def _passage(ctx: BuildContext, image: _Picture) -> dict[str, Any]:
    return {
        "passage_id": f"KVQA_{image.id}",
        "passage_content": KVQA.layout(image.caption, KVQA.used(ctx, image)),
        "img_id": image.id,
        "img_path": image.img_path,
    }


def _query(ctx: BuildContext, image: _Picture, own: str) -> dict[str, Any]:
    return image_query(ctx, own, image.id, image.img_path) | {"pos_item_ids": [f"KVQA_{image.id}"]}


def _pictures(ctx: BuildContext) -> Iterator[_Picture]:
    """The images of upstream's file in its order; the ledger is told of all records but those given.

    Raises:
        InputError: The file is damaged, or holds none: it is another file, or KVQA's older release.
    """
    ledger, path = ctx.ledger, ctx.files[DATASET]
    file, seen, older = path.name, set[str](), False
    with path.open("rb") as stream:
        for row, (key, record) in enumerate(object_members(stream, where=str(path)), 1):
            ledger.read(file)
            picture = _picture(row, key, record)
            if key in seen:
                picture = "an image id used twice"
            if isinstance(picture, str):
                older = older or (isinstance(record, dict) and "sourcePath" in record)
                ledger.drop(picture, file=file, row=row, detail=key[:80])
                continue
            seen.add(key)
            yield picture
    if not seen:
        what = "this is KVQA's older release" if older else "not one record is as it should be"
        keys = ", ".join(f'"{name}": …' for name in KEYS)
        raise InputError(
            what,
            where=str(path),
            expected=f'{{"image id": {{{keys}}}, …}} with {FOLDS} values from 1 to 3 as split',
            fix=f"replace it by {URL}",
        )


def _picture(row: int, key: str, record: Any) -> _Picture | str:
    """A record, or what is wrong with it."""
    if problem := problem_of(record, KEYS):
        return problem
    path, caption, asked, answered, sets = (record[name] for name in KEYS)
    img_path = flat_path(path, "KVQAimgs")
    if not key.strip() or img_path is None:
        return "no image"
    if not isinstance(caption, str) or not caption.strip():
        return "no caption"
    if not isinstance(asked, list) or not isinstance(answered, list):
        return "no list of questions or of answers"
    if len(asked) != len(answered):
        return "not as many answers as questions"
    if not _are_sets(sets):
        return "split is not five values from 1 to 3"
    pairs = [(_text(q), _text(a)) for q, a in zip(asked, answered, strict=True)]
    said = tuple(pair for pair in pairs if all(pair))
    left_out = len(pairs) - len(said)
    return _Picture(row, key, img_path, caption.strip(), said, left_out, tuple(sets))


def _text(value: Any) -> str:
    """A question or an answer as text: some answers are numbers. Empty if it is neither."""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _are_sets(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == FOLDS
        and all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 3 for v in value)
    )
