"""What a folder with a token store or an index holds: its files, and the facts that it is known by.

Only complete shards count: locks, files of an open shard and whatever else lies there are left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from m2kr.errors import CheckError, InputError, MissingError
from m2kr.progress import SILENT, Progress
from m2kr.search.index import format as index_format
from m2kr.search.store import format

Kind = Literal["store", "index"]
SETTINGS: Mapping[Kind, str] = {"store": format.SETTINGS, "index": index_format.SETTINGS}

_TASK = "verify"
#: How messages call the fields that decide whether vectors go together.
_CALLED = {"pool": "pool fingerprint", "eval": "eval fingerprint"}
_NUMBERED = {
    *(format.record_name(0), *format.names(0)),
    *index_format.names(0, "compressed").values(),
}
_SINGLE = {
    *(format.SETTINGS, index_format.SETTINGS, index_format.EXPECTED),
    *index_format.codec_names("official"),
}
#: Of all files of stores and indexes, for the hub's client.
PATTERNS = sorted(_SINGLE | {name.replace("00000", "[0-9]*") for name in _NUMBERED})


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a folder.

    Attributes:
        kind: ``store`` (`store`) or ``index`` (`index.files`).
        passages: How many.
        tokens: How many, all passages together.
        settings: The content of ``store.json`` or ``index.json``.
        records: Names of the JSON files, which are checked as they are read.
        sha256: The recorded SHA-256 of each other file, by name.
    """

    kind: Kind
    passages: int
    tokens: int
    settings: Mapping[str, Any]
    records: tuple[str, ...]
    sha256: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Names of all files."""
        return sorted([*self.records, *self.sha256])

    def facts(self) -> dict[str, Any]:
        """`facts_of` its settings."""
        return facts_of(self.kind, self.settings)


def contents_of(folder: Path) -> Contents:
    """What a folder holds by its own records.

    Raises:
        MissingError: there is neither a store nor an index.
        InputError: it is of another format, or has no complete shard.
        CheckError: records or settings are damaged, or it was cut off.
    """
    if (folder / format.SETTINGS).is_file():
        found = _of_store(folder)
    elif (folder / index_format.SETTINGS).is_file():
        found = _of_index(folder)
    else:
        raise MissingError(
            "there is no token store and no index here",
            where=str(folder),
            expected=f"a folder with {format.SETTINGS} or {index_format.SETTINGS}",
        )
    if not found.passages:
        raise InputError("it has no complete shard", where=str(folder), fix="finish it first")
    return found


def _of_store(folder: Path) -> Contents:
    from m2kr.search.store.reader import TokenStore

    store = TokenStore.open(folder)
    store.require_whole()
    return Contents(
        "store",
        len(store),
        store.tokens,
        format.read_settings(folder).as_dict(),
        (
            format.SETTINGS,
            *(format.record_name(shard.number) for shard in store.shards),
        ),
        {name: sha256 for shard in store.shards for name, sha256 in shard.sha256.items()},
    )


def _of_index(folder: Path) -> Contents:
    from m2kr.search.index.files import lacking, read_records, require_whole

    settings = index_format.read_settings(folder)
    shards = read_records(folder, settings)
    require_whole(folder, lacking(folder, settings, shards) if shards else None)
    records = [index_format.SETTINGS, *(index_format.record_name(s.number) for s in shards)]
    if (folder / index_format.EXPECTED).exists():
        records.append(index_format.EXPECTED)
    sums = dict(settings.sha256)
    for shard in shards:
        sums |= shard.sha256
    passages, tokens = (sum(getattr(s, name) for s in shards) for name in ("passages", "tokens"))
    return Contents("index", passages, tokens, settings.as_dict(), tuple(records), sums)


def verify(folder: Path, contents: Contents, *, progress: Progress = SILENT) -> None:
    """Compares every byte of a folder's files with the SHA-256 sums of its records.

    Raises:
        CheckError: one differs or is gone; names it.
    """
    progress.start(_TASK, len(contents.sha256), "files")
    for name, sha256 in contents.sha256.items():
        format.check_sha256(folder, name, sha256)
        progress.advance(_TASK, 1)
    progress.done(_TASK)


def is_file_of_ours(name: str) -> bool:
    """Whether a name is that of a file of some store or index."""
    return name in _SINGLE or re.sub(r"-\d{5,10}\.", "-00000.", name, count=1) in _NUMBERED


def facts_of(kind: Kind, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides whether vectors go with others, as flat names.

    ``kind``, ``dim`` and ``dtype`` (of a token, as read), ``nbits`` and ``centroids`` of an index, and
    the ``meta`` of whoever encoded the pool: by convention ``checkpoint`` (SHA-256 of the weights),
    ``pool`` and ``eval`` (fingerprints). Objects inside are joined with dots; a name of ours comes back
    as ``meta.name``.
    """
    facts: dict[str, Any] = {"kind": kind, "dim": settings["dim"]}
    facts["dtype"] = settings.get("dtype", format.DTYPE.name)
    facts |= {name: settings[name] for name in ("nbits", "centroids") if kind == "index"}
    for name, value in _flat(settings["meta"]):
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


def require(facts: Mapping[str, Any], expected: Mapping[str, Any], where: str = "") -> None:
    """Refuses a store or index that is another model's or another pool's.

    Args:
        facts: From `facts_of`.
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
