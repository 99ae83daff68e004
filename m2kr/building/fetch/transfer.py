"""One file from the first of its addresses that has the right bytes."""

import importlib.resources
import logging
import time

from m2kr.building.fetch import http, pages
from m2kr.building.fetch.connection import is_http
from m2kr.building.fetch.folder import Stopped
from m2kr.building.fetch.part import Origin
from m2kr.building.fetch.policy import Failure, Job

log = logging.getLogger("m2kr.building.fetch.transfer")

_PACKAGE = "package:"


def supported(url: str) -> bool:
    """Whether ``transfer`` knows such URLs: ``http``, ``https`` and ``package:module/path``."""
    if is_local(url):
        module, _, inner = url.removeprefix(_PACKAGE).partition("/")
        return bool(module and inner) and ".." not in inner.split("/")
    return is_http(url)


def is_local(url: str) -> bool:
    """Whether a URL needs no network."""
    return url.startswith(_PACKAGE)


def transfer(job: Job) -> list[tuple[str, str]]:
    """Fills the part with the wanted bytes from the first URL that has them.

    Returns:
        The URLs that failed before, each with its reason. If they are as many as the asset has,
        the part does not hold the file.

    Raises:
        Stopped: ``job.stop`` was set.
        M2KRError: The disk or the lock failed.
    """
    reasons: list[tuple[str, str]] = []
    for url in job.asset.urls:
        known = not is_local(url) and job.reach.given_up(url) is not None
        reason = _from_one(job, url)
        if reason is None:
            break
        log.log(
            logging.INFO if known else logging.WARNING, "%s: %s: %s", job.asset.name, url, reason
        )
        reasons.append((url, reason))
    return reasons


def _from_one(job: Job, url: str) -> str | None:
    """Why this URL was given up; None if it gave the file."""
    policy, part = job.policy, job.part
    if not is_local(url) and (gone := job.reach.given_up(url)):
        return gone
    failures = rejected = 0
    farthest = part.size
    begun = time.monotonic()
    deadline = begun + policy.longest
    while True:
        if job.stop.is_set():
            raise Stopped
        try:
            if is_local(url):
                _copy(job, url)
            elif part.size != job.want.size or not job.want.hashed:
                http.get(job, url, deadline)
            _verify(job)
            return None
        except Failure as failure:
            rejected += failure.wrong
            if not (failure.again or failure.wrong) or rejected > 1:
                return failure.reason
            # A server without ranges makes every attempt begin at zero: only a new record is progress.
            progress = part.size >= farthest + policy.step
            failures = 1 if progress else failures + 1
            farthest = part.size if progress else farthest
            wait = min(policy.backoff * 2 ** (failures - 1), policy.backoff_cap)
            if failure.wait is not None:
                wait = max(wait, min(failure.wait, policy.retry_after_cap))
            # Where nobody answered yet there is no network, and patience doesn't help.
            hopeless = failure.unreachable and not job.reach.any
            soon = begun + policy.hopeless if hopeless else deadline
            if failures >= policy.attempts or time.monotonic() + wait > soon:
                reason = f"{failure.reason} ({failures} attempts)"
                if failure.unreachable:
                    job.reach.failed(url, reason)
                return reason
            log.warning("%s: %s; again in %.3g s", job.asset.name, failure.reason, wait)
            job.stop.wait(wait)


def _verify(job: Job) -> None:
    part, want = job.part, job.want
    if not part.sync():
        part.restart(None)
        raise Failure("another process wrote to the same file", wrong=True)
    problem = want.problem(part.size, part.digest.sha256, part.digest.md5)
    if problem is None and not want.hashed:
        if part.size == 0 and want.size is None:
            problem = "an empty file"
        else:
            problem = pages.instead_of(part.path, job.asset.name)
    if problem is not None:
        part.restart(None)
        raise Failure(problem, wrong=True)


def _copy(job: Job, url: str) -> None:
    module, _, inner = url.removeprefix(_PACKAGE).partition("/")
    try:
        source = importlib.resources.files(module).joinpath(*inner.split("/"))
        with source.open("rb") as file:
            job.part.restart(Origin(url))
            while block := file.read(1 << 20):
                job.take(block)
    except ModuleNotFoundError as error:
        raise Failure(f"the package that holds {error.name!r} is not installed") from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise Failure(f"the installed {module!r} has no such file") from error
