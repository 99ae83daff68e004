"""Upstream files into the downloads folder: each whole, verified and fetched once."""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from m2kr import atomic
from m2kr.building.fetch import pages
from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.folder import (
    LOCK_FILE,
    Digest,
    ExpectedFile,
    VerifiedFile,
    digest_file,
    expected_file,
    first_seen,
    paths_of,
    read_verified,
    remember,
    write_verified,
)
from m2kr.building.fetch.part import Part, part_size, read_origin
from m2kr.building.fetch.retry import Policy, Stopped
from m2kr.building.fetch.transfer import Reach, Transfer, is_local, supported
from m2kr.errors import CheckError, InputError, M2KRError, MissingError, UpstreamError, plainly
from m2kr.locks import Held, hold
from m2kr.progress import SILENT, Progress

log = logging.getLogger("m2kr.building.fetch.fetch")

T = TypeVar("T")
State = Literal["present", "partial", "missing", "manual"]


def fetch(
    assets: Sequence[Asset],
    folder: Path,
    *,
    jobs: int = 4,
    offline: bool = False,
    progress: Progress = SILENT,
    policy: Policy | None = None,
    check: Callable[[Asset, Path], None] | None = None,
) -> dict[str, Path]:
    """The local path of every asset by its name, after fetching what isn't there.

    Files are downloaded beside their place, verified and renamed, so that what is found under an
    asset's name is whole. A killed download goes on where it was. Of several processes that want a
    file one downloads it and the others wait. A file placed by hand is verified and used.

    Args:
        assets: Files; those of equal name must be equal.
        folder: The downloads folder.
        jobs: Files downloaded (or hashed) at once.
        offline: Use no network; files in installed packages still count as here.
        progress: Told of every byte, by several threads.
        policy: Timeouts and retries.
        check: Raises an `M2KRError` if a file's content is wrong. Of a wrong one nothing is kept, and
            the other files wait.

    Raises:
        InputError: An asset has an unsafe name or URL, or two of one name differ.
        MissingError: Files have to be placed by hand, or aren't here and ``offline`` is set.
        CheckError: A file placed by hand isn't the expected one.
        UpstreamError: No address of a file gave the expected bytes.
        M2KRError: The disk is too small, full or not writable.
    """
    unique = _validated(assets, folder)
    run = _Fetch(folder, offline, progress, policy or Policy(), check)
    present = run.each(run.present, unique, jobs)
    absent = [a for a, there in zip(unique, present, strict=True) if not there]
    _refuse_unreachable(absent, folder, offline=offline)
    if absent:
        run.check_space(absent)
        run.each(run.obtain, absent, jobs)
    return {asset.name: folder / asset.name for asset in unique}


def _refuse_unreachable(absent: Sequence[Asset], folder: Path, *, offline: bool) -> None:
    """Before the first byte: what must be placed by hand, or isn't here when offline."""
    by_hand = [a for a in absent if not a.urls]
    unreachable = [a for a in absent if a.urls and offline and not any(map(is_local, a.urls))]
    if not by_hand and not unreachable:
        return
    lines = [f"{folder / a.name}  {a.manual or 'no address is known'}" for a in by_hand]
    lines += [f"{folder / a.name}  from {a.urls[0]}" for a in unreachable]
    many = "1 file is" if len(lines) == 1 else f"{len(lines)} files are"
    how = "missing and --offline forbids to fetch" if unreachable else "to be placed by hand"
    raise MissingError(
        f"{many} {how}:\n" + "\n".join(f"    {line}" for line in lines),
        expected="these files at these paths",
        fix="run without --offline, or copy the files there and run the same command again"
        if unreachable
        else "put each file at its path and run the same command again",
    )


