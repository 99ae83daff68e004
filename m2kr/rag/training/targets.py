"""Which answer a reader shall learn from a passage."""

from collections.abc import Sequence

from m2kr.evaluation.answers import answer_spans


def target_answer(answers: Sequence[str], gold: str | None, passage: str | None) -> str | None:
    """The answer that an input is trained to give: the paper's ``force_existence``.

    The most frequent of the annotators' answers if it occurs in the passage, else the most frequent
    other one that does, else the gold answer. An answer occurs as in pseudo recall: lower-cased and
    stripped, anywhere in the text. Answers count as equal if they are the same lower-cased and
    stripped; of equally frequent ones the gold answer comes first, then the first of the list. What is
    returned is written as in the list, the first of its spellings.

    Args:
        answers: The annotators', repeated where they agree; blank ones don't count.
        gold: The source's; the most frequent of the others if it is None or blank.
        passage: Its text; None for an input without one.

    Returns:
        The answer, stripped; None if there is none at all.
    """
    spelt: dict[str, str] = {}
    counts: dict[str, int] = {}
    for answer in answers:
        if key := answer.strip().lower():
            spelt.setdefault(key, answer.strip())
            counts[key] = counts.get(key, 0) + 1
    gold = (gold or "").strip()
    ranked = sorted(counts, key=lambda key: (-counts[key], key != gold.lower()))
    for key in ranked if passage else ():
        if answer_spans(passage or "", [key]):
            return spelt[key]
    return gold or (spelt[ranked[0]] if ranked else None)
