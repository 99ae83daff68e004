"""WIT: Wikipedia images to their passages.

A passage is one of upstream's English rows (an image in a section of a page), a query is an image, and
the passages of its rows are right. Upstream's images aren't fetched by a build: which of them the
authors could fetch isn't public, so without a list of those that one has, all are taken.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from m2kr.building.fetch.assets import Asset
from m2kr.building.sampling import draw, keyed_hash
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.schema import Column
from m2kr.sources import Option, Rule, Source

from . import _wit, _wit_images
from ._images import WIT_IMAGES
from ._wit import LICENCE, WIT_COLUMNS
from ._wit_images import PARTS, RULES, UPSTREAM, Corpus, Groups

SOURCE = Source(
    name="wit",
    config="WIT",
    title="WIT: Wikipedia images to their passages",
    task="I2T",
    pools={"train": "train_passages", "valid": "valid_passages", "test": "test_passages"},
    headline="hit_rate@10",
    version=2,
    licence=LICENCE,
    homepage="https://github.com/google-research-datasets/wit",
    citation="""@inproceedings{srinivasan2021wit,
  title={{WIT}: Wikipedia-based Image Text Dataset for Multimodal Multilingual Machine Learning},
  author={Srinivasan, Krishna and others},
  booktitle={SIGIR}, year={2021}
}""",
    summary="An image must retrieve the Wikipedia passages it illustrates.",
    expected={
        "train": 2_810_679,
        "valid": 19_994,
        "test": 5_120,
        "train_passages": 4_120_010,
        "valid_passages": 39_478,
        "test_passages": 39_478,
    },
    aliases=(),
    released=True,
    query_columns=(
        Column(
            "original_data_id",
            "list<string>",
            doc="WIT rows (split and number) with this image.",
        ),
    ),
    passage_columns=WIT_COLUMNS,
    options=(
        Option(
            "available",
            "all",
            "Path of a list of the images that you have, an image_id a line: only rows with these "
            "are taken; or all.",
        ),
        Option(
            "min_side",
            "32",
            "Images must have more pixels than this on both sides.",
            kind="count",
        ),
        Option("valid_queries", "19994", "Images of the valid split.", kind="count"),
        Option("test_queries", "5120", "Images of the test split.", kind="count"),
    ),
    rules=(
        Rule(
            "available",
            "rows are taken whether their image is still to be had or not",
            "ours",
            "available",
        ),
        Rule(
            "large_enough",
            "images have more than 32 pixels on both sides, by the size that upstream states; one "
            "of unknown size is taken",
            "inferred",
            "min_side",
        ),
        Rule(
            "passage_text",
            "a passage is the titles, captions and page description of a row, each with its label; "
            "a page without description or title has the word None",
            "read",
        ),
        Rule(
            "numbered",
            "passages are numbered over the rows taken of upstream's train, val and test",
            "inferred",
        ),
        Rule(
            "drawn",
            "valid is the 19,994 images of upstream's val with the smallest keyed hashes of their id",
            "ours",
            "valid_queries",
        ),
        Rule(
            "drawn",
            "test is the 5,120 images of upstream's test with the smallest keyed hashes of their id",
            "ours",
            "test_queries",
        ),
        Rule(
            "pooled",
            "the train pool has all passages; valid and test share those of their images",
            "inferred",
        ),
    ),
    image_notes=(
        "the hub's BByrneLab/M2KR_Images, WIT/ (199 GB, parts of one zip), or Wikimedia's 300 pixel "
        "copies (275 GB; Kaggle's wikipedia-image-caption, an account and rules); files are named "
        "by the md5 of their address; point --images at the folder",
    ),
)


class WIT(Builder):
    """English rows of WIT: a passage each, a query for each image."""

    source = SOURCE
    image_archives = (WIT_IMAGES,)
    # Rows are numbered otherwise in the release, which lacks those whose image the authors didn't have.
    release_keys = {"passages": ("page_url", "image_url", "hierarchical_section_title")}

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """All files of train, val and test.

        Raises:
            MissingError: there is no list of images where an option says so.
        """
        _wit_images.listed(options["available"])
        return _wit.wit_assets(PARTS)

    def same_pools(self, options: Mapping[str, str]) -> Sequence[Sequence[str]]:
        """Valid and test share a pool."""
        return [("valid_passages", "test_passages")]

    def parts(self, options: Mapping[str, str], splits: Sequence[str]) -> Sequence[str]:
        """One for each file; train's too, whatever the splits, as passages are numbered through."""
        return list(_wit.files(PARTS))

    def make_part(self, ctx: BuildContext, name: str) -> Iterator[pa.RecordBatch]:
        """The English rows of a file that have an image."""
        file = ctx.files[_wit.files(PARTS)[name]].name
        for batch, rows in _wit.english(ctx, name):
            ctx.ledger.use(file, rows)
            yield batch

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[pa.RecordBatch]:
        """The passages of one pool, in upstream's order."""
        corpus = _wit_images.corpus(ctx)
        return _passages(ctx, pool, corpus, pooled(ctx, corpus, pool), numbered(corpus))

    def all_passages(self, ctx: BuildContext, pool: str) -> Iterator[pa.RecordBatch]:
        """The passages of all rows, whatever is known of their images."""
        corpus = _wit_images.corpus(ctx)
        every = np.ones(len(corpus.images), bool)
        return _passages(ctx, pool, corpus, every, np.arange(len(every)))

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The images of one split, by their ids."""
        corpus = _wit_images.corpus(ctx)
        groups = drawn(ctx, corpus, split)
        _account(ctx, corpus, split, groups)
        return _queries(ctx, corpus, split, groups, numbered(corpus))

    def all_queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """All images of upstream's part."""
        corpus = _wit_images.corpus(ctx)
        every = np.ones(len(corpus.images), bool)
        groups = _wit_images.grouped(corpus.images, np.arange(*corpus.rows(split)))
        _account(ctx, corpus, split, groups)
        return _queries(ctx, corpus, split, groups, np.arange(len(every)))


