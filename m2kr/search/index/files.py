"""Reading a compressed index: checked as it is opened, and residuals as they are read.

Opening reads all but the residuals (some 6 bytes a token) and compares SHA-256 sums. Residuals stay
on disk; those of a passage are compared with its CRC-32 whenever they are read. So a flipped byte
is an error, never a score.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from m2kr.data.row_hash import order_of
from m2kr.errors import CheckError, UsageError
from m2kr.search.index.codec import OfficialCodec, ScaledCodec
from m2kr.search.index.format import (
    EXPECTED,
    INDEX,
    IndexHeader,
    codec_names,
    index_file_names,
    read_expected,
    read_index_header,
)
from m2kr.search.index.ivf import InvertedLists, span_offsets
from m2kr.search.store.records import ShardRecord, record_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from m2kr.search.store.reader import TokenStore


@dataclass(frozen=True, slots=True, eq=False)
class IndexShard:
    """One shard.

    Attributes:
        record: What its record says.
        lists: Its inverted lists; passages are counted from its first.
        residuals: (tokens x bytes) uint8, on disk.
        crcs: CRC-32 of each passage's residuals.
    """

    record: ShardRecord
    lists: InvertedLists
    residuals: "NDArray[np.uint8]"
    crcs: "NDArray[np.uint32]"


@dataclass(frozen=True, slots=True, eq=False)
class IndexFiles:
    """The passages of the complete shards, numbered in the order they were written.

    Attributes:
        folder: Where it lies.
        header: What holds for all of it.
        codec: What reads tokens back; the class tells the kind.
        shards: In order.
        codes: The centroid of each token, all shards.
        sizes: float16, the step size of each token; empty in the official kind.
        offsets: int64; passage i owns the tokens ``offsets[i]:offsets[i + 1]``.
        firsts: int64, the first passage of each shard, and the number of passages.
        unfinished: What it lacks, as a sentence says it; None for a whole index.
    """

    folder: Path
    header: IndexHeader
    codec: OfficialCodec | ScaledCodec
    shards: "Sequence[IndexShard]"
    codes: "NDArray[np.integer]"
    sizes: "NDArray[np.float16]"
    offsets: "NDArray[np.int64]"
    firsts: "NDArray[np.int64]"
    unfinished: str | None = None

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens an index, to be looked at; who searches it calls `require_whole` first.

        Raises:
            MissingError: there is none.
            InputError: it is of another format.
            CheckError: a file was changed, cut short or removed.
        """
        header = read_index_header(folder)
        codec = read_codec(folder, header)
        records = read_index_records(folder, header)
        count = sum(record.tokens for record in records)
        # uint32 only where an index needs it: codes are what grows in memory.
        codes = np.empty(count, code_type(header.centroids))
        sizes = np.empty(count if header.kind == "compressed" else 0, np.float16)
        shards, lengths, at = [], [np.zeros(0, np.int32)], 0
        for record in records:
            tokens = slice(at, at + record.tokens)
            shard, codes[tokens], own, own_lengths = _read_shard(
                folder, record, header, codec.packed_bytes
            )
            if own is not None:
                sizes[tokens] = own
            lengths.append(own_lengths)
            shards.append(shard)
            at = tokens.stop
        firsts = np.cumsum([0, *(record.passages for record in records)], dtype=np.int64)
        offsets = span_offsets(np.concatenate(lengths))
        lacks = lacking(folder, header, records)
        return cls(folder, header, codec, shards, codes, sizes, offsets, firsts, lacks)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def require_whole(self) -> None:
        """Refuses an index whose build was cut off.

        Raises:
            CheckError: it lacks passages.
        """
        require_whole(self.folder, self.unfinished)

    @property
    def tokens(self) -> int:
        """Tokens of all passages."""
        return int(self.offsets[-1])

    def nbytes(self) -> int:
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    def ids(self) -> "pa.ChunkedArray":
        """The passages' ids, one chunk a shard at least, checked by SHA-256.

        Raises:
            CheckError: a file of ids was changed.
        """
        return read_index_ids(self.folder, self.header, [shard.record for shard in self.shards])

    def residuals(self, passages: "NDArray[np.int64]") -> "NDArray[np.uint8]":
        """Packed residuals of some passages, one passage's after another's.

        Raises:
            UsageError: there is no such passage.
            CheckError: a passage's residuals differ from their checksum.
        """
        from isal.isal_zlib import crc32

        if len(passages) and not 0 <= int(passages.min()) <= int(passages.max()) < len(self):
            raise UsageError(f"there are {len(self)} passages", expected="numbers from 0")
        starts = self.offsets[passages]
        places = span_offsets(self.offsets[passages + 1] - starts)
        found = np.empty((int(places[-1]), self.codec.packed_bytes), np.uint8)
        homes = np.searchsorted(self.firsts, passages, side="right") - 1
        inside = starts - self.offsets[self.firsts[homes]]
        chosen = zip(
            passages.tolist(),
            homes.tolist(),
            inside.tolist(),
            pairwise(places.tolist()),
            strict=True,
        )
        # Passage by passage: whole runs of bytes are copied faster than rows are picked.
        for passage, home, at, (start, end) in chosen:
            shard, part = self.shards[home], found[start:end]
            part[:] = shard.residuals[at : at + end - start]
            if crc32(part.data) != shard.crcs[passage - int(self.firsts[home])]:
                name = index_file_names(shard.record.number, self.header.kind)["residuals"]
                raise INDEX.damaged(
                    self.folder / name,
                    f"passage {passage} differs from its checksum: a byte was changed",
                )
        return found

    def verify(self) -> None:
        """Compares every byte of the index with the SHA-256 sums of its records.

        Raises:
            CheckError: a file was changed; names it.
        """
        for sha256 in (self.header.sha256, *(shard.record.sha256 for shard in self.shards)):
            INDEX.check_sha256(self.folder, sha256)


