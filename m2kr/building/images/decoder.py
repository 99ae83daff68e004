"""The process that decodes images for `m2kr.building.images.check`: bytes in, a verdict out.

It runs as ``python -m m2kr.building.images.decoder PIPE SECONDS MEMORY PIXELS``. ``PIPE`` is an
open file descriptor, on which images come and verdicts go: JSON of width, height, format, rule and
detail. It is not pickled, as the parent doesn't trust what hostile images can make of this process.
"""

import json
import os
import signal
import sys
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

from m2kr.data.images.decode import UndecodableImage, open_rgb


def _main() -> None:
    seconds = float(sys.argv[2])
    pipe, memory, pixels = (int(sys.argv[i]) for i in (1, 3, 4))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to decide
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries print there
    warnings.simplefilter("ignore")  # of many pixels, of corrupt EXIF
    _limit_memory(memory)
    parent = Connection(pipe)
    parent.send_bytes(b"")  # ready
    while True:
        try:
            data = parent.recv_bytes()
        except EOFError:
            return
        # Without a handler the signal ends the process, even inside of a decoder.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        verdict = _verdict(data, pixels)
        signal.setitimer(signal.ITIMER_REAL, 0)
        parent.send_bytes(json.dumps(verdict).encode())


def _limit_memory(extra: int) -> None:
    """Lets this process have so many bytes more than it has."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    try:
        statm = Path("/proc/self/statm").read_text(encoding="utf-8")
        used = int(statm.split()[0]) * resource.getpagesize()
    except OSError:
        used = 1 << 30
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = used + extra if hard == resource.RLIM_INFINITY else min(used + extra, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _verdict(data: bytes, pixels: int) -> tuple[int, int, str, str, str]:
    try:
        image, format_ = open_rgb(data, pixels)
    except UndecodableImage as fault:
        return 0, 0, "", fault.rule, fault.detail
    return image.width, image.height, format_, "", ""


if __name__ == "__main__":
    _main()
