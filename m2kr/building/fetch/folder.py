"""The downloads folder: where a file lies, which bytes it must have, what was seen of it before.

::

    <folder>/<asset name>                  whole, verified files, and nothing else
    <folder>/lock.json                     first-seen sha256 of files without a published one; shareable
    <folder>/.verified/<asset name>.json   what was verified at which modification time, of this machine
    <folder>/.partial/<asset name>.part    downloads that have not ended, with ``.json`` and ``.lock``
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m2kr import atomic
from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.retry import Stopped
from m2kr.errors import InputError, MissingError
from m2kr.locks import hold

LOCK_FILE = "lock.json"
_BLOCK = 1 << 20
_UNSAFE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')


@dataclass(frozen=True, slots=True)
class DownloadPaths:
    """The paths that belong to one asset.

    Attributes:
        target: The finished file.
        part: Its bytes while they arrive.
        origin: What the server said of them (JSON).
        lock: Marker of the process that downloads it.
        verified: What was last verified of the finished file (JSON).
    """

    target: Path
    part: Path
    origin: Path
    lock: Path
    verified: Path


def paths_of(folder: Path, name: str) -> DownloadPaths:
    """The paths of an asset under a downloads folder.

    Raises:
        InputError: The name is absolute, leaves the folder or meets the engine's own files.
    """
    parts = name.split("/")
    bad = any(not p or p.startswith(".") or p != p.strip() or _UNSAFE.search(p) for p in parts)
    if bad or name == LOCK_FILE:
        raise InputError(
            f"an asset can't be named {name!r}",
            expected="a relative path with '/', no part of it empty or starting with '.'",
        )
    partial = folder / ".partial"
    return DownloadPaths(
        folder / name,
        partial / f"{name}.part",
        partial / f"{name}.part.json",
        partial / f"{name}.lock",
        folder / ".verified" / f"{name}.json",
    )


class Digest:
    """Running size and hashes of a stream.

    Args:
        md5: Compute md5 as well as sha256.
    """

    def __init__(self, *, md5: bool = False) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None

    def update(self, block: bytes | memoryview) -> None:
        """Takes the next bytes in."""
        self.size += len(block)
        self._sha256.update(block)
        if self._md5 is not None:
            self._md5.update(block)

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes so far."""
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str | None:
        """Hex digest of the bytes so far, if it was asked for."""
        return None if self._md5 is None else self._md5.hexdigest()


