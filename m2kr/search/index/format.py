"""The files of a compressed index: their names, its header, and the passages that it is to hold.

An index is a folder that can be moved or copied as it is::

    expected.json              the passages to come, by source: written before the first of them
    index.json                 the header: kind, dim, bits, how it was trained, SHA-256 of the codec
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

`store.records` says what headers and records are. An index that holds fewer passages than are expected
was cut off while it was built: it can be looked at and finished, not searched. The header names the
SHA-256 of the codec's files, so that nothing that scores depend on can change unnoticed.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m2kr import atomic
from m2kr.errors import CheckError, InputError
from m2kr.search.store.records import FolderKind, read_json_object

if TYPE_CHECKING:
    from collections.abc import Mapping

INDEX = FolderKind(
    "late-interaction index",
    "index.json",
    "m2kr-late-index",
    1,
    again="build the index again",
    make="m2kr index build STORE INDEX",
    has_sources=True,
)
EXPECTED = "expected.json"
CENTROIDS, CUTOFFS, WEIGHTS = "centroids.npy", "cutoffs.npy", "weights.npy"
MOST_PASSAGES = 1 << 16  # of a shard: its lists number them with 16 bits

IndexKind = Literal["compressed", "official"]


@dataclass(frozen=True, slots=True)
class IndexHeader:
    """What holds for a whole index.

    Attributes:
        kind: ``compressed`` (codec `ScaledCodec`) or ``official`` (`OfficialCodec`).
        dim: Dimensions of a token.
        nbits: Bits a dimension.
        centroids: How many.
        training: How the centroids were found.
        meta: What decides what the vectors are: the token store's ``meta``.
        sha256: SHA-256 of the codec's files, by name.
    """

    kind: IndexKind
    dim: int
    nbits: int
    centroids: int
    training: "Mapping[str, Any]"
    meta: "Mapping[str, Any]" = field(default_factory=dict)
    sha256: "Mapping[str, str]" = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The content of ``index.json``."""
        return {
            "format": INDEX.format,
            "version": INDEX.version,
            "kind": self.kind,
            "dim": self.dim,
            "nbits": self.nbits,
            "centroids": self.centroids,
            "training": dict(self.training),
            "meta": dict(self.meta),
            "sha256": dict(self.sha256),
        }


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


def index_file_names(number: int, kind: IndexKind) -> dict[str, str]:
    """File names of a shard, by what is in them."""
    parts = (part for part in _PARTS if part != "sizes" or kind == "compressed")
    return {part: f"{part}-{number:05}.{_PARTS[part]}" for part in parts}


def codec_names(kind: IndexKind) -> tuple[str, ...]:
    """File names of the codec."""
    return (CENTROIDS, CUTOFFS, WEIGHTS) if kind == "official" else (CENTROIDS,)


def read_index_header(folder: Path) -> IndexHeader:
    """The header of an index.

    Raises:
        MissingError: there is no index in the folder.
        InputError: it is of another format or version.
        CheckError: its header is damaged.
    """
    content = INDEX.read_header(folder)
    kind: Any = content.get("kind")
    numbers = [content.get(name) for name in ("dim", "nbits", "centroids")]
    objects = [content.get(name) for name in ("training", "meta", "sha256")]
    if (
        kind not in ("compressed", "official")
        or not all(type(n) is int and n > 0 for n in numbers)
        or not all(isinstance(o, dict) for o in objects)
        or sorted(objects[2] or {}) != sorted(codec_names(kind))
    ):
        path = folder / INDEX.header
        raise CheckError("its settings are damaged", where=str(path), fix="build it again")
    dim, nbits, centroids = (int(n) for n in numbers if n is not None)
    training, meta, sha256 = (dict(o) for o in objects if o is not None)
    return IndexHeader(kind, dim, nbits, centroids, training, meta, sha256)


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
        source: {"passages": one.passages, "shards": list(one.shards)}
        for source, one in expected.items()
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
            for source, each in read_json_object(path)["sources"].items()
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
        raise INDEX.damaged(path, "it is damaged")
    return found
