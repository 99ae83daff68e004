"""A build shared out to jobs that know nothing of each other: ``--shard 2/3``, then ``m2kr merge``.

A shard holds no lock of the whole source while it works, only its own, so that the shards of one build
can share a staging folder. It never publishes.
"""

import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m2kr import atomic
from m2kr.building.build import Built, build_target
from m2kr.building.hashing import shard_facts
from m2kr.building.jobs import Executor, Job, Processes, Stages
from m2kr.building.parts import PartJob, Stats
from m2kr.building.request import (
    BuildRequest,
    BuildTarget,
    PreparedBuild,
    prepare_build,
    target_of,
)
from m2kr.building.spec import Builder
from m2kr.data.lookup import INDEX
from m2kr.errors import CheckError, InputError, MissingError, UsageError
from m2kr.locks import Busy, hold, take
from m2kr.progress import SILENT, Progress
from m2kr.schema import table_name
from m2kr.sources import Source

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
    request: BuildRequest,
    *,
    offline: bool = False,
    jobs: int = 1,
    progress: Progress = SILENT,
    route: Mapping[str, Any] | None = None,
) -> ShardBuilt:
    """Does one shard's share of the parts; of the pools if all parts are there; then of the queries.

    Run again when other shards are done it goes on with the next stage. `merge_shards` does what
    is left and publishes.

    Args:
        builder: Of a source; see `m2kr.building.registry.builder`.
        root: The data root: one that all shards share, or one of the shard's own.
        shard: Which share.
        request: What all shards are asked for.
        offline: Use only files that are already there.
        jobs: As in a whole build.
        progress: As in a whole build.
        route: How the builder was chosen, kept for the merge.

    Raises:
        M2KRError: see the subclasses; what is complete is kept for the next run.
    """
    target = target_of(builder, root, request)
    target.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as working:
        # In this order: who publishes holds the first lock and waits for the second.
        with hold(target.lock, f"the build of {target.source.name} in {target.folder}"):
            lock, what = _lock(target, shard), f"shard {shard} of {target.source.name}"
            working.enter_context(_alone(lock, what))
            prepared = prepare_build(target, offline=offline, jobs=jobs, progress=progress)
            if not prepared.needs_build:
                return ShardBuilt(target.folder, shard, [], fresh=False)
            _refuse_others(prepared, lock)
            prepared.stage()
            record = _Record(prepared, shard, route or {})
            record.write(())
        return _work(prepared.stages(progress), record, Processes(jobs))


def _work(stages: Stages, record: "_Record", executor: Executor) -> ShardBuilt:
    shard = record.shard
    done: list[str] = []
    for stage in stages:
        mine = stage.jobs[shard.number - 1 :: shard.of]
        stages.run(mine, executor)
        done += [job.name for job in mine]
        record.write(done, complete=bool(stage.jobs))
        unfinished = stages.unfinished(stage.jobs)
        if unfinished and stage.name != "queries":
            after = {"parts": "pools", "pools": "queries"}[stage.name]
            names = tuple(job.name for job in unfinished)
            return ShardBuilt(record.folder, shard, done, after, names)
        stages.copy(stage)
    return ShardBuilt(record.folder, shard, done)


class _Record:
    """What a shard tells the merge."""

    def __init__(self, prepared: PreparedBuild, shard: Shard, route: Mapping[str, Any]) -> None:
        self.shard = shard
        self.folder = prepared.target.folder
        self._path = prepared.target.staging / FOLDER / shard.file
        self._facts = {
            "shard": shard.number,
            "of": shard.of,
            "key": prepared.key,
            "facts": prepared.facts,
            "ask": dataclasses.asdict(prepared.target.request),
            "asked": dict(route),
        }

    def write(self, done: Sequence[str], *, complete: bool = False) -> None:
        """Notes what is done; once its share of the first stage that has any is, it counts as there."""
        self._path.parent.mkdir(exist_ok=True)
        known = complete or (
            self._path.exists() and json.loads(self._path.read_text(encoding="utf-8"))["complete"]
        )
        facts = self._facts | {"complete": known, "done": list(done)}
        atomic.write_json(self._path, facts, alone=True)


def _records(staging: Path) -> list[dict[str, Any]]:
    """What the shards that worked in a staging folder say of themselves."""
    return [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((staging / FOLDER).glob("*.json"))
    ]


