"""Reading MS MARCO's tarball: blocks of the collection, its small members, its passage numbers."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.building.formats.archives import members
from m2kr.building.formats.delimited import RecordBlock, read_tsv
from m2kr.building.spec import BuildContext
from m2kr.errors import CheckError

from ._rows import dropper

if TYPE_CHECKING:
    from numpy.typing import NDArray

TAR = "msmarco/collectionandqueries.tar.gz"


def pids(batch: pa.RecordBatch) -> "NDArray[np.int64]":
    """Passage numbers, -1 where there is none."""
    pid = batch.column("pid")
    try:
        numbers = pc.cast(pid, pa.int64())
    except pa.ArrowInvalid:
        plain = pc.match_substring_regex(pid, "^[0-9]{1,18}$")
        numbers = pc.fill_null(pc.cast(pc.if_else(plain, pid, None), pa.int64()), -1)
    return cast("NDArray[np.int64]", numbers.to_numpy(zero_copy_only=False))


def among(numbers: "NDArray[np.int64]", chosen: "NDArray[np.int64]") -> "NDArray[np.bool_]":
    at = np.minimum(np.searchsorted(chosen, numbers), max(0, len(chosen) - 1))
    return chosen[at] == numbers if len(chosen) else np.zeros(len(numbers), bool)


def blocks_of(ctx: BuildContext, file: str, names: Sequence[str]) -> Iterator[RecordBlock]:
    for member in members(ctx.files[TAR]):
        if member.name == file:
            with member.open() as stream:
                where = f"{ctx.files[TAR]}, member {file!r}"
                yield from read_tsv(stream, names, where=where, on_fault=dropper(ctx.ledger, file))
            return
    raise CheckError(f"there is no member {file!r}", where=str(ctx.files[TAR]))


def unpacked(ctx: BuildContext) -> Path:
    """The small members of the tarball and the numbers of all passages, from one way through it."""
    return ctx.once("msmarco", lambda folder: _unpack(ctx, folder))


def _unpack(ctx: BuildContext, folder: Path) -> None:
    folder.mkdir()
    where = str(ctx.files[TAR])
    numbers = [np.empty(0, np.int64)]
    for member in members(ctx.files[TAR]):
        if member.name == "collection.tsv":
            with member.open() as stream:
                blocks = read_tsv(stream, ("pid", "text"), where=where, on_fault=lambda _: None)
                numbers += [pids(block.batch) for block in blocks]
        elif member.name in SMALL:
            (folder / member.name).write_bytes(member.read())
    every = np.concatenate(numbers)
    numbers.clear()
    every.sort()  # in place: np.unique would copy millions of them
    new = np.diff(every, prepend=-1) > 0
    np.save(folder / "pids.npy", every[new])
    lost = [name for name in SMALL if not (folder / name).exists()]
    if lost or not len(every):
        name = lost[0] if lost else "collection.tsv"
        raise CheckError(f"there is no member {name!r}, or nothing in it", where=where)


def has_passage(ctx: BuildContext) -> Callable[[str], bool]:
    """Tells whether the collection has a passage of a number."""
    every: NDArray[np.int64] = np.load(unpacked(ctx) / "pids.npy", mmap_mode="r")

    def has(pid: str) -> bool:
        number = int(pid) if pid.isdecimal() and len(pid) < 19 else -1
        at = int(np.searchsorted(every, number))
        return at < len(every) and int(every[at]) == number

    return has


SMALL = ("queries.train.tsv", "queries.dev.small.tsv", "qrels.train.tsv", "qrels.dev.small.tsv")


def rows_of(
    ctx: BuildContext, file: str, names: Sequence[str], *, quiet: bool
) -> Iterator[tuple[int, list[str]]]:
    path = unpacked(ctx) / file
    drop = (lambda _: None) if quiet else dropper(ctx.ledger, file)
    with path.open("rb") as stream:
        for block in read_tsv(stream, names, where=file, on_fault=drop):
            if not quiet:
                ctx.ledger.read(file, block.records)
            cells = [column.to_pylist() for column in block.batch.columns]
            for i, row in enumerate(zip(*cells, strict=True)):
                yield block.row(i), list(row)
