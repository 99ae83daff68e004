"""The files of a compressed index: names, the two JSON records, checksums.

An index is a folder that can be moved or copied as it is::

    expected.json              the passages to come, by source: written before the first of them
    index.json                 the settings: kind, dim, bits, how it was trained, SHA-256 of the codec
    centroids.npy              (centroids x dim) float16
    cutoffs.npy weights.npy    float32, only in indexes of the official kind
    shard-00000.json           a shard's record: passages, tokens, where they came from, SHA-256 sums
    codes-00000.npy            uint16 or uint32, the centroid of each token
    sizes-00000.npy            float16, the step size of each token; not in the official kind
    residuals-00000.u8         packed residuals, token after token, no header
    lengths-00000.npy          int32, tokens of each passage
    crc32-00000.npy            uint32, CRC-32 of each passage's residuals
    members-00000.npy          uint16, inverted lists: passages of the shard, list after list
    lists-00000.npy            uint32, where each centroid's list begins in them, and the end
    ids-00000.arrow            Arrow stream of one string column: the passages' ids

As in a token store, a shard exists when its record does, which is written last; the first number
without a record ends the index. One that holds fewer passages than are expected was cut off while
it was built: it can be looked at and finished, not searched. A record names the SHA-256 of
``index.json``, and that those of the codec's files, so nothing that scores depend on can change
unnoticed.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m2kr import atomic
from m2kr.errors import CheckError, InputError, MissingError
from m2kr.search.store import format as store_format

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT, VERSION = "m2kr-late-index", 1
SETTINGS, EXPECTED = "index.json", "expected.json"
CENTROIDS, CUTOFFS, WEIGHTS = "centroids.npy", "cutoffs.npy", "weights.npy"
MOST_PASSAGES = 1 << 16  # of a shard: its lists number them with 16 bits

Kind = Literal["compressed", "official"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a whole index.

    Attributes:
        kind: ``compressed`` (codec `scaled.ScaledCodec`) or ``official`` (`codec.Codec`).
        dim: Dimensions of a token.
        nbits: Bits a dimension.
        centroids: How many.
        training: How the centroids were found.
        meta: What decides what the vectors are: the token store's ``meta``.
        sha256: SHA-256 of the codec's files, by name.
    """

    kind: Kind
    dim: int
    nbits: int
    centroids: int
    training: "Mapping[str, Any]"
    meta: "Mapping[str, Any]" = field(default_factory=dict)
    sha256: "Mapping[str, str]" = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The content of ``index.json``."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "dim": self.dim,
            "nbits": self.nbits,
            "centroids": self.centroids,
            "training": dict(self.training),
            "meta": dict(self.meta),
            "sha256": dict(self.sha256),
        }


@dataclass(frozen=True, slots=True)
class Shard:
    """A complete shard.

    Attributes:
        number: 0, 1, 2 ...
        passages: How many.
        tokens: How many, all passages together.
        source: What the passages were read from, see `index.settings.Pool`.
        first: Number of its first passage there.
        settings: SHA-256 of ``index.json``.
        sha256: SHA-256 of each of its files, by name.
    """

    number: int
    passages: int
    tokens: int
    source: str
    first: int
    settings: str
    sha256: "Mapping[str, str]"


_PARTS = {
    "codes": "npy",
    "sizes": "npy",
    "residuals": "u8",
    "lengths": "npy",
    "crc32": "npy",
    "members": "npy",
    "lists": "npy",
    "ids": "arrow",
}


def names(number: int, kind: Kind) -> dict[str, str]:
    """File names of a shard, by what is in them."""
    parts = (part for part in _PARTS if part != "sizes" or kind == "compressed")
    return {part: f"{part}-{number:05}.{_PARTS[part]}" for part in parts}


def codec_names(kind: Kind) -> tuple[str, ...]:
    """File names of the codec."""
    return (CENTROIDS, CUTOFFS, WEIGHTS) if kind == "official" else (CENTROIDS,)


def write_settings(folder: Path, settings: Settings) -> None:
    """Writes ``index.json``, which makes the index exist."""
    atomic.write_json(folder / SETTINGS, settings.as_dict(), alone=True)


