"""A build shared out to jobs that know nothing of each other: ``--shard 2/3``, then ``m2kr merge``.

A shard holds no lock of the whole source while it works, only its own, so that the shards of one build
can share a staging folder. It never publishes.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2kr import atomic
from m2kr.building.executors import Executor, Processes
from m2kr.building.jobs import Stages
from m2kr.building.request import Ask, Setup, Target, set_up, target_of
from m2kr.building.spec import Builder
from m2kr.errors import CheckError, UsageError
from m2kr.locks import Busy, hold, take
from m2kr.progress import SILENT, Progress

FOLDER = "shards"  # below the staging folder


@dataclass(frozen=True)
class Shard:
    """One of ``of`` shares of a build; ``number`` counts from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """``2/3``.

        Raises:
            UsageError: it isn't one.
        """
        number, slash, of = text.partition("/")
        fits = slash and all(n.isascii() and n.isdecimal() and len(n) < 6 for n in (number, of))
        if not fits or not 1 <= int(number) <= int(of):
            raise UsageError(
                f"--shard {text!r} is no share of a build",
                expected="NUMBER/COUNT with 1 ≤ NUMBER ≤ COUNT, such as 2/3",
            )
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def file(self) -> str:
        """Name of its record."""
        return f"{self.number:05d}-of-{self.of:05d}.json"


@dataclass(frozen=True)
class ShardBuilt:
    """What a shard left behind.

    Attributes:
        folder: The edition folder.
        shard: Which share it was.
        done: Parts and tables of its share that are complete.
        stage: The stage that it could not begin, or empty.
        waits_for: Parts or tables of other shards that this stage needs.
        fresh: False if the source was already built from the same inputs.
    """

    folder: Path
    shard: Shard
    done: list[str]
    stage: str = ""
    waits_for: tuple[str, ...] = ()
    fresh: bool = True


def build_shard(
    builder: Builder,
    root: Path,
    shard: Shard,
    ask: Ask,
    *,
    offline: bool = False,
    jobs: int = 1,
    progress: Progress = SILENT,
    asked: Mapping[str, Any] | None = None,
) -> ShardBuilt:
    """Does one shard's share of the parts; of the pools if all parts are there; then of the queries.

    Run again when other shards are done it goes on with the next stage. `m2kr.building.merge.merge`
    does what is left and publishes.

    Args:
        builder: Of a source; see `m2kr.building.registry.builder`.
        root: The data root: one that all shards share, or one of the shard's own.
        shard: Which share.
        ask: What all shards are asked for.
        offline: Use only files that are already there.
        jobs: As in a whole build.
        progress: As in a whole build.
        asked: How the builder was chosen, kept for the merge.

    Raises:
        M2KRError: see the subclasses; what is complete is kept for the next run.
    """
    target = target_of(builder, root, ask)
    target.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as working:
        # In this order: who publishes holds the first lock and waits for the second.
        with hold(target.lock, f"the build of {target.source.name} in {target.folder}"):
            lock, what = _lock(target, shard), f"shard {shard} of {target.source.name}"
            working.enter_context(_alone(lock, what))
            setup = set_up(target, offline=offline, jobs=jobs, progress=progress)
            if not setup.fresh:
                return ShardBuilt(target.folder, shard, [], fresh=False)
            _refuse_others(setup, lock)
            setup.stage()
            record = _Record(setup, shard, asked or {})
            record.write(())
        stages = Stages(target.builder, setup.source, setup.choices, progress)
        return _work(stages, record, Processes(jobs))


def _work(stages: Stages, record: "_Record", executor: Executor) -> ShardBuilt:
    shard, source = record.shard, stages.source
    done: list[str] = []
    for stage in stages:
        mine = stage.jobs[shard.number - 1 :: shard.of]
        stages.run(mine, executor)
        done += [job.name(source) for job in mine]
        record.write(done, complete=bool(stage.jobs))
        left = stages.left(stage.jobs)
        if left and stage.name != "queries":
            after = {"parts": "pools", "pools": "queries"}[stage.name]
            names = tuple(job.name(source) for job in left)
            return ShardBuilt(record.folder, shard, done, after, names)
        stages.copy(stage)
    return ShardBuilt(record.folder, shard, done)


class _Record:
    """What a shard tells the merge."""

    def __init__(self, setup: Setup, shard: Shard, asked: Mapping[str, Any]) -> None:
        self.shard = shard
        self.folder = setup.target.folder
        self._path = setup.target.staging / FOLDER / shard.file
        self._facts = {
            "shard": shard.number,
            "of": shard.of,
            "key": setup.key,
            "facts": setup.facts,
            "ask": dataclasses.asdict(setup.target.ask),
            "asked": dict(asked),
        }

    def write(self, done: Sequence[str], *, complete: bool = False) -> None:
        """Notes what is done; once its share of the first stage that has any is, it counts as there."""
        self._path.parent.mkdir(exist_ok=True)
        known = complete or (
            self._path.exists() and json.loads(self._path.read_text(encoding="utf-8"))["complete"]
        )
        facts = self._facts | {"complete": known, "done": list(done)}
        atomic.write_json(self._path, facts, alone=True)


def records(staging: Path) -> list[dict[str, Any]]:
    """What the shards that worked in a staging folder say of themselves."""
    return [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((staging / FOLDER).glob("*.json"))
    ]


def difference(facts: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """By what two builds differ, as a reader would say it."""
    names = {"version": "the version of the source", "told": "the release"}
    return ", ".join(names.get(k, k) for k in {**facts, **other} if facts.get(k) != other.get(k))


def _refuse_others(setup: Setup, own: Path) -> None:
    """A shard must not throw away what the shards of another build have made."""
    target = setup.target
    others = [found for found in records(target.staging) if found["key"] != setup.key]
    for found in others:
        if not target.ask.force:
            raise CheckError(
                f"shard {found['shard']}/{found['of']} of another build is here: "
                f"they differ in {difference(setup.facts, found['facts'])}",
                where=str(target.staging),
                fix="ask for the same in every shard, or --force to throw the other one away",
            )
    for lock in _locks(target) if others else ():
        if lock != own:
            with _alone(lock, f"a shard of another build of {target.source.name}"):
                pass


def _lock(target: Target, shard: Shard) -> Path:
    return target.folder / f".{target.source.config}.shard-{shard.number}-of-{shard.of}.lock"


def _locks(target: Target) -> list[Path]:
    return sorted(target.folder.glob(f".{target.source.config}.shard-*.lock"))


@contextmanager
def _alone(lock: Path, what: str) -> Iterator[None]:
    """Holds a lock, without waiting for an owner that lives."""
    try:
        held = take(lock, what, wait=False)
    except Busy as error:
        raise CheckError(
            f"{what} is already at work in another process", where=error.where, fix=error.fix
        ) from None
    try:
        yield
    finally:
        held.release()


def wait_for_shards(target: Target) -> None:
    """Waits until no shard of a source is at work in an edition; its lock must be held."""
    for lock in _locks(target):
        with hold(lock, f"a shard of {target.source.name} in {target.folder}"):
            pass
