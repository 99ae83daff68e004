"""What a build would fetch and decide: ``m2kr build --plan``, and the lines before a build's first byte."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from m2kr import paths
from m2kr.building.fetch.fetch import plan_downloads
from m2kr.building.fetch.transfer import is_local
from m2kr.building.manifest import comparable
from m2kr.building.options import (
    chosen_splits,
    edition_name,
    resolve_options,
    rules_for,
    variant_of,
)
from m2kr.building.release.aligned import AlignedBuilder
from m2kr.building.release.builder import LICENCE, REPO, ReleaseBuilder, size_of
from m2kr.building.spec import Builder
from m2kr.cli import output
from m2kr.sources import RELEASED, UNKNOWN, Source, build_command, comparable_notes, verdict


def show(
    builders: Sequence[Builder],
    root: Path,
    given: Mapping[str, str],
    edition: str | None,
    splits: Sequence[str] | None,
    *,
    json: bool,
) -> None:
    """Every file that some builds need: where it comes from, or where it must be placed by hand."""
    plans = [planned(builder, root, given, edition, splits) for builder in builders]
    files = [file for p in plans for file in p["files"]]
    if json:
        facts = {"data": str(root), "downloads": str(paths.downloads(root))}
        total, unknown = _missing(files)
        output.emit(facts | {"to_fetch_bytes": total, "unknown_sizes": unknown, "sources": plans})
        return
    for each in plans:
        _show(each)
    if files:
        output.say(f"files go to {paths.downloads(root)}")
        output.say(_to_fetch(files))


def planned(
    builder: Builder,
    root: Path,
    given: Mapping[str, str],
    edition: str | None,
    splits: Sequence[str] | None,
) -> dict[str, Any]:
    """The plan of one build, as plain data."""
    source, route = builder.source, builder.route
    options = resolve_options(source, given, edition if route != "release" else None)
    chosen = chosen_splits(source, splits)
    notes = [comparable(source, route, variant_of(source, options)), builder.note]
    files = [_file(asset, item) for asset, item in _items(builder, options, root)]
    for file in files:
        file["path"] = str(paths.downloads(root) / file["name"])
    return {
        "source": source.name,
        "route": route,
        "edition": edition_name(source, edition, None, options=options, route=route),
        "splits": list(chosen),
        "options": options,
        "comparable": comparable_notes(notes),
        "rules": [] if route == "release" else _rules(source, options),
        "files": files,
        "from_release": _release_files(builder, chosen),
        "images": list(source.image_notes),
    }


def _items(builder: Builder, options: Mapping[str, str], root: Path) -> Iterator[tuple[Any, Any]]:
    assets = builder.assets(options)
    yield from zip(assets, plan_downloads(assets, paths.downloads(root)), strict=True)


def _file(asset: Any, item: Any) -> dict[str, Any]:
    return {
        "name": item.name,
        "state": item.state,
        "size": item.size,
        "about": asset.about if item.size is None else None,
        "have": item.have,
        "url": item.url,
        "host": urlsplit(item.url).hostname or "package" if item.url else None,
        "mirrors": list(asset.urls[1:]),
        "checksum": next((c for c in ("sha256", "md5", "git_blob") if getattr(asset, c)), None),
        "licence": item.licence,
        "gate": asset.gate,
        "manual": asset.manual,
    }


def _rules(source: Source, options: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"name": r.name, "says": r.says, "basis": r.basis, "option": r.option}
        for r in rules_for(source, options)
    ]


def _release_files(builder: Builder, splits: Sequence[str]) -> dict[str, Any] | None:
    release = builder.release if isinstance(builder, AlignedBuilder) else builder
    if not isinstance(release, ReleaseBuilder):
        return None
    where = str(release.folder) if release.folder else f"hf://datasets/{REPO}@{release.revision}"
    files = [{"files": p, "size": size_of(p.split("/")[0])} for p in release.patterns(splits)]
    return {"from": where, "licence": LICENCE, "files": files}


def _show(each: dict[str, Any]) -> None:
    output.say(f"{each['source']}: route {each['route']}, edition {each['edition']}")
    for file in each["files"]:
        check = file["checksum"] or "hash taken when first seen"
        state = "inside" if _inside(file) and file["state"] == "missing" else file["state"]
        output.say(f"{state:<8} {_size(file):>8}  {file['name']} ({check})")
        output.say(f"{'':<19}{file['url'] or 'by hand, see below'}")
    for licence in dict.fromkeys(file["licence"] for file in each["files"]):
        of = ", ".join(f["name"].split("/")[-1] for f in each["files"] if f["licence"] == licence)
        output.say(f"licence: {licence or 'not stated'}: {of}")
    for file in each["files"]:
        if file["gate"]:
            output.say(f"needs acceptance: {file['name']}: {file['gate']}")
        if file["state"] == "manual":
            output.say(f"place by hand: {file['path']}\n  {file['manual']}")
    release = each["from_release"]
    if release:
        output.say(f"from the release, {release['from']}:")
        for file in release["files"]:
            output.say(f"    {file['files']}  ({file['size']})")
    for note in each["images"]:
        output.say(f"images, not fetched by a build: {note}")
    for line in (*_decisions(each), *_instead(each)):
        output.say(line)


def before(
    builder: Builder,
    root: Path,
    given: Mapping[str, str],
    edition: str | None,
    splits: Sequence[str] | None,
) -> Iterator[str]:
    """What must be known before a build's first byte: comparability, open rules, size, the other way."""
    each = planned(builder, root, given, edition, splits)
    yield from _decisions(each)
    if each["files"] or not each["from_release"]:
        yield _to_fetch(each["files"])
    release = each["from_release"]
    if release:
        sizes = ", ".join(dict.fromkeys(file["size"] for file in release["files"]))
        yield f"tables of the release from {release['from']}: {sizes}"
    yield from _instead(each)


