"""``m2kr merge``: the shards of a build are gathered, what is left is done, and it is published."""

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m2kr import atomic
from m2kr.building.build import Built
from m2kr.building.executors import Executor, Job, Processes
from m2kr.building.hashing import shard_facts
from m2kr.building.jobs import Stages
from m2kr.building.parts import PartJob, Stats
from m2kr.building.request import Ask, Setup, set_up, target_of
from m2kr.building.shards import difference, records, wait_for_shards
from m2kr.building.spec import Builder
from m2kr.data.lookup import FILE as INDEX
from m2kr.data.manifests import read_manifest
from m2kr.errors import CheckError, InputError, MissingError, UsageError
from m2kr.locks import hold
from m2kr.progress import SILENT, Progress
from m2kr.schema import SUFFIX
from m2kr.sources import Source


@dataclass(frozen=True)
class Found:
    """The shards of one build.

    Attributes:
        records: What each shard says of itself.
        stagings: The staging folders that they worked in.
    """

    records: Sequence[Mapping[str, Any]]
    stagings: Sequence[Path]

    @property
    def ask(self) -> Ask:
        """What they were asked for."""
        return Ask(**self.records[0]["ask"])

    @property
    def asked(self) -> dict[str, Any]:
        """How their builder was chosen."""
        return dict(self.records[0]["asked"])


def find_shards(
    source: Source, root: Path, folders: Sequence[Path] = (), edition: str | None = None
) -> Found | None:
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
        here = [s for s in _stagings(place, source.config, edition) if records(s)]
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
            fix=f"m2kr merge {source.name} --edition {editions[0]}",
        )
    found = [(s, record) for s in stagings for record in records(s)]
    if not found:
        return None
    _check(source, found)
    return Found([record for _, record in found], stagings)


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
                f"{first_at}: they differ in {difference(record['facts'], first['facts'])}",
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
    ask, asked = record["ask"], record["asked"]
    words = ["m2kr", "build", source.name, "--shard", f"{number}/{record['of']}"]
    for flag, value in (
        ("--edition", ask["edition"]),
        ("--limit", ask["limit"]),
        ("--route", "release" if asked.get("route") == "release" else None),
        ("--align", "release" if asked.get("align") else None),
        ("--from", asked.get("folder")),
        ("--revision", asked.get("revision")),
        ("--ledger", "full" if ask["full_ledger"] else None),
    ):
        words += [flag, str(value)] if value is not None else []
    for split in ask["splits"] or ():
        words += ["--split", split]
    for name, value in ask["options"].items():
        words += ["--set", f"{name}={value}"]
    words += [] if asked.get("repair", True) else ["--no-repair"]
    words += ["--any-counts"] if asked.get("any_counts") else []
    return shlex.join(words)


def merge(
    builder: Builder,
    root: Path,
    found: Found,
    *,
    offline: bool = False,
    jobs: int = 1,
    progress: Progress = SILENT,
    executor: Executor | None = None,
) -> Built:
    """Publishes a build whose shards are all there; the bytes are those of a build in one process.

    Args:
        builder: The builder that the shards had.
        root: The data root to publish in. Upstream files that are left to be read must be here or
            are fetched.
        found: The shards, which stay where they are if that is another data root.
        offline: Use only files that are already there.
        jobs: What is left is made in this many processes.
        progress: As in a whole build.
        executor: As in a whole build.

    Raises:
        CheckError: the shards are of another build than this m2kr would make, or damaged.
        M2KRError: as in a whole build.
    """
    target = target_of(builder, root, found.ask)
    target.folder.mkdir(parents=True, exist_ok=True)
    executor = executor or Processes(jobs)
    with hold(target.lock, f"the build of {target.source.name} in {target.folder}") as held:
        executor.prepare(root)
        wait_for_shards(target)
        setup = set_up(target, offline=offline, jobs=jobs, progress=progress)
        fresh = setup.fresh
        if fresh:
            _same(setup, found)
            setup.stage()
            stages = Stages(target.builder, setup.source, setup.choices, progress)
            for staging in found.stagings:
                if staging != target.staging.absolute():
                    _gather(stages, staging)
            stages.run_all(executor)
            held.check()
            setup.publish(stages)
        elif target.staging.exists():
            shutil.rmtree(target.staging)
        record = read_manifest(target.manifest)
    target.write_card()
    return Built(target.folder, record, fresh)


def _same(setup: Setup, found: Found) -> None:
    record = found.records[0]
    if record["key"] != setup.key:
        raise CheckError(
            "the shards are of another build than would be made here: they differ in "
            f"{difference(setup.facts, record['facts'])}",
            where=str(found.stagings[0]),
            fix="merge with the m2kr and the upstream files that the shards were built with",
        )


def _gather(stages: Stages, staging: Path) -> None:
    """Takes over what is complete in another staging folder; the files get a second name or a copy."""
    for stage in stages:
        for job in stages.left(stage.jobs):
            own = job.marker(stages.source)
            other = staging / own.relative_to(stages.choices.staging)
            if other.exists():
                _take(stages, job, staging)


def _take(stages: Stages, job: Job, staging: Path) -> None:
    source, own = stages.source, stages.choices.staging
    marker, listed = job.marker(source), job.ledger_part(source)
    stats: Stats = json.loads((staging / marker.relative_to(own)).read_text(encoding="utf-8"))
    marker.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(job, PartJob):
        _link(staging / job.file.relative_to(own), job.file)
        files = [(job.file, stats["file"])]
    else:
        names = {job.name(source): stats}
        if job.kind == "queries":
            names[f"{source.config}_{SUFFIX['qrels']}/{job.split}"] = stats["qrels"]
        files = []
        for name, facts in names.items():
            _link_folder(staging / name, own / name)
            files += [(own / name / f["file"], f) for f in facts["shards"]]
        _check_index(own / job.name(source) / INDEX, stats["rows"], staging)
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
