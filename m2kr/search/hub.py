"""Token stores and indexes on the Hugging Face hub, as data sets: pushed and pulled whole and verified.

A repository holds the folder's files as they are. Only complete shards count: locks, files of an open
shard and whatever else lies in the folder are left out. The hub's client honours ``HF_TOKEN``,
``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_OFFLINE`` and proxy variables.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from m2kr import atomic
from m2kr.errors import CheckError, InputError, M2KRError, MissingError, UpstreamError, UsageError
from m2kr.progress import SILENT, Progress, task
from m2kr.search.index.files import lacking, read_index_records, require_whole
from m2kr.search.index.format import (
    EXPECTED,
    INDEX,
    codec_names,
    index_file_names,
    read_index_header,
)
from m2kr.search.store.format import DTYPE, STORE, read_store_header, token_file_names
from m2kr.search.store.reader import TokenStore
from m2kr.search.store.records import record_name

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_TYPE = "dataset"
_TASK = "verify"
#: How messages call the fields that decide whether vectors go together.
_CALLED = {"pool": "pool fingerprint", "eval": "eval fingerprint"}
_NUMBERED = {
    *(record_name(0), *token_file_names(0)),
    *index_file_names(0, "compressed").values(),
}
_SINGLE = {STORE.header, INDEX.header, EXPECTED, *codec_names("official")}
#: Of all files of stores and indexes, for the hub's client.
_PATTERNS = sorted(_SINGLE | {name.replace("00000", "[0-9]*") for name in _NUMBERED})


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a folder with a token store or an index, by its own records.

    Attributes:
        kind: Which of them.
        passages: How many.
        tokens: How many, all passages together.
        header: The content of ``store.json`` or ``index.json``.
        records: Names of the JSON files, which are checked as they are read.
        sha256: The recorded SHA-256 of each other file, by name.
    """

    kind: Literal["store", "index"]
    passages: int
    tokens: int
    header: Mapping[str, Any]
    records: tuple[str, ...]
    sha256: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Names of all files."""
        return sorted([*self.records, *self.sha256])

    def facts(self) -> dict[str, Any]:
        """What decides whether vectors go with others, as flat names.

        ``kind``, ``dim`` and ``dtype`` (of a token, as read), ``nbits`` and ``centroids`` of an index,
        and the ``meta`` of whoever encoded the pool: by convention ``checkpoint`` (SHA-256 of the
        weights), ``pool`` and ``eval`` (fingerprints). Objects inside are joined with dots; a name of
        ours comes back as ``meta.name``.
        """
        return _facts_of(self.kind, self.header)


def contents_of(folder: Path) -> Contents:
    """What a folder holds.

    Raises:
        MissingError: there is neither a store nor an index.
        InputError: it is of another format, or has no complete shard.
        CheckError: records or header are damaged, or it was cut off.
    """
    kind: Literal["store", "index"]
    if (folder / STORE.header).is_file():
        store = TokenStore.open(folder)
        store.require_whole()
        kind, header, shards = "store", read_store_header(folder).as_dict(), [*store.shards]
        records, sha256 = [STORE.header], {}
    elif (folder / INDEX.header).is_file():
        index = read_index_header(folder)
        kind, header, shards = "index", index.as_dict(), read_index_records(folder, index)
        require_whole(folder, lacking(folder, index, shards) if shards else None)
        records, sha256 = [INDEX.header], dict(index.sha256)
        if (folder / EXPECTED).exists():
            records.append(EXPECTED)
    else:
        raise MissingError(
            "there is no token store and no index here",
            where=str(folder),
            expected=f"a folder with {STORE.header} or {INDEX.header}",
        )
    passages, tokens = (sum(getattr(s, name) for s in shards) for name in ("passages", "tokens"))
    if not passages:
        raise InputError("it has no complete shard", where=str(folder), fix="finish it first")
    for shard in shards:
        records.append(record_name(shard.number))
        sha256 |= shard.sha256
    return Contents(kind, passages, tokens, header, tuple(records), sha256)


def _verify(folder: Path, contents: Contents, progress: Progress) -> None:
    kind = STORE if contents.kind == "store" else INDEX
    with task(progress, _TASK, len(contents.sha256), "files"):
        for name, sha256 in contents.sha256.items():
            kind.check_sha256(folder, {name: sha256})
            progress.advance(_TASK, 1)


def _is_file_of_ours(name: str) -> bool:
    """Whether a name is that of a file of some store or index."""
    return name in _SINGLE or re.sub(r"-\d{5,10}\.", "-00000.", name, count=1) in _NUMBERED


def _facts_of(kind: str, header: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": kind, "dim": header["dim"]}
    facts["dtype"] = header.get("dtype", DTYPE.name)
    facts |= {name: header[name] for name in ("nbits", "centroids") if kind == "index"}
    for name, value in _flat(header["meta"]):
        facts[f"meta.{name}" if name in facts else name] = value
    return facts


def _flat(value: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name in sorted(value):
        each = value[name]
        if isinstance(each, Mapping):
            pairs += _flat(each, f"{before}{name}.")
        else:
            pairs.append((f"{before}{name}", each))
    return pairs


def require_facts(facts: Mapping[str, Any], expected: Mapping[str, Any], where: str = "") -> None:
    """Refuses a store or index that is another model's or another pool's.

    Args:
        facts: From `Contents.facts`.
        expected: Values by name, compared in this order. Numbers may be given as text.
        where: What the facts are of, for the message.

    Raises:
        CheckError: a field differs, or nothing is known of it; names the first one.
    """
    for name, value in expected.items():
        called = _CALLED.get(name, name)
        if name not in facts:
            raise CheckError(
                f"it doesn't say its {called}",
                where=where or None,
                expected=f"{name} = {value}; it says: {', '.join(facts)}",
                fix="encode the pool again, with that recorded",
            )
        if facts[name] != value and str(facts[name]) != str(value):
            raise CheckError(
                f"its {called} is {facts[name]}",
                where=where or None,
                expected=f"{name} = {value}",
                fix="use what was made with the same model from the same data, or encode again",
            )


def is_repo(text: str) -> bool:
    """Whether a text can be a repository's name, ``owner/name``."""
    return bool(_REPO.fullmatch(text)) and ".." not in text