@dataclass(slots=True)
class _Fetch:
    """What all files of one call share."""

    folder: Path
    offline: bool
    progress: Progress
    policy: Policy
    check: Callable[[Asset, Path], None] | None
    stop: threading.Event = field(default_factory=threading.Event)
    reach: Reach = field(default_factory=Reach)

    def each(self, work: Callable[[Asset], T], assets: Sequence[Asset], jobs: int) -> list[T]:
        """Results in order. All files are tried before an error is raised, unless it concerns all."""
        results: dict[str, T] = {}
        errors: dict[str, M2KRError] = {}
        with ThreadPoolExecutor(max(1, min(jobs, len(assets)))) as pool:
            futures = {pool.submit(self._guarded, work, a): a.name for a in assets}
            try:
                for future in as_completed(futures):
                    error = future.exception()
                    if error is None:
                        results[futures[future]] = future.result()
                    elif isinstance(error, M2KRError):
                        errors[futures[future]] = error
                        # The base class stands for this machine's troubles, such as a full disk.
                        if type(error) is M2KRError:
                            self.stop.set()
                    elif not isinstance(error, Stopped):
                        raise error
            except BaseException:
                self.stop.set()
                raise
        if errors:
            if str(self.reach) and not self.reach.any:
                raise self._no_network(len(errors))
            raise _joined([errors[a.name] for a in assets if a.name in errors])
        return [results[a.name] for a in assets]

    def _no_network(self, files: int) -> UpstreamError:
        return UpstreamError(
            f"no server can be reached for the {files} files that are to be fetched: {self.reach}"
            if files > 1
            else f"no server can be reached for the file that is to be fetched: {self.reach}",
            where=str(self.folder),
            fix="see to the network (or HTTPS_PROXY), then run the same command again; "
            "or put the files there by hand (--plan lists them)",
        )

    def _guarded(self, work: Callable[[Asset], T], asset: Asset) -> T:
        if self.stop.is_set():
            raise Stopped
        with plainly(paths_of(self.folder, asset.name).target):
            return work(asset)

    def present(self, asset: Asset) -> bool:
        """Whether the right file is there; False if it is to be fetched.

        Raises:
            CheckError: A wrong file was placed by hand.
        """
        paths = paths_of(self.folder, asset.name)
        if paths.target.is_dir():
            return self._present_folder(asset, paths.target)
        if not paths.target.exists():
            return False
        expected = expected_file(asset, first_seen(self.folder))
        old, stat = read_verified(paths.verified), paths.target.stat()
        new = old
        if new is None or not new.covers(stat) or (expected.md5 and not new.md5):
            digest = digest_file(paths.target, md5=bool(expected.md5), stop=self.stop)
            url = old.url if old is not None else None
            new = VerifiedFile(digest.size, stat.st_mtime_ns, digest.sha256, digest.md5, url)
        problem = expected.problem(new.size, new.sha256, new.md5)
        if problem is None and not expected.hashed:
            problem = pages.instead_of(paths.target, asset.name)
        if problem is None:
            self._check(asset, paths.target)
            if os.access(self.folder, os.W_OK):
                self._note(asset, expected, new, old)
            return True
        if new.url is not None and asset.urls:
            log.warning(
                "%s changed since it was fetched (%s): fetched again", paths.target, problem
            )
            return False
        raise CheckError(
            f"a file placed by hand is not the right one: {problem}",
            where=str(paths.target),
            expected=str(expected),
            fix="copy it again, or delete it" + (" to have it fetched" if asset.urls else ""),
        )

    def _check(self, asset: Asset, path: Path) -> None:
        if self.check is not None:
            try:
                self.check(asset, path)
            except M2KRError:
                self.stop.set()
                raise

    def _present_folder(self, asset: Asset, path: Path) -> bool:
        """A folder counts as placed by hand if nothing is known that only a file can have."""
        if asset.urls or asset.size is not None or asset.sha256 or asset.md5:
            raise CheckError(
                "a folder is where a file belongs", where=str(path), fix="move it away"
            )
        return any(path.iterdir())

    def _note(
        self,
        asset: Asset,
        expected: ExpectedFile,
        verified: VerifiedFile,
        known: VerifiedFile | None = None,
    ) -> None:
        """Remembers what was verified, unless it is known."""
        if not expected.hashed:
            remember(self.folder, asset.name, verified)
        if verified != known:
            write_verified(paths_of(self.folder, asset.name).verified, verified)

    def check_space(self, assets: Sequence[Asset]) -> None:
        """Refuses to begin what can't end.

        Published sizes only: a rough one refuses nothing, as the server says the true one before the
        first byte is written (`Transfer` refuses it then).

        Raises:
            M2KRError: The published sizes, less what has arrived, don't fit on the disk.
        """
        need = sum(max(0, (i.size or 0) - i.have) for i in plan_downloads(assets, self.folder))
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if need and need + self.policy.spare > free:
            raise M2KRError(
                f"not enough disk space: {need:,} bytes are to be fetched, {free:,} are free",
                where=str(self.folder),
                expected=f"{need + self.policy.spare:,} bytes free ({self.policy.spare:,} to spare)",
                fix="free some space, or use another data root: --data DIR",
            )

    def obtain(self, asset: Asset) -> None:
        """Fetches one file, or waits until another process has."""
        paths = paths_of(self.folder, asset.name)
        what = f"the download of {asset.name}"
        with hold(paths.lock, what, cancelled=self.stop.is_set) as lock:
            if self.present(asset):
                return
            if self.offline:
                asset = replace(asset, urls=tuple(filter(is_local, asset.urls)))
            expected = expected_file(asset, first_seen(self.folder))
            md5 = expected.md5 is not None
            with Part(paths, md5=md5, check=lock.check, stop=self.stop) as part:
                reasons = Transfer(
                    asset, expected, part, self.policy, self.progress, self.stop, self.reach
                ).run()
                if len(reasons) == len(asset.urls):
                    raise self._failed(asset, expected, reasons)
                url = asset.urls[len(reasons)]
                try:
                    self._check(asset, paths.part)
                except M2KRError:
                    part.restart(None)
                    raise
            self._publish(asset, expected, part.digest, url, lock)

    def _publish(
        self, asset: Asset, expected: ExpectedFile, digest: Digest, url: str, lock: Held
    ) -> None:
        """Moves a verified part to its place, last: a crash before loses no bytes and no first sight."""
        paths = paths_of(self.folder, asset.name)
        mtime = paths.part.stat().st_mtime_ns
        new = VerifiedFile(digest.size, mtime, digest.sha256, digest.md5, url)
        self._note(asset, expected, new)
        paths.target.parent.mkdir(parents=True, exist_ok=True)
        lock.check()
        atomic.replace(paths.part, paths.target)
        paths.origin.unlink(missing_ok=True)
        log.info("%s: %s bytes from %s", asset.name, f"{digest.size:,}", url)

    def _failed(
        self, asset: Asset, expected: ExpectedFile, reasons: list[tuple[str, str]]
    ) -> M2KRError:
        lines = "".join(f"\n    {url}: {reason}" for url, reason in reasons)
        target = self.folder / asset.name
        if all(is_local(url) for url in asset.urls):
            fix = asset.manual or "install that package and run the same command again"
            return MissingError(
                f"no installed package has this file:{lines}", where=asset.name, fix=fix
            )
        fix = f"run the same command later (it resumes), or put the file by hand at {target}"
        if asset.manual:
            fix += f" ({asset.manual})"
        if expected.locked:
            lock_file = self.folder / LOCK_FILE
            fix += f"; to accept a file that upstream changed, delete the entry {asset.name!r} in {lock_file}"
        return UpstreamError(
            f"none of {len(reasons)} addresses gave this file:{lines}"
            if len(reasons) > 1
            else f"the only address didn't give this file:{lines}",
            where=asset.name,
            expected=str(expected),
            fix=fix,
        )


