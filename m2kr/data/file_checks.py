"""Files of a built source are what its manifest says, or they are not read.

Before a table is mapped the sha256 of its files is compared with the manifest's. A file that was hashed
before is not hashed again while its size, modification and change times and inode stay: these stamps lie
below the data root in ``.cache/checked``, or where that can't be written in the user's cache folder. A
stamp that does not fit (a copied folder, a file system without lasting inodes) costs a hash, no more.
"""

import errno
import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2kr import atomic
from m2kr.data.manifests import DIGEST, read_manifest, rebuild_command
from m2kr.errors import (
    CheckError,
    InputError,
    M2KRError,
    MissingError,
    from_system,
    one_line,
)
from m2kr.paths import manifest_path

log = logging.getLogger("m2kr.data")

# Size, modification time and change time in ns, inode.
Identity = tuple[int, int, int, int]
# Two writes within one tick of a file system's clock (2 s on FAT) leave the same times. So a file that
# was changed just now gets no stamp.
SETTLED_NS = 2_000_000_000
_FEW_BYTES = 16 << 20  # hashed sooner than threads are started
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class CheckedFiles:
    """Files whose content was found to be the manifest's.

    Attributes:
        edition: The edition folder.
        manifest: The manifest.
        identities: By path below the edition folder, what the file was when it was checked.
    """

    edition: Path
    manifest: Mapping[str, Any]
    identities: Mapping[str, Identity]

    def require_same(self, *, replaced: bool = False) -> None:
        """Refuses files whose content is another than when they were checked.

        Args:
            replaced: A whole new file may have taken a file's place: the old one stays mapped.

        Raises:
            CheckError: a file's bytes are others now.
            M2KRError: a file is gone, or can't be read.
        """
        for name, identity in self.identities.items():
            now = identity_at(self.edition / name)
            if now == identity or (replaced and (now is None or now[3] != identity[3])):
                continue
            if (
                now is None
                or _hash(self.edition / name)[1] != self.manifest["files"][name]["sha256"]
            ):
                raise _refusal(
                    self.edition, self.manifest, name, "it was changed while it was in use"
                )


def check_table(edition: Path, manifest: Mapping[str, Any], table: str) -> CheckedFiles:
    """Checks the files of one table, such as ``OKVQA_data/test``.

    Raises:
        MissingError: a file is gone.
        CheckError: a file is not what the manifest says, or the source was built anew meanwhile.
        M2KRError: a file can't be read.
    """
    names = [name for name in manifest["files"] if name.startswith(f"{table}/")]
    stamps = Stamps(edition, manifest["source"]["config"])
    identities: dict[str, Identity] = {}
    to_hash: list[str] = []
    for name in names:
        identity = identity_at(edition / name)
        problem = size_problem(edition / name, identity, manifest["files"][name]["size"])
        if identity is None or problem:
            raise _refusal(edition, manifest, name, problem)
        identities[name] = identity
        if stamps.known.get(name) != (identity, manifest["files"][name]["sha256"]):
            to_hash.append(name)
    if to_hash:
        log.info("hashing %d files of %s, this once", len(to_hash), edition / table)
        try:
            hashed = hashes(edition, to_hash)
        except M2KRError as error:
            raise _refusal(edition, manifest, to_hash[0], error.what, error) from error
        for name, (identity, sha256) in hashed.items():
            if sha256 != manifest["files"][name]["sha256"] or identity is None:
                raise _refusal(edition, manifest, name, OTHER_BYTES)
            identities[name] = identity
            stamps.add(name, identity, sha256)
        stamps.save(manifest["files"])
    return CheckedFiles(edition, manifest, identities)


GONE = "it is gone"
OTHER_BYTES = "its bytes are not those that were written: the sha256 is another"


def hashes(edition: Path, names: Iterable[str]) -> dict[str, tuple[Identity | None, str]]:
    """Identity and sha256 of files of an edition, several at a time; the identity is None if it changed.

    Raises:
        M2KRError: a file can't be read.
    """
    listed = list(names)
    paths = [edition / name for name in listed]
    if len(paths) == 1 or sum((identity_at(path) or (0,))[0] for path in paths) < _FEW_BYTES:
        return dict(zip(listed, map(_hash, paths), strict=True))
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(listed, pool.map(_hash, paths), strict=True))


