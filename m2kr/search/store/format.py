"""The files of a token store: their names, and its header.

A store is a folder that can be moved or copied as it is::

    store.json                the header: format, version, dim, dtype, and what the writer's caller added
    shard-00000.json          a shard's record: passages, tokens, and the SHA-256 of its files
    tokens-00000.f16          its vectors: little-endian float16, passage after passage, no header
    lengths-00000.npy         int32, tokens of each passage
    crc32-00000.npy           uint32, CRC-32 of each passage's bytes in the tokens file
    ids-00000.arrow           Arrow stream of one string column: the passages' ids

Exact search may add its codes, ``codes-00000.i8`` and ``.json`` (`exact.kept_codes`): no part of the store.
`store.records` says what headers and records are. The type is float16. bfloat16 takes as many bytes
and, for the unit vectors that late interaction uses, is eight times coarser.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.errors import InputError
from m2kr.search.store.records import FolderKind

if TYPE_CHECKING:
    from collections.abc import Mapping

STORE = FolderKind(
    "token store", "store.json", "m2kr-token-store", 1, again="encode the pool again"
)
DTYPE = np.dtype("<f2")


@dataclass(frozen=True, slots=True)
class StoreHeader:
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
            "format": STORE.format,
            "version": STORE.version,
            "dim": self.dim,
            "dtype": DTYPE.name,
            "meta": dict(self.meta),
        }


def token_file_names(number: int) -> tuple[str, str, str, str]:
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


def read_store_header(folder: Path) -> StoreHeader:
    """The header of a store.

    Raises:
        MissingError: there is no store in the folder.
        InputError: it is of another format or version, or damaged.
    """
    content, path = STORE.read_header(folder), folder / STORE.header
    dim, meta = content.get("dim"), content.get("meta")
    if type(dim) is not int or dim < 1 or content.get("dtype") != DTYPE.name:
        raise InputError(
            f"dim {dim!r} and dtype {content.get('dtype')!r} can't be read",
            where=str(path),
            expected=f"a positive integer and {DTYPE.name!r}",
        )
    if not isinstance(meta, dict):
        raise InputError("its meta is no object", where=str(path), expected="a JSON object")
    return StoreHeader(dim, meta)