def _joined(errors: list[M2KRError]) -> M2KRError:
    """One error for several, of the gravest class."""
    if len(errors) == 1:
        return errors[0]
    gravest = max(errors, key=lambda error: (type(error) is M2KRError, error.exit_code))
    texts = "\n".join(str(error) for error in errors)
    return type(gravest)(f"{len(errors)} files failed\n{texts}")


@dataclass(frozen=True, slots=True)
class PlannedDownload:
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


def plan_downloads(assets: Sequence[Asset], folder: Path) -> list[PlannedDownload]:
    """What ``fetch`` would do, by a look at names and sizes; reads no file and asks no server."""
    locked = first_seen(folder)
    seen = {name: entry["size"] for name, entry in locked.items()}
    return [_plan_one(a, folder, seen.get(a.name)) for a in _validated(assets, folder)]


def _plan_one(asset: Asset, folder: Path, seen_size: int | None) -> PlannedDownload:
    paths = paths_of(folder, asset.name)
    size = seen_size if asset.size is None else asset.size
    state: State = "missing"
    have = part_size(paths)
    if paths.target.is_dir():
        size, have = None, 0
        state = "present"
    elif paths.target.is_file() and size in {None, paths.target.stat().st_size}:
        size = have = paths.target.stat().st_size
        state = "present"
    elif not asset.urls:
        state = "manual"
    elif have:
        state = "partial"
        origin = read_origin(paths)
        size = origin.total if size is None and origin is not None else size
    url = asset.urls[0] if asset.urls else None
    return PlannedDownload(asset.name, size, have, state, url, asset.licence)


def _validated(assets: Iterable[Asset], folder: Path) -> list[Asset]:
    """One asset a name, in order, all of them safe.

    Raises:
        InputError: A name or URL is unsafe, or two assets of one name differ.
    """
    unique: dict[str, Asset] = {}
    for asset in assets:
        paths_of(folder, asset.name)
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
