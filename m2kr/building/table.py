"""Building one table of a source: rows from the builder, shards, id index, fingerprints, counts."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from m2kr import atomic
from m2kr.building.hashing import ShardHasher, shard_facts
from m2kr.building.ledger import Ledger
from m2kr.building.parts import Stats, complete, context
from m2kr.building.spec import UPSTREAM_ROW, BuildConfig, BuildContext, Builder, Row
from m2kr.building.writer import TableWriter, write_dataset_files
from m2kr.data.lookup import FILE as INDEX
from m2kr.data.lookup import duplicates, id_hashes, open_index, write_hashes, write_index
from m2kr.data.rows import open_shards, read_batches
from m2kr.errors import CheckError
from m2kr.fingerprint import image_paths_part, query_parts
from m2kr.progress import Progress
from m2kr.schema import (
    BATCH_ROWS,
    ID_COLUMN,
    LOST_IDS,
    TableKind,
    arrow_schema,
    columns,
    qrels_columns,
    table_name,
)
from m2kr.sources import Source

Written = Callable[[int], None]


@dataclass(frozen=True)
class TableJob:
    """One table of a build.

    Attributes:
        kind: ``passages`` or ``queries``.
        split: Name of the passage split or query split.
        config: What it shares with the others.
        like: For passages: a pool, built before, that holds the same rows.
        serves: For passages: pools that will be copies of this one.
    """

    kind: TableKind
    split: str
    config: BuildConfig
    like: str | None = None
    serves: tuple[str, ...] = ()

    def name(self, source: Source) -> str:
        """Folder of the table below the edition, such as ``OKVQA_data/test``."""
        return table_name(source.config, self.kind, self.split)

    def marker(self, source: Source) -> Path:
        """The file whose presence says that the table is complete."""
        name = self.name(source).replace("/", ".")
        return self.config.staging / "tables" / f"{name}.json"

    def ledger_part(self, source: Source) -> Path:
        """The table's own part of the ledger."""
        return self.marker(source).with_suffix(".ledger.parquet")


def build_table(builder: Builder, job: TableJob, progress: Progress) -> Stats:
    """Builds one table in the staging folder, or takes it as it is if it is already complete."""
    source, name = builder.source, job.name(builder.source)

    def make() -> Stats:
        if job.like is not None:
            return _copy_pool(source, job)
        ledger = Ledger(name, job.ledger_part(source), full=job.config.full_ledger)
        ctx = context(builder, job.config, ledger, progress)
        progress.start(name, None, "rows")
        build = _build_passages if job.kind == "passages" else _build_queries
        stats = build(builder, ctx, job, lambda n: progress.advance(name, n))
        progress.done(name)
        stats |= ledger.close(whole=job.config.limit is None)
        pa.default_memory_pool().release_unused()  # the next table has a peak of its own
        return stats

    return complete(job.marker(source), name, make)


def _copy_pool(source: Source, job: TableJob) -> Stats:
    """A pool with the rows of another one: the same files under a second name."""
    other = TableJob("passages", str(job.like), job.config)
    stats: Stats = json.loads(other.marker(source).read_text(encoding="utf-8"))
    old = job.config.staging / other.name(source)
    new = job.config.staging / job.name(source)
    atomic.discard(new)
    new.mkdir(parents=True)
    for name in (*(f["file"] for f in stats["shards"]), INDEX):
        atomic.link(old / name, new / name)
    schema = arrow_schema(columns("passages", source.passage_columns))
    write_dataset_files(new, stats["shards"], schema, split=job.split)
    return stats | {"ledger": {}, "inputs": {}}


def _build_passages(builder: Builder, ctx: BuildContext, job: TableJob, written: Written) -> Stats:
    name, cols = job.name(ctx.source), columns("passages", ctx.source.passage_columns)
    folder, hasher = job.config.staging / name, ShardHasher()
    try:
        writer = TableWriter(folder, cols, table=name, written=written, finished=hasher.add)
        rows = builder.passages(ctx, job.split)
        if job.config.limit is not None:
            rows = _limited_pool(rows, _positives_of(builder, ctx, job), job.config.limit)
        _write(writer, rows)
        writer.close()
        hashes = hasher.close()
    finally:
        hasher.stop()
    facts, pool = hashes.facts, hashes.fingerprint()
    write_dataset_files(folder, facts, writer.schema, split=job.split)
    _refuse_duplicates(folder, name, "passage_id", write_hashes(folder, hashes.id_hashes()))
    return {"rows": writer.rows, "shards": facts, "pool": pool}


