"""The shard of a token store that is being written, and what is synced of it before it is complete.

Beside its tokens a file ``open-00000.part`` says which passages had reached the disk at some moment:
an Arrow stream of their ids, lengths and CRC-32 with the SHA-256 of the store's settings, behind the
stream's own SHA-256. A writer that opens the store
after a kill goes on behind them. What the file says is believed only as far as the tokens' bytes
agree with it. It is no part of a complete store, which readers know by its records.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from m2kr import atomic
from m2kr.search.store import format as layout

if TYPE_CHECKING:
    from hashlib import _Hash

_SETTINGS = b"settings"
_DIGEST = 32


@dataclass(slots=True)
class OpenShard:
    """Passages written to a shard so far.

    Attributes:
        number: Of the shard.
        ids: The passages' ids.
        lengths: Their tokens.
        crcs: CRC-32 of their bytes.
        nbytes: Of all their tokens.
        sha256: Of all their bytes.
    """

    number: int
    ids: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    crcs: list[int] = field(default_factory=list)
    nbytes: int = 0
    sha256: "_Hash" = field(default_factory=hashlib.sha256)

    def add(self, passage_id: str, tokens: int, data: "memoryview | bytes") -> None:
        """Takes note of a passage whose bytes were written."""
        from isal.isal_zlib import crc32

        self.ids.append(passage_id)
        self.lengths.append(tokens)
        self.crcs.append(crc32(data))
        self.nbytes += len(data)
        self.sha256.update(data)

    def save(self, folder: Path, settings_sha256: str) -> None:
        """Says on disk which passages there are; their bytes must be synced already."""
        import pyarrow as pa

        columns = [
            pa.array(self.ids, pa.string()),
            pa.array(self.lengths, pa.int32()),
            pa.array(self.crcs, pa.uint32()),
        ]
        batch = pa.record_batch(columns, names=["id", "length", "crc32"])
        batch = batch.replace_schema_metadata({_SETTINGS: settings_sha256.encode()})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        data = sink.getvalue().to_pybytes()
        atomic.write_bytes(
            folder / layout.journal_name(self.number), _digest(data) + data, alone=True
        )


def recover(folder: Path, number: int, dim: int, settings_sha256: str) -> OpenShard:
    """What a killed writer left of a shard: the passages whose bytes are what was noted of them.

    An empty one where nothing was noted, or the note is damaged or of other settings.
    """
    shard = OpenShard(number)
    noted = _noted(folder / layout.journal_name(number), settings_sha256)
    tokens = folder / layout.names(number)[0]
    if not noted or not tokens.is_file():
        return shard
    with tokens.open("rb") as file:
        for passage_id, length, crc in noted:
            size = length * dim * layout.DTYPE.itemsize
            data = file.read(size)
            if len(data) != size or not _as_noted(data, crc):
                break
            shard.add(passage_id, length, data)
    return shard


def _as_noted(data: bytes, crc: int) -> bool:
    from isal.isal_zlib import crc32

    return bool(crc32(data) == crc)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _noted(path: Path, settings_sha256: str) -> list[tuple[str, int, int]]:
    import pyarrow as pa

    if not path.is_file():
        return []
    content = path.read_bytes()
    digest, data = content[:_DIGEST], content[_DIGEST:]
    if _digest(data) != digest:
        return []
    with pa.ipc.open_stream(data) as stream:
        table = stream.read_all()
    if (table.schema.metadata or {}).get(_SETTINGS) != settings_sha256.encode():
        return []
    columns = [table.column(name).to_pylist() for name in ("id", "length", "crc32")]
    return list(zip(*columns, strict=True))
