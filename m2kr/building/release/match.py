"""Finding, for rows of upstream, the same rows of a built release by what identifies them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from m2kr.building.ledger import Ledger
from m2kr.building.spec import Row
from m2kr.building.table import open_shards, read_batches
from m2kr.data.lookup import gather
from m2kr.errors import CheckError
from m2kr.schema import BATCH_ROWS, ID_COLUMN, TableKind

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_LISTED = 10_000  # missing rows that are named one by one
_TAKEN = ("question_id", "instruction", "pos_item_ids", "related_item_ids")


class ReleaseRows:
    """The rows of one table of the release, each to be taken once.

    Args:
        folder: The built table.
        kind: ``queries`` or ``passages``.
        key: Columns that identify a row here and upstream; its id by default.
    """

    def __init__(self, folder: "Path", kind: TableKind, key: Sequence[str] | None) -> None:
        self._id = ID_COLUMN[kind]
        self._key = tuple(key or (self._id,))
        self._table = open_shards(folder)
        blocks = [
            np.frombuffer(b"".join(map(_digest, self._release_keys(batch))), "<u8")
            for batch in read_batches(folder)
        ]
        hashes = np.concatenate(blocks) if blocks else np.empty(0, "<u8")
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]
        self._free = np.ones(len(hashes), bool)
        self._name = f"{folder.parent.name}/{folder.name}"
        self._upstream = ""  # an example of its keys, for messages

    def keys_of(self, batch: pa.RecordBatch) -> list[str]:
        """Keys of a batch of upstream's rows."""
        return _joined([batch.column(name).to_pylist() for name in self._key])

    def keys_of_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Keys of upstream's rows."""
        return _joined([[row.get(name) for row in rows] for name in self._key])

    def _release_keys(self, batch: pa.RecordBatch) -> list[str]:
        """Keys of the release's rows: of one that is scored as another, the other's."""
        columns = [batch.column(name).to_pylist() for name in self._key]
        if self._key == ("passage_id",) and "scored_as" in batch.schema.names:
            scored = batch.column("scored_as").to_pylist()
            columns = [[s or own for s, own in zip(scored, columns[0], strict=True)]]
        return _joined(columns)

    def match(
        self, keys: Sequence[str], texts: "pa.Array | None" = None
    ) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
        """Which of some upstream rows the release has, and its rows; none of these comes twice.

        Args:
            keys: Keys of upstream's rows.
            texts: Their texts: only rows of the release with the same text are taken.
        """
        self._upstream = self._upstream or next(iter(keys), "")
        hashes = np.frombuffer(b"".join(map(_digest, keys)), "<u8")
        low = np.searchsorted(self._hashes, hashes, side="left")
        high = np.searchsorted(self._hashes, hashes, side="right")
        kept, matched = [], []
        candidates = np.flatnonzero(high > low)
        single = candidates[(high - low)[candidates] == 1]
        known = dict(zip(single.tolist(), self._keys_at(self._order[low[single]]), strict=True))
        for place in candidates.tolist():
            rows = self._order[low[place] : high[place]]
            if place in known:
                fits = [int(rows[0])] if known[place] == keys[place] else []
            else:
                named = zip(rows.tolist(), self._keys_at(rows), strict=True)
                fits = [row for row, key in named if key == keys[place]]
            fits = [row for row in fits if self._free[row]]
            if fits and texts is not None:
                own = gather(self._table.column("passage_content"), fits)
                text = texts[place].as_py()
                fits = [row for row, t in zip(fits, own, strict=True) if t == text]
            if fits:
                self._free[fits[0]] = False
                kept.append(place)
                matched.append(fits[0])
        return np.array(kept, np.int64), np.array(matched, np.int64)

    @property
    def complete(self) -> bool:
        """Whether every row of the release was taken."""
        return not self._free.any()

    def _keys_at(self, rows: "NDArray[np.int64]") -> list[str]:
        names = list(self._key)
        if names == ["passage_id"] and "scored_as" in self._table.column_names:
            names.append("scored_as")
        arrays = [
            pa.array(gather(self._table.column(n), rows), self._table.schema.field(n).type)
            for n in names
        ]
        return self._release_keys(pa.record_batch(arrays, names=names))

    def columns(self, rows: "NDArray[np.int64]") -> dict[str, pa.Array]:
        """What an aligned build takes of some passages: their ids."""
        return {
            name: pa.array(gather(self._table.column(name), rows), pa.string())
            for name in ("passage_id", "scored_as")
            if name in self._table.column_names
        }

    def rows(self, rows: "NDArray[np.int64]") -> list[dict[str, Any]]:
        """What an aligned build takes of some rows: ids and the instruction; ``#`` is a row's number."""
        names = [name for name in _TAKEN if name in self._table.column_names]
        columns = [gather(self._table.column(name), rows) for name in names]
        return [
            {"#": int(number), **dict(zip(names, values, strict=True))}
            for number, *values in zip(rows, *columns, strict=True)
        ]

    def account(self, ledger: Ledger) -> None:
        """Tells the ledger which rows of the release upstream had, and which it lacked.

        Raises:
            CheckError: it had none: the two have no way of naming rows in common.
        """
        lost = np.flatnonzero(self._free)
        if len(lost) and len(lost) == len(self._free):
            own = self._keys_at(lost[:1])[0]
            raise CheckError(
                f"upstream has none of the release's {len(lost):,} rows",
                where=self._name,
                expected=f"rows alike in {', '.join(self._key)}: the release has {_shown(own)}, "
                f"upstream {_shown(self._upstream)}",
                fix="report this as a defect of the source's builder (release_keys)",
            )
        ledger.read("release", len(self._free))
        ledger.use("release", np.flatnonzero(~self._free) + 1, out=0)
        listed = lost[:_LISTED]
        for row, own in zip(listed, gather(self._table.column(self._id), listed), strict=True):
            ledger.drop(
                "in the release, not upstream", file="release", row=int(row) + 1, detail=own
            )
        if len(lost) > len(listed):
            ledger.drop("in the release, not upstream", file="release", row=lost[_LISTED:] + 1)


def row_blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in lists of a table's batch size."""
    block: list[Row] = []
    for row in rows:
        block.append(row)
        if len(block) == BATCH_ROWS:
            yield block
            block = []
    if block:
        yield block


def as_batches(
    rows: "Iterable[Row | pa.RecordBatch]", schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Rows and batches of a builder as batches of our table, columns left out as nulls."""
    block: list[Row] = []
    for item in rows:
        if isinstance(item, pa.RecordBatch):
            if block:
                yield pa.RecordBatch.from_pylist(block, schema=schema)
                block = []
            yield item
            continue
        block.append({"language": "en", **item})
        if len(block) == BATCH_ROWS:
            yield pa.RecordBatch.from_pylist(block, schema=schema)
            block = []
    if block:
        yield pa.RecordBatch.from_pylist(block, schema=schema)


def _joined(columns: Sequence[Sequence[Any]]) -> list[str]:
    """One key a row: values joined; of a list its first item."""
    return ["\0".join(map(_text, values)) for values in zip(*columns, strict=True)]


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = value[0] if value else ""
    return "" if value is None else str(value)


def _shown(key: str) -> str:
    return repr(key.replace("\0", " / ")[:80])


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8).digest()
