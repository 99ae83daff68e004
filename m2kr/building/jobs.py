"""The stages of a build: parts, then pools, then queries, each needing the whole of the one before."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from m2kr import atomic
from m2kr.building import ledger
from m2kr.building.choices import Choices
from m2kr.building.executors import Executor, Job, Task, perform
from m2kr.building.parts import PartJob, Stats, part_jobs
from m2kr.building.publish import listed_files
from m2kr.building.spec import Builder
from m2kr.building.table import TableJob
from m2kr.data.manifests import manifest_text, signed
from m2kr.paths import manifest_path
from m2kr.progress import SILENT, Progress
from m2kr.schema import SUFFIX
from m2kr.sources import Source


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
        choices: What the build was asked for.
        progress: Told of parts and tables in rows.
    """

    def __init__(
        self, builder: Builder, source: Source, choices: Choices, progress: Progress = SILENT
    ) -> None:
        self.builder = builder
        self.source = source
        self.choices = choices
        self.progress = progress
        self.parts: list[PartJob] = part_jobs(builder, choices)
        self.pools = list(dict.fromkeys(source.pools.values()))

    def __iter__(self) -> Iterator[Stage]:
        yield Stage("parts", self.parts)
        first: dict[str, str] = {}
        for group in self.builder.same_pools(self.choices.options):
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
        return TableJob("passages", pool, self.choices)

    def _queries(self) -> list[TableJob]:
        return [TableJob("queries", split, self.choices) for split in self.source.pools]

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

    def left(self, jobs: Sequence[Job]) -> list[Job]:
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
        config, staging = self.source.config, self.choices.staging
        jobs: list[Job] = [*self.parts, *map(self._pool, self.pools), *self._queries()]
        parts = [job.ledger_part(self.source) for job in jobs]
        ledger.merge(parts, staging / f"{config}_ledger.parquet")
        for suffix, splits in (
            (SUFFIX["queries"], list(self.source.pools)),
            (SUFFIX["qrels"], list(self.source.pools)),
            (SUFFIX["passages"], self.pools),
        ):
            path = staging / f"{config}_{suffix}" / "dataset_dict.json"
            atomic.write_json(path, {"splits": splits}, alone=True)
        whole = signed(record | {"files": listed_files(staging, config, record["tables"])})
        atomic.write_text(manifest_path(staging, config), manifest_text(whole), alone=True)
