"""Kinds of questions that sources tell apart."""

EVQA_SINGLE_HOP = ("templated", "automatic")
EVQA_TYPES = (*EVQA_SINGLE_HOP, "multi_answer", "2_hop")
UNSEEN = ("unseen_question", "unseen_entity")  # Infoseek's parts


def unseen_part(group: str | None) -> str:
    """Which of `UNSEEN` a part of a split is; empty if it is neither.

    Example:
        >>> unseen_part("val_unseen_entity")
        'unseen_entity'
    """
    return next((part for part in UNSEEN if (group or "").endswith(part)), "")
