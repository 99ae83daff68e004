"""Who makes the parts and tables of a build: this process, several, or whoever is passed in."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

from m2kr import children
from m2kr.building.hashing import die_with_parent
from m2kr.building.parts import PartJob, Stats, build_part
from m2kr.building.spec import Builder
from m2kr.building.table import TableJob, build_table
from m2kr.progress import SILENT, Progress

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
