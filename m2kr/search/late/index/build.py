"""Building compressed indexes from token stores: sample, train, code; and adding to them.

Everything streams: a sample of the tokens is in memory for training, then some ten thousand at a
time. A build that was killed goes on where its last complete shard ended, when it is called again;
training, which comes first, is done again unless it was finished.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr import locks
from m2kr.errors import InputError, UsageError, missing_dependency
from m2kr.progress import Silent
from m2kr.search.late.index import codec, kmeans, scaled
from m2kr.search.late.index import format as layout
from m2kr.search.late.index.codec import Codec
from m2kr.search.late.index.files import IndexFiles, read_codec, read_records
from m2kr.search.late.index.writer import IndexWriter, save
from m2kr.search.late.store import TokenStore, spans
from m2kr.search.late.workers import full_precision

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    import pyarrow as pa
    from numpy.typing import NDArray

    from m2kr.progress import Progress
    from m2kr.search.late.index.writer import Encoder
    from m2kr.search.late.sources import TokenSource

logger = logging.getLogger("m2kr.search")

MOST_SAMPLED = 1 << 21  # tokens in memory for training: 512 MB at 128 dimensions
_SAMPLED_A_CENTROID = 16
_CODED_AT_ONCE = 1 << 15  # tokens
_TASK = "code tokens"


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How an index is made. All of it is stored in the index.

    Attributes:
        kind: ``compressed``, or ``official`` for what the published protocol searches.
        nbits: Bits a dimension. The official protocol has 8.
        centroids: How many; None for the kind's own rule (`kmeans.count_for`,
            `official_index.count_for`). Never more than the tokens of the sample.
        training: k-means.
    """

    kind: layout.Kind = "compressed"
    nbits: int = 4
    centroids: int | None = None
    training: kmeans.Training = field(default_factory=kmeans.Training)

    def __post_init__(self) -> None:
        known = codec.NBITS if self.kind == "official" else scaled.NBITS
        if self.nbits not in known:
            raise UsageError(f"{self.nbits} bits a dimension", expected=f"one of {known}")
        if self.centroids is not None and self.centroids < 1:
            raise UsageError(f"{self.centroids} centroids", expected="at least 1")

    def asked(self) -> dict[str, Any]:
        """What the caller chose, as JSON: an index is only gone on with under the same choice."""
        return {"centroids_asked": self.centroids, **asdict(self.training)}


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Passages to index.

    Attributes:
        source: Their tokens.
        ids: Their ids.
        identity: What tells this source from others, also after passages were appended to it.
        meta: What decides what the vectors are.
    """

    source: "TokenSource"
    ids: "pa.ChunkedArray | pa.Array"
    identity: str
    meta: "Mapping[str, Any]" = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


def pool_of(store: TokenStore) -> Pool:
    """The passages of a token store, known by its first shard."""
    firsts = [dict(shard.sha256) for shard in store.shards[:1]]
    identity = sha256(json.dumps([dict(store.meta), firsts], sort_keys=True).encode()).hexdigest()
    return Pool(store, store.ids(), identity, store.meta)


def build(
    pool: Pool,
    folder: Path,
    settings: BuildSettings | None = None,
    *,
    shard_passages: int = layout.MOST_PASSAGES,
    progress: "Progress | None" = None,
) -> IndexFiles:
    """Builds an index, or finishes one that was begun with the same settings.

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
        if (folder / layout.SETTINGS).exists():
            _same(folder, settings, pool)
        else:
            _train(pool, folder, held, settings, progress or Silent())
        _append(pool, folder, held, shard_passages, progress or Silent())
    return IndexFiles.open(folder)


def add(
    pool: Pool,
    folder: Path,
    *,
    shard_passages: int = layout.MOST_PASSAGES,
    progress: "Progress | None" = None,
) -> IndexFiles:
    """Adds the passages of a pool that the index doesn't have yet, in new shards.

    The centroids stay those it was trained with: a pool that is much unlike them is coded less
    well, which `compressed.audit` shows.

    Raises:
        InputError: the pool's vectors are of another dim or another model (``meta``).
        MissingError: there is no index, or torch isn't installed.
        UsageError: another process is writing to it.
        M2KRError: another process took it over, see `locks.Held.check`.
    """
    _need_torch()
    found = layout.read_settings(folder)
    _same_vectors(folder, found, pool)
    with _writing(folder) as held:
        _append(pool, folder, held, shard_passages, progress or Silent())
    return IndexFiles.open(folder)


def _writing(folder: Path) -> "AbstractContextManager[locks.Held]":
    return locks.hold(folder / ".lock", f"the index {folder}", wait=False)


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise missing_dependency("torch", "models", "building a compressed index") from error


def _same(folder: Path, settings: BuildSettings, pool: Pool) -> None:
    found = layout.read_settings(folder)
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


