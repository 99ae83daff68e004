"""Rows of like length in batches of bounded size, and their results back in order.

Rows are gathered into windows, sorted by length inside a window, and cut into batches that a budget of
tokens bounds. How far a row is padded depends on its own length alone, so that equal texts come out
equal whatever stands beside them, and equal rows of a window are encoded once.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from concurrent.futures import Future

    from numpy.typing import NDArray
    from torch import Tensor

    from m2kr.preflmr.inputs.image_input import ImageSource

_HELD = 128 << 20  # bytes of images given in memory, among which rows are sorted


class TokenRow(NamedTuple):
    """A tokenised text and its image.

    Attributes:
        ids: int64, (tokens,).
        attended: int64, (tokens,): 1 for tokens to attend to.
        image: None where there is none.
    """

    ids: "NDArray[np.int64]"
    attended: "NDArray[np.int64]"
    image: "ImageSource | None"


@dataclass(frozen=True, slots=True)
class Costs:
    """What encoding takes, in tokens.

    Attributes:
        budget: Most of a batch; one row may exceed it.
        image: Of an image in the vision encoder, once for all rows of a batch that show it.
        per_row: Of a row, besides its own tokens: patches that the mapping network reads.
    """

    budget: int
    image: int
    per_row: int

    def of(self, rows: int, width: int, images: int) -> int:
        """The cost of so many rows, padded to ``width``, with so many images."""
        return rows * (width + self.per_row) + images * self.image


@dataclass(slots=True, eq=False)
class RowBatch:
    """Rows of one padded width, all with an image or all without.

    Attributes:
        width: Columns that every row is padded to.
        rows: The distinct rows.
        places: For each row, its places in the window.
        images: The distinct images.
        shown: For each row its image in ``images``; empty where there are none.
        completes: Rows of the window if this is the window's last batch, else 0.
        pixels: Pixel values of ``images``, (1 x channels x size x size) each, being prepared.
    """

    width: int
    rows: list[TokenRow] = field(default_factory=list)
    places: list[list[int]] = field(default_factory=list)
    images: "list[ImageSource]" = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    completes: int = 0
    pixels: "list[Future[Tensor]]" = field(default_factory=list)

    def tensors(self, pad: int) -> "tuple[Tensor, Tensor]":
        """Token ids filled with ``pad`` and attention masks, int64, both (rows x width)."""
        ids = np.full((len(self.rows), self.width), pad, np.int64)
        attended = np.zeros_like(ids)
        for row, (own, mask, _) in enumerate(self.rows):
            ids[row, : len(own)] = own
            attended[row, : len(own)] = mask
        return torch.from_numpy(ids), torch.from_numpy(attended)


def padded(tokens: int, longest: int) -> int:
    """Columns that a text of so many tokens is padded to: at most 7, 15 or 31 more than it needs."""
    step = 8 if tokens <= 128 else 16 if tokens <= 256 else 32
    return min(-(-tokens // step) * step, longest)


def windows(
    chunks: Iterable[list[TokenRow]], tokens: int, held: int = _HELD
) -> Iterator[list[TokenRow]]:
    """Chunks put together until they hold about so many tokens, or bytes of images."""
    window: list[TokenRow] = []
    length = size = 0
    for chunk in chunks:
        window += chunk
        length += sum(len(row.ids) for row in chunk)
        size += sum(row.image.held for row in chunk if row.image is not None)
        if length >= tokens or size >= held:
            yield window
            window, length, size = [], 0, 0
    if window:
        yield window


def plan_batches(
    window: list[TokenRow], width: Callable[[TokenRow], int], costs: Costs
) -> Iterator[RowBatch]:
    """The batches of a window: widest first, rows with an image before those without.

    Rows that show the same image are neighbours, so it enters the vision encoder once, or twice
    where a batch ends between them.
    """
    first_seen: dict[Hashable, int] = {}
    places: dict[tuple[Hashable, bytes, bytes], list[int]] = {}
    for place, row in enumerate(window):
        key = None if row.image is None else row.image.key
        first_seen.setdefault(key, place)
        places.setdefault((key, row.ids.tobytes(), row.attended.tobytes()), []).append(place)

    def order(same: list[int]) -> tuple[int, bool, int, int]:
        row = window[same[0]]
        key = None if row.image is None else row.image.key
        return -width(row), row.image is None, first_seen[key], same[0]

    batch: RowBatch | None = None
    for same in sorted(places.values(), key=order):
        row = window[same[0]]
        if batch is None or not _takes(batch, row, width(row), costs):
            if batch is not None:
                yield batch
            batch = RowBatch(width(row))
        batch.rows.append(row)
        batch.places.append(same)
        if row.image is not None:
            if not batch.images or batch.images[-1].key != row.image.key:
                batch.images.append(row.image)
            batch.shown.append(len(batch.images) - 1)
    if batch is not None:
        batch.completes = len(window)
        yield batch


def _takes(batch: RowBatch, row: TokenRow, width: int, costs: Costs) -> bool:
    if width != batch.width or (row.image is None) == bool(batch.images):
        return False
    images = len(batch.images)
    if row.image is not None and row.image.key != batch.images[-1].key:
        images += 1
    return costs.of(len(batch.rows) + 1, width, images) <= costs.budget


def in_order(
    encoded: "Iterable[tuple[RowBatch, list[NDArray[np.floating]]]]",
) -> "Iterator[NDArray[np.floating]]":
    """Encoded rows in the order of the texts, window by window."""
    found: dict[int, NDArray[np.floating]] = {}
    for batch, matrices in encoded:
        for places, matrix in zip(batch.places, matrices, strict=True):
            found.update(dict.fromkeys(places, matrix))
        if batch.completes:
            yield from (found.pop(place) for place in range(batch.completes))