def _build_queries(builder: Builder, ctx: BuildContext, job: TableJob, written: Written) -> Stats:
    source, name = ctx.source, job.name(ctx.source)
    staging, limit = job.config.staging, job.config.limit
    folder = staging / name
    pool = PoolReader(staging / table_name(source.config, "passages", source.pools[job.split]))
    writer = TableWriter(
        folder, columns("queries", source.query_columns), table=name, written=written
    )
    qrels_name = table_name(source.config, "qrels", job.split)
    qrels = TableWriter(staging / qrels_name, qrels_columns(source.query_columns), table=qrels_name)
    threshold = float(builder.relevance_threshold)
    totals: dict[str, int] = dict.fromkeys(("judged", "positives", "with_image", "with_answers"), 0)
    rows = iter(itertools.islice(builder.queries(ctx, job.split), limit))
    while block := list(itertools.islice(rows, BATCH_ROWS)):
        filled = pool.fill_contents(block, name, ctx.ledger)
        writer.write_rows(filled)
        qrels.write_rows(
            {"question_id": row["question_id"], "passage_id": passage, "relevance": grade}
            for row in filled
            for passage, grade in _judgements(row)
        )
        for row in filled:
            totals["judged"] += any(grade >= threshold for _, grade in _judgements(row))
            totals["positives"] += len(row["pos_item_ids"])
            totals["with_image"] += row.get("img_path") is not None
            totals["with_answers"] += bool(row.get("answers"))
    stats = _complete(writer, folder, name, job.split, "queries")
    stats["qrels"] = _complete(qrels, staging / qrels_name, qrels_name, job.split, "qrels")
    stats["totals"] = totals
    stats["queries"], stats["judgements"] = query_parts(read_batches(folder), threshold)
    stats["image_paths"] = image_paths_part(read_batches(folder))
    return stats


def _judgements(row: Row) -> list[tuple[str, float]]:
    """Passages and grades of a query row; passages that the pool lacks are among them."""
    judged: list[tuple[str, float]] = []
    for ids, grades in (
        ("pos_item_ids", "pos_item_grades"),
        (LOST_IDS.name, "lost_item_grades"),
    ):
        passages = row.get(ids) or ()
        judged += zip(passages, row.get(grades) or itertools.repeat(1, len(passages)), strict=True)
    return judged


def _write(writer: TableWriter, rows: "Iterator[Row | pa.RecordBatch]") -> None:
    for is_batch, group in itertools.groupby(rows, lambda r: isinstance(r, pa.RecordBatch)):
        if is_batch:
            for batch in group:
                writer.write_batch(batch)
        else:
            writer.write_rows(group)


def _complete(writer: TableWriter, folder: Path, name: str, split: str, kind: TableKind) -> Stats:
    """Closes a writer, adds the files around its shards and gives their facts."""
    facts = [shard_facts(shard) for shard in writer.close()]
    write_dataset_files(folder, facts, writer.schema, split=split)
    if kind in ID_COLUMN:
        column = ID_COLUMN[kind]
        alike = write_index(folder, (b.column(column) for b in read_batches(folder)))
        _refuse_duplicates(folder, name, column, alike)
    return {"rows": writer.rows, "shards": facts}


def _refuse_duplicates(folder: Path, name: str, column: str, alike: list[tuple[int, int]]) -> None:
    for row_id, first, other in duplicates(alike, open_shards(folder).column(column)):
        raise CheckError(
            f"{column} {row_id!r} is used twice",
            where=f"{name}, rows {first + 1} and {other + 1}",
            expected="unique ids",
        )


def _positives_of(builder: Builder, ctx: BuildContext, job: TableJob) -> set[str]:
    """Ids that the kept queries of every split on this pool need."""
    scratch = replace(ctx, ledger=Ledger("scratch"))
    return {
        passage
        for split, pool in ctx.source.pools.items()
        if pool in (job.split, *job.serves)
        for row in itertools.islice(builder.queries(scratch, split), job.config.limit)
        for passage in row["pos_item_ids"]
    }


