"""The jobs of a build: parts, then pools, then queries; and who does them: one process, several, others."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from m2kr import atomic, children
from m2kr.building.ledger import merge_ledgers
from m2kr.building.parts import PartJob, Stats, build_part, part_jobs
from m2kr.building.publish import listed_files
from m2kr.building.spec import BuildConfig
from m2kr.building.table import TableJob, build_table
from m2kr.data.manifests import manifest_text, signed
from m2kr.paths import manifest_path
from m2kr.progress import SILENT, Progress
from m2kr.schema import SUFFIX

Job = PartJob | TableJob


def perform(job: Job, progress: Progress = SILENT) -> Stats:
    """Makes it, or takes it as it is if it is complete; the same bytes in whatever process."""
    return build_part(job, progress) if isinstance(job, PartJob) else build_table(job, progress)


class Executor(Protocol):
    """Makes what needs nothing of each other, in any order and anywhere with the same data root."""

    def prepare(self, root: Path) -> None:
        """Called once, before anything is written: a data root that not all can use is refused."""
        ...

    def run(self, jobs: Sequence[Job], progress: Progress) -> list[Stats]:
        """Performs every job; the results are in the jobs' order."""
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

    def run(self, jobs: Sequence[Job], progress: Progress) -> list[Stats]:
        """Performs every job."""
        if self.jobs == 1 or len(jobs) <= 1:
            return [perform(job, progress) for job in jobs]
        workers = min(self.jobs, len(jobs))
        with (
            children.spawning(),
            ProcessPoolExecutor(
                workers, get_context("spawn"), children.die_with_parent, (os.getpid(),)
            ) as pool,
        ):
            futures = [pool.submit(perform, job) for job in jobs]
            done = []
            for job, future in zip(jobs, futures, strict=True):
                progress.start(job.name, None, "rows")
                done.append(future.result())
                progress.done(job.name)
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
        config: What its parts and tables share.
        progress: Told of parts and tables in rows.
    """

    def __init__(self, config: BuildConfig, progress: Progress = SILENT) -> None:
        self.config = config
        self.progress = progress
        self.parts: list[PartJob] = part_jobs(config)
        self.pools = list(dict.fromkeys(config.source.pools.values()))

    def __iter__(self) -> Iterator[Stage]:
        yield Stage("parts", self.parts)
        first: dict[str, str] = {}
        for group in self.config.builder.same_pools(self.config.options):
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
        return [TableJob("queries", split, self.config) for split in self.config.source.pools]

    def run(self, jobs: Sequence[Job], executor: Executor) -> None:
        """Has some jobs of one stage done."""
        executor.run(jobs, self.progress)

    def copy(self, stage: Stage) -> None:
        """Gives the pools that hold the same rows as others their second names."""
        for job in stage.copies:
            perform(job, self.progress)

    def run_all(self, executor: Executor) -> None:
        """Has everything done that is not done yet."""
        for stage in self:
            self.run(stage.jobs, executor)
            self.copy(stage)

    def unfinished(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of some jobs that are not done."""
        return [job for job in jobs if not job.marker.exists()]

    def stats(self) -> tuple[dict[str, Stats], dict[str, Stats], dict[str, Stats]]:
        """What the parts, pools and query splits came to, when all is done."""
        return (
            {job.name: perform(job) for job in self.parts},
            {pool: perform(self._pool(pool)) for pool in self.pools},
            {job.split: perform(job) for job in self._queries()},
        )

    def finish(self, record: dict[str, Any]) -> None:
        """Writes the edition-level files of the source; the manifest, last, decides to publish."""
        source, staging = self.config.source, self.config.staging
        jobs: list[Job] = [*self.parts, *map(self._pool, self.pools), *self._queries()]
        parts = [job.ledger_part for job in jobs]
        merge_ledgers(parts, staging / f"{source.config}_ledger.parquet")
        for suffix, splits in (
            (SUFFIX["queries"], list(source.pools)),
            (SUFFIX["qrels"], list(source.pools)),
            (SUFFIX["passages"], self.pools),
        ):
            path = staging / f"{source.config}_{suffix}" / "dataset_dict.json"
            atomic.write_json(path, {"splits": splits}, alone=True)
        whole = signed(record | {"files": listed_files(staging, source.config, record["tables"])})
        atomic.write_text(manifest_path(staging, source.config), manifest_text(whole), alone=True)
