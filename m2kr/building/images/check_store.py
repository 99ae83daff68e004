"""Whether an image store is byte for byte what was written into it."""

import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from m2kr.building.images.shards import member_bytes, whole_members
from m2kr.building.images.tar_index import IndexWriter, Row
from m2kr.data.images.shards import index_of, shards_in
from m2kr.data.images.tar_offsets import TarFacts, TarOffsets
from m2kr.errors import from_system, one_line
from m2kr.progress import Progress, Silent


def check_store(folder: Path, progress: Progress | None = None) -> str:
    """Reads all shards and indexes of a store; what is wrong with the first bad one, or nothing.

    Args:
        folder: The store.
        progress: Told of the images.
    """
    bars = progress or Silent()
    for shard in shards_in(folder).values():
        bars.start(shard.name, None, "images")
        try:
            problem = _shard(shard, bars)
        except Exception as error:  # noqa: BLE001 - a shard that can't be checked is damaged
            ours = from_system(error)
            problem = ours.what if ours else one_line(error)
        bars.done(shard.name)
        if problem:
            return f"{shard}: {problem}"
    return ""


def _shard(shard: Path, bars: Progress) -> str:
    index = index_of(shard)
    offsets = TarOffsets(index, checksum=False)
    rows: list[Row] = []
    with shard.open("rb") as file:
        end = 0
        for row in _rows(offsets):
            name, offset, size, header = row
            file.seek(offset)
            raw, content = member_bytes(name, file.read(size))
            file.seek(end)
            if offset != end + content or file.read(len(raw)) != raw:
                return f"the image {name!r} is not as it was written"
            if zlib.crc32(raw[content - 512 : content]) != header:
                return f"its index is damaged at {name!r}"
            end += len(raw)
            rows.append(row)
            bars.advance(shard.name, 1)
        if end != offsets.facts.size:
            return "its index names another size"
        return _behind(file, end) or _index(index, TarFacts(shard.name, end), rows)


def _rows(offsets: TarOffsets) -> Iterator[Row]:
    for batch in offsets.batches():
        yield from zip(*batch.to_pydict().values(), strict=True)


def _behind(file: BinaryIO, end: int) -> str:
    """What follows the last image of the index: zeros, or images of a writer that was killed."""
    for _, after in whole_members(file, end):
        end = after
    file.seek(end)
    zeros = all(not piece.strip(b"\0") for piece in iter(lambda: file.read(1 << 20), b""))
    return "" if zeros else "something that is no image follows the last one"


def _index(index: Path, facts: TarFacts, rows: list[Row]) -> str:
    """The bytes of the index, where this pyarrow is the one that wrote it."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(prefix="m2kr-") as folder:
        again = Path(folder, index.name)
        with IndexWriter(again) as writer:
            writer.add(rows)
            writer.finish(facts)
        if pq.read_metadata(again).created_by != pq.read_metadata(index).created_by:
            return ""
        same = again.read_bytes() == index.read_bytes()
    return "" if same else "its index is damaged"