def size_problem(path: Path, identity: Identity | None, size: int) -> str:
    """What is wrong with a file before it is read: gone, no file, of another size."""
    if identity is None:
        if path.exists():
            return "it is no regular file"
        return "it is a link that leads nowhere" if path.is_symlink() else GONE
    return f"it has {identity[0]:,} bytes, not {size:,}" if identity[0] != size else ""


class Stamps:
    """What files of a source were when they were last hashed.

    Args:
        edition: The edition folder.
        config: Stem of the source's folders.

    Attributes:
        known: Identity and sha256 by path below the edition folder.
    """

    def __init__(self, edition: Path, config: str) -> None:
        self._places = _places(edition, config)
        self.known: dict[str, tuple[Identity, str]] = {}
        self._fresh: dict[str, tuple[Identity, str]] = {}
        for place in reversed(self._places):
            self.known |= _read(place)

    def add(self, name: str, identity: Identity, sha256: str) -> None:
        """Notes a file that was hashed, unless it may be changed again without a trace."""
        changed = identity[1] if os.name == "nt" else identity[2]
        if time.time_ns() - changed >= SETTLED_NS:
            self._fresh[name] = identity, sha256

    def save(self, names: Iterable[str]) -> None:
        """Writes what was added; stamps of files that the manifest no longer names are dropped."""
        if self._fresh.items() <= self.known.items():
            return
        self.known |= self._fresh
        kept = {
            name: [*self.known[name][0], self.known[name][1]]
            for name in names
            if name in self.known
        }
        for place in self._places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_json(place, kept)
                return
            except OSError as error:
                log.info("no stamps in %s: %s", place, error)


def _places(edition: Path, config: str) -> list[Path]:
    """Where the stamps of a source are: first below the data root, then in the user's cache folder."""
    import platformdirs

    folder = edition.absolute()
    own = Path(platformdirs.user_cache_dir("m2kr", appauthor=False))
    key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return [
        folder.parent / ".cache" / "checked" / folder.name / f"{config}.json",
        own / "checked" / key / f"{config}.json",
    ]


def _read(path: Path) -> dict[str, tuple[Identity, str]]:
    """The stamps in a file; none if it is not there or not as it was written."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: ((int(size), int(mtime), int(ctime), int(inode)), str(sha256))
            for name, (size, mtime, ctime, inode, sha256) in listed.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def identity_of(facts: os.stat_result) -> Identity:
    """What tells whether a file changed."""
    # Windows has the time of creation there, which says nothing.
    changed = 0 if os.name == "nt" else facts.st_ctime_ns
    return facts.st_size, facts.st_mtime_ns, changed, facts.st_ino


def identity_at(path: Path) -> Identity | None:
    """The identity of a regular file; None if there is none.

    Raises:
        M2KRError: the system doesn't say, as where a folder may not be looked into.
    """
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise _unreadable(error) from error
    return identity_of(facts) if stat.S_ISREG(facts.st_mode) else None


def _hash(path: Path) -> tuple[Identity | None, str]:
    try:
        with path.open("rb", buffering=0) as file:
            before = identity_of(os.fstat(file.fileno()))
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            same = identity_of(os.fstat(file.fileno())) == before
    except OSError as error:
        raise _unreadable(error) from error
    return (before if same else None), sha256


def _unreadable(error: OSError) -> M2KRError:
    return from_system(error) or M2KRError(one_line(error))


def _refusal(
    edition: Path,
    manifest: Mapping[str, Any],
    name: str,
    problem: str,
    error: M2KRError | None = None,
) -> M2KRError:
    """The error for a file that is not the manifest's: damaged, or of a later build.

    Args:
        edition: The edition folder.
        manifest: The manifest.
        name: The file.
        problem: What is wrong with it.
        error: What to raise where the source was not built anew, if it is another error.
    """
    source = manifest["source"]
    try:
        newer = read_manifest(manifest_path(edition, source["config"]))[DIGEST] != manifest[DIGEST]
    except InputError:
        newer = not manifest_path(edition, source["config"]).exists()
    if newer:
        return CheckError(
            f"{source['name']} was built anew, or taken away, since it was loaded",
            where=str(edition),
            expected="one build from loading to scoring",
            fix="load it again, or run the same command again",
        )
    if error is not None:
        return error
    kind = MissingError if problem == GONE else CheckError
    return kind(
        f"this file of {source['name']} is not what its manifest says: {problem}",
        where=str(edition / name),
        fix=rebuild_command(manifest, edition),
    )
