"""What encoders are given at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from m2kr.retrieval.protocol import Side, UndeclaredImages

if TYPE_CHECKING:
    from PIL.Image import Image

    from m2kr.data.records import Passages, Queries

    Images = Sequence[Image | None]


class Batch:
    """Rows to encode, one position per row in every field.

    Args:
        ids: Question or passage ids.
        texts: Questions, or passage texts.
        instructions: The queries' instructions; ``""`` for passages. `m2kr.instructions.join` puts
            instruction and question together as the official evaluation does.
        images: RGB images, None where a row has none; or a function that gives them when they are
            first asked for.
    """

    __slots__ = ("_images", "ids", "instructions", "texts")

    def __init__(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        instructions: Sequence[str],
        images: "Images | Callable[[], Images]",
    ) -> None:
        self.ids, self.texts, self.instructions = ids, texts, instructions
        self._images = images

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def images(self) -> "Images":
        """RGB images, None where a row has none; they are decoded when they are first asked for.

        Raises:
            InputError: the retriever doesn't declare that it reads images on this side, so that none
                were looked for; says how to declare it. Or an image is damaged.
            MissingError: a row names an image that no root holds (policy ``error``).
        """
        if callable(self._images):
            self._images = self._images()
        return self._images


def by_length(window: Sequence[Mapping[str, Any]], side: Side, size: int) -> Iterator[list[int]]:
    """Places of a window's rows in batches of similar length, longest first."""
    fields = ("question", "instruction") if side == "query" else ("passage_content",)
    lengths = [sum(len(row[field]) for field in fields) for row in window]
    order = sorted(range(len(window)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def make(records: "Passages | Queries", rows: list[dict[str, Any]], side: Side) -> Batch:
    """The batch of some rows."""
    query = side == "query"
    return Batch(
        ids=[row["question_id" if query else "passage_id"] for row in rows],
        texts=[row["question" if query else "passage_content"] for row in rows],
        instructions=[row["instruction"] if query else "" for row in rows],
        images=partial(_images, records, rows),
    )


def _images(records: "Passages | Queries", rows: list[dict[str, Any]]) -> "Images":
    images: object = records.images
    if isinstance(images, UndeclaredImages):
        images.refuse()
    return [records.image(row) for row in rows]
