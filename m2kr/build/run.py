"""One build from start to finish: files, tables, manifest, publication, card."""

import hashlib
import importlib
import inspect
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from m2kr import __version__, atomic, sources
from m2kr.build import card, ledger, manifest, publish
from m2kr.build.fetch import fetch, sha256_of
from m2kr.build.hashing import die_with_parent
from m2kr.build.locks import hold
from m2kr.build.options import (
    chosen_splits,
    edition_name,
    refuse_other,
    resolve_options,
    rules_for,
    variant_of,
)
from m2kr.build.registry import registered_templates
from m2kr.build.spec import Asset, Builder, templates_of
from m2kr.build.tables import Choices, Stats, TableJob, build_table, narrowed
from m2kr.errors import UsageError
from m2kr.paths import downloads, manifest_path
from m2kr.progress import Progress, Silent
from m2kr.schema import MANIFEST_FORMAT, SUFFIX, TableKind

log = logging.getLogger("m2kr.build")


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


def build(
    builder: Builder | ModuleType,
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
    progress: Progress | None = None,
) -> Built:
    """Builds one source into an edition; waits if another process is building it.

    Args:
        builder: A builder module, or an object like one.
        root: The data root.
        edition: Edition name; the route's, the variant's or the source's own by default.
        options: Builder options; others take their default.
        splits: Query splits to build, with their pools; those that the edition already has from the
            same route stay.
        limit: Keep this many queries a split, and as many passages beside their positives. Such a
            build is marked partial and goes to ``<edition>-limitN``.
        offline: Use only files that are already there.
        jobs: Files fetched at once, and tables built at once in processes of their own.
        force: Build again even if nothing changed, or over a build with other options.
        seed: For keyed choices such as instructions.
        full_ledger: Write used and filtered rows to the ledger, too.
        progress: Told of downloads in bytes and of tables in rows.

    Raises:
        M2KRError: see the subclasses; what is complete is kept for the next run.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} keeps nothing", expected="a positive number")
    builder = cast("Builder", builder)
    source, route = builder.SOURCE, getattr(builder, "ROUTE", "sources")
    options = resolve_options(source, options or {}, edition if route != "release" else None)
    name = edition_name(source, edition, limit, options=options, route=route)
    chosen = chosen_splits(source, splits)
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder / f".{source.config}.lock", f"the build of {source.name} in {folder}"):
        target, staging = manifest_path(folder, source.config), folder / f".staging-{source.config}"
        if manifest_path(staging, source.config).exists():
            publish.publish(staging, folder, source.config)
        told = options | dict(getattr(builder, "told", {}))
        if target.exists() and not force:
            old = json.loads(target.read_text())
            if route != "import":
                refuse_other(old, str(folder), route=route, options=told)
            chosen = tuple(s for s in source.pools if s in {*chosen, *old["splits"]})
        source = narrowed(source, chosen)
        prepare = getattr(builder, "prepare", None)
        if prepare is not None:
            prepare(root, chosen, offline=offline, jobs=jobs, progress=progress)
        assets = builder.assets(options)
        files = fetch(assets, downloads(root), jobs=jobs, offline=offline, progress=progress)
        choices = Choices(
            staging=staging,
            files=files,
            options=options,
            splits=chosen,
            limit=limit,
            seed=seed,
            derived=root / ".cache" / "derived",
            templates=registered_templates(source.name, root)
            if route == "sources"
            else templates_of(source.name),
            full_ledger=full_ledger,
        )
        inputs = _inputs(builder, assets, files, downloads(root))
        key = _key(builder, source, inputs, choices)
        fresh = force or not target.exists() or json.loads(target.read_text())["key"] != key
        if fresh:
            _prepare(staging, key)
            run = _Run(builder, source, choices, progress or Silent())
            pools, queries = run.tables(jobs)
            roots = [files[a.name] for a in assets if a.images]
            names = [manifest.relative(r, folder) for r in roots]
            record = manifest.make_manifest(
                source,
                edition=folder.name,
                key=key,
                route=route,
                limit=limit,
                options=told,
                seed=seed,
                inputs=inputs,
                image_roots=[*names, *getattr(builder, "image_roots", ())],
                pools=pools,
                queries=queries,
                variant=variant_of(source, options),
                templates=choices.templates,
                rules=rules_for(source, options) if route == "sources" else (),
            )
            amend = getattr(builder, "amend", None)
            run.finish(amend(record, staging) if amend else record)
            publish.publish(staging, folder, source.config)
        elif staging.exists():
            shutil.rmtree(staging)
        record = json.loads(target.read_text())
    with hold(folder / ".edition.lock", f"the card of {folder}"):
        card.write_cards(folder)
    return Built(folder, record, fresh)


def _inputs(
    builder: Builder, assets: Sequence[Asset], files: Mapping[str, Path], folder: Path
) -> list[dict[str, Any]]:
    inputs: list[dict[str, Any]] = [
        {
            "name": asset.name,
            "url": asset.urls[0] if asset.urls else None,
            "size": files[asset.name].stat().st_size,
            "sha256": sha256_of(asset, folder),
            "licence": asset.licence,
        }
        for asset in assets
    ]
    return inputs + list(getattr(builder, "inputs", ()))


def _key(
    builder: Builder, source: sources.Source, inputs: Sequence[Mapping[str, Any]], choices: Choices
) -> str:
    """Identity of a build: if it is unchanged, so are the bytes."""
    templates = choices.templates
    facts = {
        "format": MANIFEST_FORMAT,
        "m2kr": __version__,
        "code": _code_of(builder),
        "source": manifest.describe(source),
        "inputs": [[i["name"], i["sha256"]] for i in inputs],
        "options": dict(choices.options),
        "told": dict(getattr(builder, "told", {})),
        "limit": choices.limit,
        "seed": choices.seed,
        "templates": list(templates.templates) if templates else [],
        "full_ledger": choices.full_ledger,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _code_of(builder: Builder) -> str:
    """Hash of the files that a builder's rows come from, shared helpers beside them included."""
    named = [importlib.import_module(name) for name in getattr(builder, "modules", ())]
    digest = hashlib.sha256()
    for each in (builder if inspect.ismodule(builder) else type(builder), *named):
        code = inspect.getsourcefile(each)
        if not code:
            return ""
        path = Path(code)
        helpers = sorted(path.parent.glob("_*.py")) if inspect.ismodule(each) else []
        for file in (path, *helpers):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _prepare(staging: Path, key: str) -> None:
    """Keeps a staging folder of the same build, and starts afresh otherwise."""
    mark = staging / "key"
    if staging.exists() and (not mark.exists() or mark.read_text() != key):
        shutil.rmtree(staging)
    staging.mkdir(exist_ok=True)
    atomic.write_text(mark, key)


