"""What is in a packed token store or index: ``pack.json``, and the facts that it is known by.

A manifest names the kind, the settings, and every file with its size and SHA-256. Names are those of
the folder itself, without any path. It is made of the folder's complete shards alone: locks, files
of an open shard and whatever else lies there are left out.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from m2kr.errors import CheckError, InputError, MissingError
from m2kr.search.late import store_format
from m2kr.search.late.index import format as index_format
from m2kr.search.late.records import sha256_of

FORMAT, VERSION = "m2kr-pack", 1
NAME = "pack.json"
MOST_BYTES = 16 << 20
_FILE = re.compile(r"[a-z0-9]+(-[0-9]{5,10})?\.(json|f16|npy|u8|arrow)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIX = "get it again; if it is the same then, do not trust it"
#: How messages call the fields that decide whether vectors go together.
_CALLED = {
    "checkpoint": "checkpoint",
    "pool": "pool fingerprint",
    "eval": "eval fingerprint",
    "dtype": "dtype",
    "dim": "dim",
}

Kind = Literal["store", "index"]


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A file of the folder.

    Attributes:
        name: Without a path.
        bytes: Its size.
        sha256: Hexadecimal.
    """

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``pack.json`` says.

    Attributes:
        kind: ``store`` (`store`) or ``index`` (`index.files`).
        passages: How many.
        tokens: How many, all passages together.
        settings: The content of ``store.json`` or ``index.json``.
        files: Sorted by name.
    """

    kind: Kind
    passages: int
    tokens: int
    settings: Mapping[str, Any]
    files: tuple[PackedFile, ...]

    def to_bytes(self) -> bytes:
        """The file's content; the same manifest gives the same bytes."""
        record = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "passages": self.passages,
            "tokens": self.tokens,
            "settings": self.settings,
            "files": [asdict(file) for file in self.files],
        }
        return (json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files)

    def facts(self) -> dict[str, Any]:
        """What decides whether its vectors go with others, as flat names.

        ``kind``, ``dim`` and ``dtype`` (of a token, as read), ``nbits`` and ``centroids`` of an
        index, and the ``meta`` of whoever encoded the pool: by convention ``checkpoint`` (SHA-256 of
        the weights), ``pool`` and ``eval`` (fingerprints). Objects inside are joined with dots; a
        name of ours comes back as ``meta.name``.
        """
        found: dict[str, Any] = {"kind": self.kind, "dim": self.settings["dim"]}
        found["dtype"] = self.settings.get("dtype", store_format.DTYPE.name)
        found |= {
            name: self.settings[name] for name in ("nbits", "centroids") if self.kind == "index"
        }
        for name, value in _flat(self.settings["meta"]):
            found[f"meta.{name}" if name in found else name] = value
        return found


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
        facts: From `Manifest.facts`.
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


def describe(folder: Path) -> Manifest:
    """The manifest of a token store or an index; reads records, not the big files.

    Raises:
        MissingError: there is neither in the folder.
        InputError: it is of another format, or has no complete shard.
        CheckError: records or settings are damaged, or a file's size is not on record.
    """
    if (folder / store_format.SETTINGS).is_file():
        return _of_store(folder)
    if (folder / index_format.SETTINGS).is_file():
        return _of_index(folder)
    raise MissingError(
        "there is no token store and no index here",
        where=str(folder),
        expected=f"a folder with {store_format.SETTINGS} or {index_format.SETTINGS}",
    )


def _of_store(folder: Path) -> Manifest:
    from m2kr.search.late.store import TokenStore

    store = TokenStore.open(folder)
    store.require_whole()
    sums: dict[str, str] = {}
    for shard in store.shards:
        sums |= shard.sha256
    records = [store_format.record_name(shard.number) for shard in store.shards]
    settings = store_format.read_settings(folder).as_dict()
    names = [store_format.SETTINGS, *records]
    return _manifest(folder, "store", len(store), store.tokens, settings, names, sums)


