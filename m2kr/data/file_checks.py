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
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from m2kr import atomic
from m2kr.data.manifests import DIGEST, read_manifest, rebuild_command
from m2kr.errors import CheckError, InputError, M2KRError, MissingError, as_m2kr_error
from m2kr.paths import manifest_path

log = logging.getLogger("m2kr.data")

# Size, modification time and change time in ns, inode.
Identity = tuple[int, int, int, int]
# Two writes within one tick of a file system's clock (2 s on FAT) leave the same times. So a file that
# was changed just now gets no stamp.
SETTLED_NS = 2_000_000_000
GONE = "it is gone"
OTHER_BYTES = "its bytes are not those that were written: the sha256 is another"
_FEW_BYTES = 16 << 20  # hashed sooner than threads are started
_THREADS = min(4, os.cpu_count() or 1)


class SourceFiles:
    """The files of one built source, held against its manifest.

    Args:
        edition: The edition folder.
        manifest: The source's manifest.
    """

    def __init__(self, edition: Path, manifest: Mapping[str, Any]) -> None:
        self._edition, self._manifest = edition, manifest
        self._listed: Mapping[str, Mapping[str, Any]] = manifest["files"]
        self._right: dict[str, Identity] = {}

    @contextmanager
    def opening(self, *tables: str) -> Iterator[None]:
        """What the ``with`` block opens is what was checked; if it was replaced meanwhile, that is the error.

        Args:
            tables: Such as ``OKVQA_data/test``.

        Raises:
            M2KRError: as `require` does.
        """
        names = self.require(*tables)
        try:
            yield
        finally:
            self._require_same(names)

    def require(self, *tables: str) -> list[str]:
        """Checks the files of some tables; gives their names.

        Raises:
            MissingError: a file is gone.
            CheckError: a file is not what the manifest says, or the source was built anew meanwhile.
            M2KRError: a file can't be read.
        """
        names = [name for name in self._listed if name.rpartition("/")[0] in tables]
        for name, problem in self.problems(names).items():
            raise self._refusal(name, problem)
        return names

    def require_unharmed(self) -> None:
        """Refuses files that were written to since they were checked.

        A whole new file may have taken a file's place: who has the old one open keeps it.

        Raises:
            CheckError: a file's bytes are others now.
        """
        self._require_same(self._right, replaced=True)

    def _require_same(self, names: Iterable[str], *, replaced: bool = False) -> None:
        for name in names:
            path, before = self._edition / name, self._right[name]
            now = _identity_at(path)
            if now == before or (replaced and (now is None or now[3] != before[3])):
                continue
            if now is None or hash_file(path)[1] != self._listed[name]["sha256"]:
                raise self._refusal(name, "it was changed while it was in use")

    def problems(self, names: Iterable[str], *, anew: bool = False) -> dict[str, str | M2KRError]:
        """What is wrong with files, or why they can't be read, by name.

        Args:
            names: Files of the manifest.
            anew: Hash also those that were hashed before and seem untouched.
        """
        wrong: dict[str, str | M2KRError] = {}
        stamps = _Stamps(self._edition, self._manifest["source"]["config"])
        to_hash: list[str] = []
        for name in names:
            facts = self._listed[name]
            try:
                identity = _identity_at(self._edition / name)
            except M2KRError as error:
                wrong[name] = error
                continue
            problem = _at_a_glance(self._edition / name, identity, facts["size"])
            if identity is None or problem:
                wrong[name] = problem
                continue
            self._right[name] = identity
            if anew or stamps.known.get(name) != (identity, facts["sha256"]):
                to_hash.append(name)
        if to_hash and not anew:
            log.info("hashing %d files of %s, this once", len(to_hash), self._edition)
        for name, hashed in zip(to_hash, self._hashed(to_hash), strict=True):
            if isinstance(hashed, M2KRError):
                wrong[name] = hashed
                continue
            identity, sha256 = hashed
            if identity is None or sha256 != self._listed[name]["sha256"]:
                wrong[name] = OTHER_BYTES
            else:
                self._right[name] = identity
                stamps.add(name, identity, sha256)
        stamps.save(self._listed)
        return wrong

    def _hashed(self, names: Iterable[str]) -> "list[tuple[Identity | None, str] | M2KRError]":
        """`hash_file` of some files, several at a time, or the error of those that can't be read."""
        paths = [self._edition / name for name in names]

        def one(path: Path) -> "tuple[Identity | None, str] | M2KRError":
            try:
                return hash_file(path)
            except M2KRError as error:
                return error

        if len(paths) == 1 or sum(self._right[name][0] for name in names) < _FEW_BYTES:
            return list(map(one, paths))
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(one, paths))

    def _refusal(self, name: str, problem: str | M2KRError) -> M2KRError:
        """The error for a file that is not the manifest's: damaged, or of a later build."""
        source = self._manifest["source"]
        path = manifest_path(self._edition, source["config"])
        try:
            newer = read_manifest(path)[DIGEST] != self._manifest[DIGEST]
        except InputError:
            newer = not path.exists()
        if newer:
            return CheckError(
                f"{source['name']} was built anew, or taken away, since it was loaded",
                where=str(self._edition),
                expected="one build from loading to scoring",
                fix="load it again, or run the same command again",
            )
        if isinstance(problem, M2KRError):
            return problem
        kind = MissingError if problem == GONE else CheckError
        return kind(
            f"this file of {source['name']} is not what its manifest says: {problem}",
            where=str(self._edition / name),
            fix=rebuild_command(self._manifest, self._edition),
        )


def hash_file(path: Path) -> tuple[Identity | None, str]:
    """What a file is, and its sha256; not what it is if it was changed meanwhile.

    Raises:
        M2KRError: it can't be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            before = _identity_of(os.fstat(file.fileno()))
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            same = _identity_of(os.fstat(file.fileno())) == before
    except OSError as error:
        raise as_m2kr_error(error) from error
    return (before if same else None), sha256


def _at_a_glance(path: Path, identity: Identity | None, size: int) -> str:
    """What is wrong with a file before it is read: gone, no file, of another size."""
    if identity is None:
        if path.exists():
            return "it is no regular file"
        return "it is a link that leads nowhere" if path.is_symlink() else GONE
    return f"it has {identity[0]:,} bytes, not {size:,}" if identity[0] != size else ""


class _Stamps:
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


def _identity_of(facts: os.stat_result) -> Identity:
    """What tells whether a file changed."""
    # Windows has the time of creation there, which says nothing.
    changed = 0 if os.name == "nt" else facts.st_ctime_ns
    return facts.st_size, facts.st_mtime_ns, changed, facts.st_ino


def _identity_at(path: Path) -> Identity | None:
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
        raise as_m2kr_error(error) from error
    return _identity_of(facts) if stat.S_ISREG(facts.st_mode) else None
