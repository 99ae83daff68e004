"""Files of a data set on the Hugging Face hub, by its own client: cache, resume, tokens, mirrors, proxies.

The client honours ``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_OFFLINE`` and proxy variables.
"""

import logging
import os
import re
import socket
import sys
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from m2kr.building.fetch.retry import Failure, Policy, persist
from m2kr.errors import CheckError, MissingError, UpstreamError

log = logging.getLogger("m2kr.building.fetch.hub")

_PATIENCE = Policy(attempts=3)


def dataset_page(repo: str) -> str:
    """The page of a data set, where its terms are accepted."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return f"{endpoint.rstrip('/')}/datasets/{repo}"


def file_url(repo: str, revision: str, name: str) -> str:
    """The address of one file of a data set at a commit, on the hub or on ``HF_ENDPOINT``."""
    return f"{dataset_page(repo)}/resolve/{revision}/{name}"


def snapshot(
    repo: str,
    revision: str,
    patterns: Sequence[str],
    *,
    offline: bool = False,
    jobs: int = 4,
    instead: str = "",
) -> Path:
    """A folder with the files of one revision that fit the patterns; fetched where they aren't cached.

    Args:
        repo: ``owner/name``.
        revision: Commit.
        patterns: Such as ``OKVQA_data/test-*.parquet``.
        offline: Use the cache alone.
        jobs: Files fetched at once.
        instead: Where else the data can be had, for messages.

    Raises:
        UpstreamError: the hub refuses (names the page to accept), has no such revision, or fails.
        MissingError: offline, and the files aren't cached.
    """
    import huggingface_hub as hub
    from huggingface_hub import constants, errors
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    # The client alone would ask for half a minute.
    unreachable = None if offline or constants.HF_HUB_OFFLINE else _unreachable(constants.ENDPOINT)
    bars = sys.stderr.isatty()
    if not bars:
        disable_progress_bars()
    try:
        return _persistent(
            lambda: hub.snapshot_download(
                repo,
                repo_type="dataset",
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=offline or unreachable is not None,
                max_workers=max(1, jobs),
            )
        )
    except errors.GatedRepoError as error:
        raise _refused(repo, "its terms were not accepted by this account", instead) from error
    except errors.RevisionNotFoundError as error:
        raise UpstreamError(
            f"the data set has no revision {revision}",
            where=dataset_page(repo),
            expected=f"a commit of {dataset_page(repo)}/commits/main",
            fix="--revision main, for the newest",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise _refused(repo, "there is no such data set, or it needs a login", instead) from error
    except Exception as error:
        # The client lets through its HTTP library's own, too, and these differ by version.
        if unreachable is not None:
            raise UpstreamError(
                f"the hub can't be reached: {unreachable}",
                where=dataset_page(repo),
                fix="see to the network (or HTTPS_PROXY, HF_ENDPOINT), then run the same command again"
                + (f"; or {instead}" if instead else ""),
            ) from error
        local = isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled)
        if local and (offline or constants.HF_HUB_OFFLINE):
            raise MissingError(
                "these files aren't in the hub's cache, and going online is forbidden",
                where=dataset_page(repo),
                expected=", ".join(patterns),
                fix="run once without --offline and HF_HUB_OFFLINE, or give a folder: --from DIR",
            ) from error
        if _status(error) in {401, 403}:
            raise _refused(repo, f"HTTP {_status(error)}", instead) from error
        raise _failed(repo, error, instead) from error
    finally:
        if not bars:
            enable_progress_bars()


def _unreachable(endpoint: str) -> str | None:
    """Why there is no connection to the hub; None if there is one, or a proxy that knows more."""
    parts = urlsplit(endpoint)
    if urllib.request.getproxies():
        return None
    port = parts.port or (80 if parts.scheme == "http" else 443)

    def connect() -> None:
        try:
            socket.create_connection((parts.hostname or "", port), timeout=10).close()
        except OSError as error:
            raise Failure(error.strerror or str(error), again=True) from error

    try:
        persist(connect, Policy(attempts=2), log=log.info)
    except Failure as failure:
        return failure.reason
    return None


def _persistent(download: Callable[[], str]) -> Path:
    """What a download gives, tried again where a file is answered with an error of the hub's own.

    The client tries again by itself where it asks what there is, but not where it fetches.
    """
    from huggingface_hub import errors

    def attempt() -> Path:
        try:
            return Path(download())
        except errors.HfHubHTTPError as error:
            status = _status(error)
            if status is None or status < 500:
                raise
            raise Failure(_words(error), again=True) from error

    return persist(attempt, _PATIENCE, log=log.warning)


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error of the client, which wraps some of them twice."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return int(status)
        error = error.__cause__
    return None


def _refused(repo: str, why: str, instead: str) -> UpstreamError:
    fix = f"accept the terms on {dataset_page(repo)} and set HF_TOKEN to a token of that account"
    return UpstreamError(
        f"the hub does not give this data set: {why}",
        where=dataset_page(repo),
        fix=fix + (f"; or {instead}" if instead else ""),
    )


def _failed(repo: str, error: Exception, instead: str) -> UpstreamError:
    text = error.reason if isinstance(error, Failure) else _words(error)
    return UpstreamError(
        f"fetching from the hub failed: {text}"[:300],
        where=dataset_page(repo),
        fix="run the same command again: it resumes" + (f"; or {instead}" if instead else ""),
    )


def _words(error: Exception) -> str:
    """An error of the client in one line without addresses, which may be signed."""
    status = _status(error)
    text = re.sub(r"https?://\S+", "…", str(error)).strip().split("\n")[0]
    return f"HTTP {status}: {text}" if status else f"{type(error).__name__}: {text}"


def check_blob(path: Path, sha256: str) -> None:
    """Checks a file of the cache against the hash that the hub published with it, if it did.

    Raises:
        CheckError: they differ.
    """
    published = path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", published) and published != sha256:
        raise CheckError(
            f"the file's sha256 is {sha256}",
            where=str(path),
            expected=published,
            fix=f"delete {path.resolve()} and run the same command again",
        )