def _of_index(folder: Path) -> Manifest:
    from m2kr.search.late.index.files import lacking, read_records, require_whole

    settings = index_format.read_settings(folder)
    shards = read_records(folder, settings)
    require_whole(folder, lacking(folder, settings, shards) if shards else None)
    sums = dict(settings.sha256)
    if (folder / index_format.EXPECTED).exists():
        sums[index_format.EXPECTED] = sha256_of(folder / index_format.EXPECTED)
    for shard in shards:
        sums |= shard.sha256
    passages, tokens = (sum(getattr(s, name) for s in shards) for name in ("passages", "tokens"))
    names = [index_format.SETTINGS, *(index_format.record_name(s.number) for s in shards)]
    return _manifest(folder, "index", passages, tokens, settings.as_dict(), names, sums)


def _manifest(
    folder: Path,
    kind: Kind,
    passages: int,
    tokens: int,
    settings: Mapping[str, Any],
    records: list[str],
    sums: Mapping[str, str],
) -> Manifest:
    if len(records) < 2:
        raise InputError("it has no complete shard", where=str(folder), fix="finish it first")
    known = dict(sums) | {name: sha256_of(folder / name) for name in records}
    files = []
    for name in sorted(known):
        path = folder / name
        if not path.is_file():
            raise CheckError("the file is gone", where=str(path), fix="restore it from a copy")
        files.append(PackedFile(name, path.stat().st_size, known[name]))
    return Manifest(kind, passages, tokens, settings, tuple(files))


def is_packed(name: str) -> bool:
    """Whether a name can be that of a packed file."""
    return bool(_FILE.fullmatch(name)) and name != NAME


def read(data: bytes, where: str) -> Manifest:
    """The manifest in the bytes of a ``pack.json`` that nothing is known of.

    Raises:
        InputError: it is none, of another version, or names a file that no store or index has.
    """
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"{len(data)} bytes")
        found = json.loads(data)
        if found["format"] != FORMAT or found["version"] != VERSION:
            raise _wrong(f"it says {found['format']!r}, version {found['version']!r}", where)
        files = tuple(PackedFile(f["name"], f["bytes"], f["sha256"]) for f in found["files"])
        made = Manifest(found["kind"], found["passages"], found["tokens"], found["settings"], files)
        _check(made, where)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _wrong(f"it can't be read ({type(error).__name__}: {error})"[:300], where) from error
    return made


def _check(made: Manifest, where: str) -> None:
    names = [file.name for file in made.files]
    for file in made.files:
        if not isinstance(file.name, str) or not is_packed(file.name):
            raise _wrong(f"it names a file {file.name!r}"[:200], where)
        if type(file.bytes) is not int or file.bytes < 0 or not _SHA256.fullmatch(file.sha256):
            raise _wrong(f"size or checksum of {file.name} make no sense", where)
    if names != sorted(set(names)):
        raise _wrong("its files are not in order, each once", where)
    whole = all(type(n) is int and n >= 0 for n in (made.passages, made.tokens))
    if made.kind not in ("store", "index") or not whole or not isinstance(made.settings, dict):
        raise _wrong("kind, counts or settings make no sense", where)
    meta, dim = made.settings.get("meta"), made.settings.get("dim")
    if type(dim) is not int or not isinstance(meta, dict):
        raise _wrong("its settings are not those of a store or index", where)
    if made.kind == "index" and not {"nbits", "centroids"} <= set(made.settings):
        raise _wrong("its settings are not those of an index", where)


def _wrong(what: str, where: str) -> InputError:
    return InputError(
        what, where=where, expected=f"{NAME} of format {FORMAT!r}, version {VERSION}", fix=_FIX
    )


def check_folder(folder: Path, manifest: Manifest) -> None:
    """Compares a folder with a manifest: what its own records say, which name every file's sum.

    Raises:
        CheckError: they are not of the same store or index.
        InputError: the folder can't be read.
    """
    if describe(folder) != manifest:
        raise CheckError(
            f"{NAME} doesn't describe the {manifest.kind} beside it", where=str(folder), fix=_FIX
        )
