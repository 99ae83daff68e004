"""Locks between processes and hosts that share a folder, and that a killed owner can't leave behind."""

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from m2kr.errors import M2KRError, UsageError

log = logging.getLogger("m2kr.locks")

# A dead owner on this host is noticed at the next poll. Only an owner on another host, or in a container
# that is gone, has to be waited out, and an owner that hangs this long may be overtaken: see ``Held.check``.
LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 5.0
# An owner killed between making its marker and writing its name there leaves an empty one, which filelock
# respects for ever. A living owner writes within microseconds, though over NFS its name may show only with
# the first heartbeat; one that slept is told by ``Held.check``.
UNWRITTEN_SECONDS = 15.0
# Shorter waits are everyday business between threads and not worth a message.
QUIET_SECONDS = 1.0
POLL_SECONDS = 0.1


class Busy(UsageError):
    """A living process holds a lock that wasn't to be waited for."""


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
        if self.lost:
            raise M2KRError(
                f"this process stood still for {LEASE_SECONDS:.0f} s and another one took over {self._what}",
                where=self._lease.lock_file,
                fix="run the command again: it waits for the other process and uses its result",
            )

    @property
    def lost(self) -> bool:
        """Whether another process took the lock over: what is protected is that one's now."""
        if self._still_ours():
            return False
        # A peer that looks whether the owner is dead moves the marker aside for a moment.
        time.sleep(POLL_SECONDS)
        return not self._still_ours()

    @property
    def released(self) -> bool:
        """Whether `release` was called."""
        return not self._lease.is_locked

    def release(self) -> None:
        """Gives the lock up; a second call does nothing."""
        if self._lease.is_locked:
            self._lease.release()

    def _still_ours(self) -> bool:
        owner = self._lease.owner
        return (
            self._lease.compromise is None
            and owner is not None
            and owner.token == self._lease.token
        )


@contextmanager
def hold(
    path: Path, what: str, *, wait: bool = True, cancelled: Callable[[], bool] | None = None
) -> Iterator[Held]:
    """`take` for the length of a ``with`` block."""
    held = take(path, what, wait=wait, cancelled=cancelled)
    try:
        yield held
    finally:
        held.release()


def take(
    path: Path, what: str, *, wait: bool = True, cancelled: Callable[[], bool] | None = None
) -> Held:
    """Takes a lock, to be released by the same thread; waits while another process holds it.

    The lock is a marker file with the owner's host and process id, kept fresh by a heartbeat and gone
    after the release. It works on network file systems. If the owner was killed, the next one who wants
    the lock takes it over: at once on the same host, after ``LEASE_SECONDS`` from another one, after
    ``UNWRITTEN_SECONDS`` if it was killed before it could say who it is.

    Args:
        path: The marker file. Its folder is made.
        what: What is protected, for messages: "the download of photos.zip".
        wait: False gives up once the owner has shown that it lives, which takes two heartbeats at most.
        cancelled: Asked at every poll; True ends the wait with `TimeoutError`.

    Raises:
        Busy: A living process holds it, and ``wait`` is False.
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
        _acquire(lease, what, wait, cancelled)
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
    return Held(lease, what)


def _acquire(
    lease: SoftFileLease, what: str, wait: bool, cancelled: Callable[[], bool] | None
) -> None:
    owner = _Owner(Path(lease.lock_file))

    def called_off() -> bool:
        return cancelled is not None and cancelled()

    def give_up() -> bool:
        owner.look()
        return (owner.lives and not wait) or called_off()

    try:
        lease.acquire(timeout=QUIET_SECONDS, cancel_check=give_up)
        return
    except Timeout:
        if called_off():
            raise
    log.info("waiting for %s held by %s (%s)", what, _described(lease), lease.lock_file)
    try:
        lease.acquire(timeout=-1 if wait else 2 * LEASE_SECONDS, cancel_check=give_up)
    except Timeout:
        if wait or called_off():
            raise
        raise Busy(
            f"another process is writing to {what}: {_described(lease)}",
            where=lease.lock_file,
            fix="wait until it has finished",
        ) from None


def _described(lease: SoftFileLease) -> str:
    owner = lease.owner
    # The host part may carry a process namespace after "?", which tells a reader nothing.
    return f"pid {owner.pid} on host {owner.hostname.partition('?')[0]}" if owner else "unknown"


class _Owner:
    """What the marker tells of its owner.

    Attributes:
        lives: It has touched or signed the marker since the first look.
    """

    def __init__(self, marker: Path) -> None:
        self.lives = False
        self._marker = marker
        self._seen: tuple[int, int, int] | None = None
        self._since = 0.0

    def look(self) -> None:
        """Called at every poll. Removes the marker of an owner that died, where filelock doesn't.

        That is one that stays empty, and any where names can't be exchanged, as over NFS.
        """
        found = _stamp(self._marker)
        if found is None:
            return
        if found != self._seen:
            self.lives = self._seen is not None and _signed(found)
            self._seen, self._since = found, time.monotonic()
            return
        patience = LEASE_SECONDS + HEARTBEAT_SECONDS if _signed(found) else UNWRITTEN_SECONDS
        if time.monotonic() - self._since >= patience:
            self._remove(found)

    def _remove(self, seen: tuple[int, int, int]) -> None:
        # Moved first: another waiter may have removed it, too, and hold the lock by now.
        aside = self._marker.with_name(f"{self._marker.name}.{secrets.token_hex(8)}")
        try:
            self._marker.rename(aside)
        except OSError:
            return  # gone, or open on Windows: the next poll looks again
        if _stamp(aside) != seen:
            try:
                os.link(aside, self._marker)
            except OSError:
                log.warning("%s was taken from its owner, who will notice", self._marker)
        aside.unlink(missing_ok=True)


def _stamp(marker: Path) -> tuple[int, int, int] | None:
    """Inode, time of the last touch and size; None if there is no marker."""
    try:
        with marker.open("rb") as file:  # over NFS, opening it asks the server
            found = os.fstat(file.fileno())
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _signed(stamp: tuple[int, int, int]) -> bool:
    return stamp[2] > 0
