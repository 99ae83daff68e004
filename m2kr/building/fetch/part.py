"""A file that is still arriving: its bytes, their running hashes, and where they come from."""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Self

from m2kr import atomic
from m2kr.building.fetch.folder import Digest, DownloadPaths, digest_file
from m2kr.building.fetch.http import Origin
from m2kr.errors import M2KRError, plainly

_CHECK_SECONDS = 1.0


def read_origin(paths: DownloadPaths) -> Origin | None:
    """The origin of a part; None if it can't be read, and then the part is of no use."""
    try:
        return Origin(**json.loads(paths.origin.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def part_size(paths: DownloadPaths) -> int:
    """Bytes that an unfinished download can go on from."""
    usable = paths.part.is_file() and read_origin(paths) is not None
    return paths.part.stat().st_size if usable else 0


class Part:
    """The unfinished file of one asset, open for appending; use it in ``with``.

    What an earlier run left is taken over and hashed first.

    Args:
        paths: The asset's paths.
        md5: Compute md5 as well.
        check: Raises if another process owns the file now; called about every second.
        stop: Ends the hashing of what is there.

    Attributes:
        origin: Where the bytes come from; None before the first.
        digest: Size and hashes of the bytes so far.
    """

    def __init__(
        self, paths: DownloadPaths, *, md5: bool, check: Callable[[], None], stop: threading.Event
    ) -> None:
        self.path = paths.part
        self._paths = paths
        self._md5 = md5
        self._check = check
        self._checked = time.monotonic()
        self.origin = read_origin(paths)
        paths.part.parent.mkdir(parents=True, exist_ok=True)
        if self.origin is not None and paths.part.exists():
            self.digest = digest_file(paths.part, md5=md5, stop=stop)
        else:
            paths.part.unlink(missing_ok=True)
            self.origin, self.digest = None, Digest(md5=md5)
        # Appending, so that a writer which wrongly thinks it owns the file changes its size and is found out.
        self._file = atomic.reopen(paths.part, append=True)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.digest.size

    def restart(self, origin: Origin | None) -> None:
        """Throws the bytes away; those to come are from ``origin``."""
        self._own()
        with plainly(self._paths.target):
            self._file.truncate(0)
            self.digest = Digest(md5=self._md5)
            self.origin = origin
            if origin is None:
                self._paths.origin.unlink(missing_ok=True)
            else:
                atomic.write_json(self._paths.origin, asdict(origin))

    def append(self, block: bytes) -> None:
        """Writes bytes through to the file system.

        Raises:
            M2KRError: The disk is full (what arrived is kept), or another process took over.
        """
        if time.monotonic() - self._checked > _CHECK_SECONDS:
            self._own()
        rest = memoryview(block)
        with plainly(self._paths.target):
            while rest:
                written = self._file.write(rest)
                self.digest.update(rest[:written])
                rest = rest[written:]

    def sync(self) -> bool:
        """Flushes to disk; False if the file isn't what was written, since someone else wrote too."""
        self._own()
        with plainly(self._paths.target):
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size == self.size

    def _own(self) -> None:
        self._check()
        self._checked = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is not None and not self.size:
            with suppress(M2KRError):
                self._check()
                self.path.unlink(missing_ok=True)
                self._paths.origin.unlink(missing_ok=True)