def code_type(centroids: int) -> "type[np.uint16 | np.uint32]":
    """The type of tokens' codes."""
    return np.uint16 if centroids <= 1 << 16 else np.uint32


def read_codec(folder: Path, header: IndexHeader) -> OfficialCodec | ScaledCodec:
    """The codec of an index, its files checked.

    Raises:
        CheckError: one was changed.
    """
    arrays = [
        INDEX.read_array(folder, name, header.sha256).astype(np.float32)
        for name in codec_names(header.kind)
    ]
    if header.kind == "official":
        codec: OfficialCodec | ScaledCodec = OfficialCodec(*arrays)
    else:
        codec = ScaledCodec(arrays[0], header.nbits)
    told = (header.centroids, header.dim, header.nbits)
    if (*codec.centroids.shape, codec.nbits) != told:
        raise INDEX.damaged(folder / INDEX.header, "it doesn't describe the codec beside it")
    return codec


def read_index_records(folder: Path, header: IndexHeader) -> list[ShardRecord]:
    """The records of all complete shards.

    Raises:
        CheckError: one is damaged, missing before another, or of another header.
    """
    records = INDEX.read_records(folder, lambda n: index_file_names(n, header.kind).values())
    if len(list(folder.glob("shard-*.json"))) != len(records):
        raise CheckError(
            "the record of a shard is missing",
            where=str(folder / record_name(len(records))),
            fix="restore it from a copy, or build the index again",
        )
    return records


def read_index_ids(
    folder: Path, header: IndexHeader, records: "Sequence[ShardRecord]"
) -> "pa.ChunkedArray":
    """Ids of the passages of some shards, checked by SHA-256.

    Raises:
        CheckError: a file of ids was changed.
    """
    return INDEX.read_ids(folder, lambda n: index_file_names(n, header.kind)["ids"], records)


def lacking(folder: Path, header: IndexHeader, records: "Sequence[ShardRecord]") -> str | None:
    """What an index lacks of the passages that are expected, as a sentence says it; None if nothing.

    Raises:
        CheckError: what is expected is damaged, or isn't what the records are of.
    """
    expected = read_expected(folder)
    held = sum(record.passages for record in records)
    if expected is not None:
        if not {record.source for record in records} <= set(expected):
            raise INDEX.damaged(folder / EXPECTED, "it lacks what a shard is of")
        wanted = sum(each.passages for each in expected.values())
        return None if held == wanted else f"it holds {held:,} of {wanted:,} passages"
    # Made before that was kept: the tokens of the pool that it was trained on are known.
    first = records[0].source if records else None
    tokens = sum(record.tokens for record in records if record.source == first)
    wanted = int(header.training.get("pool_tokens", 0))
    return None if tokens >= wanted else f"it holds {tokens:,} of {wanted:,} tokens"


def require_whole(folder: Path, lacks: str | None) -> None:
    """Refuses an index that lacks something, see `lacking`."""
    if lacks is not None:
        raise CheckError(
            f"its build was cut off: {lacks}",
            where=str(folder),
            expected="a whole index: a search of this one would miss the others in silence",
            fix="the command that was cut off finishes it: m2kr index build STORE INDEX, or index add",
        )


def require_same_passages(files: IndexFiles, store: "TokenStore") -> None:
    """Refuses a token store whose passages are not those of an index, number by number.

    Raises:
        UsageError: they are others, or lie in another order.
        CheckError: a file of ids was changed.
    """
    if not np.array_equal(store.offsets, files.offsets) or order_of(store.ids()) != order_of(
        files.ids()
    ):
        raise UsageError(
            "the token store holds other passages than the index, or the same in another order",
            where=str(store.folder),
            expected=f"the store that {files.folder} was built from",
        )


def _read_shard(
    folder: Path, record: ShardRecord, header: IndexHeader, width: int
) -> "tuple[IndexShard, NDArray[Any], NDArray[Any] | None, NDArray[Any]]":
    """A shard's files, checked; residuals, ``width`` bytes a token, stay on disk."""
    names = index_file_names(record.number, header.kind)

    def table(part: str, rows: int) -> "NDArray[Any]":
        return INDEX.read_array(folder, names[part], record.sha256, rows)

    codes, lengths = table("codes", record.tokens), table("lengths", record.passages)
    if len(codes) and int(codes.max()) >= header.centroids:
        raise INDEX.damaged(folder / names["codes"], "it names a centroid that is not there")
    if int(lengths.sum()) != record.tokens:
        what = "it doesn't add up to the shard's tokens"
        raise INDEX.damaged(folder / names["lengths"], what)
    sizes = table("sizes", record.tokens) if "sizes" in names else None
    offsets = table("lists", header.centroids + 1).astype(np.int64)
    lists = InvertedLists(table("members", int(offsets[-1])), offsets)
    path, shape = folder / names["residuals"], (record.tokens, width)
    size = path.stat().st_size if path.is_file() else -1
    if size != shape[0] * shape[1]:
        raise INDEX.damaged(path, f"it has {size} bytes instead of {shape[0] * shape[1]}")
    residuals = np.asarray(np.memmap(path, np.uint8, "r", shape=shape)) if size else None
    if residuals is None:
        residuals = np.zeros(shape, np.uint8)
    crcs = table("crc32", record.passages)
    return IndexShard(record, lists, residuals, crcs), codes, sizes, lengths