def read_settings(folder: Path) -> Settings:
    """The settings of an index.

    Raises:
        MissingError: there is no index in the folder.
        InputError: it is of another format or version.
        CheckError: its settings are damaged.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise MissingError(
            "there is no late-interaction index here",
            where=str(folder),
            expected=f"a folder with {SETTINGS}",
            fix="m2kr index build STORE INDEX",
        )
    found = store_format.read_json(path)
    if found.get("format") != FORMAT or found.get("version") != VERSION:
        raise InputError(
            f"it says format {found.get('format')!r}, version {found.get('version')!r}",
            where=str(path),
            expected=f"format {FORMAT!r}, version {VERSION}",
            fix="build the index again with this version of m2kr",
        )
    kind: Any = found.get("kind")
    numbers = [found.get(name) for name in ("dim", "nbits", "centroids")]
    objects = [found.get(name) for name in ("training", "meta", "sha256")]
    if (
        kind not in ("compressed", "official")
        or not all(type(n) is int and n > 0 for n in numbers)
        or not all(isinstance(o, dict) for o in objects)
        or sorted(objects[2] or {}) != sorted(codec_names(kind))
    ):
        raise CheckError("its settings are damaged", where=str(path), fix="build it again")
    dim, nbits, centroids = (int(n) for n in numbers if n is not None)
    training, meta, sha256 = (dict(o) for o in objects if o is not None)
    return Settings(kind, dim, nbits, centroids, training, meta, sha256)


@dataclass(frozen=True, slots=True)
class Expected:
    """What an index is to hold of one source, see `index.settings.Pool`.

    Attributes:
        passages: How many.
        shards: Digests of the source's own shards, which tell it from one that only begins alike.
    """

    passages: int
    shards: tuple[str, ...] = ()


def write_expected(folder: Path, expected: "Mapping[str, Expected]") -> None:
    """Writes ``expected.json``."""
    sources = {
        source: {"passages": each.passages, "shards": list(each.shards)}
        for source, each in expected.items()
    }
    atomic.write_json(folder / EXPECTED, {"sources": sources}, alone=True)


def read_expected(folder: Path) -> dict[str, Expected] | None:
    """What an index is to hold, by source; None for one that was made when this wasn't kept.

    Raises:
        CheckError: the file is damaged.
    """
    path = folder / EXPECTED
    if not path.exists():
        return None
    try:
        found = {
            source: Expected(each["passages"], tuple(each["shards"]))
            for source, each in store_format.read_json(path)["sources"].items()
        }
        whole = all(
            type(each.passages) is int
            and each.passages >= 0
            and all(isinstance(one, str) for one in each.shards)
            for each in found.values()
        )
    except (InputError, KeyError, TypeError, AttributeError):
        whole, found = False, {}
    if not whole:
        raise damaged(path, "it is damaged")
    return found


def record_name(number: int) -> str:
    """File name of a shard's record."""
    return f"shard-{number:05}.json"


def write_record(folder: Path, shard: Shard) -> None:
    """Writes a shard's record, which makes the shard exist."""
    record = {
        "passages": shard.passages,
        "tokens": shard.tokens,
        "source": shard.source,
        "first": shard.first,
        "settings": shard.settings,
        "sha256": dict(shard.sha256),
    }
    atomic.write_json(folder / record_name(shard.number), record, alone=True)


def read_record(folder: Path, number: int, kind: Kind) -> Shard | None:
    """A shard's record; None where there is none.

    Raises:
        CheckError: the record is damaged.
    """
    path = folder / record_name(number)
    if not path.exists():
        return None
    try:
        found = store_format.read_json(path)
        passages, tokens, first = found["passages"], found["tokens"], found["first"]
        source, settings, sha256 = found["source"], found["settings"], found["sha256"]
        whole = (
            all(type(n) is int and n >= 0 for n in (passages, tokens, first))
            and isinstance(settings, str)
            and isinstance(source, str)
            and isinstance(sha256, dict)
            and sorted(sha256) == sorted(names(number, kind).values())
        )
    except (InputError, KeyError):
        whole = False
    if not whole:
        raise damaged(path, "the record of this shard is damaged")
    return Shard(number, passages, tokens, source, first, settings, sha256)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; that of nothing if there is no file."""
    return store_format.sha256_of(path) if path.is_file() else hashlib.sha256().hexdigest()


def damaged(path: Path, what: str = "its bytes are not those that were written") -> CheckError:
    """The error for a file whose checksum is wrong."""
    return CheckError(what, where=str(path), fix="restore it from a copy, or build the index again")
