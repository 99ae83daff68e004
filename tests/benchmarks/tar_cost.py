"""What indexing a big tar costs, in a process of its own.

    python tar_cost.py STEP FILE MEMBERS

Prints one JSON object. Steps: ``write`` (the tar, with holes for contents), ``scan`` (``scan_tar``, and a
bare loop over the headers, turn by turn), ``index`` (``cached_index``, saved, and such a loop), and
``cold`` (the same, each from disk).
"""

import json
import os
import statistics
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from m2kr.data.images.archives import scan_tar
from m2kr.data.images.index import cached_index
from m2kr.evaluation.result import peak_memory

ROUNDS = 5


def write(path: Path, members: int) -> dict:
    """Sizes are those of 300 px thumbnails, about 20 kB."""
    sizes = np.random.default_rng(0).lognormal(9.8, 0.5, members).astype(int) + 1
    with path.open("wb") as file:
        for number, size in enumerate(sizes.tolist()):
            info = tarfile.TarInfo(f"wit/{number:032x}.jpg")
            info.size = size
            file.write(info.tobuf(tarfile.USTAR_FORMAT))
            file.seek(-(-size // 512) * 512, 1)
        file.write(bytes(1024))
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size}


def bare(path: Path) -> int:
    """Reads each header for its size alone."""
    count = at = 0
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        while (head := os.pread(fd, 512, at))[0]:
            at += 512 + -(-int(head[124:135], 8) // 512) * 512
            count += 1
    return count


def runs(path: Path) -> int:
    return sum(1 for _ in scan_tar(path))


def saved(path: Path) -> int:
    folder = path.with_name("cache")
    count = len(cached_index(scan_tar(path), folder, [str(path)]))
    for file in folder.iterdir():
        file.unlink()
    return count


def compared(path: Path, members: int, ours: Callable[[Path], int], *, cold: bool) -> dict:
    """Ours and the bare loop by turns; the median of the ratios."""
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    turns = [("bare", bare), ("ours", ours)]
    for _ in range(2 if cold else ROUNDS):
        turns.reverse()
        for name, work in turns:
            if cold:
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            start = time.perf_counter()
            if work(path) != members:
                raise SystemExit(f"{name}: another number of members")
            seconds[name].append(time.perf_counter() - start)
    speed = statistics.median(b / o for b, o in zip(seconds["bare"], seconds["ours"], strict=True))
    return {"speed": speed} | {name: min(times) for name, times in seconds.items()}


def scan(path: Path, members: int) -> dict:
    return compared(path, members, runs, cold=False)


def index(path: Path, members: int) -> dict:
    return compared(path, members, saved, cold=False)


def cold(path: Path, members: int) -> dict:
    return compared(path, members, saved, cold=True)


if __name__ == "__main__":
    step, where, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    result = {f.__name__: f for f in (write, scan, index, cold)}[step](where, count)
    print(json.dumps(result | {"peak": peak_memory()}))
