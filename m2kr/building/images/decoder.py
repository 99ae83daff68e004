"""The process that decodes images for `m2kr.building.images.check`: bytes in, a verdict out.

It runs as ``python -m m2kr.building.images.decoder SECONDS MEMORY PIXELS QUALITY``. On its standard input
come images, each after its length; on its standard output goes one verdict each, as soon as there is
one, so that it is known at which image the process died.
"""

import io
import json
import os
import signal
import struct
import sys
import warnings
from pathlib import Path
from typing import BinaryIO

from m2kr.data.images.decode import ImageFault, open_rgb

LENGTH = struct.Struct("<Q")
# Bytes of the text (JSON: width, height, format or rule, detail), and of the JPEG file behind it.
VERDICT = struct.Struct("<IQ")
READY = b"ready\n"


def main() -> None:
    """Decodes until there is nothing more on the standard input."""
    seconds = float(sys.argv[1])
    memory, pixels, quality = map(int, sys.argv[2:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to decide
    images, verdicts = _own_streams()
    warnings.simplefilter("ignore")  # of many pixels, of corrupt EXIF
    _limit_memory(memory)
    verdicts.write(READY)
    while length := images.read(LENGTH.size):
        data = images.read(LENGTH.unpack(length)[0])
        # Without a handler the signal ends the process, even inside of a decoder.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        told, jpeg = _verdict(data, pixels, quality)
        signal.setitimer(signal.ITIMER_REAL, 0)
        text = json.dumps(told).encode()
        verdicts.write(VERDICT.pack(len(text), len(jpeg)) + text + jpeg)


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """The streams to the parent, out of reach of libraries that print."""
    images = os.fdopen(os.dup(0), "rb", buffering=1 << 20)
    verdicts = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    return images, verdicts


def _limit_memory(extra: int) -> None:
    """Lets this process have so many bytes more than it has."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    try:
        used = (
            int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
            * resource.getpagesize()
        )
    except OSError:
        used = 1 << 30
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = used + extra if hard == resource.RLIM_INFINITY else min(used + extra, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _verdict(data: bytes, pixels: int, quality: int) -> tuple[list[object], bytes]:
    jpeg = io.BytesIO()
    try:
        image, format_ = open_rgb(data, pixels)
        if quality:
            image.info = {}  # no EXIF, comments or profile of the old file
            image.save(jpeg, "JPEG", quality=quality)
    except ImageFault as fault:
        return [0, 0, fault.rule, fault.detail], b""
    except MemoryError:
        return [0, 0, "out of memory", "while it was saved as JPEG"], b""
    except (OSError, ValueError) as error:  # a side of more than 65,500 pixels
        return [0, 0, "no JPEG", str(error)[:200]], b""
    return [image.width, image.height, format_, ""], jpeg.getvalue()


if __name__ == "__main__":
    main()
