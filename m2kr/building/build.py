"""One build from start to finish: files, parts, tables, manifest, publication, card."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2kr import atomic
from m2kr.building.jobs import Executor, Processes, Stages
from m2kr.building.request import (
    BuildRequest,
    BuildTarget,
    PreparedBuild,
    prepare_build,
    target_of,
)
from m2kr.building.spec import Builder
from m2kr.data.manifests import read_manifest
from m2kr.errors import M2KRError, plainly
from m2kr.locks import hold
from m2kr.progress import SILENT, Progress


@dataclass(frozen=True)
class Built:
    """What a build left behind.

    Attributes:
        folder: The edition folder.
        manifest: The source's manifest.
        fresh: False if the source was already built from the same inputs.
    """

    folder: Path
    manifest: dict[str, Any]
    fresh: bool


@plainly()
def build(
    builder: Builder,
    root: Path,
    *,
    edition: str | None = None,
    options: Mapping[str, str] | None = None,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
    offline: bool = False,
    jobs: int = 1,
    force: bool = False,
    seed: int = 0,
    full_ledger: bool = False,
    progress: Progress = SILENT,
    executor: Executor | None = None,
) -> Built:
    """Builds one source into an edition; waits if another process is building it.

    Args:
        builder: Of a source; see `m2kr.building.registry.builder`.
        root: The data root.
        edition: Edition name; the route's, the variant's or the source's own by default.
        options: Builder options; others take their default.
        splits: Query splits to build, with their pools; those that the edition already has from the
            same route stay.
        limit: Keep this many queries a split, and as many passages beside their positives. Such a
            build is marked partial and goes to ``<edition>-limitN``.
        offline: Use only files that are already there.
        jobs: Files fetched at once, and parts and tables built at once in processes of their own.
        force: Build again even if nothing changed, or over a build with other options.
        seed: For keyed choices such as instructions.
        full_ledger: Write used and filtered rows to the ledger, too.
        progress: Told of downloads in bytes and of tables in rows.
        executor: Makes parts and tables, instead of ``jobs`` processes here.

    Raises:
        M2KRError: see the subclasses; what is complete is kept for the next run.
    """
    request = BuildRequest(edition, options or {}, splits, limit, seed, full_ledger, force)
    target = target_of(builder, root, request)
    if target.manifest.exists() and not atomic.writable(target.folder):
        return _read_only(target, offline=offline, jobs=jobs, progress=progress)
    return build_target(target, offline=offline, jobs=jobs, progress=progress, executor=executor)


def build_target(
    target: BuildTarget,
    *,
    offline: bool,
    jobs: int,
    progress: Progress,
    executor: Executor | None,
    gather: Callable[[PreparedBuild, Stages], None] | None = None,
) -> Built:
    """Makes and publishes what is not there yet; the arguments are those of `build`.

    Args:
        target: Where it goes.
        offline: As there.
        jobs: As there.
        progress: As there.
        executor: As there.
        gather: Puts what was made elsewhere into the staging folder.
    """
    target.folder.mkdir(parents=True, exist_ok=True)
    executor = executor or Processes(jobs)
    with hold(target.lock, f"the build of {target.source.name} in {target.folder}") as lock:
        executor.prepare(target.root)
        target.wait_for_shards()
        prepared = prepare_build(target, offline=offline, jobs=jobs, progress=progress)
        fresh = prepared.needs_build
        if fresh:
            prepared.stage()
            stages = prepared.stages(progress)
            if gather is not None:
                gather(prepared, stages)
            stages.run_all(executor)
            lock.check()
            prepared.publish(stages)
        elif target.staging.exists():
            shutil.rmtree(target.staging)
        record = read_manifest(target.manifest)
    target.write_card()
    return Built(target.folder, record, fresh)


def _read_only(target: BuildTarget, *, offline: bool, jobs: int, progress: Progress) -> Built:
    """What is built already, in a root that may only be read: no lock is written.

    Raises:
        M2KRError: Something else is asked for than what is there.
    """
    if prepare_build(target, offline=offline, jobs=jobs, progress=progress).needs_build:
        raise M2KRError(
            f"{target.source.name} would have to be built anew, and this folder may only be read",
            where=str(target.folder),
            fix="another data root: --data DIR",
        )
    return Built(target.folder, read_manifest(target.manifest), False)
