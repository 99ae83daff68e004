"""Encoded rows on disk: the key that they are known by, and going on with what a run has begun.

Rows that are kept across runs lie below the data root, in
``cache/embeddings/<first 16 digits of the key's SHA-256>/``, with ``key.json``, in which the key can be
read, and the indexes built from them. Delete what isn't needed: it is encoded again when it is asked for.

An encoder is known in a key by its version, if it is one of ours, and by its source, if it is not. A
shipped encoder says ``version``, which is raised whenever it encodes to something else; golden vectors
in the tests hold it to that. So neither a comment nor a release of m2kr throws encoded rows away. People
edit their own files without counting, so those are known by their bytes: the file of the class and of
its bases, and every neighbour that these import, wherever the import stands.
"""

import hashlib
import inspect
import json
import logging
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.machinery import all_suffixes
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from m2kr import atomic
from m2kr.data.row_hash import order_of
from m2kr.errors import CheckError, InputError, MissingError
from m2kr.fingerprint import encode_value, images_part
from m2kr.locks import hold
from m2kr.retrieval.own_code import imports_in, json_values, own_code
from m2kr.retrieval.protocol import Side, modalities_of
from m2kr.search.store.dense import VECTORS, Embeddings, EmbeddingWriter
from m2kr.search.store.format import STORE, read_store_header
from m2kr.search.store.reader import TokenStore
from m2kr.search.store.records import record_name
from m2kr.search.store.writer import TokenWriter

if TYPE_CHECKING:
    import numpy as np

    from m2kr.data.records import Passages, Queries

logger = logging.getLogger("m2kr.retrieval")

# Also of how rows are put into batches, and images decoded: raised when encoders are given others.
FORMAT = "m2kr-embeddings-2"
_KEY = "key.json"
# What is encoded in this time, and a batch, is all that a kill may cost.
_SYNC_SECONDS = 1.0
_OURS = "m2kr"
# What classes may be made of that changes with Python alone.
_PYTHON = ("builtins", "abc", "typing")
_INSTALLED = ("site-packages", "dist-packages")

StoredRows = Embeddings | TokenStore
# Encodes records, all rows of them in order, some at a time.
Stream = Callable[["Passages | Queries"], "Iterator[list[np.ndarray]]"]


class _KeyedEncoder(Protocol):
    """What a key says of an encoder; see `m2kr.retrieval.encoder.EncoderRetriever`."""

    @property
    def identity(self) -> list[list[Any]] | None:
        """From `encoder_identity`."""
        ...

    def cache_key(self, side: Side) -> Mapping[str, Any] | None:
        """All of its own that decides what a side's rows are encoded to."""
        ...


def cache_folder(data_root: Path) -> Path:
    """Where the entries of a data root lie."""
    return data_root / "cache" / "embeddings"


