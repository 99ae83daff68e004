"""The offset index of a tar: a small Parquet file that says where each member lies.

Columns ``name`` (as a plain path), ``offset`` of the content, ``size``, and ``header``, the crc32 of the
512 bytes before it: with them anyone can tell whether an archive is the one that was indexed. Rows are
in the order of the archive. The footer holds what is known of the archive itself, as JSON.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.errors import InputError, MissingError
from m2kr.hashes import file_sha256

if TYPE_CHECKING:
    import pyarrow as pa

KEY = b"m2kr.tar_index"
VERSION = 1
BLOCK = 512
_MOST_ROWS = 50_000_000
_MOST_BYTES = 16 << 30
_MOST_GROUP = 256 << 20


@dataclass(frozen=True, slots=True)
class TarFacts:
    """What is known of an indexed archive.

    Attributes:
        name: Its file name.
        size: Bytes.
        url: Where it was read, if it was on a server.
        etag: What that server called this version of it.
        sha256: Hex digest, if known.
    """

    name: str
    size: int
    url: str | None = None
    etag: str | None = None
    sha256: str | None = None


def index_schema(facts: "dict[str, Any] | None" = None) -> "pa.Schema":
    """Columns of an index, and the facts in its footer."""
    import pyarrow as pa

    fields = [
        pa.field("name", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("header", pa.uint32(), nullable=False),
    ]
    told = json.dumps({"version": VERSION} | (facts or {}), sort_keys=True)
    return pa.schema(fields, {KEY: told.encode()})


class TarOffsets:
    """An index, checked and read in batches.

    Args:
        path: The Parquet file.
        checksum: Its sha256 must lie beside it, at the same name with ``.sha256``.

    Attributes:
        facts: Of the archive.
        rows: Members of it.

    Raises:
        MissingError: it or its checksum is not there.
        InputError: it is no such index, damaged, or too large to be one.
    """

    def __init__(self, path: Path, *, checksum: bool = True) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        if not path.is_file():
            raise MissingError("the index of the tar is not there", where=str(path))
        if checksum:
            _check_sum(path)
        try:
            self._file = pq.ParquetFile(path)
            meta = self._file.metadata
            groups = [meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)]
            told = json.loads((meta.metadata or {})[KEY])
            if told.pop("version") != VERSION:
                raise ValueError("it has another version")
            self.facts = TarFacts(**told)
            sound = isinstance(self.facts.name, str) and type(self.facts.size) is int
            sound = sound and 0 <= self.facts.size < 1 << 60
            if not sound or self._file.schema_arrow.remove_metadata() != _bare():
                raise ValueError("its columns or facts are others")
        except (
            pa.ArrowException,
            OSError,
            ValueError,
            TypeError,
            KeyError,
            RecursionError,
        ) as error:
            raise self._refusal(f"this is no index of a tar ({error})") from error
        self.rows = meta.num_rows
        too_much = sum(groups) > _MOST_BYTES or max(groups, default=0) > _MOST_GROUP
        if self.rows > _MOST_ROWS or too_much:
            raise self._refusal(f"too large: {self.rows:,} rows, {sum(groups):,} bytes unpacked")

    def batches(self) -> Iterator["pa.RecordBatch"]:
        """Its rows, some 10,000 at a time.

        Raises:
            InputError: it is damaged, or members overlap or end behind the archive.
        """
        import pyarrow as pa

        behind = 0
        try:
            for batch in self._file.iter_batches(batch_size=10_000):
                batch.validate(full=True)  # names are text
                if batch.num_rows:
                    behind = self._checked(batch, behind)
                    yield batch
        except (pa.ArrowException, OSError) as error:
            raise self._refusal(f"the index is damaged ({error})") from error

    def _checked(self, batch: "pa.RecordBatch", behind: int) -> int:
        """The end of the last member of a batch, all of which lie behind ``behind``."""
        starts, sizes = (batch.column(i).to_numpy() for i in (1, 2))
        whole = self.facts.size
        fits = bool(((sizes >= 0) & (sizes <= whole) & (starts >= 0) & (starts <= whole)).all())
        ends = starts + sizes if fits else starts
        before = np.concatenate([[behind], ends[:-1]])
        if not fits or bool((starts < before + BLOCK).any() or (ends > whole).any()):
            raise self._refusal("members overlap, or end behind the archive")
        return int(ends[-1])

    def _refusal(self, what: str) -> InputError:
        return InputError(
            what,
            where=str(self.path),
            expected=f"an index made by m2kr, version {VERSION}",
            fix="get it again from whoever made it, or make it anew from the archive",
        )


def _bare() -> "pa.Schema":
    return index_schema().remove_metadata()


def _check_sum(path: Path) -> None:
    beside = path.with_name(path.name + ".sha256")
    try:
        told = beside.read_text(encoding="ascii", errors="replace").split(maxsplit=1)[0:1]
    except OSError as error:
        raise MissingError(
            "the checksum of an index is not there",
            where=str(beside),
            fix="get it with the index: the two travel together",
        ) from error
    found = file_sha256(path)
    if told != [found]:
        raise InputError(
            f"the index of the tar is damaged: its sha256 is {found}",
            where=str(path),
            expected=f"the one in {beside.name}: {''.join(told)[:80] or 'none there'}",
            fix="get both files again from whoever made them",
        )
