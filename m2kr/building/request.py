"""What a build works on: its files are fetched, its tables named, its identity known."""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2kr import atomic
from m2kr.building import card, manifest, publish
from m2kr.building.content import check_content
from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.fetch import fetch
from m2kr.building.fetch.folder import asset_sha256
from m2kr.building.jobs import Stages
from m2kr.building.options import (
    chosen_splits,
    edition_name,
    refuse_other,
    resolve_options,
    rules_for,
    variant_of,
)
from m2kr.building.spec import BuildConfig, Builder
from m2kr.building.templates import registered_templates
from m2kr.building.verify import adopt
from m2kr.data.manifests import EarlierManifestError, Manifest, read_manifest
from m2kr.errors import InputError, UsageError
from m2kr.instructions import templates_of
from m2kr.locks import hold
from m2kr.paths import downloads, manifest_path
from m2kr.progress import SILENT, Progress
from m2kr.schema import MANIFEST_FORMAT
from m2kr.sources import Source

log = logging.getLogger("m2kr.building")


@dataclass(frozen=True)
class BuildRequest:
    """What decides the bytes of a build, beside its builder and the upstream files.

    Attributes:
        edition: Edition name; the route's, the variant's or the source's own if absent.
        options: Builder options that were given.
        splits: Query splits; all if absent.
        limit: Queries kept a split.
        seed: For keyed choices.
        full_ledger: Write used and filtered rows to the ledger, too.
        force: Build again even if nothing changed, or over a build with other options.
    """

    edition: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    splits: Sequence[str] | None = None
    limit: int | None = None
    seed: int = 0
    full_ledger: bool = False
    force: bool = False


@dataclass(frozen=True)
class BuildTarget:
    """Where a build goes.

    Attributes:
        builder: The builder.
        request: What is asked of it.
        root: The data root.
        options: Every option, defaults included.
        folder: The edition folder.
    """

    builder: Builder
    request: BuildRequest
    root: Path
    options: Mapping[str, str]
    folder: Path

    @property
    def source(self) -> Source:
        """The builder's spec."""
        return self.builder.source

    @property
    def route(self) -> str:
        """``sources``, ``release``, ``aligned`` or ``import``."""
        return self.builder.route

    @property
    def staging(self) -> Path:
        """Where parts and tables are made until they are published."""
        return self.folder / f".staging-{self.source.config}"

    @property
    def manifest(self) -> Path:
        """The manifest once the source is built."""
        return manifest_path(self.folder, self.source.config)

    def record(self) -> Manifest | None:
        """The manifest's content; None if the source isn't built, or what is there can't be relied on."""
        try:
            return read_manifest(self.manifest)
        except EarlierManifestError:
            return adopt(self.manifest)
        except InputError as error:
            if self.manifest.exists():
                log.warning("built again: %s: %s", self.manifest, error.what)
            return None

    @property
    def lock(self) -> Path:
        """Held by who prepares or publishes the source in this edition."""
        return self.folder / f".{self.source.config}.lock"

    def shard_locks(self) -> list[Path]:
        """Those of shards that are at work on the source in this edition, or were."""
        return sorted(self.folder.glob(f".{self.source.config}.shard-*.lock"))

    def wait_for_shards(self) -> None:
        """Waits until no shard is at work; the target's own lock must be held."""
        for lock in self.shard_locks():
            with hold(lock, f"a shard of {self.source.name} in {self.folder}"):
                pass

    @property
    def recorded_options(self) -> dict[str, str]:
        """What the manifest says was asked for."""
        return dict(self.options) | dict(self.builder.recorded_options)

    def write_card(self) -> None:
        """Brings the edition's card up to date."""
        card.write_cards_of(self.folder)


def target_of(builder: Builder, root: Path, request: BuildRequest) -> BuildTarget:
    """Where a build would go, with what it asks for checked.

    Raises:
        UsageError: the options, the edition or the limit make no sense.
    """
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"--limit {request.limit} keeps nothing", expected="a positive number")
    source, route = builder.source, builder.route
    options = resolve_options(
        source, request.options, request.edition if route != "release" else None
    )
    name = edition_name(source, request.edition, request.limit, options=options, route=route)
    chosen_splits(source, request.splits)
    return BuildTarget(builder, request, root, options, root / name)


