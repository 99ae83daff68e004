"""Token stores and indexes on the Hugging Face hub, as data sets: pushed and pulled whole and verified.

A repository holds the folder's files and ``pack.json``, as a pack does. The hub's client honours
``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_OFFLINE`` and proxy variables.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import atomic
from m2kr.errors import CheckError, InputError, M2KRError, MissingError, UpstreamError, UsageError
from m2kr.search.late.sharing import manifest as pack_manifest
from m2kr.search.late.sharing import pack as packs
from m2kr.search.late.sharing.manifest import NAME, Manifest

if TYPE_CHECKING:
    from m2kr.progress import Progress

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_TYPE = "dataset"


@dataclass(frozen=True, slots=True)
class Upload:
    """What a push does to a repository, in one commit.

    Attributes:
        manifest: What is pushed.
        add: Files that are written, ``pack.json`` among them.
        delete: Files of an earlier push that no longer belong to it.
    """

    manifest: Manifest
    add: tuple[str, ...]
    delete: tuple[str, ...]


def is_repo(text: str) -> bool:
    """Whether a text can be a repository's name, ``owner/name``."""
    return bool(_REPO.fullmatch(text)) and ".." not in text


def upload_of(manifest: Manifest, there: Manifest | None, *, replace: bool = False) -> Upload:
    """What to write and to delete.

    Args:
        manifest: Of the folder.
        there: Of what was pushed to the repository before; None if nothing was.
        replace: Whether another model's or pool's may be replaced.

    Raises:
        CheckError: it may not, and a field differs; names the first one.
    """
    facts, held = manifest.facts(), there.facts() if there else {}
    for name in sorted({*facts, *held} if there and not replace else ()):
        if facts.get(name) != held.get(name):
            raise CheckError(
                f"the repository holds a {held['kind']} whose {name} is {held.get(name)}",
                expected=f"{name} = {facts.get(name)}",
                fix="push to another repository, or replace what is there: --replace",
            )
    names = {NAME, *(file.name for file in manifest.files)}
    old = {file.name for file in there.files} - names if there else set()
    return Upload(manifest, tuple(sorted(names)), tuple(sorted(old)))


def push(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    replace: bool = False,
    revision: str | None = None,
    progress: "Progress | None" = None,
) -> tuple[Manifest, str]:
    """Uploads a token store or an index as a data set, verified before the first byte leaves.

    All of it is one commit, so whoever pulls sees the old one or the new one. Big files that the hub
    has already are not sent again; a push that was cut off goes on when it is called again.

    Args:
        folder: A token store or an index.
        repo: ``owner/name``; made if need be.
        private: Whether it is private, if it is made.
        replace: Whether what another model or pool left there may be replaced.
        revision: Branch; by default ``main``.
        progress: Told of the bytes as they are verified.

    Returns:
        What was pushed, and the commit.

    Raises:
        UsageError: the repository's name is none.
        CheckError: a file is damaged, or the repository holds something else.
        UpstreamError: the hub refuses or fails.
    """
    _check_repo(repo)
    manifest = pack_manifest.describe(folder)
    packs.check_files(folder, manifest, progress=progress)
    with _hub(repo, "pushing to"):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi()
        # Neither public nor private by our choice: an organisation has a default.
        api.create_repo(repo, repo_type=_TYPE, private=private or None, exist_ok=True)
        listed = api.list_repo_files(repo, repo_type=_TYPE, revision=revision)
        there = _manifest(repo, revision)[0] if NAME in listed else None
        upload = upload_of(manifest, there, replace=replace)
        sources: dict[str, Path | bytes] = {f.name: folder / f.name for f in manifest.files}
        sources[NAME] = manifest.to_bytes()
        added = [CommitOperationAdd(name, _fit(sources[name])) for name in upload.add]
        deleted = [CommitOperationDelete(name) for name in upload.delete if name in listed]
        done = api.create_commit(
            repo,
            [*added, *deleted],
            repo_type=_TYPE,
            revision=revision,
            commit_message=f"{manifest.kind} of {manifest.passages:,} passages",
        )
        return manifest, str(done.oid)


def _fit(source: Path | bytes) -> str | bytes:
    return source if isinstance(source, bytes) else str(source)


