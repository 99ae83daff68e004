"""Locks between processes and hosts that share a folder, and that a killed owner can't leave behind."""

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from m2kr.errors import M2KRError

log = logging.getLogger("m2kr.build.locks")

# A dead owner on this host is noticed at the next poll. Only an owner on another host, or in a container
# that is gone, has to be waited out, and an owner that hangs this long may be overtaken: see ``Held.check``.
LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 5.0
# An owner killed between making its marker and writing its name there leaves an empty one, which filelock
# respects for ever. A living owner writes within microseconds; one that slept is told by ``Held.check``.
UNWRITTEN_SECONDS = 3.0
# Shorter waits are everyday business between threads and not worth a message.
QUIET_SECONDS = 1.0
POLL_SECONDS = 0.1


class Held:
    """A lock that this thread holds."""

    def __init__(self, lease: SoftFileLease, what: str) -> None:
        self._lease = lease
        self._what = what

    def check(self) -> None:
        """Raises if another process took the lock over because this one seemed dead.

        Call it before what must not happen twice, such as publishing a file.

        Raises:
            M2KRError: The lock is lost; this process must leave the files alone.
        """
        if self._lease.compromise is None and self._still_ours():
            return
        # A peer that looks whether the owner is dead moves the marker aside for a moment.
        time.sleep(POLL_SECONDS)
        if self._lease.compromise is not None or not self._still_ours():
            raise M2KRError(
                f"this process stood still for {LEASE_SECONDS:.0f} s and another one took over {self._what}",
                where=self._lease.lock_file,
                fix="run the command again: it waits for the other process and uses its result",
            )

    def _still_ours(self) -> bool:
        owner = self._lease.owner
        return owner is not None and owner.token == self._lease.token


@contextmanager
def hold(path: Path, what: str, *, cancelled: Callable[[], bool] | None = None) -> Iterator[Held]:
    """Holds a lock for the length of a ``with`` block; waits while another process holds it.

    The lock is a marker file with the owner's host and process id, kept fresh by a heartbeat and gone
    after the block. It works on network file systems. If the owner was killed, the next one who wants
    the lock takes it over: at once on the same host, after ``LEASE_SECONDS`` from another one, after
    ``UNWRITTEN_SECONDS`` if it was killed before it could say who it is.

    Args:
        path: The marker file. Its folder is made.
        what: What is protected, for messages: "the download of photos.zip".
        cancelled: Asked at every poll; True ends the wait with `TimeoutError`.

    Raises:
        M2KRError: The marker can't be written, or belongs to an m2kr with another notion of locks.
        TimeoutError: ``cancelled`` said so.
    """
    lease = SoftFileLease(
        path,
        lease_duration=LEASE_SECONDS,
        heartbeat_interval=HEARTBEAT_SECONDS,
        poll_interval=POLL_SECONDS,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lease, what, cancelled)
    except LeaseSettingsMismatch as error:
        raise M2KRError(
            f"{what} is locked by another version of m2kr ({error})",
            where=str(path),
            fix="wait until it has finished, or delete this file if it no longer runs",
        ) from error
    except TimeoutError:
        raise
    except OSError as error:
        raise M2KRError(
            f"cannot lock {what}: {error.strerror or error}",
            where=str(path),
            expected="a folder this user may write to",
        ) from error
    try:
        yield Held(lease, what)
    finally:
        lease.release()


def _acquire(lease: SoftFileLease, what: str, cancelled: Callable[[], bool] | None) -> None:
    unwritten = _Unwritten(Path(lease.lock_file))

    def give_up() -> bool:
        unwritten.look()
        return cancelled is not None and cancelled()

    try:
        lease.acquire(timeout=QUIET_SECONDS, cancel_check=give_up)
        return
    except Timeout:
        if cancelled is not None and cancelled():
            raise
    owner = lease.owner
    # The host part may carry a process namespace after "?", which tells a reader nothing.
    host = owner.hostname.partition("?")[0] if owner else ""
    held = f"pid {owner.pid} on host {host}" if owner else "another process"
    log.info("waiting for %s held by %s (%s)", what, held, lease.lock_file)
    lease.acquire(cancel_check=give_up)


class _Unwritten:
    """Removes a marker that stays empty: its owner died before it wrote its name."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker
        self._seen: tuple[int, int] | None = None
        self._since = 0.0

    def look(self) -> None:
        """Called at every poll."""
        empty = _empty(self._marker)
        if empty is None or empty != self._seen:
            self._seen, self._since = empty, time.monotonic()
        elif time.monotonic() - self._since >= UNWRITTEN_SECONDS:
            self._remove(empty)

    def _remove(self, seen: tuple[int, int]) -> None:
        # Moved first: another waiter may have removed it, too, and hold the lock by now.
        aside = self._marker.with_name(f"{self._marker.name}.{secrets.token_hex(8)}")
        try:
            self._marker.rename(aside)
        except OSError:
            return  # gone, or open on Windows: the next poll looks again
        if _empty(aside) != seen:
            try:
                os.link(aside, self._marker)
            except OSError:
                log.warning("%s was taken from its owner, who will notice", self._marker)
        aside.unlink(missing_ok=True)


def _empty(path: Path) -> tuple[int, int] | None:
    """Which empty file it is, or None if it is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return None if found.st_size else (found.st_ino, found.st_mtime_ns)