def digest_file(path: Path, *, md5: bool = False, stop: threading.Event | None = None) -> Digest:
    """Size and hashes of a file, read in blocks.

    Raises:
        Stopped: ``stop`` was set meanwhile.
    """
    digest = Digest(md5=md5)
    buffer = bytearray(_BLOCK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
            if stop is not None and stop.is_set():
                raise Stopped
    return digest


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    return digest_file(path).sha256


@dataclass(frozen=True, slots=True)
class ExpectedFile:
    """What an asset's bytes must be; None where nobody knows.

    Attributes:
        size: Bytes.
        sha256: Hex digest, lower case.
        md5: Hex digest, lower case.
        locked: ``sha256`` is the first-seen one of ``lock.json``, not a published one.
    """

    size: int | None
    sha256: str | None
    md5: str | None
    locked: bool = False

    @property
    def hashed(self) -> bool:
        """Whether a hash decides."""
        return self.sha256 is not None or self.md5 is not None

    def problem(self, size: int, sha256: str, md5: str | None) -> str | None:
        """What is wrong with such a file, or None if nothing is."""
        if self.size is not None and size != self.size:
            return f"{size:,} bytes instead of {self.size:,}"
        if self.sha256 is not None and sha256 != self.sha256:
            source = f"first-seen sha256 in {LOCK_FILE}" if self.locked else "sha256"
            return f"wrong content: expected {source} {self.sha256}, seen {sha256}"
        if self.md5 is not None and md5 != self.md5:
            return f"wrong content: expected md5 {self.md5}, seen {md5}"
        return None

    def __str__(self) -> str:
        facts = [
            f"{self.size:,} bytes" if self.size is not None else "",
            f"sha256 {self.sha256}" if self.sha256 else "",
            f"md5 {self.md5}" if self.md5 else "",
        ]
        return ", ".join(fact for fact in facts if fact) or "a file that is not empty"


def expected_file(asset: Asset, locked: Mapping[str, Mapping[str, Any]]) -> ExpectedFile:
    """What is published about an asset, else what ``lock.json`` (``first_seen``) remembers."""
    if asset.sha256 or asset.md5:
        sha256 = asset.sha256.lower() if asset.sha256 else None
        return ExpectedFile(asset.size, sha256, asset.md5.lower() if asset.md5 else None)
    entry = locked.get(asset.name)
    if entry is None:
        return ExpectedFile(asset.size, None, None)
    # Not the size: a changed file shall be told by both hashes, and its size would be refused first.
    return ExpectedFile(asset.size, entry["sha256"], None, locked=True)


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """What was found when a finished file was last hashed.

    Attributes:
        size: Bytes.
        mtime_ns: Modification time: as long as this and the size stay, so do the bytes.
        sha256: Hex digest.
        md5: Hex digest, if it was needed.
        url: Where we fetched it; None for a file placed by hand.
    """

    size: int
    mtime_ns: int
    sha256: str
    md5: str | None
    url: str | None

    def covers(self, stat: os.stat_result) -> bool:
        """Whether a file with this status is the one that was hashed."""
        return (self.size, self.mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def read_verified(path: Path) -> VerifiedFile | None:
    """The record at ``DownloadPaths.verified``; None if there is none that can be read."""
    try:
        return VerifiedFile(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_verified(path: Path, record: VerifiedFile) -> None:
    """Writes the record at ``DownloadPaths.verified``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, asdict(record))


def first_seen(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries of a folder's ``lock.json``: asset name → ``{url, size, sha256}``.

    Raises:
        InputError: The file is there and is something else.
    """
    path = folder / LOCK_FILE
    try:
        entries = json.loads(path.read_bytes())
        for entry in entries.values():
            if not (
                isinstance(entry["size"], int) and re.fullmatch("[0-9a-f]{64}", entry["sha256"])
            ):
                raise ValueError("an entry has no integer size or no hex sha256")
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"not a lock file of downloads: {error}",
            where=str(path),
            expected='{"<asset name>": {"url": "…", "size": 123, "sha256": "<64 hex digits>"}, …}',
            fix="restore it, or delete it: the next build then trusts the files that it finds",
        ) from error
    return dict(entries)


def remember(folder: Path, name: str, file: VerifiedFile) -> None:
    """Enters a file into ``lock.json`` unless it is there."""
    entry = {"url": file.url, "size": file.size, "sha256": file.sha256}
    with hold(folder / ".partial" / f"{LOCK_FILE}.lock", str(folder / LOCK_FILE)) as lock:
        entries = first_seen(folder)
        if entries.setdefault(name, entry) is entry:
            lock.check()
            atomic.write_json(folder / LOCK_FILE, entries, alone=True)


def asset_sha256(asset: Asset, folder: Path) -> str:
    """Hex sha256 of an asset that ``fetch`` returned, without reading the file again if it is unchanged.

    For an asset that is a folder: sha256 over the relative paths and sizes of its files, by path.

    Raises:
        MissingError: The file isn't there.
    """
    paths = paths_of(folder, asset.name)
    if paths.target.is_dir():
        return _sha256_listing(paths.target)
    if not paths.target.is_file():
        raise MissingError("this upstream file is not here", where=str(paths.target))
    record, stat = read_verified(paths.verified), paths.target.stat()
    if record is not None and record.covers(stat):
        return record.sha256
    return sha256_file(paths.target)


def _sha256_listing(folder: Path) -> str:
    digest = hashlib.sha256()
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            line = f"{path.relative_to(folder).as_posix()}\t{path.stat().st_size}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