def push_folder(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    replace: bool = False,
    revision: str | None = None,
    progress: Progress = SILENT,
) -> tuple[Contents, str]:
    """Uploads a token store or an index as a data set, verified before the first byte leaves.

    All of it is one commit (which the client's ``upload_folder`` doesn't promise), so whoever pulls
    sees the old one or the new one. Big files that the hub has already are not sent again; a push that
    was cut off goes on when it is called again.

    Args:
        folder: A token store or an index.
        repo: ``owner/name``; made if need be.
        private: Whether it is private, if it is made.
        replace: Whether what another model or pool left there may be replaced.
        revision: Branch; by default ``main``.
        progress: Told of the files as they are verified.

    Returns:
        What was pushed, and the commit.

    Raises:
        UsageError: the repository's name is none.
        CheckError: a file is damaged, or the repository holds something else.
        UpstreamError: the hub refuses or fails.
    """
    _check_repo(repo)
    pushed = contents_of(folder)
    _verify(folder, pushed, progress)
    with _hub(repo, "pushing to"):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi()
        # Neither public nor private by our choice: an organisation has a default.
        api.create_repo(repo, repo_type=_TYPE, private=private or None, exist_ok=True)
        listed = api.list_repo_files(repo, repo_type=_TYPE, revision=revision)
        if not replace and {STORE.header, INDEX.header} & set(listed):
            _require_same(pushed.facts(), _facts(repo, revision)[0])
        gone = {name for name in listed if _is_file_of_ours(name)} - set(pushed.names)
        added = [CommitOperationAdd(name, str(folder / name)) for name in pushed.names]
        done = api.create_commit(
            repo,
            [*added, *(CommitOperationDelete(name) for name in sorted(gone))],
            repo_type=_TYPE,
            revision=revision,
            commit_message=f"{pushed.kind} of {pushed.passages:,} passages",
        )
        return pushed, str(done.oid)