def _same_vectors(folder: Path, found: layout.Settings, pool: Pool) -> None:
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
    pool: Pool, folder: Path, held: locks.Held, settings: BuildSettings, progress: "Progress"
) -> None:
    from m2kr.search.late.index import official_index

    tokens = int(pool.source.offsets[-1])
    if settings.kind == "official":
        trained = official_index.train(pool.source, settings, progress)
    else:
        count = settings.centroids or kmeans.count_for(tokens)
        wanted = min(MOST_SAMPLED, _SAMPLED_A_CENTROID * max(count, 1 << 14))
        drawn = sample(pool.source, wanted, settings.training.seed)
        count = min(count, len(drawn))
        centroids = kmeans.train(drawn, count, settings.training, progress)
        trained = {layout.CENTROIDS: centroids.astype("<f2")}, {"sample_tokens": len(drawn)}
    arrays, facts = trained
    held.check()
    for name, array in arrays.items():
        save(folder / name, array)
    layout.write_settings(
        folder,
        layout.Settings(
            settings.kind,
            pool.source.dim,
            settings.nbits,
            len(arrays[layout.CENTROIDS]),
            {**settings.asked(), **facts, "pool_tokens": tokens},
            pool.meta,
            {name: layout.sha256_of(folder / name) for name in arrays},
        ),
    )


def sample(source: "TokenSource", wanted: int, seed: int) -> "NDArray[np.float16]":
    """The tokens of randomly drawn passages, at least ``wanted`` of them if there are as many."""
    offsets = source.offsets
    order = np.random.default_rng(seed).permutation(len(offsets) - 1)
    sums = np.cumsum(offsets[order + 1] - offsets[order])
    drawn = np.sort(order[: int(np.searchsorted(sums, wanted)) + 1])
    return read_passages(source, drawn)


def read_passages(source: "TokenSource", passages: "NDArray[np.int64]") -> "NDArray[np.float16]":
    """The tokens of passages given in increasing order, one passage's after another's."""
    lengths = source.offsets[passages + 1] - source.offsets[passages]
    found = np.empty((int(lengths.sum()), source.dim), np.float16)
    at = 0
    # Neighbours are read at once.
    for run in np.split(passages, np.flatnonzero(np.diff(passages) != 1) + 1):
        if len(run):
            part = source.read(int(run[0]), int(run[-1]) + 1)
            found[at : at + len(part)] = part
            at += len(part)
    return found


class _Compressed:
    """`index.writer.Encoder` of our own kind."""

    def __init__(self, codec: scaled.ScaledCodec, training: kmeans.Training) -> None:
        import torch

        self._codec, self._training = codec, training
        self._centroids: torch.Tensor = torch.from_numpy(codec.centroids)
        self._groups = kmeans.group(self._centroids, training)

    def encode(
        self, tokens: "NDArray[np.float16]"
    ) -> "tuple[NDArray[np.integer], NDArray[np.uint8], NDArray[np.float16]]":
        import torch

        given = torch.from_numpy(tokens)
        codes = kmeans.nearest(given, self._centroids, self._training, self._groups)[0].numpy()
        return codes, *self._codec.encode(tokens, codes)


class _Official:
    """`index.writer.Encoder` of the official kind: the exactly nearest centroid, official buckets."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def encode(
        self, tokens: "NDArray[np.float16]"
    ) -> "tuple[NDArray[np.integer], NDArray[np.uint8], None]":
        with full_precision():
            codes = self._codec.nearest(tokens)
        return codes, self._codec.encode(tokens, codes), None


def _encoder(folder: Path) -> "Encoder":
    settings = layout.read_settings(folder)
    codec = read_codec(folder, settings)
    if isinstance(codec, Codec):
        return _Official(codec)
    known = {name: settings.training[name] for name in asdict(kmeans.Training())}
    return _Compressed(codec, kmeans.Training(**known))


def _append(
    pool: Pool, folder: Path, held: locks.Held, shard_passages: int, progress: "Progress"
) -> None:
    """Codes the passages that no complete shard holds."""
    records = read_records(folder, layout.read_settings(folder))
    done = sum(record.passages for record in records if record.source == pool.identity)
    if done > len(pool):
        raise InputError(
            f"the index holds {done} passages of this pool, which has {len(pool)}",
            where=str(folder),
            fix="build it again, in another folder",
        )
    offsets = pool.source.offsets
    progress.start(_TASK, int(offsets[-1] - offsets[done]), "tokens")
    with IndexWriter(folder, held, _encoder(folder), shard_passages=shard_passages) as writer:
        while done < len(pool):
            last = min(len(pool), done + writer.room)
            for first, end in spans(offsets[done : last + 1], _CODED_AT_ONCE):
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
