"""Hashes of a pool's shards, computed beside the writing of the next ones in a process of their own."""

import logging
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2kr import children
from m2kr.data.lookup import id_hashes
from m2kr.fingerprint import Fingerprint, pool_digests
from m2kr.hashes import file_sha256

log = logging.getLogger("m2kr.building.hashing")


class ShardHashes(NamedTuple):
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
    return {"file": shard.name, "size": shard.stat().st_size, "sha256": file_sha256(shard)}


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


class PoolHashes:
    """What the shards of a pool come to together, taken in one by one.

    Attributes:
        facts: File name, size and sha256 of each shard.
    """

    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []
        self._part = Fingerprint("pool")
        self._id_hashes: list[NDArray[np.uint64]] = []

    def take(self, shard: ShardHashes) -> None:
        """Takes in the next shard."""
        self.facts.append(shard.facts)
        self._part.add_digests(shard.ids, shard.digests)
        self._id_hashes.append(shard.id_hashes)

    def fingerprint(self) -> str:
        """The pool's part of the fingerprint; ends the taking in, and frees what it took."""
        part, self._part = self._part, Fingerprint("pool")
        return part.hexdigest()

    def id_hashes(self) -> NDArray[np.uint64]:
        """The hashes of all ids in row order; ends the taking in, and frees what it took."""
        parts, self._id_hashes = self._id_hashes, []
        return np.concatenate(parts)


class ShardHasher:
    """Hashes shards in the order in which they are given: in another process if there are several.

    Not a process of `multiprocessing`: that would run the caller's own script again.
    """

    def __init__(self) -> None:
        self._worker: subprocess.Popen[bytes] | None = None
        self._asker: ThreadPoolExecutor | None = None
        self._hashes = PoolHashes()
        self._shards: list[Path] = []
        self._done: list[Future[None]] = []

    def add(self, shard: Path, full: bool) -> None:
        """A whole shard was written; after a full one more are to be expected."""
        self._shards.append(shard)
        if self._asker is None and full and (os.cpu_count() or 1) > 1:
            self._asker = ThreadPoolExecutor(1, "m2kr-hash")
            self._worker = subprocess.Popen(  # noqa: S603 - this module
                children.command(__name__),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=children.environment(),
            )
            self._done += [self._asker.submit(self._ask, each) for each in self._shards[:-1]]
        if self._asker is not None:
            self._done.append(self._asker.submit(self._ask, shard))

    def _ask(self, shard: Path) -> None:
        worker = self._worker
        assert worker is not None and worker.stdin is not None and worker.stdout is not None
        try:
            worker.stdin.write(f"{shard.absolute()}\n".encode("utf-8", "surrogateescape"))
            worker.stdin.flush()
            hashes = ShardHashes(*pickle.load(worker.stdout))  # noqa: S301 - from `_serve`
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            log.warning("hashing %s here, the process for it failed: %s", shard, error)
            hashes = hash_shard(shard)
        self._hashes.take(hashes)

    def close(self) -> PoolHashes:
        """The hashes of all shards, in order."""
        try:
            if self._asker is None:
                for shard in self._shards:
                    self._hashes.take(hash_shard(shard))
            for each in self._done:
                each.result()
            return self._hashes
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends the other process."""
        if self._asker is not None:
            self._asker.shutdown(cancel_futures=True)
            self._asker = None
        if self._worker is not None:
            self._worker.communicate()
            self._worker = None


def _serve() -> None:
    """Hashes the shards named on standard input, until it ends: also when the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells of an interruption
    while line := sys.stdin.buffer.readline():
        shard = Path(line.decode("utf-8", "surrogateescape").removesuffix("\n"))
        pickle.dump(tuple(hash_shard(shard)), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