def _limited_pool(
    rows: "Iterable[Row | pa.RecordBatch]", needed: set[str], limit: int
) -> Iterator[Row]:
    """The needed passages and the first ``limit`` others, in order."""
    others, missing = 0, set(needed)
    for item in rows:
        for row in item.to_pylist() if isinstance(item, pa.RecordBatch) else (item,):
            if row["passage_id"] in needed:
                missing.discard(row["passage_id"])
                yield row
            elif others < limit:
                others += 1
                yield row
        if not missing and others >= limit:
            return


def _leave_out(row: dict[str, Any], positive: str, table: str, pool: str, ledger: Ledger) -> None:
    """Puts a positive that the pool lacks among those that count as never found, without its text."""
    if UPSTREAM_ROW not in row:
        raise CheckError(
            f"positive {positive!r} of query {row.get('question_id')!r} is not in the pool",
            where=table,
            expected=f"a passage_id of {pool}",
        )
    file, number = row[UPSTREAM_ROW]
    ledger.repair("positive not in the pool", file=file, row=number, detail=positive)
    ids, texts = list(row["pos_item_ids"]), list(row.get("pos_item_contents") or ())
    at = ids.index(positive)
    row[LOST_IDS.name] = [*row.get(LOST_IDS.name, ()), positive]
    row["pos_item_ids"] = ids[:at] + ids[at + 1 :]
    row["pos_item_contents"] = texts[:at] + texts[at + 1 :]


class PoolReader:
    """Looks passages of a built pool up by id.

    Args:
        folder: A complete passage split.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        _, self._reader = open_index(folder, "passage_id")
        entries = np.load(folder / INDEX)
        self._hashes = np.ascontiguousarray(entries["hash"])
        self._rows = np.ascontiguousarray(entries["row"])

    def rows(self, ids: Iterable[str]) -> "np.ndarray":
        """Rows of ids, -1 for those that the pool lacks."""
        wanted = list(ids)
        distinct = list(dict.fromkeys(wanted))
        hashes = id_hashes(pa.array(distinct, pa.string()))
        low = np.searchsorted(self._hashes, hashes, side="left")
        high = np.searchsorted(self._hashes, hashes, side="right")
        found = {
            row_id: self._row(row_id, start, stop)
            for row_id, start, stop in zip(distinct, low.tolist(), high.tolist(), strict=True)
        }
        return np.fromiter((found[row_id] for row_id in wanted), np.int64, len(wanted))

    def _row(self, row_id: str, start: int, stop: int) -> int:
        for row in self._rows[start:stop].tolist():
            if self._reader.value("passage_id", row) == row_id:
                return int(row)
        return -1

    def texts(self, rows: "np.ndarray") -> list[str]:
        """Texts of passages, read from the file: through a map they would stay resident."""
        known = {
            row: self._reader.value("passage_content", row) for row in np.unique(rows).tolist()
        }
        return [known[row] for row in rows.tolist()]

    def fill_contents(
        self, rows: Iterable[Row], table: str, ledger: Ledger
    ) -> list[dict[str, Any]]:
        """Query rows with ``pos_item_contents`` read from the pool; other texts are repaired.

        A positive that the pool lacks counts as never found (`m2kr.schema.LOST_IDS`), and is told, in a
        row that says where it is from (`UPSTREAM_ROW`).

        Raises:
            CheckError: a positive of another row is not in the pool.
        """
        filled = [dict(row) for row in rows]
        wanted = [(row, passage) for row in filled for passage in row.get("pos_item_ids", ())]
        found = self.rows(passage for _, passage in wanted)
        if len(found) and found.min() < 0:
            for at in np.flatnonzero(found < 0).tolist():
                _leave_out(*wanted[at], table, self.name, ledger)
            return self.fill_contents(filled, table, ledger)
        contents = iter(self.texts(found))
        for row in filled:
            ids, told = list(row.get("pos_item_ids", ())), row.get("pos_item_contents")
            texts = list(itertools.islice(contents, len(ids)))
            upstream = row.pop(UPSTREAM_ROW, None)
            if told and upstream and told != texts:
                other = [own for own, a, b in zip(ids, told, texts, strict=True) if a != b]
                rule, detail = "a positive's text is not the pool's", ", ".join(other)
                ledger.repair(rule, file=upstream[0], row=upstream[1], detail=detail)
            row["pos_item_ids"], row["pos_item_contents"] = ids, texts
        return filled
