"""Hashes of a pool's shards, computed beside the writing of the next ones in a process of their own."""

import hashlib
import os
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2kr.data.lookup import id_hashes
from m2kr.fingerprint import pool_digests


@dataclass(frozen=True)
class ShardHashes:
    """What one shard of a pool comes to.

    Attributes:
        facts: File name, size in bytes and sha256, for the manifest.
        ids: Its passage ids, binary.
        id_hashes: Their hashes for the index, uint64.
        digests: Per row the 32 bytes that the pool's fingerprint is made of.
    """

    facts: dict[str, Any]
    ids: pa.Array
    id_hashes: NDArray[np.uint64]
    digests: bytes


def shard_facts(shard: Path) -> dict[str, Any]:
    """Name, size in bytes and sha256 of a shard, read back from disk."""
    with shard.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": shard.name, "size": shard.stat().st_size, "sha256": digest}


def hash_shard(shard: Path) -> ShardHashes:
    """Reads a shard back and hashes it."""
    ids: list[pa.Array] = []
    hashes = [np.empty(0, np.uint64)]
    digests = bytearray()
    with pa.OSFile(str(shard)) as file:
        for batch in pa.ipc.open_stream(file):
            chunk = batch.column("passage_id").cast(pa.binary())
            ids.append(pa.concat_arrays([chunk]))
            hashes.append(id_hashes(chunk))
            digests += pool_digests(batch)
    joined = pa.concat_arrays(ids) if ids else pa.array([], pa.binary())
    return ShardHashes(shard_facts(shard), joined, np.concatenate(hashes), bytes(digests))


class ShardHasher:
    """Hashes shards in the order in which they are given: in another process if there are several."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._shards: list[Path] = []
        self._done: list[Future[ShardHashes]] = []

    def add(self, shard: Path, full: bool) -> None:
        """A whole shard was written; after a full one more are to be expected."""
        self._shards.append(shard)
        if self._pool is None and full and (os.cpu_count() or 1) > 1:
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, die_with_parent, (os.getpid(),))
            self._done += [self._pool.submit(hash_shard, each) for each in self._shards[:-1]]
        if self._pool is not None:
            self._done.append(self._pool.submit(hash_shard, shard))

    def close(self) -> list[ShardHashes]:
        """The hashes of all shards, in order."""
        try:
            if self._pool is None:
                return [hash_shard(shard) for shard in self._shards]
            return [each.result() for each in self._done]
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends the other process."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def die_with_parent(parent: int) -> None:
    """A worker whose parent was killed must not go on writing beside its successor."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
