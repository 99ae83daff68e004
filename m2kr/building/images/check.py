"""Checking many images by decoding them, in processes of their own; damage is told, not fatal.

Each process has a time and a memory limit: what kills one costs an image, not the run.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from json import loads
from multiprocessing import Pipe
from queue import SimpleQueue
from typing import Any, Self

from m2kr import children
from m2kr.concurrency import work_ahead
from m2kr.data.images.decode import MAX_PIXELS
from m2kr.data.images.index import MAX_BYTES
from m2kr.errors import M2KRError

UNREADABLE = "can't be read"
TOO_MANY_BYTES = "too many bytes"
TOO_SLOW = "too slow"
CRASHED = "crashes the decoder"
_BATCH_IMAGES, _BATCH_BYTES = 64, 4 << 20
_START = 60.0  # seconds for a process to come to life
_LAST_BREATH = 1.0  # seconds for one that closed its pipe to end
_ANSWER = 1 << 16  # bytes at most
_GRACE = 5.0  # seconds after which a decoder whose own alarm did not ring is killed
# glibc would give the pixels of each image back to the system and ask for them again: half the time.
_KEEP = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
    "MALLOC_TOP_PAD_": str(1 << 26),
}


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
        width: Pixels; 0 if it is at fault.
        height: Pixels; 0 if it is at fault.
        format: Of the file given, in Pillow's words: JPEG, PNG, WEBP …
        rule: What is wrong with it, one of a few texts for ledgers; "" if nothing is.
        detail: More about what is wrong.
    """

    name: str
    width: int = 0
    height: int = 0
    format: str = ""
    rule: str = ""
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is a whole image."""
        return not self.rule


Source = bytes | Callable[[], bytes]
# An image that can't be read is checked already.
_Batch = list[tuple[str, bytes] | Checked]


def verify_images(
    items: Iterable[tuple[str, Source]],
    *,
    jobs: int | None = None,
    limits: ImageLimits | None = None,
) -> Generator[Checked]:
    """Decodes images wholly and tells what became of each, in order.

    An image that is damaged, hostile or too large, that takes too long or kills its decoder costs
    itself alone. About ``(2 × jobs + 2) × 4 MiB`` of image files are held, more where one is larger.

    Args:
        items: Name and content of each, or a function that reads the content (`OSError` or
            `M2KRError` from it is a fault of the image). Taken by another thread, ahead of the results.
        jobs: Decoder processes; as many as there are cores by default.
        limits: What one image may cost.

    Raises:
        M2KRError: A decoder process can't be started. What ``items`` raises comes where its image
            would have come.
    """
    jobs = jobs or cores()

    with Decoders(jobs, limits) as decoders:
        results = work_ahead(_batches(items), decoders.check, workers=jobs)
        try:
            for batch in results:
                yield from batch
        finally:
            decoders.close()
            results.close()


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _batches(items: Iterable[tuple[str, Source]]) -> Iterator[_Batch]:
    batch: _Batch = []
    size = 0
    for name, source in items:
        try:
            data = source if isinstance(source, bytes) else source()
        except (OSError, M2KRError) as error:
            detail = f"{error}".partition("\n")[0][:200]
            batch.append(Checked(name, rule=UNREADABLE, detail=detail))
        else:
            batch.append((name, data))
            size += len(data)
        if len(batch) == _BATCH_IMAGES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Decoders:
    """Some decoder processes; to be used in ``with``, by any number of threads.

    Args:
        jobs: How many.
        limits: What one image may cost.

    Raises:
        M2KRError: (when used) a process can't be started.
    """

    def __init__(self, jobs: int, limits: ImageLimits | None = None) -> None:
        self._jobs, self._limits = jobs, limits or ImageLimits()
        self._idle: SimpleQueue[_Decoder | None] = SimpleQueue()
        self._running: list[_Decoder] = []
        self._closed = False

    def check(self, images: Sequence[tuple[str, bytes] | Checked]) -> list[Checked]:
        """What becomes of some images, in their order; waits until a process is free.

        Args:
            images: Name and content of each, or what has become of it already.
        """
        decoder = self._idle.get()
        results = []
        try:
            for image in images:
                if isinstance(image, Checked):
                    results.append(image)
                else:
                    decoder, result = self._checked(decoder, *image)
                    results.append(result)
        finally:
            self._idle.put(decoder if decoder in self._running else None)
        return results

    def _checked(
        self, decoder: "_Decoder | None", name: str, data: bytes
    ) -> "tuple[_Decoder | None, Checked]":
        """What becomes of one image, and the process that is left."""
        limit = self._limits.bytes
        if len(data) > limit:
            detail = f"{len(data):,}, more than {limit:,}"
            return decoder, Checked(name, rule=TOO_MANY_BYTES, detail=detail)
        code = 0
        # Once may be chance: the system ends processes, too, when it is short of memory.
        for _ in range(2):
            decoder = decoder or self._start()
            answer = decoder.decode(data)
            if answer is not None:
                return decoder, Checked(name, *answer)
            self._running.remove(decoder)
            code, decoder = decoder.end(), None
            if code == -signal.SIGALRM:
                detail = f"not decoded within {self._limits.seconds:g} s"
                return None, Checked(name, rule=TOO_SLOW, detail=detail)
        ending = (
            f"was ended by {signal.Signals(-code).name}"
            if code < 0
            else f"left with exit code {code}"
        )
        return None, Checked(name, rule=CRASHED, detail=f"it {ending}, twice")

    def _start(self) -> "_Decoder":
        if self._closed:
            raise M2KRError("the check of images was given up")
        decoder = _Decoder(self._limits)
        self._running.append(decoder)
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
        for decoder in tuple(self._running):
            decoder.kill()
        # Those that were in use come back at once now.
        for _ in range(self._jobs):
            last = self._idle.get()
            if last is not None:
                last.end()
        for _ in range(self._jobs):
            self._idle.put(None)


class _Decoder:
    """One process, `m2kr.building.images.decoder`."""

    def __init__(self, limits: ImageLimits) -> None:
        self._patience = limits.seconds + _GRACE
        self._pipe, other = Pipe()
        facts = (other.fileno(), limits.seconds, limits.memory, limits.pixels)
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            children.command("m2kr.building.images.decoder", *map(str, facts)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[other.fileno()],
            env=children.environment(_KEEP),
        )
        other.close()
        self._ready = False

    def decode(self, data: bytes) -> list[Any] | None:
        """Width, height, format, rule and detail; None if the process died of it."""
        if not self._ready:
            self._await_start()
        with suppress(OSError, EOFError, ValueError):
            self._pipe.send_bytes(data)
            if self._pipe.poll(self._patience):
                answer: list[Any] = loads(self._pipe.recv_bytes(_ANSWER))
                return answer
            self.kill()
        return None

    def _await_start(self) -> None:
        """Raises if the process does not come to life."""
        with suppress(OSError, EOFError):
            if self._pipe.poll(_START):
                self._pipe.recv_bytes()
                self._ready = True
                return
        self.kill()
        assert self._process.stderr is not None
        told = self._process.stderr.read().decode("utf-8", "replace").strip()
        raise M2KRError(
            "the process that decodes images can't be started: " + (told or "no answer"),
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
        self._pipe.close()
        assert self._process.stderr is not None
        self._process.stderr.close()
        return code
