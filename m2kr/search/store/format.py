"""The files of a token store: names, the two JSON records, checksums.

A store is a folder that can be moved or copied as it is::

    store.json                the settings: format, version, dim, dtype, and what the writer's caller added
    shard-00000.json          a shard's record: passages, tokens, and the SHA-256 of its files
    tokens-00000.f16          its vectors: little-endian float16, passage after passage, no header
    lengths-00000.npy         int32, tokens of each passage
    crc32-00000.npy           uint32, CRC-32 of each passage's bytes in the tokens file
    ids-00000.arrow           Arrow stream of one string column: the passages' ids

A shard exists when its record does: that is written last, after everything else is synced. It
names the SHA-256 of ``store.json``, so the settings of a written shard can't change unnoticed.
The first shard without a record ends the store.

The type is float16. bfloat16 takes as many bytes and, for the unit vectors that late interaction
uses, is eight times coarser.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr import atomic
from m2kr.errors import CheckError, InputError, MissingError

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT, VERSION = "m2kr-token-store", 1
SETTINGS = "store.json"
DTYPE = np.dtype("<f2")
_MOST_JSON = 1 << 20
_PIECE = 1 << 20  # read at once to hash a file


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a whole store.

    Attributes:
        dim: Numbers in a vector.
        meta: Whatever else decides what the vectors are, such as the checkpoint's hash. JSON values.
    """

    dim: int
    meta: "Mapping[str, Any]"

    def as_dict(self) -> dict[str, Any]:
        """The content of ``store.json``."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "dim": self.dim,
            "dtype": DTYPE.name,
            "meta": dict(self.meta),
        }


@dataclass(frozen=True, slots=True)
class Shard:
    """A complete shard.

    Attributes:
        number: 0, 1, 2 ...
        passages: How many.
        tokens: How many, all passages together.
        settings: SHA-256 of ``store.json``.
        sha256: SHA-256 of each of its files, by name.
    """

    number: int
    passages: int
    tokens: int
    settings: str
    sha256: "Mapping[str, str]"


def names(number: int) -> tuple[str, str, str, str]:
    """File names of a shard's tokens, lengths, checksums and ids."""
    return (
        f"tokens-{number:05}.f16",
        f"lengths-{number:05}.npy",
        f"crc32-{number:05}.npy",
        f"ids-{number:05}.arrow",
    )


def journal_name(number: int) -> str:
    """File name of what is known of a shard that is not complete; see `store.writer`."""
    return f"open-{number:05}.part"


def record_name(number: int) -> str:
    """File name of a shard's record."""
    return f"shard-{number:05}.json"


def write_settings(folder: Path, settings: Settings) -> None:
    """Writes ``store.json``."""
    atomic.write_json(folder / SETTINGS, settings.as_dict(), alone=True)


def read_settings(folder: Path) -> Settings:
    """The settings of a store.

    Raises:
        MissingError: there is no store in the folder.
        InputError: it is of another format or version, or damaged.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise MissingError(
            "there is no token store here", where=str(folder), expected=f"a folder with {SETTINGS}"
        )
    found = read_json(path)
    if found.get("format") != FORMAT or found.get("version") != VERSION:
        raise InputError(
            f"it says format {found.get('format')!r}, version {found.get('version')!r}",
            where=str(path),
            expected=f"format {FORMAT!r}, version {VERSION}",
            fix="encode the pool again with this version of m2kr",
        )
    dim, meta = found.get("dim"), found.get("meta")
    if type(dim) is not int or dim < 1 or found.get("dtype") != DTYPE.name:
        raise InputError(
            f"dim {dim!r} and dtype {found.get('dtype')!r} can't be read",
            where=str(path),
            expected=f"a positive integer and {DTYPE.name!r}",
        )
    if not isinstance(meta, dict):
        raise InputError("its meta is no object", where=str(path), expected="a JSON object")
    return Settings(dim, meta)


def write_record(folder: Path, shard: Shard) -> None:
    """Writes a shard's record, which makes the shard exist."""
    record = {
        "passages": shard.passages,
        "tokens": shard.tokens,
        "settings": shard.settings,
        "sha256": dict(shard.sha256),
    }
    atomic.write_json(folder / record_name(shard.number), record, alone=True)


def read_record(folder: Path, number: int) -> Shard | None:
    """A shard's record; None where there is none.

    Raises:
        CheckError: the record is damaged.
    """
    path = folder / record_name(number)
    if not path.exists():
        return None
    try:
        found = read_json(path)
        passages, tokens = found["passages"], found["tokens"]
        sha256, settings = found["sha256"], found["settings"]
        whole = (
            all(type(n) is int and n >= 0 for n in (passages, tokens))
            and isinstance(settings, str)
            and isinstance(sha256, dict)
            and sorted(sha256) == sorted(names(number))
        )
    except (InputError, KeyError):
        whole = False
    if not whole:
        raise CheckError(
            "the record of this shard is damaged",
            where=str(path),
            fix="restore it from a copy, or encode the pool again",
        )
    return Shard(number, passages, tokens, settings, sha256)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read piece by piece."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file.

    Raises:
        InputError: it can't be read as one.
    """
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ValueError("too big")
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"it can't be read as JSON ({error})", where=str(path)) from error
    if not isinstance(found, dict):
        raise InputError("it is no JSON object", where=str(path))
    return found


def check_sha256(folder: Path, name: str, expected: str) -> None:
    """Compares a file of the store with its recorded SHA-256.

    Raises:
        CheckError: they differ, or the file is gone.
    """
    path = folder / name
    if not path.is_file():
        raise CheckError("the file is gone", where=str(path), fix="restore it from a copy")
    if sha256_of(path) != expected:
        raise damaged(path)


def damaged(path: Path, what: str = "its bytes are not those that were written") -> CheckError:
    """The error for a file whose checksum is wrong."""
    return CheckError(what, where=str(path), fix="restore it from a copy, or encode the pool again")