def key_of(
    retriever: _KeyedEncoder, records: "Passages | Queries", side: Side
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
    if own is None or retriever.identity is None or not records.fingerprint:
        return None
    reads = modalities_of(retriever).of_side(side)
    return {
        "format": FORMAT,
        "encoder": retriever.identity,
        "side": side,
        "rows": {
            "fingerprint": records.fingerprint,
            "order": records.order,
            "content": records.content,
        },
        "images": _images(records, side) if "image" in reads else None,
        "settings": json_values(own, f"cache_key({side!r})", retriever),
    }


def _images(records: "Passages | Queries", side: Side) -> dict[str, Any]:
    """The queries' images by content, which their fingerprint needs, too; a pool's by their stamps.

    A pool may have 300 GB of images, which are not read twice.
    """
    images = records.images
    if images is None:
        return {"missing": None}
    column = records.table.column("img_path")
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


def encoder_identity(kind: type) -> list[list[Any]] | None:
    """Per class that an encoder is made of its name and its version or source; None if not known.

    It is of what was loaded if it is asked for while the class is made: later a file may be edited.
    """
    identity: list[list[Any]] = []
    for base in kind.__mro__:
        if base.__module__ in _PYTHON:
            continue
        if base.__module__.partition(".")[0] == _OURS:
            # Methods without an encoder's version are the frame around all encoders: the cache's format.
            if "version" in vars(base):
                identity.append([base.__qualname__, base.version])  # type: ignore[attr-defined]
            continue
        source = source_sha256(base)
        if source is None:
            return None
        identity.append([base.__qualname__, source])
    return identity or None


def source_sha256(made: Any) -> str | None:
    """Hash of the file that a class or function is written in, and of the neighbours that it imports."""
    try:
        file = inspect.getsourcefile(made)
        files = _with_neighbours(Path(file).resolve()) if file else {}
    except (TypeError, OSError):
        return None
    lines = [f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


def _with_neighbours(file: Path) -> dict[str, bytes]:
    """The bytes of a source file and of all that it imports from beside it, by relative path."""
    home = file.parent
    while (home / "__init__.py").is_file() and home != home.parent:
        home = home.parent
    package = file.relative_to(home).parts[0]
    # Beside an installed package lie others, which their versions tell apart.
    alone = any(part in _INSTALLED for part in home.parts) or home == Path(
        sysconfig.get_path("stdlib")
    )
    read: dict[str, bytes] = {}
    left = [file]
    while left:
        path = left.pop()
        name = path.relative_to(home).as_posix()
        if name in read or (alone and path.relative_to(home).parts[0] != package):
            continue
        read[name] = path.read_bytes()
        if path.suffix == ".py":
            left += _imported(read[name], path, home)
    return read


def _imported(source: bytes, file: Path, home: Path) -> Iterator[Path]:
    for level, parts in imports_in(source):
        above = [file, *file.parents][level : level + 1]
        yield from _files_of(parts, set(above) if level else {home, file.parent})


def _files_of(parts: list[str], bases: set[Path]) -> Iterator[Path]:
    """The files that an import of dotted parts runs, below each of some folders."""
    if parts[0] == _OURS:
        return
    for base in bases:
        for end in range(1, len(parts) + 1):
            place = base.joinpath(*parts[:end])
            for suffix in all_suffixes():
                for path in (place.with_name(place.name + suffix), place / f"__init__{suffix}"):
                    if path.is_file():
                        yield path


@contextmanager
def hold_entry(folder: Path) -> Iterator[None]:
    """Holds an entry while it is written; waits for another process that does."""
    with hold(folder.with_name(f"{folder.name}.lock"), f"the cache entry {folder.name}"):
        yield


@contextmanager
def rows_folder(
    cache: Path | None, key: Mapping[str, Any] | None, records: "Passages | Queries", workdir: Path
) -> Iterator[Path]:
    """The folder for the rows of some records, held while it is written: a cache's entry, or ``workdir``.

    Args:
        cache: Folder of the entries; None to keep nothing.
        key: Of the rows; None if they are not to be found again.
        records: Whose rows they are.
        workdir: Where they go if they can't be kept.
    """
    entry = _entry(cache, key) if cache is not None and key is not None else None
    if entry is None:
        yield workdir
    elif atomic.writable(entry):
        with hold_entry(entry):
            yield entry
    else:  # it may be read all the same, without a lock
        complete = _is_complete(entry, records, key)
        if not complete:
            logger.warning("nothing is cached: %s may only be read", entry.parent)
        yield entry if complete else workdir


def _entry(cache: Path, key: Mapping[str, Any]) -> Path | None:
    """The folder of a key, made if need be; None where nothing can be written."""
    path = cache / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("nothing is cached: %s: %s", path, error.strerror or error)
        return None
    return path


def _is_complete(
    folder: Path, records: "Passages | Queries", key: Mapping[str, Any] | None
) -> bool:
    """Whether all rows of some records lie in a folder under a key, so that they are only read."""
    try:
        return _has_key(folder, key) and _complete(folder, records) is not None
    except (CheckError, InputError, MissingError) as error:
        logger.warning("what was encoded before is damaged: %s", error)
        return False


def encode_rows(
    records: "Passages | Queries",
    stream: Stream,
    folder: Path,
    *,
    key: Mapping[str, Any] | None,
    about: Mapping[str, Any],
    meta: Mapping[str, Any],
    check: Callable[[bool], None],
) -> tuple[StoredRows, int]:
    """The encoded rows of some records: found on disk, gone on with, or begun.

    What lies in the folder under the same key is used, or gone on with; else it is replaced. The first
    encoded row decides the form: 1-D rows become `Embeddings`, matrices a `TokenStore`.

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
    if not _has_key(folder, key):
        _begin(folder, key, about)
    sync = None if key is None else _SYNC_SECONDS
    with ExitStack() as stack:
        try:
            stored = _complete(folder, records)
            writer = _reopened(folder, records, sync) if stored is None else None
        except (CheckError, InputError, MissingError) as error:
            logger.warning("what was encoded before is damaged, so it is done again: %s", error)
            _begin(folder, key, about)
            stored = writer = None
        if stored is not None:
            check(isinstance(stored, TokenStore))
            return stored, len(records)
        start = 0
        if writer is not None:
            stack.push(writer)
            check(isinstance(writer, TokenWriter))
            start = writer.passages if isinstance(writer, TokenWriter) else writer.rows
        if start:
            logger.info("going on after %d of %d rows in %s", start, len(records), folder)
        done = start
        for rows in stream(_since(records, start)) if start < len(records) else ():
            if writer is None and rows:
                late = rows[0].ndim == 2
                check(late)
                if late:
                    dim = rows[0].shape[1]
                    writer = TokenWriter(folder, dim=dim, meta=meta, sync_seconds=sync)
                else:
                    writer = EmbeddingWriter(folder, order=records.order, sync_seconds=sync)
                stack.push(writer)
            if isinstance(writer, TokenWriter):
                writer.append(records.ids.slice(done, len(rows)).to_pylist(), rows)
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


def stored_bytes(stored: StoredRows, folder: Path) -> int:
    """Bytes on disk of what was encoded into a folder, without the indexes below it."""
    if isinstance(stored, TokenStore):
        names = [STORE.header, *(name for shard in stored.shards for name in shard.sha256)]
        names += [record_name(shard.number) for shard in stored.shards]
        return sum((stored.folder / name).stat().st_size for name in names)
    return (folder / VECTORS).stat().st_size


def _has_key(folder: Path, key: Mapping[str, Any] | None) -> bool:
    if key is None:
        return False
    try:
        return bool(json.loads((folder / _KEY).read_bytes())["key"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _begin(folder: Path, key: Mapping[str, Any] | None, about: Mapping[str, Any]) -> None:
    """An empty folder that says what it is for."""
    atomic.discard(folder)
    folder.mkdir(parents=True)
    if key is not None:
        atomic.write_json(folder / _KEY, {"key": dict(key), "about": dict(about)})


def _complete(folder: Path, records: "Passages | Queries") -> StoredRows | None:
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


def _reopened(
    folder: Path, records: "Passages | Queries", sync: float | None
) -> EmbeddingWriter | TokenWriter | None:
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


def _since(records: "Passages | Queries", start: int) -> "Passages | Queries":
    """The records from a row on, with the same fingerprint and images."""
    if not start:
        return records
    return records.part(start, len(records))