class _Run:
    """The tables of one build."""

    def __init__(
        self, builder: Builder, source: sources.Source, choices: Choices, progress: Progress
    ) -> None:
        self.builder = builder
        self.source = source
        self.choices = choices
        self.staging = choices.staging
        self.progress = progress

    def _job(self, kind: TableKind, split: str) -> TableJob:
        return TableJob(kind, split, self.choices)

    def tables(self, jobs: int) -> tuple[dict[str, Stats], dict[str, Stats]]:
        """Builds all pools, then all query splits, which look their positives up in the pools."""
        pools = list(dict.fromkeys(self.source.pools.values()))
        groups = getattr(self.builder, "same_pools", None)
        first: dict[str, str] = {}
        for group in groups(self.choices.options) if groups else ():
            shared = [pool for pool in pools if pool in group]
            first |= dict.fromkeys(shared[1:], shared[0] if shared else "")
        made = [pool for pool in pools if pool not in first]
        serves = {pool: tuple(p for p, other in first.items() if other == pool) for pool in made}
        work = [replace(self._job("passages", pool), serves=serves[pool]) for pool in made]
        done = self._build(work, jobs)
        copies = [replace(self._job("passages", p), like=first[p]) for p in pools if p not in made]
        done |= self._build(copies, 1)
        queries = [self._job("queries", split) for split in self.source.pools]
        return {pool: done[pool] for pool in pools}, self._build(queries, jobs)

    def _build(self, work: list[TableJob], jobs: int) -> dict[str, Stats]:
        if jobs == 1 or len(work) <= 1:
            done: dict[str, Stats] = {}
            for job in work:
                done[job.split] = build_table(self.builder, job, self.progress)
            return done
        name = self.builder.__name__ if inspect.ismodule(self.builder) else None
        builder = None if name else self.builder
        with ProcessPoolExecutor(
            min(jobs, len(work)), get_context("spawn"), die_with_parent, (os.getpid(),)
        ) as executor:
            futures = [executor.submit(_build_apart, name, builder, job) for job in work]
            done = {}
            for job, future in zip(work, futures, strict=True):
                self.progress.start(job.name(self.source), None, "rows")
                done[job.split] = future.result()
                self.progress.done(job.name(self.source))
            return done

    def finish(self, record: dict[str, Any]) -> None:
        """Writes the edition-level files of the source; the manifest, last, decides to publish."""
        config = self.source.config
        pools = dict.fromkeys(self.source.pools.values())
        jobs = [self._job("passages", pool) for pool in pools]
        jobs += [self._job("queries", split) for split in self.source.pools]
        parts = [job.ledger_part(self.source) for job in jobs]
        ledger.merge(parts, self.staging / f"{config}_ledger.parquet")
        for suffix, splits in (
            (SUFFIX["queries"], list(self.source.pools)),
            (SUFFIX["qrels"], list(self.source.pools)),
            (SUFFIX["passages"], list(pools)),
        ):
            path = self.staging / f"{config}_{suffix}" / "dataset_dict.json"
            atomic.write_json(path, {"splits": splits})
        atomic.write_json(manifest_path(self.staging, config), record, sort_keys=False)


def _build_apart(name: str | None, builder: Builder | None, job: TableJob) -> Stats:
    return build_table(
        builder or cast("Builder", importlib.import_module(str(name))), job, Silent()
    )