def pull(
    repo: str,
    folder: Path,
    *,
    revision: str | None = None,
    expected: Mapping[str, Any] | None = None,
    progress: "Progress | None" = None,
) -> Manifest:
    """Fetches a token store or an index that was pushed; it appears when it is whole and verified.

    Files go through the hub's cache, so a pull that was cut off goes on, and are linked from there
    where the file system can: they take no space twice.

    Args:
        repo: ``owner/name``, a data set.
        folder: Must not exist, be empty, or hold the same already.
        revision: Commit, tag or branch; by default the newest.
        expected: See `sharing.manifest.require`; checked before anything but ``pack.json`` is fetched.
        progress: Told of the bytes as they are verified.

    Raises:
        UsageError: the repository's name is none.
        InputError: it holds no store or index, or the folder holds something else.
        CheckError: it is not as expected, or a file differs from its SHA-256.
        MissingError: offline, and the cache lacks it.
        UpstreamError: the hub refuses or fails.
    """
    _check_repo(repo)
    with _hub(repo, "pulling from"):
        manifest, commit = _manifest(repo, revision)
        pack_manifest.require(manifest.facts(), expected or {}, repo)
        if packs.held(folder, manifest):
            packs.check_files(folder, manifest, progress=progress)
            return manifest
        from huggingface_hub import snapshot_download

        names = [file.name for file in manifest.files]
        cached = Path(
            snapshot_download(repo, repo_type=_TYPE, revision=commit, allow_patterns=names)
        )
    with packs.replacing(folder) as aside:
        for name in names:
            path = (cached / name).resolve()
            if not path.is_file():
                raise _no_pack(repo, f"{name} is missing")
            atomic.link(path, aside / name)
        packs.check_files(aside, manifest, progress=progress)
        pack_manifest.check_folder(aside, manifest)
    return manifest


def _manifest(repo: str, revision: str | None) -> tuple[Manifest, str]:
    """The manifest in a repository, and the commit it is of."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        path = Path(hf_hub_download(repo, NAME, repo_type=_TYPE, revision=revision))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError as error:
        raise _no_pack(repo, f"there is no {NAME}") from error
    if path.stat().st_size > pack_manifest.MOST_BYTES:
        raise _no_pack(repo, f"its {NAME} is too big")
    # A hub's snapshots lie in folders named by commit.
    return pack_manifest.read(path.read_bytes(), f"{repo}, {NAME}"), path.parent.name


def _check_repo(repo: str) -> None:
    if not is_repo(repo):
        raise UsageError(f"'{repo}' is no repository", expected="owner/name")


def _no_pack(repo: str, what: str) -> InputError:
    return InputError(
        f"the data set holds no token store or index: {what}",
        where=_page(repo),
        expected="what m2kr index push uploads",
    )


def _page(repo: str) -> str:
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return f"{endpoint.rstrip('/')}/datasets/{repo}"


@contextmanager
def _hub(repo: str, doing: str) -> Iterator[None]:
    """Turns what the hub's client raises into our errors, and shows its bars on terminals alone."""
    from huggingface_hub import constants, errors
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    bars = sys.stderr.isatty()
    if not bars:
        disable_progress_bars()
    try:
        yield
    except M2KRError:
        raise
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise UpstreamError(
            "the hub has no such data set or revision, or this account may not see it",
            where=_page(repo),
            fix="check the name; private ones need HF_TOKEN",
        ) from error
    except Exception as error:
        # The client lets through its HTTP library's own errors, too, and these differ by version.
        local = isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled)
        if local and constants.HF_HUB_OFFLINE:
            raise MissingError(
                "it isn't in the hub's cache, and going online is forbidden",
                where=_page(repo),
                fix="run once without HF_HUB_OFFLINE, or take a pack: m2kr index pull FILE FOLDER",
            ) from error
        raise _failed(repo, doing, error) from error
    finally:
        if not bars:
            enable_progress_bars()


def _failed(repo: str, doing: str, error: Exception) -> UpstreamError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    text = re.sub(r"https?://\S+", "…", str(error)).strip().split("\n")[0]
    text = f"HTTP {status}: {text}" if status else f"{type(error).__name__}: {text}"
    denied = status in {401, 403}
    return UpstreamError(
        f"{doing} the hub failed: {text}"[:300],
        where=_page(repo),
        fix="set HF_TOKEN to a token that may do this"
        if denied
        else "run the same command again: it goes on where it stopped",
    )
