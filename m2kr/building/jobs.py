"""The jobs of a build: parts, then pools, then queries; and who does them: one process, several, others."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from m2kr import atomic, children
from m2kr.building.hashing import die_with_parent
from m2kr.building.ledger import merge_ledgers
from m2kr.building.parts import PartJob, Stats, build_part, part_jobs
from m2kr.building.publish import listed_files
from m2kr.building.spec import BuildConfig, Builder
from m2kr.building.table import TableJob, build_table
from m2kr.data.manifests import manifest_text, signed
from m2kr.paths import manifest_path
from m2kr.progress import SILENT, Progress
from m2kr.schema import SUFFIX
from m2kr.sources import Source

Job = PartJob | TableJob


@dataclass(frozen=True)
class Task:
    """One part or table to be made; picklable.

    Attributes:
        builder: The builder.
        job: What is to be made.
    """

    builder: Builder
    job: Job

    @property
    def name(self) -> str:
        """What is made, such as ``OKVQA_data/test``."""
        return self.job.name(self.builder.source)


def perform(task: Task, progress: Progress = SILENT) -> Stats:
    """Makes it, or takes it as it is if it is complete; the same bytes in whatever process."""
    if isinstance(task.job, PartJob):
        return build_part(task.builder, task.job, progress)
    return build_table(task.builder, task.job, progress)


class Executor(Protocol):
    """Makes what needs nothing of each other, in any order and anywhere with the same data root."""

    def prepare(self, root: Path) -> None:
        """Called once, before anything is written: a data root that not all can use is refused."""
        ...

    def run(self, tasks: Sequence[Task], progress: Progress) -> list[Stats]:
        """Performs every task; the results are in the tasks' order."""
        ...


class Processes:
    """Makes one after the other here, or several at once in processes of their own.

    Args:
        jobs: How many at once.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs

    def prepare(self, root: Path) -> None:
        """Nothing: they are all on this machine."""

    def run(self, tasks: Sequence[Task], progress: Progress) -> list[Stats]:
        """Performs every task."""
        if self.jobs == 1 or len(tasks) <= 1:
            return [perform(task, progress) for task in tasks]
        workers = min(self.jobs, len(tasks))
        with (
            children.spawning(),
            ProcessPoolExecutor(
                workers, get_context("spawn"), die_with_parent, (os.getpid(),)
            ) as pool,
        ):
            futures = [pool.submit(perform, task) for task in tasks]
            done = []
            for task, future in zip(tasks, futures, strict=True):
                progress.start(task.name, None, "rows")
                done.append(future.result())
                progress.done(task.name)
            return done


@dataclass(frozen=True)
class Stage:
    """Jobs that need nothing of each other.

    Attributes:
        name: ``parts``, ``pools`` or ``queries``.
        jobs: Its jobs, in an order that depends on the build alone.
        copies: Pools that are copies of some of its jobs, made after these.
    """

    name: str
    jobs: Sequence[Job]
    copies: Sequence[TableJob] = ()


class Stages:
    """The stages of one build.

    Args:
        builder: The builder.
        source: Its spec, with the splits that are built.
        config: What the build was asked for.
        progress: Told of parts and tables in rows.
    """

    def __init__(
        self, builder: Builder, source: Source, config: BuildConfig, progress: Progress = SILENT
    ) -> None:
        self.builder = builder
        self.source = source
        self.config = config
        self.progress = progress
        self.parts: list[PartJob] = part_jobs(builder, config)
        self.pools = list(dict.fromkeys(source.pools.values()))

    def __iter__(self) -> Iterator[Stage]:
        yield Stage("parts", self.parts)
        first: dict[str, str] = {}
        for group in self.builder.same_pools(self.config.options):
            shared = [pool for pool in self.pools if pool in group]
            first |= dict.fromkeys(shared[1:], shared[0] if shared else "")
        made = [pool for pool in self.pools if pool not in first]
        serves = {pool: tuple(p for p, other in first.items() if other == pool) for pool in made}
        yield Stage(
            "pools",
            [replace(self._pool(pool), serves=serves[pool]) for pool in made],
            [replace(self._pool(p), like=first[p]) for p in self.pools if p in first],
        )
        yield Stage("queries", self._queries())

    def _pool(self, pool: str) -> TableJob:
        return TableJob("passages", pool, self.config)

    def _queries(self) -> list[TableJob]:
        return [TableJob("queries", split, self.config) for split in self.source.pools]

    def run(self, jobs: Sequence[Job], executor: Executor) -> None:
        """Has some jobs of one stage done."""
        executor.run([Task(self.builder, job) for job in jobs], self.progress)

    def copy(self, stage: Stage) -> None:
        """Gives the pools that hold the same rows as others their second names."""
        for job in stage.copies:
            perform(Task(self.builder, job), self.progress)

    def run_all(self, executor: Executor) -> None:
        """Has everything done that is not done yet."""
        for stage in self:
            self.run(stage.jobs, executor)
            self.copy(stage)

    def unfinished(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of some jobs that are not done."""
        return [job for job in jobs if not job.marker(self.source).exists()]

    def stats(self) -> tuple[dict[str, Stats], dict[str, Stats], dict[str, Stats]]:
        """What the parts, pools and query splits came to, when all is done."""
        return (
            {job.name(self.source): self._stats(job) for job in self.parts},
            {pool: self._stats(self._pool(pool)) for pool in self.pools},
            {job.split: self._stats(job) for job in self._queries()},
        )

    def _stats(self, job: Job) -> Stats:
        return perform(Task(self.builder, job))

    def finish(self, record: dict[str, Any]) -> None:
        """Writes the edition-level files of the source; the manifest, last, decides to publish."""
        stem, staging = self.source.config, self.config.staging
        jobs: list[Job] = [*self.parts, *map(self._pool, self.pools), *self._queries()]
        parts = [job.ledger_part(self.source) for job in jobs]
        merge_ledgers(parts, staging / f"{stem}_ledger.parquet")
        for suffix, splits in (
            (SUFFIX["queries"], list(self.source.pools)),
            (SUFFIX["qrels"], list(self.source.pools)),
            (SUFFIX["passages"], self.pools),
        ):
            path = staging / f"{stem}_{suffix}" / "dataset_dict.json"
            atomic.write_json(path, {"splits": splits}, alone=True)
        whole = signed(record | {"files": listed_files(staging, stem, record["tables"])})
        atomic.write_text(manifest_path(staging, stem), manifest_text(whole), alone=True)
