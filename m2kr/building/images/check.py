"""Checking many images by decoding them, in processes of their own; damage is told, not fatal."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator

from m2kr.building.images.decoders import Checked, Decoders, ImageLimits
from m2kr.concurrency import work_ahead
from m2kr.errors import M2KRError

__all__ = ["Checked", "ImageLimits", "verify_images"]
UNREADABLE = "can't be read"
_BATCH_IMAGES, _BATCH_BYTES = 64, 4 << 20

Source = bytes | Callable[[], bytes]
_Batch = tuple[list[tuple[str, bytes]], dict[int, Checked]]


def verify_images(
    items: Iterable[tuple[str, Source]],
    *,
    jobs: int | None = None,
    limits: ImageLimits | None = None,
    quality: int = 0,
) -> Generator[Checked]:
    """Decodes images wholly and tells what became of each, in order.

    An image that is damaged, hostile or too large, that takes too long or kills its decoder costs
    itself alone. About ``(2 × jobs + 2) × 4 MiB`` of image files are held, more where one is larger.

    Args:
        items: Name and content of each, or a function that reads the content (`OSError` or
            `M2KRError` from it is a fault of the image). Taken by another thread, ahead of the results.
        jobs: Decoder processes; as many as there are cores by default.
        limits: What one image may cost.
        quality: 0 to give files back as they are; else they become RGB JPEG of this quality.

    Raises:
        M2KRError: A decoder process can't be started. What ``items`` raises comes where its image
            would have come.
    """
    jobs = jobs or cores()

    def check(batch: _Batch) -> list[Checked]:
        images, unread = batch
        results = iter(decoders.check(images))
        count = len(images) + len(unread)
        return [unread[i] if i in unread else next(results) for i in range(count)]

    with Decoders(jobs, limits, quality=quality) as decoders:
        results = work_ahead(_batches(items), check, workers=jobs)
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
    images: list[tuple[str, bytes]] = []
    unread: dict[int, Checked] = {}
    size = 0
    for name, source in items:
        try:
            data = source if isinstance(source, bytes) else source()
        except (OSError, M2KRError) as error:
            detail = f"{error}".partition("\n")[0][:200]
            unread[len(images) + len(unread)] = Checked(name, rule=UNREADABLE, detail=detail)
        else:
            images.append((name, data))
            size += len(data)
        if len(images) + len(unread) == _BATCH_IMAGES or size >= _BATCH_BYTES:
            yield images, unread
            images, unread, size = [], {}, 0
    if images or unread:
        yield images, unread