@dataclass(frozen=True)
class PreparedBuild:
    """A build that can begin.

    Attributes:
        target: Where it goes.
        config: What its parts and tables share.
        assets: The upstream files.
        inputs: What the manifest says of them.
        facts: All that decides the bytes, by name.
    """

    target: BuildTarget
    config: BuildConfig
    assets: Sequence[Asset]
    inputs: list[dict[str, Any]]
    facts: dict[str, Any]

    @property
    def key(self) -> str:
        """Identity of the build: if it is unchanged, so are the bytes."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()

    @property
    def needs_build(self) -> bool:
        """Whether there is anything to be done."""
        target = self.target
        old = None if target.request.force else target.record()
        if old is None:
            return True
        return bool(old["key"] != self.key) and not self._made_before_versions(old)

    def _made_before_versions(self, old: Mapping[str, Any]) -> bool:
        """Whether a build whose key held a hash of code has the rows that a new one would have."""
        facts = self.facts
        if "version" in old["source"] or set(facts["version"]) != {1} or facts["full_ledger"]:
            return False
        drawn = (old["instructions"] or {}).get("templates", [])
        then = {
            "format": old["format"],
            "route": old["route"],
            "source": manifest.decisive(old["source"] | {"pools": _pools(old)}),
            "inputs": [[i["name"], i["sha256"]] for i in old["inputs"]],
            "options": old["options"],
            "limit": old["limit"],
            "seed": old["seed"],
            "templates": drawn if old["route"] == "sources" else facts["templates"],
        }
        now = facts | {"options": self.target.recorded_options}
        return all(now[name] == value for name, value in then.items())

    def stages(self, progress: Progress) -> Stages:
        """The work that is to be done, in the staging folder."""
        return Stages(self.config, progress)

    def stage(self) -> None:
        """Keeps a staging folder of the same build, and starts afresh otherwise."""
        staging = self.target.staging
        mark = staging / "key"
        if staging.exists() and (not mark.exists() or mark.read_text(encoding="utf-8") != self.key):
            shutil.rmtree(staging)
        staging.mkdir(exist_ok=True)
        atomic.write_text(mark, self.key, alone=True)

    def publish(self, stages: Stages) -> None:
        """Writes the manifest of a build of which all is made, and publishes it."""
        target, config = self.target, self.config
        source = config.source
        parts, pools, queries = stages.stats()
        roots = [config.files[a.name] for a in self.assets if a.images]
        names = [manifest.relative(r, target.folder) for r in roots]
        record = manifest.make_manifest(
            source,
            edition=target.folder.name,
            key=self.key,
            route=target.route,
            limit=config.limit,
            options=target.recorded_options,
            seed=config.seed,
            inputs=self.inputs,
            image_roots=[*names, *target.builder.image_roots],
            parts=parts,
            pools=pools,
            queries=queries,
            variant=variant_of(source, target.options),
            templates=config.templates,
            rules=rules_for(source, target.options) if target.route == "sources" else (),
        )
        stages.finish(target.builder.amend(record, target.staging))
        publish.publish(target.staging, target.folder, source.config)


def prepare_build(
    target: BuildTarget, *, offline: bool = False, jobs: int = 1, progress: Progress = SILENT
) -> PreparedBuild:
    """Fetches what a build needs and says what it is; the target's lock must be held.

    A build that was killed while it was published is published first.
    """
    builder, source, request = target.builder, target.source, target.request
    if manifest_path(target.staging, source.config).exists():
        publish.publish(target.staging, target.folder, source.config)
        target.write_card()
    chosen = chosen_splits(source, request.splits)
    old = None if request.force else target.record()
    if old is not None:
        if target.route != "import":
            refuse_other(
                old, str(target.folder), route=target.route, options=target.recorded_options
            )
        chosen = tuple(s for s in source.pools if s in {*chosen, *old["splits"]})
    builder.prepare(target.root, chosen, offline=offline, jobs=jobs, progress=progress)
    assets = builder.assets(target.options)
    folder = downloads(target.root)
    files = fetch(
        assets, folder, jobs=jobs, offline=offline, progress=progress, check=check_content
    )
    config = BuildConfig(
        builder=builder,
        staging=target.staging,
        files=files,
        options=target.options,
        splits=chosen,
        limit=request.limit,
        seed=request.seed,
        derived=target.root / ".cache" / "derived",
        templates=registered_templates(source.name, target.root)
        if target.route == "sources"
        else templates_of(source.name),
        full_ledger=request.full_ledger,
    )
    inputs = _inputs(builder, assets, files, folder)
    return PreparedBuild(target, config, assets, inputs, _facts(inputs, config))


def _inputs(
    builder: Builder, assets: Sequence[Asset], files: Mapping[str, Path], folder: Path
) -> list[dict[str, Any]]:
    inputs: list[dict[str, Any]] = [
        {
            "name": asset.name,
            "url": asset.urls[0] if asset.urls else None,
            "size": files[asset.name].stat().st_size,
            "sha256": asset_sha256(asset, folder),
            "licence": asset.licence,
        }
        for asset in assets
    ]
    return inputs + [dict(file) for file in builder.inputs]


def _facts(inputs: Sequence[Mapping[str, Any]], config: BuildConfig) -> dict[str, Any]:
    """All that a build's bytes depend on."""
    builder, source = config.builder, config.source
    templates = config.templates
    return {
        "format": MANIFEST_FORMAT,
        "route": builder.route,
        "version": [source.version, *builder.versions],
        "source": manifest.decisive(manifest.describe_source(source)),
        "inputs": [[i["name"], i["sha256"]] for i in inputs],
        "options": dict(config.options),
        "told": dict(builder.recorded_options),
        "limit": config.limit,
        "seed": config.seed,
        "templates": list(templates.templates) if templates else [],
        "full_ledger": config.full_ledger,
    }


def _pools(old: Mapping[str, Any]) -> dict[str, str]:
    return {split: facts["pool"] for split, facts in old["splits"].items()}
