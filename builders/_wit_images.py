"""Which of WIT's English rows are of which image, and which are left out: 17 bytes a row in arrays.

An id is kept as the 16 bytes of its md5. Five million rows take 90 MB, and as much again to sort.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2kr.building.spec import BuildContext
from m2kr.errors import InputError, MissingError

from ._wit import files

PARTS = ("train", "val", "test")
# Our split -> upstream's part.
UPSTREAM = {"train": "train", "valid": "val", "test": "test"}
SMALL, LACKING = 1, 2
RULES = {SMALL: "an image too small", LACKING: "an image that is not in the list of available ones"}
ID_BYTES = 16
_IDS = f"S{ID_BYTES}"
_LIST_LINE = 1_000  # bytes; an id is 32


@dataclass(frozen=True, slots=True)
class Corpus:
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
        bounds = [self.files[name] for name in files([UPSTREAM[split]])]
        return bounds[0][0], bounds[-1][1]

    def numbers(self) -> NDArray[np.int64]:
        """For each row how many kept ones are before it: its own number, if it is kept."""
        kept = (self.left_out == 0).astype(np.int64)
        found: NDArray[np.int64] = np.cumsum(kept) - kept
        return found


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows by image; images ascending by id, the rows of one as upstream has them.

    Attributes:
        rows: Row numbers, those of one image together.
        starts: Where each image's begin, and where the last one's end.
        images: The images.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    images: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.images)

    def ids(self) -> Iterator[str]:
        """The images' ids."""
        return (image.ljust(ID_BYTES, b"\0").hex() for image in map(bytes, self.images))

    def of(self, place: int) -> NDArray[np.int64]:
        """The rows of one image."""
        return self.rows[self.starts[place] : self.starts[place + 1]]


def corpus(ctx: BuildContext) -> Corpus:
    """Images and fates of all English rows; made once for all tables of a build."""
    folder = ctx.once("wit-images", lambda path: _write(ctx, path))
    bounds = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    left_out = np.load(folder / "left_out.npy", allow_pickle=False)
    return Corpus({name: (a, b) for name, (a, b) in bounds.items()}, images, left_out)


def _write(ctx: BuildContext, folder: Path) -> None:
    have = available(ctx)
    ids, fates, bounds, at = [np.empty(0, _IDS)], [np.empty(0, np.uint8)], {}, 0
    for name in files(PARTS):
        first = at
        for batch in ctx.part(name):
            own = np.frombuffer(bytes.fromhex("".join(batch.column("image_id").to_pylist())), _IDS)
            fate = np.zeros(len(batch), np.uint8)
            if have is not None:
                fate[~np.isin(own, have)] = LACKING
            fate[~large_enough(ctx, batch)] = SMALL
            ids.append(own)
            fates.append(fate)
            at += len(batch)
        bounds[name] = (first, at)
    folder.mkdir()
    np.save(folder / "images.npy", np.concatenate(ids))
    np.save(folder / "left_out.npy", np.concatenate(fates))
    (folder / "files.json").write_text(json.dumps(bounds), encoding="utf-8")


def large_enough(ctx: BuildContext, rows: pa.RecordBatch) -> NDArray[np.bool_]:
    """Which rows' images have more pixels than ``min_side`` on both sides, by what upstream says.

    The authors measured the files that they had; nearly all are larger, so one of unknown size is kept.
    """
    least, fits = ctx.count("min_side"), np.ones(len(rows), bool)
    for name in ("original_height", "original_width"):
        pixels = rows.column(name).fill_null(least + 1).to_numpy()
        fits &= pixels > least
    return fits


def available(ctx: BuildContext) -> NDArray[np.bytes_] | None:
    """The images of the list that the option ``available`` names, ascending; None for all.

    Raises:
        MissingError: there is no such file.
        InputError: a line of it is no id of an image, or it has none.
    """
    path = listed(ctx.options["available"])
    if path is None:
        return None
    found = bytearray()
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LIST_LINE):
            number += 1
            own = line.strip().lower()
            if re.fullmatch(rb"[0-9a-f]{32}", own):
                found += bytes.fromhex(own.decode())
            elif own:
                raise _no_id(f"{path}, line {number:,}", repr(line[:80])[1:])
    if not found:
        raise _no_id(str(path), "the file has no line")
    return np.unique(np.frombuffer(bytes(found), _IDS))


def listed(option: str) -> Path | None:
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


def grouped(images: NDArray[np.bytes_], rows: NDArray[np.int64]) -> Groups:
    """Some rows by their image."""
    own = images[rows]
    order = np.argsort(own, kind="stable")
    own = own[order]
    new = np.ones(len(own), bool)
    new[1:] = own[1:] != own[:-1]
    starts = np.flatnonzero(new)
    return Groups(rows[order], np.append(starts, len(own)), own[starts])


def some(groups: Groups, places: NDArray[np.int64]) -> Groups:
    """Some of the images, by their places, ascending."""
    sizes = np.diff(groups.starts)
    taken = np.zeros(len(groups), bool)
    taken[places] = True
    starts = np.append(0, np.cumsum(sizes[taken]))
    return Groups(groups.rows[np.repeat(taken, sizes)], starts, groups.images[taken])
