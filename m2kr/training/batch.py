"""What one micro-batch of training is made of."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Drawn(NamedTuple):
    """A passage that a visit draws.

    Attributes:
        share: Number of the source in the mixture whose pool it is of.
        row: Its row there.
        origin: ``positive``, ``uniform`` or ``mined``.
    """

    share: int
    row: int
    origin: str


class Visit(NamedTuple):
    """One query met in training.

    Attributes:
        number: Which visit this is since training began, over all ranks.
        share: Number of the query's source in the mixture.
        row: The query's row there.
        passages: One positive, then the negatives.
    """

    number: int
    share: int
    row: int
    passages: tuple[Drawn, ...]


@dataclass(frozen=True, slots=True)
class FrozenText:
    """What the frozen first layers of a text encoder made of some texts.

    Attributes:
        hidden: (texts x tokens x hidden), after the last frozen layer.
        layer: The layer that comes next; the number of layers where all are frozen.
    """

    hidden: "Tensor"
    layer: int


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """B queries, each with one positive passage, then n negatives.

    Attributes:
        query_ids: int64, (B x query tokens).
        query_attended: int64, the same shape: 1 for tokens to attend to.
        passage_ids: int64, (B(1+n) x passage tokens), a query's passages together, its positive first.
        passage_attended: int64, the same shape.
        passage_keys: int64, (B(1+n),): equal for the same passage, in whatever batch of whatever rank.
        positive_keys: int64, (B x P): keys of all passages that are right for a query, filled with -1.
        pixel_values: float32, (B x 3 x size x size), a query without image shows the black one; None
            where features are given, or the model reads no images.
        image_features: (B x hidden), in place of pixels.
        patch_features: (B x patches x hidden), with them.
        teacher_scores: float32, (B x 1+n), NaN where the teacher has none; None without a teacher.
        query_text: In place of what the query text encoder's frozen layers make of ``query_ids``.
        passage_text: Of the passages likewise.
        visits: Where all this is from.
    """

    query_ids: "Tensor"
    query_attended: "Tensor"
    passage_ids: "Tensor"
    passage_attended: "Tensor"
    passage_keys: "Tensor"
    positive_keys: "Tensor"
    pixel_values: "Tensor | None" = None
    image_features: "Tensor | None" = None
    patch_features: "Tensor | None" = None
    teacher_scores: "Tensor | None" = None
    query_text: FrozenText | None = None
    passage_text: FrozenText | None = None
    visits: tuple[Visit, ...] = ()

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.query_ids)

    @property
    def passages_per_query(self) -> int:
        """1 + n."""
        return len(self.passage_ids) // len(self)

    def part(self, start: int, stop: int) -> Self:
        """The queries from ``start`` to ``stop`` with their passages, as a batch of its own."""
        n = self.passages_per_query
        cut = {}
        for each in fields(self):
            value, by = getattr(self, each.name), n if each.name.startswith("passage_") else 1
            if isinstance(value, FrozenText):
                value = FrozenText(value.hidden[start * by : stop * by], value.layer)
            elif value is not None:
                value = value[start * by : stop * by]
            cut[each.name] = value
        return type(self)(**cut)

    def to(self, device: "torch.device | str") -> Self:
        """The same on a device."""
        moved = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, FrozenText):
                value = FrozenText(value.hidden.to(device, non_blocking=True), value.layer)
            elif value is not None and each.name != "visits":
                value = value.to(device, non_blocking=True)
            moved[each.name] = value
        return type(self)(**moved)