def _require_same(facts: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    for name in ["kind", *sorted({*facts, *there})]:
        if facts.get(name) != there.get(name):
            held = "an index" if there["kind"] == "index" else "a store"
            whose = "" if name == "kind" else f" whose {name} is {there.get(name)}"
            raise CheckError(
                f"the repository holds {held}{whose}",
                expected=f"{name} = {facts.get(name)}",
                fix="push to another repository, or replace what is there: --replace",
            )


def pull_folder(
    repo: str,
    folder: Path,
    *,
    revision: str | None = None,
    expected: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
) -> Contents:
    """Fetches a token store or an index that was pushed; it appears when it is whole and verified.

    Files go through the hub's cache, so a pull that was cut off goes on, and are linked from there
    where the file system can: they take no space twice.

    Args:
        repo: ``owner/name``, a data set.
        folder: Must not exist, be empty, or hold the same already.
        revision: Commit, tag or branch; by default the newest.
        expected: See `require_facts`; checked before anything but the settings is fetched.
        progress: Told of the files as they are verified.

    Raises:
        UsageError: the repository's name is none.
        InputError: it holds no store or index, or the folder holds something else.
        CheckError: it is not as expected, not whole, or a file differs from its SHA-256.
        MissingError: offline, and the cache lacks it; or there is no folder to make it in.
        UpstreamError: the hub refuses or fails.
    """
    _check_repo(repo)
    with _hub(repo, "pulling from"):
        from huggingface_hub import snapshot_download

        facts, commit = _facts(repo, revision)
        require_facts(facts, expected or {}, repo)
        cached = Path(
            snapshot_download(
                repo, repo_type=_TYPE, revision=commit, allow_patterns=list(_PATTERNS)
            )
        )
    try:
        pulled = contents_of(cached)
        if _holds(folder, pulled):
            _verify(folder, pulled, progress)
            return pulled
        _verify(cached, pulled, progress)
    except CheckError as error:
        if Path(error.where or "").is_relative_to(folder):
            raise
        name = Path(error.where or "").name
        raise CheckError(
            f"what the data set holds is not whole: {name}: {error.what}",
            where=_page(repo),
            fix="push it again; if only this machine's copy is bad, delete that in the hub's cache",
        ) from error
    folder = folder.absolute()
    if not folder.parent.is_dir():
        raise MissingError("there is no such folder", where=str(folder.parent))
    # An empty folder is replaced; one that has been filled meanwhile is not.
    with atomic.writing(folder) as aside:
        aside.mkdir()
        for name in pulled.names:
            atomic.link((cached / name).resolve(), aside / name)
    return pulled


def _facts(repo: str, revision: str | None) -> tuple[dict[str, Any], str]:
    """The facts of what a repository holds, by its settings alone; and the commit it is of."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    unreached: LocalEntryNotFoundError | None = None
    for kind, name in ("store", STORE.header), ("index", INDEX.header):
        try:
            path = Path(hf_hub_download(repo, name, repo_type=_TYPE, revision=revision))
        except LocalEntryNotFoundError as error:
            unreached = error  # offline, the cache of an index has no store.json
            continue
        except EntryNotFoundError:
            continue
        # A hub's snapshots lie in folders named by commit.
        read = read_store_header if kind == "store" else read_index_header
        return _facts_of(kind, read(path.parent).as_dict()), path.parent.name
    if unreached is not None:
        raise unreached
    raise _nothing_of_ours(repo, f"there is no {STORE.header} and no {INDEX.header}")


def _holds(folder: Path, pulled: Contents) -> bool:
    """Whether a folder holds just this already; False if it is not there, or empty.

    Raises:
        InputError: it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        same = folder.is_dir() and contents_of(folder) == pulled
    except M2KRError:
        same = False
    if not same:
        raise InputError(
            "something else is there already",
            where=str(folder),
            fix="use another folder, or delete this one",
        )
    return True


def _check_repo(repo: str) -> None:
    if not is_repo(repo):
        raise UsageError(f"'{repo}' is no repository", expected="owner/name")


def _nothing_of_ours(repo: str, what: str) -> InputError:
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
                fix="run once without HF_HUB_OFFLINE",
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
