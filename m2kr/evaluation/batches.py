"""What encoders are given at a time, and what they give back."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from m2kr.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from m2kr.data.records import Passages, Queries

Side = Literal["query", "document"]
# 2-D = one vector a row; a list of 2-D arrays = one (tokens x dim) matrix a row.
Encoded = np.ndarray | list[np.ndarray]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to encode, one position per row in every field.

    Attributes:
        ids: Question or passage ids.
        texts: Questions, or passage texts.
        instructions: The queries' instructions; ``""`` for passages. `m2kr.instructions.join` puts
            instruction and question together as the official evaluation does.
        images: RGB images, None where a row has none; all None unless the side reads images.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    instructions: Sequence[str]
    images: "Sequence[Image | None]"

    def __len__(self) -> int:
        return len(self.ids)


def by_length(window: Sequence[Mapping[str, Any]], side: Side, size: int) -> Iterator[list[int]]:
    """Places of a window's rows in batches of similar length, longest first."""
    fields = ("question", "instruction") if side == "query" else ("passage_content",)
    lengths = [sum(len(row[field]) for field in fields) for row in window]
    order = sorted(range(len(window)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def make(
    records: "Passages | Queries", rows: list[dict[str, Any]], side: Side, with_images: bool
) -> Batch:
    """The batch of some rows, their images decoded if they are read."""
    query = side == "query"
    return Batch(
        ids=[row["question_id" if query else "passage_id"] for row in rows],
        texts=[row["question" if query else "passage_content"] for row in rows],
        instructions=[row["instruction"] if query else "" for row in rows],
        images=[records.image(row) if with_images else None for row in rows],
    )


def check_rows(encoded: Encoded, batch: Batch, where: str) -> None:
    """Refuses what an encoder returned for a batch if it can't be that.

    Raises:
        InputError: it has more or fewer rows, or NaN or infinity in them.
    """
    if len(encoded) != len(batch):
        raise InputError(
            f"returned {len(encoded)} rows for a batch of {len(batch)}",
            where=where,
            expected="one row (or one matrix) for each of batch.ids, in that order",
        )
    for row_id, row in zip(batch.ids, encoded, strict=True):
        if not np.isfinite(row).all():
            raise InputError(
                f"returned NaN or infinity for '{row_id}'", where=where, expected="finite numbers"
            )
