"""Decoder processes, each with a time and a memory limit: what kills one costs an image, not the run."""

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from json import loads
from queue import SimpleQueue
from typing import IO, Any, Self, cast

from m2kr import children
from m2kr.building.images.decoder import LENGTH, READY, VERDICT
from m2kr.data.images.decode import MAX_PIXELS
from m2kr.data.images.index import MAX_BYTES
from m2kr.errors import M2KRError

TOO_MANY_BYTES = "too many bytes"
TOO_SLOW = "too slow"
CRASHED = "crashes the decoder"
_PIPE = 1 << 20
_START = 60.0  # seconds for a process to come to life
_LAST_BREATH = 1.0  # seconds for one that closed its pipes to end
_GRACE = 5.0  # seconds after which a decoder whose own alarm did not ring is killed
_TIMED_OUT = -int(signal.SIGALRM)
# glibc would give the pixels of each image back to the system and ask for them again: half the time.
_KEEP = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
    "MALLOC_TOP_PAD_": str(1 << 26),
}


# [width, height, format or rule, detail], and a JPEG file
Verdict = tuple[list[Any], bytes]


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What one image may cost.

    Attributes:
        bytes: Of its file.
        pixels: Width times height, read from its header before anything is decoded.
        seconds: To decode it.
        memory: Bytes that a decoder process may take for it. Less than the default does not do for
            every image of ``pixels``.
    """

    bytes: int = MAX_BYTES
    pixels: int = MAX_PIXELS
    seconds: float = 30.0
    memory: int = 3 << 30


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one image.

    Attributes:
        name: As given.
        data: Its file as given, or made new as a JPEG; empty if it is at fault.
        width: Pixels; 0 if it is at fault.
        height: Pixels; 0 if it is at fault.
        format: Of the file given, in Pillow's words: JPEG, PNG, WEBP …
        rule: What is wrong with it, one of a few texts for ledgers; "" if nothing is.
        detail: More about what is wrong.
    """

    name: str
    data: bytes = b""
    width: int = 0
    height: int = 0
    format: str = ""
    rule: str = ""
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is a whole image."""
        return not self.rule


class Decoders:
    """Some decoder processes; to be used in ``with``, by any number of threads.

    Args:
        jobs: How many.
        limits: What one image may cost.
        quality: 0 to give files back as they are; else they become RGB JPEG of this quality.

    Raises:
        M2KRError: (when used) a process can't be started.
    """

    def __init__(self, jobs: int, limits: ImageLimits | None = None, *, quality: int = 0) -> None:
        self._limits = limits or ImageLimits()
        self._quality = quality
        self._idle: SimpleQueue[_Decoder | None] = SimpleQueue()
        self._all: list[_Decoder] = []
        self._closed = False
        self._jobs = jobs

    def check(self, images: Sequence[tuple[str, bytes]]) -> list[Checked]:
        """What becomes of some images, in their order; waits until a process is free.

        Args:
            images: Name and content of each.
        """
        limit = self._limits.bytes
        fit = [data for _, data in images if len(data) <= limit]
        decoder = self._idle.get()
        try:
            decoder, verdicts = self._decoded(decoder, fit)
        finally:
            self._idle.put(decoder)
        answers = iter(verdicts)
        return [
            self._checked(name, data, *next(answers))
            if len(data) <= limit
            else Checked(name, rule=TOO_MANY_BYTES, detail=f"{len(data):,}, more than {limit:,}")
            for name, data in images
        ]

    def _checked(self, name: str, data: bytes, told: list[Any], jpeg: bytes) -> Checked:
        width, height, text, detail = told
        if not width:
            return Checked(name, rule=text, detail=detail)
        return Checked(name, jpeg if self._quality else data, width, height, text)

    def _decoded(
        self, decoder: "_Decoder | None", images: list[bytes]
    ) -> "tuple[_Decoder | None, list[Verdict]]":
        """The verdicts, and the process that is left."""
        verdicts: list[Verdict] = []
        suspect = -1
        while len(verdicts) < len(images):
            if decoder is None:
                decoder = self._start()
            verdicts += decoder.verdicts(images[len(verdicts) :])
            if len(verdicts) == len(images):
                break
            code, at = decoder.end(), len(verdicts)
            self._all.remove(decoder)
            decoder = None
            if code == _TIMED_OUT:
                told = [0, 0, TOO_SLOW, f"not decoded within {self._limits.seconds:g} s"]
                verdicts.append((told, b""))
            elif at == suspect:
                verdicts.append(([0, 0, CRASHED, _ending(code)], b""))
            else:
                # Once may be chance: the system ends processes, too, when it is short of memory.
                suspect = at
        return decoder, verdicts

    def _start(self) -> "_Decoder":
        if self._closed:
            raise M2KRError("the check of images was given up")
        decoder = _Decoder(self._limits, self._quality)
        self._all.append(decoder)
        return decoder

    def __enter__(self) -> Self:
        for _ in range(self._jobs):
            self._idle.put(self._start())
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        self._closed = True
        for decoder in tuple(self._all):
            decoder.kill()
        # Those that were in use come back at once now.
        for _ in range(self._jobs):
            last = self._idle.get()
            if last is not None:
                last.end()
        for _ in range(self._jobs):
            self._idle.put(None)


def _ending(code: int) -> str:
    if code >= 0:
        return f"it left with exit code {code}, twice"
    return f"it was ended by {signal.Signals(-code).name}, twice"


class _Decoder:
    """One process."""

    def __init__(self, limits: ImageLimits, quality: int) -> None:
        self._seconds = limits.seconds
        facts = (limits.seconds, limits.memory, limits.pixels, quality)
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            children.command("m2kr.building.images.decoder", *map(str, facts)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=children.environment(_KEEP),
        )
        self._in = cast("IO[bytes]", self._process.stdin).fileno()
        self._out = cast("IO[bytes]", self._process.stdout).fileno()
        os.set_blocking(self._in, False)
        for pipe in (self._in, self._out):
            with suppress(OSError, AttributeError):  # Linux alone can, up to a limit
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        self._ready = False

    def verdicts(self, images: Sequence[bytes]) -> list[Verdict]:
        """The verdicts on some images; fewer if the process died or had to be killed."""
        if not self._ready:
            self._await_start()
        found: list[Verdict] = []
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        poll.register(self._in, select.POLLOUT)
        unsent = [memoryview(part) for data in images for part in (LENGTH.pack(len(data)), data)]
        unsent.reverse()
        received = bytearray()
        last = time.monotonic()
        while len(found) < len(images):
            patience = last + self._seconds + _GRACE - time.monotonic()
            ready = dict(poll.poll(max(0.0, patience) * 1000))
            if not ready:
                self.kill()
                return found
            if unsent and self._in in ready:
                if not self._send(unsent):
                    poll.unregister(self._in)
                last = time.monotonic()
            if self._out in ready:
                block = os.read(self._out, _PIPE)
                if not block:
                    return found
                received += block
                found += _verdicts(received)
                last = time.monotonic()
        return found

    def _send(self, unsent: list[memoryview]) -> bool:
        """Sends as much as fits; whether something is left."""
        with suppress(BlockingIOError, BrokenPipeError):
            while unsent:
                part = unsent.pop()
                count = 0
                try:
                    count = os.write(self._in, part)
                finally:
                    if count < len(part):
                        unsent.append(part[count:])
        return bool(unsent)

    def _await_start(self) -> None:
        """Raises if the process does not come to life."""
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if poll.poll(_START * 1000) and os.read(self._out, len(READY)) == READY:
            self._ready = True
            return
        self.kill()
        told = cast("IO[bytes]", self._process.stderr).read().decode("utf-8", "replace")
        raise M2KRError(
            "the process that decodes images can't be started: " + (told.strip() or "no answer"),
            where=sys.executable,
            fix="run 'm2kr doctor'",
        )

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()

    def end(self) -> int:
        """Ends the process, if it lives, and gives its exit code; it can't be used any more."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_BREATH)  # how it ends is to be known
        self._process.kill()
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            cast("IO[bytes]", pipe).close()
        return code


def _verdicts(received: bytearray) -> list[Verdict]:
    """Takes the whole verdicts out of what was received."""
    found: list[Verdict] = []
    at = 0
    while len(received) - at >= VERDICT.size:
        text, jpeg = VERDICT.unpack_from(received, at)
        middle = at + VERDICT.size + text
        if len(received) < middle + jpeg:
            break
        told = loads(received[at + VERDICT.size : middle])
        found.append((told, bytes(received[middle : middle + jpeg])))
        at = middle + jpeg
    del received[:at]
    return found
