"""``--align release``: upstream's own rows, of which the release says which are taken and under what id.

From the release come ids: which passages and queries there are, what they are called, which passages
are right, and the instruction that was drawn. Texts, answers and images are upstream's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from m2kr.building import registry
from m2kr.building.fetch.assets import Asset
from m2kr.building.ledger import Ledger
from m2kr.building.pool import PoolReader
from m2kr.building.release.builder import ReleaseBuilder
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.concurrency import chunks
from m2kr.data.lookup import INDEX, id_hashes, values_at
from m2kr.data.rows import open_shards, read_batches
from m2kr.errors import CheckError, UsageError
from m2kr.progress import Progress
from m2kr.schema import BATCH_ROWS, ID_COLUMN, SUFFIX, TableKind, arrow_schema, columns
from m2kr.sources import UNKNOWN, comparable_notes

if TYPE_CHECKING:
    from numpy.typing import NDArray


UPSTREAM = "rows of the sources route"
VERSION = 1  # raised when the same files give other rows
_LISTED = 10_000  # missing rows that are named one by one
_TAKEN = ("question_id", "instruction", "pos_item_ids", "related_item_ids")


@dataclass
class AlignedBuilder(Builder):
    """The sources route of a source, held to the rows of the release.

    Args:
        name: Source name.
        release: How the release is had; it is built first, in its own edition.
        inner: Builder of the sources route, where it isn't the source's own.
    """

    name: str
    release: ReleaseBuilder
    inner: Builder | None = None
    inputs: list[dict[str, Any]] = field(default_factory=list)
    _folder: Path | None = None
    _fingerprints: dict[str, dict[str, str]] = field(default_factory=dict)
    _comparable: str = ""

    route = "aligned"

    def __post_init__(self) -> None:
        self._inner = self.inner or registry.builder(self.name)
        # Scored as the release is.
        self.source = replace(self._inner.source, unjudged=self.release.source.unjudged)
        self.recorded_options = {
            f"release_{name}": value for name, value in self.release.recorded_options.items()
        }
        self.note = self.release.note
        self.versions = (VERSION, self.release.source.version)

    def prepare(
        self,
        root: Path,
        splits: Sequence[str],
        *,
        offline: bool,
        jobs: int,
        progress: Progress,
    ) -> None:
        """Builds the release route, where it isn't built yet.

        Raises:
            UsageError: the release is built already, but otherwise.
        """
        from m2kr.building.build import build

        try:
            built = build(
                self.release, root, splits=splits, offline=offline, jobs=jobs, progress=progress
            )
        except UsageError as error:
            raise UsageError(
                error.what,
                where=error.where,
                expected=error.expected,
                fix="give the options that the release was built with, or replace it first: "
                f"m2kr build {self.name} --route release --force",
            ) from error
        self._folder, self._fingerprints = built.folder, built.manifest["fingerprints"]
        self._comparable = built.manifest["comparable"]
        self.inputs = list(self.release.inputs)

    def _options(self, options: Mapping[str, str]) -> dict[str, str]:
        return dict(options) | dict(self._inner.align_options)

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """The upstream files."""
        return self._inner.assets(self._options(options))

    def same_pools(self, options: Mapping[str, str]) -> Sequence[Sequence[str]]:
        """Pools that are one in the release."""
        return self.release.same_pools(options)

    def parts(self, options: Mapping[str, str], splits: Sequence[str]) -> Sequence[str]:
        """The sources route's."""
        return self._inner.parts(self._options(options), splits)

    def make_part(self, ctx: BuildContext, name: str) -> Iterator[pa.RecordBatch]:
        """The sources route's."""
        return self._inner.make_part(self._context(ctx), name)

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[pa.RecordBatch]:
        """The passages of upstream that the release's pool has.

        First those of the same text: an id may stand for several passages upstream. If some of the
        release's are left, a second way through takes what has their ids.
        """
        release = self._rows(ctx, "passages", pool)
        schema = arrow_schema(columns("passages", ctx.source.passage_columns))
        taken: list[NDArray[np.bool_]] = []
        for batch in self._candidates(ctx, pool, schema):
            kept, matched = release.match(release.keys_of(batch), batch.column("passage_content"))
            taken.append(np.zeros(len(batch), bool))
            taken[-1][kept] = True
            if len(kept):
                yield _renamed(batch, kept, release.columns(matched))
        if not release.complete:
            for mine, batch in zip(taken, self._candidates(ctx.quiet(), pool, schema), strict=True):
                open_ = np.flatnonzero(~mine)
                kept, matched = release.match(release.keys_of(batch.take(pa.array(open_))))
                mine[open_[kept]] = True
                if len(kept):
                    yield _renamed(batch, open_[kept], release.columns(matched))
        first = 1
        for mine in taken:
            first = _note(ctx, first, mine)
        release.account(ctx.ledger)

    def _candidates(
        self, ctx: BuildContext, pool: str, schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        """Rows and batches of the builder as batches of our table, columns left out as nulls."""
        rows = self._inner.all_passages(self._context(ctx), pool)
        for are_batches, items in groupby(rows, lambda item: isinstance(item, pa.RecordBatch)):
            if are_batches:
                yield from items
                continue
            for block in chunks(items, BATCH_ROWS):
                filled = [{"language": "en", **row} for row in block]
                yield pa.RecordBatch.from_pylist(filled, schema=schema)

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The queries of upstream that the release's split has, judged as there."""
        release = self._rows(ctx, "queries", split)
        assert ctx.scratch is not None
        config, first = ctx.source.config, 1
        folder = ctx.scratch.parent / f"{config}_{SUFFIX['passages']}" / ctx.source.pools[split]
        # A partial build (--limit) asks for the queries before it has a pool.
        pool = PoolReader(folder) if (folder / INDEX).exists() else None
        for block in chunks(self._inner.all_queries(self._context(ctx), split), BATCH_ROWS):
            kept, matched = release.match(release.keys_of_rows(block))
            mine = np.zeros(len(block), bool)
            mine[kept] = True
            first = _note(ctx, first, mine)
            for place, taken in zip(kept, release.rows(matched), strict=True):
                number, ids = taken.pop("#"), taken.pop("pos_item_ids")
                if pool is not None:
                    places = pool.rows(ids)
                    lost = [i for i, row in zip(ids, places, strict=True) if row < 0]
                    ids = [i for i, row in zip(ids, places, strict=True) if row >= 0]
                    if lost:
                        ctx.ledger.repair(
                            "right passage not upstream",
                            file="release",
                            row=number + 1,
                            detail=", ".join(lost)[:500],
                        )
                yield dict(block[place]) | taken | {"pos_item_ids": ids}
        release.account(ctx.ledger)

    def _context(self, ctx: BuildContext) -> BuildContext:
        return replace(ctx, options=self._options(ctx.options))

    def _rows(self, ctx: BuildContext, kind: TableKind, split: str) -> "_ReleaseRows":
        assert self._folder is not None
        keys = self._inner.release_keys.get(kind)
        return _ReleaseRows(
            self._folder / f"{ctx.source.config}_{SUFFIX[kind]}" / split, kind, keys
        )

    def amend(self, record: dict[str, Any], staging: Path) -> dict[str, Any]:  # noqa: ARG002
        """The manifest with what the alignment came to: comparable if the data score alike."""
        differ = [
            split
            for split, prints in record["fingerprints"].items()
            if prints["eval"] != self._fingerprints.get(split, {}).get("eval")
        ]
        record["aligned"] = {"release": self._fingerprints, "differ": differ}
        other_images = [
            split
            for split, prints in record["fingerprints"].items()
            if prints["image_paths"] != self._fingerprints.get(split, {}).get("image_paths")
        ]
        comparable = record["comparable"]
        notes = ["" if comparable == UNKNOWN else comparable, self._comparable]
        if differ:
            names = ", ".join(differ)
            notes.append(f"aligned, but not equal to the release in {names} (see m2kr diff)")
        elif other_images:
            names = ", ".join(other_images)
            notes.append(f"aligned, but queries have other images than in the release in {names}")
        record["comparable"] = comparable_notes(notes)
        return record


def _renamed(
    batch: pa.RecordBatch, rows: "NDArray[np.int64]", new: Mapping[str, pa.Array]
) -> pa.RecordBatch:
    """Some rows of a batch, under the release's ids."""
    taken = batch.take(pa.array(rows))
    arrays = [new.get(f.name, taken.column(f.name)) for f in batch.schema]
    return pa.record_batch(arrays, schema=batch.schema)


def _note(ctx: BuildContext, first: int, kept: "NDArray[np.bool_]") -> int:
    """Tells the ledger which of some upstream rows were kept; the number of the row after them."""
    ctx.ledger.read(UPSTREAM, len(kept))
    ctx.ledger.use(UPSTREAM, first + np.flatnonzero(kept))
    if not kept.all():
        ctx.ledger.filter("not in the release", file=UPSTREAM, row=first + np.flatnonzero(~kept))
    return first + len(kept)


class _ReleaseRows:
    """The rows of one table of the release, each to be taken once.

    Args:
        folder: The built table.
        kind: ``queries`` or ``passages``.
        key: Columns that identify a row here and upstream; its id by default.
    """

    def __init__(self, folder: Path, kind: TableKind, key: Sequence[str] | None) -> None:
        self._id = ID_COLUMN[kind]
        self._key = tuple(key or (self._id,))
        self._table = open_shards(folder)
        blocks = [_hashes(self._release_keys(batch)) for batch in read_batches(folder)]
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
            columns = [[s or row_id for s, row_id in zip(scored, columns[0], strict=True)]]
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
        hashes = _hashes(keys)
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
                texts_there = values_at(self._table.column("passage_content"), fits)
                text = texts[place].as_py()
                fits = [row for row, t in zip(fits, texts_there, strict=True) if t == text]
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
            pa.array(values_at(self._table.column(n), rows), self._table.schema.field(n).type)
            for n in names
        ]
        return self._release_keys(pa.record_batch(arrays, names=names))

    def columns(self, rows: "NDArray[np.int64]") -> dict[str, pa.Array]:
        """What an aligned build takes of some passages: their ids."""
        return {
            name: pa.array(values_at(self._table.column(name), rows), pa.string())
            for name in ("passage_id", "scored_as")
            if name in self._table.column_names
        }

    def rows(self, rows: "NDArray[np.int64]") -> list[dict[str, Any]]:
        """What an aligned build takes of some rows: ids and the instruction; ``#`` is a row's number."""
        names = [name for name in _TAKEN if name in self._table.column_names]
        columns = [values_at(self._table.column(name), rows) for name in names]
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
            example = self._keys_at(lost[:1])[0]
            raise CheckError(
                f"upstream has none of the release's {len(lost):,} rows",
                where=self._name,
                expected=f"rows alike in {', '.join(self._key)}: the release has {_shown(example)}, "
                f"upstream {_shown(self._upstream)}",
                fix="report this as a defect of the source's builder (release_keys)",
            )
        ledger.read("release", len(self._free))
        ledger.use("release", np.flatnonzero(~self._free) + 1, out=0)
        listed = lost[:_LISTED]
        for row, row_id in zip(
            listed, values_at(self._table.column(self._id), listed), strict=True
        ):
            ledger.drop(
                "in the release, not upstream", file="release", row=int(row) + 1, detail=row_id
            )
        if len(lost) > len(listed):
            ledger.drop("in the release, not upstream", file="release", row=lost[_LISTED:] + 1)


def _joined(columns: Sequence[Sequence[Any]]) -> list[str]:
    """One key a row: values joined; of a list its first item."""
    return ["\0".join(map(_text, values)) for values in zip(*columns, strict=True)]


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = value[0] if value else ""
    return "" if value is None else str(value)


def _shown(key: str) -> str:
    return repr(key.replace("\0", " / ")[:80])


def _hashes(keys: Sequence[str]) -> "NDArray[np.uint64]":
    return id_hashes(pa.array(keys, pa.string()))
