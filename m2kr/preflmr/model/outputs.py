"""What the model's methods return; the fields' names and order are the official ones."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class QueryOutput(NamedTuple):
    """Queries as rows.

    Attributes:
        pooler_output: Row 0 before normalisation, (B x dim).
        late_interaction_output: Unit rows, or zero rows for tokens that don't count:
            text, then per image its prefix, then patches; (B x rows x dim).
    """

    pooler_output: "Tensor"
    late_interaction_output: "Tensor"


class ContextOutput(NamedTuple):
    """Documents as rows.

    Attributes:
        pooler_output: Row 0, normalised, (B x dim).
        late_interaction_output: Unit or zero rows, image rows before text rows: (B x rows x dim), or
            a list of (rows that count x dim) where ``keep_dims`` is false.
        context_mask: Bool, (B x rows x 1), False for rows that don't count; None if not asked for.
    """

    pooler_output: "Tensor"
    late_interaction_output: "Tensor | list[Tensor]"
    context_mask: "Tensor | None"


class RetrievalOutput(NamedTuple):
    """One training step's scores and losses.

    Attributes:
        loss: What to minimise: cross-entropy of each query over all documents of the batch, or over
            its own documents where in-batch negatives are off.
        scores: (B x 1+n), the positive's first.
        in_batch_negative_loss: ``loss`` again with in-batch negatives, None without.
        query_late_interaction_output: (B x rows x dim).
        context_late_interaction_output: (B(1+n) x rows x dim).
    """

    loss: "Tensor"
    scores: "Tensor"
    in_batch_negative_loss: "Tensor | None"
    query_late_interaction_output: "Tensor"
    context_late_interaction_output: "Tensor"
