"""From what a user asks for to the builder that does it."""

from pathlib import Path

from m2kr.building import registry
from m2kr.building.release.aligned import AlignedBuilder
from m2kr.building.release.builder import REVISION, ReleaseBuilder
from m2kr.building.spec import Builder
from m2kr.errors import UsageError


def builder_for(
    name: str,
    *,
    route: str = "sources",
    align: bool = False,
    folder: Path | None = None,
    revision: str | None = None,
    repair: bool = True,
    any_counts: bool = False,
) -> Builder:
    """The builder of a source by a route.

    Args:
        name: Source name.
        route: ``sources`` or ``release``.
        align: Take the rows of the release out of upstream's.
        folder: A local copy of the release.
        revision: Commit of the release.
        repair: Drop passages of the release that occur twice.
        any_counts: Accept other row counts than the pinned release's.

    Raises:
        UsageError: the source has no such route, or options contradict each other.
    """
    if route == "release" or align:
        if route == "release" and align:
            raise UsageError("--align holds upstream's rows to the release: leave --route out")
        release = ReleaseBuilder(name, folder, revision or REVISION, repair, any_counts)
        return AlignedBuilder(name, release) if align else release
    if folder or revision or not repair or any_counts:
        raise UsageError(
            "--from, --revision, --no-repair and --any-counts speak of the release",
            fix="add --route release or --align release",
        )
    return registry.builder(name)
