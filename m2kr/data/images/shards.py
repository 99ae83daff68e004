"""An image root made of tar shards with an offset index each, as ``m2kr images`` leaves it."""

import re
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from m2kr.data.images.index import Entry, IndexedFile, TarMembers, check_size, stamp_of
from m2kr.data.images.tar_offsets import BLOCK, TarOffsets
from m2kr.errors import InputError

# In a tar header, as `m2kr images` fills it.
_NAME, _OWNER = slice(0, 100), slice(265, 273)
_SHARD = re.compile(r"images-(\d{5,})\.tar")


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"images-{number:05d}.tar"


def index_of(shard: Path) -> Path:
    """The index beside a shard."""
    return shard.with_name(f"{shard.name}.index.parquet")


def shards_in(folder: Path) -> dict[int, Path]:
    """The shards in a folder by number, ascending."""
    found = ((_SHARD.fullmatch(path.name), path) for path in folder.glob("images-*.tar"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def holds_shards(folder: Path) -> bool:
    """Whether a folder is a store of shards; answered without listing it."""
    return index_of(folder / shard_name(0)).exists()


class ShardsRoot(IndexedFile):
    """A folder of tar shards, read in place by their indexes; what is in no index yet is not there.

    Args:
        path: The folder.
        cache: Folder for the index of all shards together.
    """

    def __init__(self, path: Path, cache: Path | None) -> None:
        super().__init__(path, cache)
        self._shards: list[Path] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_shards": None}

    def files(self) -> list[Path]:
        """The shards that were indexed when this was first asked."""
        if self._shards is None:
            shards = shards_in(self.path).values()
            self._shards = [shard for shard in shards if index_of(shard).exists()]
        return self._shards

    def scan(self) -> Iterator[TarMembers]:
        """The members of all shards."""
        for shard, start in zip(self.files(), self.parts().starts, strict=True):
            offsets = TarOffsets(index_of(shard), checksum=False)
            if offsets.facts.size > shard.stat().st_size:
                raise InputError(
                    "a shard of images is shorter than its index says",
                    where=str(shard),
                    expected=f"{offsets.facts.size:,} bytes or more",
                    fix="delete it and its index, and run `m2kr images` again",
                )
            for batch in offsets.batches():
                names = [name.encode() for name in batch.column(0).to_pylist()]
                places, sizes = (batch.column(i).to_numpy() for i in (1, 2))
                yield TarMembers(names, start + places, sizes)

    def find(self, name: str) -> Entry | None:
        """Where an image lies in the shards put end to end, or None."""
        return super().find(name) if self.files() else None

    def stamper(self) -> Callable[[str], str | None]:
        """See `m2kr.data.images.roots.ImageRoot`; each shard is looked at once.

        A shard that is added later changes no image of the others.
        """
        stamps = [stamp_of([shard]) for shard in self.files()]

        def stamp(name: str) -> str | None:
            entry = self.find(name)
            if entry is None:
                return None
            shard = bisect_right(self.parts().starts, entry.offset) - 1
            offset = entry.offset - self.parts().starts[shard]
            return f"{name}:{offset}:{entry.size}:{stamps[shard]}"

        return stamp

    def read(self, name: str) -> bytes | None:
        """The member's bytes, or None."""
        entry = self.find(name)
        if entry is None:
            return None
        where = f"{self.path}/{name}"
        check_size(entry.size, where)
        raw = self.parts().read(entry.offset - BLOCK, BLOCK + entry.size)
        header, data = raw[:BLOCK], raw[BLOCK:]
        # The owner's name in the header is the crc32 of the content. The index may be damaged, too.
        own = header[_NAME].rstrip(b"\0") == name.encode("ascii", "replace")[:100]
        if not own or len(data) != entry.size or header[_OWNER] != b"%08x" % zlib.crc32(data):
            raise InputError(
                "this image is not as it was put into the store",
                where=where,
                fix="m2kr verify tells which shard is damaged (move it away with its index, then run "
                f"`m2kr images` again); if none is, delete {self._cache}",
            )
        return data
