"""What a fetch would do, seen before it does anything."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from m2kr.building.fetch import folder as downloads
from m2kr.building.fetch import part
from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.transfer import supported
from m2kr.errors import InputError

State = Literal["present", "partial", "missing", "manual"]


@dataclass(frozen=True, slots=True)
class PlanItem:
    """What a fetch would do for one file.

    Attributes:
        name: The asset's name.
        size: Bytes of the whole file, if known.
        have: Bytes of it that are here.
        state: ``present``, ``partial`` (will be resumed), ``missing`` (will be fetched) or ``manual``
            (has to be placed by hand).
        url: The first address, if any.
        licence: Terms of the file.
    """

    name: str
    size: int | None
    have: int
    state: State
    url: str | None
    licence: str


def plan(assets: Sequence[Asset], folder: Path) -> list[PlanItem]:
    """What ``fetch`` would do, by a look at names and sizes; reads no file and asks no server."""
    locked = downloads.first_seen(folder)
    seen = {name: entry["size"] for name, entry in locked.items()}
    return [_plan_one(a, folder, seen.get(a.name)) for a in validated(assets, folder)]


def _plan_one(asset: Asset, folder: Path, seen: int | None) -> PlanItem:
    at = downloads.places(folder, asset.name)
    size = seen if asset.size is None else asset.size
    state: State = "missing"
    have = part.part_size(at)
    if at.target.is_dir():
        size, have = None, 0
        state = "present"
    elif at.target.is_file() and size in {None, at.target.stat().st_size}:
        size = have = at.target.stat().st_size
        state = "present"
    elif not asset.urls:
        state = "manual"
    elif have:
        state = "partial"
        origin = part.read_origin(at)
        size = origin.total if size is None and origin is not None else size
    url = asset.urls[0] if asset.urls else None
    return PlanItem(asset.name, size, have, state, url, asset.licence)


def validated(assets: Iterable[Asset], folder: Path) -> list[Asset]:
    """One asset a name, in order, all of them safe.

    Raises:
        InputError: A name or URL is unsafe, or two assets of one name differ.
    """
    unique: dict[str, Asset] = {}
    for asset in assets:
        downloads.places(folder, asset.name)
        for url in asset.urls:
            if not supported(url):
                # Not the URL itself: it may hold a password.
                raise InputError(
                    "an address of this file can't be used",
                    where=asset.name,
                    expected="http://…, https://… (no password in it) or package:module/path",
                )
        known = unique.setdefault(asset.name, asset)
        if _identity(known) != _identity(asset):
            raise InputError(
                f"two different files are called {asset.name!r}",
                where=asset.name,
                expected="one name for one file: equal urls, size and hashes",
            )
    return list(unique.values())


def _identity(asset: Asset) -> tuple[object, ...]:
    return asset.urls, asset.size, asset.sha256, asset.md5