def _decisions(each: Mapping[str, Any]) -> Iterator[str]:
    """Whether scores will compare, and each open rule."""
    if each["route"] == "aligned" and each["comparable"] == UNKNOWN:
        yield "its scores compare with the published numbers if the build is equal to the release"
    else:
        yield verdict(each["comparable"])
    for rule in each["rules"]:
        change = f" [--set {rule['option']}=…]" if rule["option"] else ""
        yield f"rule {rule['name']} ({rule['basis']}): {rule['says']}{change}"


def _instead(each: Mapping[str, Any]) -> Iterator[str]:
    """The other way, where there is one."""
    if each["route"] == "sources" and each["source"] in RELEASED:
        yield f"the authors' own tables: {build_command(each['source'])}"


def _missing(files: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Bytes to fetch and files of unknown size; a file that several sources share counts once."""
    todo = {f["name"]: f for f in files if f["state"] in {"missing", "partial"}}.values()
    known = sum(max(0, (f["size"] or f["about"] or 0) - f["have"]) for f in todo)
    return known, sum(not (f["size"] or f["about"]) for f in todo)


def _inside(file: Mapping[str, Any]) -> bool:
    """Whether a file travels in an installed package."""
    return is_local(file["url"] or "")


def _size(file: Mapping[str, Any]) -> str:
    roughly = "~" if file["size"] is None and file["about"] else ""
    return roughly + output.size(file["size"] or file["about"])


def _to_fetch(files: Sequence[Mapping[str, Any]]) -> str:
    away = [file for file in files if not _inside(file)]
    if files and not away:
        return "nothing to fetch: its files are inside the package"
    total, unknown = _missing(away)
    parts = [output.size(total)] if total or not unknown else []
    if unknown:
        parts.append(f"{unknown} {'file' if unknown == 1 else 'files'} of unknown size")
    return f"to fetch: {', and '.join(parts)}"
