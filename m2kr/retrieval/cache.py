"""Encoded rows kept across runs, below the data root, under the hash of all that decides them.

An entry is a folder ``cache/embeddings/<first 16 digits of the key's SHA-256>/`` with ``key.json``, in
which the key can be read, the encoded rows, and the indexes built from them. Delete what isn't needed:
it is encoded again when it is asked for.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.errors import InputError
from m2kr.fingerprint import encode_value, images_part
from m2kr.locks import hold
from m2kr.retrieval.own_code import own_code
from m2kr.retrieval.protocol import modalities_of

if TYPE_CHECKING:
    from m2kr.data.records import Passages, Queries
    from m2kr.retrieval.encoder import EncoderRetriever
    from m2kr.retrieval.protocol import Side

logger = logging.getLogger("m2kr.evaluation")

# Also of how rows are put into batches, and images decoded: raised when encoders are given others.
FORMAT = "m2kr-embeddings-2"


def cache_folder(data_root: Path) -> Path:
    """Where the entries of a data root lie."""
    return data_root / "cache" / "embeddings"


def entry_of(folder: Path | None, key: Mapping[str, Any] | None) -> Path | None:
    """The folder of a key, made if need be; None where nothing is kept, or can be written."""
    if folder is None or key is None:
        return None
    path = folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("nothing is cached: %s: %s", path, error.strerror or error)
        return None
    return path


def key_of(
    retriever: "EncoderRetriever", records: "Passages | Queries", side: "Side"
) -> dict[str, Any] | None:
    """All that decides what the rows of one side are encoded to, as JSON values.

    The rows are hashed as they lie in the table: in their order, with all that an encoder may read.
    So an entry fits no other order of the same rows, and none that a manifest wrongly says to be the
    same.

    None if it is not known: the retriever has no ``cache_key``, its source can't be read, or the
    records have no fingerprint, as a question of one's own.

    Raises:
        InputError: the retriever's ``cache_key`` holds something else than JSON values.
    """
    with own_code(retriever, f"{type(retriever).__name__}.cache_key({side!r})"):
        own = retriever.cache_key(side)
    identity = retriever.identity
    if own is None or identity is None or not records.fingerprint:
        return None
    reads = modalities_of(retriever).of_side(side)
    key = {
        "format": FORMAT,
        "encoder": identity,
        "side": side,
        "rows": {
            "fingerprint": records.fingerprint,
            "order": records.order,
            "content": records.content,
        },
        "images": _images(records, side) if "image" in reads else None,
        "settings": own,
    }
    try:
        if not isinstance(own, Mapping):
            raise TypeError(f"it is of type {type(own).__name__}")
        told: dict[str, Any] = json.loads(
            json.dumps(key, allow_nan=False, ensure_ascii=False).encode()
        )
    except (TypeError, ValueError) as error:
        raise InputError(
            f"cache_key({side!r}) can't be written as JSON: {error}",
            where=f"retriever {retriever.name}",
            expected="a dict of numbers, strings, true, false, null, lists and objects",
        ) from error
    return told


def _images(records: "Passages | Queries", side: "Side") -> dict[str, Any]:
    """The queries' images by content, which their fingerprint needs, too; a pool's by their stamps.

    A pool may have 300 GB of images, which are not read twice.
    """
    images = records.images
    if images is None:
        return {"missing": None}
    column = records.dataset.data.column("img_path")
    paths = chain.from_iterable(chunk.to_pylist() for chunk in column.chunks)
    if side == "query":
        ids = records.ids.to_pylist()
        pairs = (
            (i, None if p is None else images.sha256(p)) for i, p in zip(ids, paths, strict=True)
        )
        return {"sha256": images_part(pairs), "missing": images.missing}
    stamp, stamps = images.stamper(), hashlib.sha256()
    for path in paths:
        stamps.update(encode_value(None if path is None else stamp(path)))
    return {"stamps": stamps.hexdigest(), "missing": images.missing}


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds an entry while it is written; waits for another process that does."""
    with hold(folder.with_name(f"{folder.name}.lock"), f"the cache entry {folder.name}"):
        yield
