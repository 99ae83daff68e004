"""What the baselines make of a query: its text, and no ranking where it gives them nothing."""

from collections.abc import Set as AbstractSet

from m2kr.retrieval.run import Run


def query_text(question: str, instruction: str) -> str:
    """The question, or the instruction where there is none.

    An image-to-text query has no question; its instruction is all that a text-only system can read,
    and it says nothing about the image. So a text-only score there is the honest floor.
    """
    return question.strip() or instruction.strip()


def without_rankings(run: Run, query_ids: AbstractSet[str]) -> Run:
    """The run with no passages for some of its queries."""
    ranked = run.select([query_id for query_id in run.query_ids if query_id not in query_ids])
    return ranked.with_empty(sorted(query_ids)).select(run.query_ids)
