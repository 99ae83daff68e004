"""One side of a split, encoded: found on disk, gone on with, or begun; dense or late interaction.

The first encoded row decides the form: 1-D rows become `Embeddings`, matrices a `TokenStore`.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import atomic
from m2kr.data.row_hash import order_of
from m2kr.errors import CheckError, InputError, MissingError
from m2kr.search.store.dense import VECTORS, Embeddings, EmbeddingWriter
from m2kr.search.store.format import STORE, read_store_header
from m2kr.search.store.reader import TokenStore
from m2kr.search.store.writer import TokenWriter

if TYPE_CHECKING:
    import numpy as np

    from m2kr.data.records import Passages, Queries

logger = logging.getLogger("m2kr.evaluation")

KEY = "key.json"
# What is encoded in this time, and a batch, is all that a kill may cost.
SYNC_SECONDS = 1.0

Encoded = Embeddings | TokenStore
Writer = EmbeddingWriter | TokenWriter
# Encodes records, all rows of them in order, some at a time.
Stream = Callable[["Passages | Queries"], "Iterator[list[np.ndarray]]"]


def encode(
    records: "Passages | Queries",
    stream: Stream,
    folder: Path,
    *,
    key: Mapping[str, Any] | None,
    about: Mapping[str, Any],
    meta: Mapping[str, Any],
    check: Callable[[bool], None],
) -> tuple[Encoded, int]:
    """The encoded rows of some records.

    What lies in the folder under the same key is used, or gone on with; else it is replaced.

    Args:
        records: What to encode.
        stream: Encodes them, or those of them that are left.
        folder: Where the rows go.
        key: What decides them; None if they are not to be found again.
        about: Said beside the key, for people.
        meta: For the settings of a token store.
        check: Called once the form is known, with whether it is late interaction; may refuse it.

    Returns:
        The rows, and how many of them had been encoded before.

    Raises:
        InputError: rows of mixed forms, or values that can't be stored.
    """
    if not _same(folder, key):
        _begin(folder, key, about)
    sync = None if key is None else SYNC_SECONDS
    ids = records.ids
    with ExitStack() as stack:
        try:
            found = _complete(folder, records)
            writer = _reopened(folder, records, sync) if found is None else None
        except (CheckError, InputError, MissingError) as error:
            logger.warning("what was encoded before is damaged, so it is done again: %s", error)
            _begin(folder, key, about)
            found = writer = None
        if found is not None:
            check(isinstance(found, TokenStore))
            return found, len(records)
        if writer is not None:
            stack.push(writer)
            check(isinstance(writer, TokenWriter))
        start = done = 0 if writer is None else _written(writer)
        if start:
            logger.info("going on after %d of %d rows in %s", start, len(records), folder)
        for rows in stream(_since(records, start)) if start < len(records) else ():
            if writer is None and rows:
                check(rows[0].ndim == 2)
                writer = _opened(folder, rows[0], records, meta, sync)
                stack.push(writer)
            if isinstance(writer, TokenWriter):
                writer.append(ids.slice(done, len(rows)).to_pylist(), rows)
            elif writer is not None:
                writer.append(rows)
            done += len(rows)
        if done != len(records):
            raise InputError(
                f"{done} rows were encoded of {len(records)}",
                expected="an encode_stream that gives each row, in order",
            )
        if writer is None:
            writer = EmbeddingWriter(folder, order=records.order)
            stack.push(writer)
        return writer.close(), start


def is_whole(folder: Path, records: "Passages | Queries", key: Mapping[str, Any] | None) -> bool:
    """Whether all rows of some records lie in a folder under a key, so that `encode` only reads them."""
    try:
        return _same(folder, key) and _complete(folder, records) is not None
    except (CheckError, InputError, MissingError) as error:
        logger.warning("what was encoded before is damaged: %s", error)
        return False


def nbytes(found: Encoded, folder: Path) -> int:
    """Bytes on disk of what was encoded into a folder, without the indexes below it."""
    if isinstance(found, TokenStore):
        files = [path for path in found.folder.iterdir() if path.is_file() and path.name != KEY]
        return sum(path.stat().st_size for path in files)
    return (folder / VECTORS).stat().st_size


def _same(folder: Path, key: Mapping[str, Any] | None) -> bool:
    if key is None:
        return False
    try:
        return bool(json.loads((folder / KEY).read_bytes())["key"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _begin(folder: Path, key: Mapping[str, Any] | None, about: Mapping[str, Any]) -> None:
    """An empty folder that says what it is for."""
    atomic.discard(folder)
    folder.mkdir(parents=True)
    if key is not None:
        atomic.write_json(folder / KEY, {"key": dict(key), "about": dict(about)})


def _complete(folder: Path, records: "Passages | Queries") -> Encoded | None:
    """All rows, if they are here; None if they are not.

    Raises:
        CheckError: what is here is damaged, or is of other rows.
    """
    if (folder / VECTORS).exists():
        rows = Embeddings.open(folder)
        _require(rows.order == records.order, folder)
        return rows
    if (folder / STORE.header).exists():
        store = TokenStore.open(folder)
        if len(store) == len(records):
            _require(order_of(store.ids()) == records.order, folder)
            return store
    return None


def _require(same: bool, folder: Path) -> None:
    if not same:
        raise CheckError(
            "what is encoded here are other rows, or the same in another order", where=str(folder)
        )


def _reopened(folder: Path, records: "Passages | Queries", sync: float | None) -> Writer | None:
    """The writer of what was begun here; None where no row is.

    Raises:
        CheckError: what is here is damaged, or is of other rows.
    """
    if (folder / STORE.header).exists():
        # Its own meta: another split of the same pool may have begun it.
        header = read_store_header(folder)
        tokens = TokenWriter(folder, dim=header.dim, meta=header.meta, sync_seconds=sync)
        with ExitStack() as stack:
            stack.callback(tokens.abandon)
            begun = records.ids.slice(0, tokens.passages)
            _require(order_of(tokens.ids()) == order_of(begun), folder)
            stack.pop_all()
        return tokens
    if sync is None:
        return None
    writer = EmbeddingWriter(folder, order=records.order, sync_seconds=sync)
    if writer.rows:
        return writer
    with writer:
        return None


def _opened(
    folder: Path,
    row: "np.ndarray",
    records: "Passages | Queries",
    meta: Mapping[str, Any],
    sync: float | None,
) -> Writer:
    if row.ndim != 2:
        return EmbeddingWriter(folder, order=records.order, sync_seconds=sync)
    return TokenWriter(folder, dim=row.shape[1], meta=meta, sync_seconds=sync)


def _written(writer: Writer) -> int:
    return writer.passages if isinstance(writer, TokenWriter) else writer.rows


def _since(records: "Passages | Queries", start: int) -> "Passages | Queries":
    """The records from a row on, with the same fingerprint and images."""
    if not start:
        return records
    rest = records.dataset.select(range(start, len(records)))
    return type(records)(rest, records.images, records.fingerprint)
