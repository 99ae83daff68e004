"""WIT: Wikipedia images to their passages.

A passage is one of upstream's English rows (an image in a section of a page), a query is an image, and
the passages of its rows are right. Upstream's images aren't fetched by a build: which of them the
authors could fetch isn't public, so without a list of those that one has, all are taken.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from m2kr.building.fetch.assets import Asset
from m2kr.building.sampling import draw_places, keyed_hash
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.errors import InputError, MissingError
from m2kr.schema import Column
from m2kr.sources import Option, Rule, Source

from . import _wit
from ._images import WIT_IMAGES
from ._rows import image_query
from ._wit import LICENCE, WIT_COLUMNS

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

PARTS = ("train", "val", "test")
# Our split -> upstream's part.
UPSTREAM = {"train": "train", "valid": "val", "test": "test"}
SMALL, LACKING = 1, 2
RULES = {SMALL: "an image too small", LACKING: "an image that is not in the list of available ones"}
ID_BYTES = 16
_IDS = f"S{ID_BYTES}"
_LIST_LINE = 1_000  # bytes; an id is 32


@dataclass(frozen=True, slots=True)
class _Corpus:
    """WIT's English rows, of all parts in order.

    Attributes:
        files: First and last row (exclusive) of each upstream file, by its name in `files`.
        images: The image of each row.
        left_out: Key of `RULES` for each row; 0 if it is kept.
    """

    files: dict[str, tuple[int, int]]
    images: NDArray[np.bytes_]
    left_out: NDArray[np.uint8]

    def rows(self, split: str) -> tuple[int, int]:
        """First and last row (exclusive) of a split."""
        bounds = [self.files[name] for name in _wit.files([UPSTREAM[split]])]
        return bounds[0][0], bounds[-1][1]


@dataclass(frozen=True, slots=True)
class ImageGroups:
    """Rows by image; images ascending by id, the rows of one as upstream has them.

    Attributes:
        rows: Row numbers, those of one image together.
        starts: Where each image's begin, and where the last one's end.
        images: The images.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    images: NDArray[np.bytes_]

    @classmethod
    def of_rows(cls, images: NDArray[np.bytes_], rows: NDArray[np.int64]) -> "ImageGroups":
        """Some rows by their image, which is known of all."""
        own = images[rows]
        order = np.argsort(own, kind="stable")
        own = own[order]
        new = np.ones(len(own), bool)
        new[1:] = own[1:] != own[:-1]
        starts = np.flatnonzero(new)
        return cls(rows[order], np.append(starts, len(own)), own[starts])

    def some(self, places: NDArray[np.int64]) -> "ImageGroups":
        """Some of the images, by their places, ascending."""
        sizes = np.diff(self.starts)
        taken = np.zeros(len(self), bool)
        taken[places] = True
        starts = np.append(0, np.cumsum(sizes[taken]))
        return ImageGroups(self.rows[np.repeat(taken, sizes)], starts, self.images[taken])

    def __len__(self) -> int:
        return len(self.images)

    def ids(self) -> Iterator[str]:
        """The images' ids."""
        return (image.ljust(ID_BYTES, b"\0").hex() for image in map(bytes, self.images))

    def of(self, place: int) -> NDArray[np.int64]:
        """The rows of one image."""
        return self.rows[self.starts[place] : self.starts[place + 1]]


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
        _listed(options["available"])
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
        corpus = _read_corpus(ctx)
        return _passages(ctx, pool, corpus, self.pooled(ctx, corpus, pool), self.numbered(corpus))

    def all_passages(self, ctx: BuildContext, pool: str) -> Iterator[pa.RecordBatch]:
        """The passages of all rows, whatever is known of their images."""
        corpus = _read_corpus(ctx)
        every = np.ones(len(corpus.images), bool)
        return _passages(ctx, pool, corpus, every, np.arange(len(every)))

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The images of one split, by their ids."""
        corpus = _read_corpus(ctx)
        groups = self.drawn(ctx, corpus, split)
        _account(ctx, corpus, split, groups)
        return _queries(ctx, corpus, split, groups, self.numbered(corpus))

    def all_queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """All images of upstream's part."""
        corpus = _read_corpus(ctx)
        every = np.ones(len(corpus.images), bool)
        groups = ImageGroups.of_rows(corpus.images, np.arange(*corpus.rows(split)))
        _account(ctx, corpus, split, groups)
        return _queries(ctx, corpus, split, groups, np.arange(len(every)))

    @staticmethod
    def available(ctx: BuildContext) -> NDArray[np.bytes_] | None:
        """The images of the list that the option ``available`` names, ascending; None for all.

        Raises:
            MissingError: there is no such file.
            InputError: a line of it is no id of an image, or it has none.
        """
        path = _listed(ctx.options["available"])
        if path is None:
            return None
        ids = bytearray()
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_LIST_LINE):
                number += 1
                own = line.strip().lower()
                if re.fullmatch(rb"[0-9a-f]{32}", own):
                    ids += bytes.fromhex(own.decode())
                elif own:
                    raise _no_id(f"{path}, line {number:,}", repr(line[:80])[1:])
        if not ids:
            raise _no_id(str(path), "the file has no line")
        return np.unique(np.frombuffer(bytes(ids), _IDS))

    @staticmethod
    def large_enough(ctx: BuildContext, rows: pa.RecordBatch) -> NDArray[np.bool_]:
        """Which rows' images have more pixels than ``min_side`` on both sides, by what upstream says.

        The authors measured the files that they had; nearly all are larger, so one of unknown size is kept.
        """
        least, fits = ctx.count("min_side"), np.ones(len(rows), bool)
        for name in ("original_height", "original_width"):
            pixels = rows.column(name).fill_null(least + 1).to_numpy()
            fits &= pixels > least
        return fits

    @staticmethod
    def numbered(corpus: _Corpus) -> NDArray[np.int64]:
        """The number in each row's passage id: how many rows before it are kept, of all parts."""
        kept = (corpus.left_out == 0).astype(np.int64)
        numbers: NDArray[np.int64] = np.cumsum(kept) - kept
        return numbers

    @staticmethod
    def drawn(ctx: BuildContext, corpus: _Corpus, split: str) -> ImageGroups:
        """The images of a split with the rows that are kept: in valid and test those of smallest keys."""
        first, last = corpus.rows(split)
        rows = np.flatnonzero(corpus.left_out[first:last] == 0) + first
        groups = ImageGroups.of_rows(corpus.images, rows)
        if split == "train":
            return groups
        keys = (keyed_hash(own, f"wit {split}", ctx.seed) for own in groups.ids())
        places = draw_places(
            np.fromiter(keys, np.uint64, len(groups)), ctx.count(f"{split}_queries")
        )
        return groups.some(places)

    @staticmethod
    def pooled(ctx: BuildContext, corpus: _Corpus, pool: str) -> NDArray[np.bool_]:
        """Which rows' passages are in a pool: all that are kept, or those of valid's and test's images."""
        chosen: NDArray[np.bool_] = np.zeros(len(corpus.images), bool)
        if pool == "train_passages":
            return np.equal(corpus.left_out, 0, out=chosen)
        for split in ("valid", "test"):
            chosen[WIT.drawn(ctx, corpus, split).rows] = True
        return chosen


