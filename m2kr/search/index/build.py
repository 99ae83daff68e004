"""Building compressed indexes from token stores: sample, train, code; and adding to them.

Everything streams: a sample of the tokens is in memory for training, then some ten thousand at a
time. A build that was killed goes on where its last complete shard ended, when it is called again;
training, which comes first, is done again unless it was finished.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from m2kr import atomic, locks
from m2kr.concurrency import full_precision
from m2kr.data.row_hash import order_of
from m2kr.errors import InputError, UsageError, missing_dependency
from m2kr.hashes import file_sha256
from m2kr.progress import SILENT, Progress
from m2kr.search.index import kmeans, official_train
from m2kr.search.index.codec import OfficialCodec
from m2kr.search.index.files import (
    IndexFiles,
    code_type,
    lacking,
    read_codec,
    read_index_ids,
    read_index_records,
    require_whole,
)
from m2kr.search.index.format import (
    CENTROIDS,
    INDEX,
    MOST_PASSAGES,
    Expected,
    IndexHeader,
    index_file_names,
    read_expected,
    read_index_header,
    write_expected,
)
from m2kr.search.index.ivf import InvertedLists
from m2kr.search.index.settings import MOST_SAMPLED, BuildSettings, Pool, sample
from m2kr.search.store.reader import block_spans
from m2kr.search.store.records import ShardRecord, save_array, save_ids

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    import pyarrow as pa
    from numpy.typing import NDArray

_SAMPLED_A_CENTROID = 16
_CODED_AT_ONCE = 1 << 15  # tokens
_TASK = "code tokens"
# Of tokens (tokens x dim): codes, packed residuals and, where the kind has them, sizes.
TokenCoder = Callable[
    ["NDArray[np.float16]"],
    "tuple[NDArray[np.integer], NDArray[np.uint8], NDArray[np.float16] | None]",
]


def build_index(
    pool: Pool,
    folder: Path,
    settings: BuildSettings | None = None,
    *,
    shard_passages: int = MOST_PASSAGES,
    progress: Progress = SILENT,
) -> IndexFiles:
    """Builds an index, or finishes one that was begun with the same settings.

    How many passages it is to hold is written before the first of them: until they are there, it is
    not searched.

    Args:
        pool: What to index.
        folder: Made if need be.
        settings: How.
        shard_passages: Passages after which a shard is complete, and safe from a kill.
        progress: Told of iterations and tokens.

    Raises:
        InputError: the pool is empty, or the folder holds an index with other settings.
        UsageError: another process is writing to it.
        M2KRError: another process took it over, see `locks.Held.check`.
        MissingError: torch isn't installed.
    """
    settings = settings or BuildSettings()
    _need_torch()
    if not int(pool.source.offsets[-1]):
        raise InputError("there is no token to index", expected="a store with passages")
    folder.mkdir(parents=True, exist_ok=True)
    with _writing(folder) as held:
        if (folder / INDEX.header).exists():
            _same(folder, settings, pool)
            _expect(pool, folder)
        else:
            write_expected(folder, {pool.identity: _expected_of(pool)})
            _train(pool, folder, held, settings, progress)
        _append(pool, folder, held, shard_passages, progress)
    return IndexFiles.open(folder)


def open_built(pool: Pool, folder: Path, settings: BuildSettings) -> IndexFiles:
    """An index that was built with these settings, without a lock: nothing is written.

    Raises:
        InputError: it has other settings.
        CheckError: it is damaged, or its build was cut off.
    """
    _same(folder, settings, pool)
    files = IndexFiles.open(folder)
    files.require_whole()
    return files


def add_passages(
    pool: Pool,
    folder: Path,
    *,
    shard_passages: int = MOST_PASSAGES,
    progress: Progress = SILENT,
) -> IndexFiles:
    """Adds the passages of a pool that the index doesn't have yet, in new shards.

    The centroids stay those it was trained with: a pool that is much unlike them is coded less
    well, which `dispatch.audit` shows.

    Raises:
        InputError: the pool's vectors are of another dim or another model (``meta``).
        MissingError: there is no index, or torch isn't installed.
        UsageError: another process is writing to it.
        M2KRError: another process took it over, see `locks.Held.check`.
    """
    _need_torch()
    found = read_index_header(folder)
    _same_vectors(folder, found, pool)
    with _writing(folder) as held:
        _expect(pool, folder)
        _append(pool, folder, held, shard_passages, progress)
    return IndexFiles.open(folder)


def _expected_of(pool: Pool) -> Expected:
    return Expected(len(pool), pool.shards)


def _expect(pool: Pool, folder: Path) -> None:
    """Writes down that an index is to hold a pool, if it can be what the index has of it goes on with.

    Raises:
        InputError: the index has other passages of a pool that began alike, or the ids of another.
        CheckError: another pool is not all in it yet.
    """
    settings = read_index_header(folder)
    records = read_index_records(folder, settings)
    held: dict[str, int] = {}
    for record in records:
        held[record.source] = held.get(record.source, 0) + record.passages
    expected = read_expected(folder)
    if expected is None:
        expected = {source: Expected(count) for source, count in held.items()}
        first = next(iter(held), pool.identity)
        others_whole = first == pool.identity or lacking(folder, settings, records) is None
    else:
        others_whole = all(
            held.get(source, 0) == each.passages
            for source, each in expected.items()
            if source != pool.identity
        )
    if not others_whole:
        require_whole(folder, lacking(folder, settings, records))
    known = expected.get(pool.identity, Expected(0))
    done = held.get(pool.identity, 0)
    own = read_index_ids(folder, settings, [r for r in records if r.source == pool.identity])
    if (
        known.passages > len(pool)
        or known.shards != pool.shards[: len(known.shards)]
        or order_of(own) != order_of(pool.ids.slice(0, done))
    ):
        raise InputError(
            "the index was built from another version of this token store",
            where=str(folder),
            expected="the same store, perhaps with passages that were added to it since",
            fix="build it again, in another folder",
        )
    others = read_index_ids(folder, settings, [r for r in records if r.source != pool.identity])
    _refuse_known(pool.ids.slice(done), others, folder)
    if known != _expected_of(pool):
        write_expected(folder, expected | {pool.identity: _expected_of(pool)})


def _refuse_known(
    ids: "pa.ChunkedArray | pa.Array", there: "pa.ChunkedArray", folder: Path
) -> None:
    import pyarrow.compute as pc

    if not len(there):
        return
    again = ids.filter(pc.is_in(ids, value_set=there.combine_chunks()))
    if len(again):
        raise InputError(
            f"it has {len(again):,} of these passages already, such as "
            + ", ".join(map(repr, again.slice(0, 3).to_pylist())),
            where=str(folder),
            expected="new passages alone: nothing is taken out of an index",
            fix="m2kr index build STORE INDEX, in a new folder, from a store with each passage once",
        )


def _writing(folder: Path) -> "AbstractContextManager[locks.Held]":
    return locks.hold(folder / ".lock", f"the index {folder}", wait=False)


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise missing_dependency("torch", "models", "building a compressed index") from error


def _same(folder: Path, settings: BuildSettings, pool: Pool) -> None:
    found = read_index_header(folder)
    _same_vectors(folder, found, pool)
    wanted = {"kind": settings.kind, "nbits": settings.nbits, **settings.asked()}
    there = {"kind": found.kind, "nbits": found.nbits, **found.training}
    for name, value in wanted.items():
        if there.get(name) != value:
            raise InputError(
                f"the index here was begun with {name} {there.get(name)!r}, not {value!r}",
                where=str(folder),
                fix="use another folder, or delete this one",
            )


def _same_vectors(folder: Path, found: IndexHeader, pool: Pool) -> None:
    if pool.source.dim != found.dim:
        raise InputError(
            f"the pool's tokens have {pool.source.dim} dimensions, the index's {found.dim}",
            where=str(folder),
        )
    for name in sorted({*pool.meta, *found.meta}):
        if pool.meta.get(name) != found.meta.get(name):
            raise InputError(
                f"the pool was encoded with {name} {pool.meta.get(name)!r}, "
                f"the index's passages with {found.meta.get(name)!r}",
                where=str(folder),
                fix="index what the same model encoded",
            )


def _train(
    pool: Pool, folder: Path, held: locks.Held, settings: BuildSettings, progress: Progress
) -> None:
    tokens = int(pool.source.offsets[-1])
    if settings.kind == "official":
        trained = official_train.train_official(pool, settings, progress)
    else:
        count = settings.centroids or kmeans.centroid_count(tokens)
        wanted = min(MOST_SAMPLED, _SAMPLED_A_CENTROID * max(count, 1 << 14))
        drawn = sample(pool, wanted, settings.training.seed)
        count = min(count, len(drawn))
        centroids = kmeans.train_centroids(drawn, count, settings.training, progress)
        trained = {CENTROIDS: centroids.astype("<f2")}, {"sample_tokens": len(drawn)}
    arrays, facts = trained
    held.check()
    for name, array in arrays.items():
        save_array(folder / name, array)
    INDEX.write_header(
        folder,
        IndexHeader(
            settings.kind,
            pool.source.dim,
            settings.nbits,
            len(arrays[CENTROIDS]),
            {**settings.asked(), **facts, "pool_tokens": tokens},
            pool.meta,
            {name: file_sha256(folder / name) for name in arrays},
        ).as_dict(),
    )


def _coder(folder: Path) -> TokenCoder:
    header = read_index_header(folder)
    codec = read_codec(folder, header)
    if isinstance(codec, OfficialCodec):

        def by_official_rules(
            tokens: "NDArray[np.float16]",
        ) -> "tuple[NDArray[np.integer], NDArray[np.uint8], None]":
            with full_precision():
                codes = codec.nearest(tokens)
            return codes, codec.encode(tokens, codes), None

        return by_official_rules
    import torch

    training = kmeans.Training(
        **{name: header.training[name] for name in asdict(kmeans.Training())}
    )
    centroids = torch.from_numpy(codec.centroids)
    groups = kmeans.group_centroids(centroids, training)

    def by_nearest_groups(
        tokens: "NDArray[np.float16]",
    ) -> "tuple[NDArray[np.integer], NDArray[np.uint8], NDArray[np.float16]]":
        codes, _ = kmeans.nearest_centroids(torch.from_numpy(tokens), centroids, training, groups)
        return codes.numpy(), *codec.encode(tokens, codes.numpy())

    return by_nearest_groups


def _append(
    pool: Pool, folder: Path, held: locks.Held, shard_passages: int, progress: Progress
) -> None:
    """Codes the passages that no complete shard holds."""
    records = read_index_records(folder, read_index_header(folder))
    done = sum(record.passages for record in records if record.source == pool.identity)
    if done > len(pool):
        raise InputError(
            f"the index holds {done} passages of this pool, which has {len(pool)}",
            where=str(folder),
            fix="build it again, in another folder",
        )
    offsets = pool.source.offsets
    progress.start(_TASK, int(offsets[-1] - offsets[done]), "tokens")
    with ShardedIndexWriter(folder, held, _coder(folder), shard_passages=shard_passages) as writer:
        while done < len(pool):
            last = min(len(pool), done + writer.room)
            for first, end in block_spans(offsets[done : last + 1], _CODED_AT_ONCE):
                first, end = first + done, end + done
                writer.append(
                    pool.ids.slice(first, end - first).to_pylist(),
                    pool.source.read(first, end),
                    np.diff(offsets[first : end + 1]).tolist(),
                    source=pool.identity,
                    first=first,
                )
                progress.advance(_TASK, int(offsets[end] - offsets[first]))
            done = last
    progress.done(_TASK)


class ShardedIndexWriter:
    """Adds passages to an index whose settings are written; use it in ``with``.

    A shard exists from the moment it is full, or the ``with`` block is left without an error; what
    a killed writer had in the open shard is lost, and its files are removed by the next writer.
    Of the open shard, 6 bytes a token are in memory.

    Args:
        folder: The index.
        lock: The right to write to it, held while this writes.
        coder: Codes tokens.
        shard_passages: Passages after which a shard is closed.
    """

    def __init__(
        self,
        folder: Path,
        lock: locks.Held,
        coder: TokenCoder,
        *,
        shard_passages: int = MOST_PASSAGES,
    ) -> None:
        if not 1 <= shard_passages <= MOST_PASSAGES:
            raise UsageError(f"{shard_passages} passages a shard", expected=f"1 to {MOST_PASSAGES}")
        self._folder, self._lock = folder, lock
        self._code, self._limit = coder, shard_passages
        self._header = read_index_header(folder)
        self._header_sha256 = file_sha256(folder / INDEX.header)
        self._number = len(read_index_records(folder, self._header))
        self._source, self._first = "", 0
        self._file: IO[bytes] | None = None
        self._clear()

    def _clear(self) -> None:
        for name in self._names().values():
            (self._folder / name).unlink(missing_ok=True)
        self._sha256 = hashlib.sha256()
        self._codes: list[NDArray[np.integer]] = []
        self._sizes: list[NDArray[np.float16]] = []
        self._lengths: list[int] = []
        self._crcs: list[int] = []
        self._ids: list[str] = []

    def _names(self) -> dict[str, str]:
        return index_file_names(self._number, self._header.kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._finish_shard()
        elif self._file is not None:
            self._file.close()
            if not self._lock.lost:
                self._clear()

    def append(
        self,
        ids: "Sequence[str]",
        tokens: "NDArray[np.float16]",
        lengths: "Sequence[int]",
        *,
        source: str,
        first: int,
    ) -> None:
        """Adds passages, at most as many as `room` says.

        Args:
            ids: One a passage.
            tokens: (all their tokens x dim).
            lengths: Tokens of each.
            source: What they were read from; one shard holds passages of one source.
            first: Number of the first of them there.
        """
        from isal.isal_zlib import crc32

        if self._file is None:
            self._lock.check()
            self._source, self._first = source, first
            self._file = atomic.create(self._folder / self._names()["residuals"])
        codes, packed, sizes = self._code(tokens)
        data = np.ascontiguousarray(packed).reshape(-1).data
        self._file.write(data)
        self._sha256.update(data)
        self._codes.append(codes.astype(code_type(self._header.centroids)))
        if sizes is not None:
            self._sizes.append(sizes)
        start = 0
        for length in lengths:
            end = start + length * packed.shape[1]
            self._crcs.append(crc32(data[start:end]))
            start = end
        self._lengths.extend(lengths)
        self._ids.extend(ids)
        if self.room <= 0:
            self._finish_shard()

    @property
    def room(self) -> int:
        """Passages that the open shard still takes."""
        return self._limit - len(self._ids)

    def _finish_shard(self) -> None:
        """Syncs the open shard's files, then writes its record."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._lock.check()
        codes = np.concatenate(self._codes)
        lengths = np.array(self._lengths, "<i4")
        lists = InvertedLists.of(codes, lengths, self._header.centroids)
        tables: dict[str, NDArray[Any]] = {
            "codes": codes,
            "lengths": lengths,
            "crc32": np.array(self._crcs, "<u4"),
            "members": lists.documents.astype("<u2"),
            "lists": lists.offsets.astype("<u4"),
        }
        if self._sizes:
            tables["sizes"] = np.concatenate(self._sizes).astype("<f2")
        names = self._names()
        for part, table in tables.items():
            save_array(self._folder / names[part], table)
        save_ids(self._folder / names["ids"], self._ids)
        sums = {
            name: file_sha256(self._folder / name)
            for part, name in names.items()
            if part != "residuals"
        }
        sums[names["residuals"]] = self._sha256.hexdigest()
        atomic.fsync_dir(self._folder)
        shard = ShardRecord(
            self._number,
            len(lengths),
            len(codes),
            self._header_sha256,
            sums,
            self._source,
            self._first,
        )
        self._lock.check()
        INDEX.write_record(self._folder, shard)
        self._number += 1
        self._clear()
