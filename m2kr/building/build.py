"""One build from start to finish: files, parts, tables, manifest, publication, card."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2kr import atomic
from m2kr.building.executors import Executor, Processes
from m2kr.building.jobs import Stages
from m2kr.building.request import Ask, Target, set_up, target_of
from m2kr.building.shards import wait_for_shards
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
    ask = Ask(edition, options or {}, splits, limit, seed, full_ledger, force)
    target = target_of(builder, root, ask)
    if target.manifest.exists() and not atomic.writable(target.folder):
        return _read_only(target, offline=offline, jobs=jobs, progress=progress)
    target.folder.mkdir(parents=True, exist_ok=True)
    executor = executor or Processes(jobs)
    with hold(target.lock, f"the build of {target.source.name} in {target.folder}") as held:
        executor.prepare(root)
        wait_for_shards(target)
        setup = set_up(target, offline=offline, jobs=jobs, progress=progress)
        fresh = setup.fresh
        if fresh:
            setup.stage()
            stages = Stages(target.builder, setup.source, setup.choices, progress)
            stages.run_all(executor)
            held.check()
            setup.publish(stages)
        elif target.staging.exists():
            shutil.rmtree(target.staging)
        record = read_manifest(target.manifest)
    target.write_card()
    return Built(target.folder, record, fresh)


def _read_only(target: Target, *, offline: bool, jobs: int, progress: Progress) -> Built:
    """What is built already, in a root that may only be read: no lock is written.

    Raises:
        M2KRError: Something else is asked for than what is there.
    """
    if set_up(target, offline=offline, jobs=jobs, progress=progress).fresh:
        raise M2KRError(
            f"{target.source.name} would have to be built anew, and this folder may only be read",
            where=str(target.folder),
            fix="another data root: --data DIR",
        )
    return Built(target.folder, read_manifest(target.manifest), False)
