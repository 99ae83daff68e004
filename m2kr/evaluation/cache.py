"""Encoded rows kept across runs, below the data root, under the hash of all that decides them.

An entry is a folder ``cache/embeddings/<first 16 digits of the key's SHA-256>/`` with ``key.json``, in
which the key can be read, the encoded rows, and the indexes built from them. Delete what isn't needed:
it is encoded again when it is asked for.
"""

import hashlib
import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import __version__
from m2kr.errors import InputError
from m2kr.evaluation.modalities import modalities_of
from m2kr.evaluation.own_code import own_code
from m2kr.fingerprint import images_part
from m2kr.locks import hold

if TYPE_CHECKING:
    from m2kr.data.records import Passages, Queries
    from m2kr.evaluation.retriever import EncoderRetriever, Side

logger = logging.getLogger("m2kr.evaluation")

FORMAT = "m2kr-embeddings-1"


@dataclass(frozen=True, slots=True)
class EmbeddingCache:
    """Where entries lie.

    Attributes:
        folder: Of all entries; made when the first one is.
    """

    folder: Path

    @classmethod
    def below(cls, data_root: Path) -> "EmbeddingCache":
        """The cache of a data root."""
        return cls(data_root / "cache" / "embeddings")

    def entry(self, key: Mapping[str, Any]) -> Path | None:
        """The folder of a key, made if need be; None where nothing can be written."""
        path = self.folder / key_sha256(key)[:16]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("nothing is cached: %s: %s", path, error.strerror or error)
            return None
        return path


def key_sha256(key: Mapping[str, Any]) -> str:
    """Hash of a key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def key_of(
    retriever: "EncoderRetriever", records: "Passages | Queries", side: "Side"
) -> dict[str, Any] | None:
    """All that decides what the rows of one side are encoded to, as JSON values.

    None if that is not known: the retriever has no ``cache_key``, its source can't be read, or the
    records have no fingerprint, as a question of one's own.

    Raises:
        InputError: the retriever's ``cache_key`` holds something else than JSON values.
    """
    with own_code(retriever, f"{type(retriever).__name__}.cache_key({side!r})"):
        own = retriever.cache_key(side)
    source = _source_sha256(type(retriever))
    if own is None or source is None or not records.fingerprint:
        return None
    declared = modalities_of(retriever)
    reads = declared.query if side == "query" else declared.passage
    kind = type(retriever)
    key = {
        "format": FORMAT,
        "m2kr": __version__,
        "encoder": {"class": f"{kind.__module__}.{kind.__qualname__}", "source_sha256": source},
        "side": side,
        "rows": records.fingerprint,
        "images": _images(records, side) if "image" in reads else None,
        "settings": dict(own),
    }
    try:
        told: dict[str, Any] = json.loads(json.dumps(key, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"cache_key({side!r}) can't be written as JSON: {error}",
            where=f"retriever {retriever.name}",
            expected="numbers, strings, true, false, null, lists and objects",
        ) from error
    return told


def _source_sha256(kind: type) -> str | None:
    """Hash of the files that the class and its bases are written in."""
    found = hashlib.sha256()
    for each in kind.__mro__[:-1]:
        try:
            file = inspect.getsourcefile(each)
            source = Path(file).read_bytes() if file else None
        except (TypeError, OSError):
            source = None
        if source is None:
            # A base from C or the standard library's frozen modules changes with Python alone.
            if each.__module__ in ("typing", "abc", "builtins"):
                continue
            return None
        found.update(hashlib.sha256(source).digest())
    return found.hexdigest()


def _images(records: "Passages | Queries", side: "Side") -> dict[str, Any]:
    """The queries' images by content, a pool's by the roots' paths, sizes and times."""
    images = records.images
    if images is None:
        return {"roots": [], "missing": None}
    if side == "document":
        return {"roots": [list(root) for root in images.identity()], "missing": images.missing}
    paths = zip(records.ids.to_pylist(), records.column("img_path"), strict=True)
    content = images_part((i, None if p is None else images.sha256(p)) for i, p in paths)
    return {"sha256": content, "missing": images.missing}


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds an entry while it is written; waits for another process that does."""
    with hold(folder.with_name(f"{folder.name}.lock"), f"the cache entry {folder.name}"):
        yield