BUILDER = WIT


def _passages(
    ctx: BuildContext,
    pool: str,
    corpus: _Corpus,
    chosen: NDArray[np.bool_],
    numbers: NDArray[np.int64],
) -> Iterator[pa.RecordBatch]:
    for split in ("train", "valid", "test") if pool == "train_passages" else ("valid", "test"):
        start, _ = corpus.rows(split)
        for name in _wit.files([UPSTREAM[split]]):
            first, _ = row, _ = corpus.files[name]
            for batch in ctx.part(name):
                rows = np.arange(row, row + len(batch))
                taken, row = chosen[rows], row + len(batch)
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
    ctx: BuildContext, name: str, rows: NDArray[np.int64], first: int, corpus: _Corpus
) -> None:
    """Tells the ledger why rows of a file are not used."""
    why = corpus.left_out[rows]
    for code, rule in ({0: "its image is not drawn"} | RULES).items():
        if (why == code).any():
            ctx.ledger.filter(rule, file=f"parts/{name}", row=rows[why == code] - first + 1)


def _account(ctx: BuildContext, corpus: _Corpus, split: str, groups: ImageGroups) -> None:
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
    ctx: BuildContext, corpus: _Corpus, split: str, groups: ImageGroups, numbers: NDArray[np.int64]
) -> Iterator[Row]:
    start, _ = corpus.rows(split)
    for place, own in enumerate(groups.ids()):
        rows = groups.of(place)
        yield image_query(ctx, own, own, _wit.image_path(own)) | {
            "pos_item_ids": [f"WIT_{number}" for number in numbers[rows].tolist()],
            "original_data_id": [f"{split}_{row}" for row in (rows - start).tolist()],
        }


def _joined(stem: str, numbers: NDArray[np.int64]) -> pa.Array:
    return pc.binary_join_element_wise(stem, pc.cast(pa.array(numbers), pa.string()), "_")


def _read_corpus(ctx: BuildContext) -> _Corpus:
    """Images and fates of all English rows; made once for all tables of a build."""
    folder = ctx.once("wit-images", lambda path: _write(ctx, path))
    bounds = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    left_out = np.load(folder / "left_out.npy", allow_pickle=False)
    return _Corpus({name: (a, b) for name, (a, b) in bounds.items()}, images, left_out)


def _write(ctx: BuildContext, folder: Path) -> None:
    have = WIT.available(ctx)
    ids, fates, bounds, row = [np.empty(0, _IDS)], [np.empty(0, np.uint8)], {}, 0
    for name in _wit.files(PARTS):
        first = row
        for batch in ctx.part(name):
            own = np.frombuffer(bytes.fromhex("".join(batch.column("image_id").to_pylist())), _IDS)
            fate = np.zeros(len(batch), np.uint8)
            if have is not None:
                fate[~np.isin(own, have)] = LACKING
            fate[~WIT.large_enough(ctx, batch)] = SMALL
            ids.append(own)
            fates.append(fate)
            row += len(batch)
        bounds[name] = (first, row)
    folder.mkdir()
    np.save(folder / "images.npy", np.concatenate(ids))
    np.save(folder / "left_out.npy", np.concatenate(fates))
    (folder / "files.json").write_text(json.dumps(bounds), encoding="utf-8")


def _listed(option: str) -> Path | None:
    """The file that the option ``available`` names; None if it is ``all``.

    Raises:
        MissingError: there is no such file.
    """
    if option == "all":
        return None
    if not Path(option).is_file():
        raise MissingError(
            "there is no such file", where=option, fix="available=PATH of a list of ids, or all"
        )
    return Path(option)


def _no_id(where: str, what: str) -> InputError:
    return InputError(
        f"{what} is no id of an image" if where.partition(", line ")[1] else what,
        where=where,
        expected="an image_id a line: 32 hex digits, the md5 of the image's address",
    )