def _difference(facts: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """By what two builds differ, as a reader would say it."""
    names = {"version": "the version of the source", "told": "the release"}
    return ", ".join(names.get(k, k) for k in {**facts, **other} if facts.get(k) != other.get(k))


def _refuse_others(prepared: PreparedBuild, own: Path) -> None:
    """A shard must not throw away what the shards of another build have made."""
    target = prepared.target
    others = [found for found in _records(target.staging) if found["key"] != prepared.key]
    for found in others:
        if not target.request.force:
            raise CheckError(
                f"shard {found['shard']}/{found['of']} of another build is here: "
                f"they differ in {_difference(prepared.facts, found['facts'])}",
                where=str(target.staging),
                fix="ask for the same in every shard, or --force to throw the other one away",
            )
    for lock in target.shard_locks() if others else ():
        if lock != own:
            with _alone(lock, f"a shard of another build of {target.source.name}"):
                pass


def _lock(target: BuildTarget, shard: Shard) -> Path:
    return target.folder / f".{target.source.config}.shard-{shard.number}-of-{shard.of}.lock"


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


@dataclass(frozen=True)
class ShardSet:
    """The shards of one build.

    Attributes:
        records: What each shard says of itself.
        stagings: The staging folders that they worked in.
    """

    records: Sequence[Mapping[str, Any]]
    stagings: Sequence[Path]

    @property
    def request(self) -> BuildRequest:
        """What they were asked for."""
        return BuildRequest(**self.records[0]["ask"])

    @property
    def route(self) -> dict[str, Any]:
        """How their builder was chosen."""
        return dict(self.records[0]["asked"])


def find_shards(
    source: Source, root: Path, folders: Sequence[Path] = (), edition: str | None = None
) -> ShardSet | None:
    """The shards of a source in a data root and in others; None if there is not one.

    Args:
        source: Its spec.
        root: The data root to merge into.
        folders: Data roots, or edition folders, of shards that did not work in ``root``.
        edition: The edition they were built for, if there are shards of several.

    Raises:
        InputError: one of the folders has no shard.
        CheckError: they are not of one build.
        MissingError: some have not been run, or were not completed.
        UsageError: there are shards for several editions.
    """
    stagings: list[Path] = []
    for place in (root, *folders):
        here = [s for s in _stagings(place, source.config, edition) if _records(s)]
        if not here and place is not root:
            raise InputError(
                f"there is no shard of {source.name} in this folder",
                where=str(place),
                expected="the data root that a shard was built in (m2kr build --shard --data)",
            )
        stagings += [s for s in here if s not in stagings]
    editions = sorted({s.parent.name for s in stagings})
    if len(editions) > 1:
        raise UsageError(
            f"there are shards of {source.name} for several editions: {', '.join(editions)}",
            fix=f"m2kr merge {source.name} --edition {editions[0]} --data {shlex.quote(str(root))}",
        )
    found = [(s, record) for s in stagings for record in _records(s)]
    if not found:
        return None
    _check(source, found)
    return ShardSet([record for _, record in found], stagings)


def _stagings(place: Path, config: str, edition: str | None) -> list[Path]:
    name = f".staging-{config}"
    here = [place / name, *sorted(place.glob(f"*/{name}"))]
    return [s.absolute() for s in here if s.is_dir() and edition in (None, s.parent.name)]


def _check(source: Source, found: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    (first_at, first), whole = found[0], {r["shard"] for _, r in found if r["complete"]}
    for staging, record in found:
        name = f"shard {record['shard']}/{record['of']}"
        if record["key"] != first["key"]:
            raise CheckError(
                f"{name} is of another build than shard {first['shard']}/{first['of']} in "
                f"{first_at}: they differ in {_difference(record['facts'], first['facts'])}",
                where=str(staging),
                expected="shards that were asked for the same, over the same upstream files",
                fix=_command(source, first, record["shard"]),
            )
        if record["of"] != first["of"]:
            raise CheckError(
                f"{name} and shard {first['shard']}/{first['of']} in {first_at} are shares of "
                "different sizes",
                where=str(staging),
                expected="one COUNT in every --shard NUMBER/COUNT",
            )
    missing = [number for number in range(1, first["of"] + 1) if number not in whole]
    if missing:
        listed = ", ".join(f"{number}/{first['of']}" for number in missing[:20])
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise MissingError(
            f"{len(missing)} of {first['of']} shards of {source.name} are missing or not complete: "
            f"{listed}{more}",
            where=", ".join(dict.fromkeys(str(s) for s, _ in found)),
            fix=_command(source, first, missing[0]),
        )


def _command(source: Source, record: Mapping[str, Any], number: int) -> str:
    """The command that builds one shard of a build."""
    request, route = record["ask"], record["asked"]
    words = ["m2kr", "build", source.name, "--shard", f"{number}/{record['of']}"]
    for flag, value in (
        ("--edition", request["edition"]),
        ("--limit", request["limit"]),
        ("--route", "release" if route.get("route") == "release" else None),
        ("--align", "release" if route.get("align") else None),
        ("--from", route.get("folder")),
        ("--revision", route.get("revision")),
        ("--ledger", "full" if request["full_ledger"] else None),
    ):
        words += [flag, str(value)] if value is not None else []
    for split in request["splits"] or ():
        words += ["--split", split]
    for name, value in request["options"].items():
        words += ["--set", f"{name}={value}"]
    words += [] if route.get("repair", True) else ["--no-repair"]
    words += ["--any-counts"] if route.get("any_counts") else []
    return shlex.join(words)


def merge_shards(
    builder: Builder,
    root: Path,
    shards: ShardSet,
    *,
    offline: bool = False,
    jobs: int = 1,
    progress: Progress = SILENT,
) -> Built:
    """Publishes a build whose shards are all there; the bytes are those of a build in one process.

    Args:
        builder: The builder that the shards had.
        root: The data root to publish in. Upstream files that are left to be read must be here or
            are fetched.
        shards: The shards, which stay where they are if that is another data root.
        offline: Use only files that are already there.
        jobs: What is left is made in this many processes.
        progress: As in a whole build.

    Raises:
        CheckError: the shards are of another build than this m2kr would make, or damaged.
        M2KRError: as in a whole build.
    """

    def gather(prepared: PreparedBuild, stages: Stages) -> None:
        record = shards.records[0]
        if record["key"] != prepared.key:
            raise CheckError(
                "the shards are of another build than would be made here: they differ in "
                f"{_difference(prepared.facts, record['facts'])}",
                where=str(shards.stagings[0]),
                fix="merge with the m2kr and the upstream files that the shards were built with",
            )
        for staging in shards.stagings:
            if staging != prepared.target.staging.absolute():
                _gather(stages, staging)

    target = target_of(builder, root, shards.request)
    return build_target(
        target, offline=offline, jobs=jobs, progress=progress, executor=None, gather=gather
    )


def _gather(stages: Stages, staging: Path) -> None:
    """Takes over what is complete in another staging folder; the files get a second name or a copy."""
    for stage in stages:
        for job in stages.unfinished(stage.jobs):
            own = job.marker
            other = staging / own.relative_to(stages.config.staging)
            if other.exists():
                _take(stages, job, staging)


def _take(stages: Stages, job: Job, staging: Path) -> None:
    own = stages.config.staging
    marker, listed = job.marker, job.ledger_part
    stats: Stats = json.loads((staging / marker.relative_to(own)).read_text(encoding="utf-8"))
    marker.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(job, PartJob):
        _link(staging / job.file.relative_to(own), job.file)
        files = [(job.file, stats["file"])]
    else:
        names = {job.name: stats}
        if job.kind == "queries":
            names[table_name(stages.config.source.config, "qrels", job.split)] = stats["qrels"]
        files = []
        for name, facts in names.items():
            _link_folder(staging / name, own / name)
            files += [(own / name / f["file"], f) for f in facts["shards"]]
        _check_index(own / job.name / INDEX, stats["rows"], staging)
    for path, facts in files:
        if shard_facts(path) != facts:
            raise _damaged(staging / path.relative_to(own))
    if (staging / listed.relative_to(own)).exists():
        _link(staging / listed.relative_to(own), listed)
    atomic.write_json(marker, stats, alone=True)


def _link(old: Path, new: Path) -> None:
    try:
        with atomic.writing(new, alone=True) as aside:
            atomic.link(old, aside)
    except FileNotFoundError as error:
        raise _damaged(old) from error


def _link_folder(old: Path, new: Path) -> None:
    atomic.discard(new)  # whole shards of a table that was begun here
    new.mkdir(parents=True)
    for path in sorted(old.glob("*")):
        if path.suffix != ".tmp":
            _link(path, new / path.name)


def _check_index(path: Path, rows: int, staging: Path) -> None:
    try:
        found = len(np.load(path, mmap_mode="r"))
    except (OSError, ValueError):
        found = -1
    if found != rows:
        raise _damaged(staging / path.parent.parent.name / path.parent.name / path.name)


def _damaged(path: Path) -> CheckError:
    return CheckError(
        "this file of a shard is damaged or not there",
        where=str(path),
        expected="the folder as the shard left it",
        fix="copy the shard's data root again",
    )
