"""What turning MS MARCO's tarball into a table costs, in a process of its own: ours and the plain way.

    python tsv_cost.py STEP FOLDER PASSAGES

Prints one JSON object. Steps: ``make`` (the tarball, kept in FOLDER), ``ours`` (our archive reader,
TSV reader and table writer, each shard synced), ``pool_table`` and ``build`` (the engine: that
table, and the whole source), ``rival`` (tarfile and gzip into pyarrow's CSV reader
and one Arrow stream, synced once).
"""

import gzip
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
from upstream import cached_msmarco

from m2kr.building.build import build
from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.fetch import fetch
from m2kr.building.formats.archives import members
from m2kr.building.formats.delimited import BadRecord, read_tsv
from m2kr.building.options import resolve_options
from m2kr.building.spec import BuildConfig
from m2kr.building.table import TableJob, TableWriter, build_table
from m2kr.evaluation.result import peak_memory
from m2kr.progress import SILENT
from m2kr.schema import arrow_schema, columns
from m2kr_builders.msmarco import MSMARCO

COLUMNS = columns("passages")


def make(folder: Path, passages: int) -> dict:
    start = time.perf_counter()
    size = cached_msmarco(folder, passages).stat().st_size
    return {"seconds": time.perf_counter() - start, "bytes": size}


def ours(folder: Path, passages: int) -> dict:
    archive = cached_msmarco(folder, passages)
    shutil.rmtree(folder / "ours", ignore_errors=True)  # whole shards would not be written again
    start = time.perf_counter()
    writer = TableWriter(folder / "ours", COLUMNS)
    for batch in passage_batches(archive):
        writer.write_batch(batch)
    writer.close()
    return {"seconds": time.perf_counter() - start, "rows": writer.rows}


def passage_batches(archive: Path) -> Iterator[pa.RecordBatch]:
    """The whole archive is read, as a build does it: its checksum is at its end."""

    def stop(fault: BadRecord) -> None:
        raise SystemExit(str(fault))

    for member in members(archive):
        if member.name != "collection.tsv":
            continue
        with member.open() as file:
            for block in read_tsv(file, ["pid", "text"], where=member.name, on_fault=stop):
                yield as_passages(*block.batch.columns)


def as_passages(ids: pa.Array, texts: pa.Array) -> pa.RecordBatch:
    null = pa.nulls(len(ids), pa.string())
    english = pa.repeat(pa.scalar("en"), len(ids))
    return pa.record_batch([ids, texts, english, null, null, null], schema=arrow_schema(COLUMNS))


def rival(folder: Path, passages: int) -> dict:
    archive = cached_msmarco(folder, passages)
    start = time.perf_counter()
    rows = 0
    with (
        gzip.open(archive) as packed,
        tarfile.open(fileobj=packed, mode="r|") as tar,
        (folder / "rival.arrow").open("wb") as out,
    ):
        sink = None
        for info in tar:
            if info.name != "collection.tsv":
                continue
            reader = pa.csv.open_csv(
                tar.extractfile(info),
                pa.csv.ReadOptions(autogenerate_column_names=True, block_size=8 << 20),
                pa.csv.ParseOptions(delimiter="\t", quote_char=False),
                pa.csv.ConvertOptions(column_types={"f0": pa.string(), "f1": pa.string()}),
            )
            sink = pa.ipc.new_stream(out, reader.schema)
            for batch in reader:
                rows += len(batch)
                sink.write_batch(batch)
        if sink is not None:
            sink.close()
        out.flush()
        os.fsync(out.fileno())
    return {"seconds": time.perf_counter() - start, "rows": rows}


class OneTarball(MSMARCO):
    """The builder of MSMARCO over a generated tarball; training queries are those that are judged."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive

    def assets(self, options: Mapping[str, str]) -> list[Asset]:
        (tar,) = super().assets(options)
        return [replace(tar, urls=(), size=None, md5=None, manual="generated")]


def _placed(folder: Path, passages: int) -> tuple[OneTarball, dict[str, str]]:
    """The builder and options, with the file where a build finds it, hashed as when it came."""
    archive = cached_msmarco(folder, passages)
    builder = OneTarball(archive)
    place = folder / "downloads" / "msmarco" / "collectionandqueries.tar.gz"
    if not place.exists():
        place.parent.mkdir(parents=True)
        os.link(archive, place)
    options = {"train": "judged", "test_pool_size": str(passages // 22)}
    options = resolve_options(builder.source, options)
    fetch(builder.assets(options), folder / "downloads", offline=True)
    return builder, options


def pool_table(folder: Path, passages: int) -> dict:
    """The engine's table of all passages: shards, id index, fingerprint, hashes and ledger."""
    import datasets  # noqa: F401 - an import of the engine's, not work

    builder, options = _placed(folder, passages)
    files = {a.name: folder / "downloads" / a.name for a in builder.assets(options)}
    shutil.rmtree(folder / "staging", ignore_errors=True)
    start = time.perf_counter()
    config = BuildConfig(builder, folder / "staging", files, options, tuple(builder.source.pools))
    stats = build_table(TableJob("passages", "train_passages", config), SILENT)
    return {"seconds": time.perf_counter() - start, "rows": stats["rows"]}


def build_all(folder: Path, passages: int) -> dict:
    """The whole source: queries, judgements, and sampled pools in two more passes over the tarball."""
    builder, options = _placed(folder, passages)
    shutil.rmtree(folder / "rebuilt", ignore_errors=True)
    start = time.perf_counter()
    built = build(builder, folder, options=options)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rows": built.manifest["splits"]["train"]["passages"]}


if __name__ == "__main__":
    step, where, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    steps = {f.__name__: f for f in (make, ours, rival, pool_table)}
    steps["build"] = build_all
    result = steps[step](where, count)
    print(json.dumps(result | {"cpu": time.process_time(), "peak": peak_memory()}))