BUILDER = WIT


def numbered(corpus: Corpus) -> NDArray[np.int64]:
    """The number in each row's passage id: how many rows before it are kept, of all parts."""
    return corpus.numbers()


def drawn(ctx: BuildContext, corpus: Corpus, split: str) -> Groups:
    """The images of a split with the rows that are kept: in valid and test those of smallest keys."""
    first, last = corpus.rows(split)
    rows = np.flatnonzero(corpus.left_out[first:last] == 0) + first
    groups = _wit_images.grouped(corpus.images, rows)
    if split == "train":
        return groups
    keys = (keyed_hash(own, f"wit {split}", ctx.seed) for own in groups.ids())
    places = draw(np.fromiter(keys, np.uint64, len(groups)), ctx.count(f"{split}_queries"))
    return _wit_images.some(groups, places)


def pooled(ctx: BuildContext, corpus: Corpus, pool: str) -> NDArray[np.bool_]:
    """Which rows' passages are in a pool: all that are kept, or those of valid's and test's images."""
    found: NDArray[np.bool_] = np.zeros(len(corpus.images), bool)
    if pool == "train_passages":
        return np.equal(corpus.left_out, 0, out=found)
    for split in ("valid", "test"):
        found[drawn(ctx, corpus, split).rows] = True
    return found


def _passages(
    ctx: BuildContext,
    pool: str,
    corpus: Corpus,
    wanted: NDArray[np.bool_],
    numbers: NDArray[np.int64],
) -> Iterator[pa.RecordBatch]:
    for split in ("train", "valid", "test") if pool == "train_passages" else ("valid", "test"):
        start, _ = corpus.rows(split)
        for name in _wit.files([UPSTREAM[split]]):
            first, _ = at, _ = corpus.files[name]
            for batch in ctx.part(name):
                rows = np.arange(at, at + len(batch))
                taken, at = wanted[rows], at + len(batch)
                ctx.ledger.read(f"parts/{name}", len(batch))
                _filter(ctx, name, rows[~taken], first, corpus)
                ctx.ledger.use(f"parts/{name}", rows[taken] - first + 1)
                if taken.any():
                    given = {
                        "passage_id": _joined("WIT", numbers[rows[taken]]),
                        "original_data_id": _joined(split, rows[taken] - start),
                    }
                    yield _wit.passage_table(ctx, batch.filter(pa.array(taken)), given)


def _filter(
    ctx: BuildContext, name: str, rows: NDArray[np.int64], first: int, corpus: Corpus
) -> None:
    """Tells the ledger why rows of a file are not used."""
    why = corpus.left_out[rows]
    for code, rule in ({0: "its image is not drawn"} | RULES).items():
        if (why == code).any():
            ctx.ledger.filter(rule, file=f"parts/{name}", row=rows[why == code] - first + 1)


def _account(ctx: BuildContext, corpus: Corpus, split: str, groups: Groups) -> None:
    """Tells the ledger of the rows of a split; a query counts where its image comes first."""
    used, firsts = np.sort(groups.rows), np.sort(groups.rows[groups.starts[:-1]])
    for name in _wit.files([UPSTREAM[split]]):
        first, last = corpus.files[name]
        own = used[slice(*np.searchsorted(used, (first, last)))]
        out = np.diff(np.searchsorted(firsts, (first, last)))[0]
        ctx.ledger.read(f"parts/{name}", last - first)
        ctx.ledger.use(f"parts/{name}", own - first + 1, out=int(out))
        _filter(ctx, name, np.setdiff1d(np.arange(first, last), own), first, corpus)


def _queries(
    ctx: BuildContext, corpus: Corpus, split: str, groups: Groups, numbers: NDArray[np.int64]
) -> Iterator[Row]:
    start, _ = corpus.rows(split)
    for place, own in enumerate(groups.ids()):
        rows = groups.of(place)
        yield _query(ctx, own) | {
            "pos_item_ids": [f"WIT_{number}" for number in numbers[rows].tolist()],
            "original_data_id": [f"{split}_{row}" for row in (rows - start).tolist()],
        }


def _query(ctx: BuildContext, image_id: str) -> dict[str, Any]:
    return {
        "question_id": image_id,
        "question": "",
        "instruction": ctx.instruction(image_id),
        "img_id": image_id,
        "image_id": image_id,
        "img_path": _wit.image_path(image_id),
    }


def _joined(stem: str, numbers: NDArray[np.int64]) -> pa.Array:
    return pc.binary_join_element_wise(stem, pc.cast(pa.array(numbers), pa.string()), "_")
