"""``--align release``: upstream's own rows, of which the release says which are taken and under what id.

From the release come ids: which passages and queries there are, what they are called, which passages
are right, and the instruction that was drawn. Texts, answers and images are upstream's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from m2kr.building import registry
from m2kr.building.fetch.assets import Asset
from m2kr.building.ledger import Ledger
from m2kr.building.release.match import ReleaseRows, as_batches, row_blocks
from m2kr.building.release.route import ReleaseBuilder
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.building.table import PoolReader
from m2kr.data.lookup import FILE as INDEX
from m2kr.errors import UsageError
from m2kr.progress import Progress
from m2kr.schema import SUFFIX, TableKind, arrow_schema, columns
from m2kr.sources import UNKNOWN, comparable_notes

if TYPE_CHECKING:
    from numpy.typing import NDArray


UPSTREAM = "rows of the sources route"
VERSION = 1  # raised when the same files give other rows


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
            quiet = replace(ctx, ledger=Ledger("again"))
            for mine, batch in zip(taken, self._candidates(quiet, pool, schema), strict=True):
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
        yield from as_batches(self._inner.all_passages(self._context(ctx), pool), schema)

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The queries of upstream that the release's split has, judged as there."""
        release = self._rows(ctx, "queries", split)
        assert ctx.scratch is not None
        config, first = ctx.source.config, 1
        folder = ctx.scratch.parent / f"{config}_{SUFFIX['passages']}" / ctx.source.pools[split]
        # A partial build (--limit) asks for the queries before it has a pool.
        pool = PoolReader(folder) if (folder / INDEX).exists() else None
        for block in row_blocks(self._inner.all_queries(self._context(ctx), split)):
            kept, matched = release.match(release.keys_of_rows(block))
            mine = np.zeros(len(block), bool)
            mine[kept] = True
            first = _note(ctx, first, mine)
            for place, found in zip(kept, release.rows(matched), strict=True):
                number, ids = found.pop("#"), found.pop("pos_item_ids")
                if pool is not None:
                    places = pool.rows(ids)
                    lost = [i for i, at in zip(ids, places, strict=True) if at < 0]
                    ids = [i for i, at in zip(ids, places, strict=True) if at >= 0]
                    if lost:
                        ctx.ledger.repair(
                            "right passage not upstream",
                            file="release",
                            row=number + 1,
                            detail=", ".join(lost)[:500],
                        )
                yield dict(block[place]) | found | {"pos_item_ids": ids}
        release.account(ctx.ledger)

    def _context(self, ctx: BuildContext) -> BuildContext:
        return replace(ctx, options=self._options(ctx.options))

    def _rows(self, ctx: BuildContext, kind: TableKind, split: str) -> ReleaseRows:
        assert self._folder is not None
        keys = self._inner.release_keys.get(kind)
        return ReleaseRows(self._folder / f"{ctx.source.config}_{SUFFIX[kind]}" / split, kind, keys)

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
        own = record["comparable"]
        notes = ["" if own == UNKNOWN else own, self._comparable]
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
