"""Parts of a build: what tables have in common, made from upstream files once and before them."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from m2kr import atomic
from m2kr.building.hashing import shard_facts
from m2kr.building.ledger import Ledger
from m2kr.building.spec import BuildConfig, BuildContext
from m2kr.errors import CheckError
from m2kr.locks import hold
from m2kr.progress import SILENT, Progress

Stats = dict[str, Any]
FOLDER = "parts"  # below the staging folder
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class PartJob:
    """One part of a build.

    Attributes:
        part: Its name.
        config: What it shares with the others.
    """

    part: str
    config: BuildConfig

    @property
    def name(self) -> str:
        """What it is called in the ledger and the manifest, such as ``WIT_parts/00``."""
        return f"{self.config.source.config}_{FOLDER}/{self.part}"

    @property
    def file(self) -> Path:
        """Its batches, an Arrow IPC stream."""
        return self.config.staging / FOLDER / f"{self.part}.arrow"

    @property
    def marker(self) -> Path:
        """The file whose presence says that the part is complete."""
        return self.file.with_suffix(".json")

    @property
    def ledger_part(self) -> Path:
        """The part's own part of the ledger."""
        return self.marker.with_suffix(".ledger.parquet")


def part_jobs(config: BuildConfig) -> list[PartJob]:
    """The parts that a build needs, in the order in which they are made.

    Raises:
        CheckError: the builder's names are no names of files, or not distinct.
    """
    names = list(config.builder.parts(config.options, config.splits))
    for name in names:
        if not _NAME.fullmatch(name) or names.count(name) > 1:
            raise CheckError(
                f"{name!r} cannot name a part",
                where=config.source.name,
                expected="distinct names of letters, digits, dots, dashes and underscores",
                fix="report this as a defect of the source's builder",
            )
    return [PartJob(name, config) for name in names]


def context(config: BuildConfig, ledger: Ledger, progress: Progress = SILENT) -> BuildContext:
    """What the builder is given for a table or a part."""
    return BuildContext(
        source=config.source,
        files=config.files,
        ledger=ledger,
        options=config.options,
        seed=config.seed,
        scratch=config.staging / "scratch",
        derived=config.derived,
        templates=config.templates,
        progress=progress,
        parts=lambda name: read_part(config, name),
    )


def build_part(job: PartJob, progress: Progress) -> Stats:
    """Makes one part in the staging folder, or takes it as it is if it is already complete."""
    name, config = job.name, job.config

    def make() -> Stats:
        ledger = Ledger(name, job.ledger_part, full=config.full_ledger)
        ctx = replace(context(config, ledger, progress), parts=_refuse)
        progress.start(name, None, "rows")
        rows = _write(config.builder.make_part(ctx, job.part), job, name, progress)
        progress.done(name)
        stats = {"rows": rows, "file": shard_facts(job.file)} | ledger.close()
        pa.default_memory_pool().release_unused()
        return stats

    return complete(job.marker, name, make)


def complete(marker: Path, name: str, make: Callable[[], Stats]) -> Stats:
    """What a part or table came to; without its marker it is made, by one process at a time.

    Args:
        marker: The file whose presence says that it is complete.
        name: Its name.
        make: Makes it, and gives what goes into the marker.
    """
    if not marker.exists():
        with hold(marker.with_name(f".{marker.stem}.lock"), f"making {name}") as lock:
            if not marker.exists():
                stats = make()
                lock.check()
                atomic.write_json(marker, stats, alone=True)
    # Read back, so that what was built now and what was resumed give the same manifest byte for byte.
    recorded: Stats = json.loads(marker.read_text(encoding="utf-8"))
    return recorded


def _refuse(name: str) -> Iterator[pa.RecordBatch]:
    raise CheckError(
        f"a part asks for the part {name!r}: parts are made of upstream files alone",
        fix="report this as a defect of the source's builder",
    )


def _write(batches: Iterator[pa.RecordBatch], job: PartJob, name: str, progress: Progress) -> int:
    """Writes the batches; gives the number of rows."""
    rows = 0
    first = next(batches, None)
    schema = first.schema if first is not None else pa.schema([])
    with (
        atomic.writing(job.file, alone=True) as aside,
        atomic.create(aside) as file,
        pa.ipc.new_stream(file, schema) as stream,
    ):
        while first is not None:
            if first.schema != schema:
                raise CheckError(
                    f"a batch has the columns {first.schema.names}",
                    where=name,
                    expected=f"one schema: {', '.join(schema.names)}",
                    fix="report this as a defect of the source's builder",
                )
            stream.write_batch(first)
            rows += len(first)
            progress.advance(name, len(first))
            first = next(batches, None)
    return rows


def read_part(config: BuildConfig, name: str) -> Iterator[pa.RecordBatch]:
    """The batches of a part, read and dropped again; it is made first if it is not there.

    Raises:
        CheckError: the builder declared no such part, or its file lacks rows that it had when made.
    """
    job = next((job for job in part_jobs(config) if job.part == name), None)
    if job is None:
        raise CheckError(
            f"a table asks for the part {name!r}, which this build does not make",
            where=config.source.name,
            expected="a name that parts() gives for these options and splits",
            fix="report this as a defect of the source's builder",
        )
    rows, there = int(build_part(job, SILENT)["rows"]), 0
    try:
        with pa.OSFile(str(job.file)) as file:
            for batch in pa.ipc.open_stream(file):
                there += len(batch)
                yield batch
    except (pa.ArrowException, OSError) as error:
        raise _short(job, there, rows) from error
    # Arrow takes a stream that was cut between two batches for whole.
    if there != rows:
        raise _short(job, there, rows)


def _short(job: PartJob, there: int, rows: int) -> CheckError:
    return CheckError(
        f"{there:,} of {rows:,} rows of this part can be read",
        where=str(job.file),
        expected="the file as it was made",
        fix=f"delete {job.config.staging} and run the same command again",
    )
