"""What the baselines make of a query: its text, and no ranking where it gives them nothing."""

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from m2kr.retrieval.run import Run

if TYPE_CHECKING:
    from m2kr.data.records import Queries

_READ = 1000  # queries at a time


def query_text(question: str, instruction: str) -> str:
    """The question, or the instruction where there is none.

    An image-to-text query has no question; its instruction is all that a text-only system can read,
    and it says nothing about the image. So a text-only score there is the honest floor.
    """
    return question.strip() or instruction.strip()


def textless(queries: "Queries") -> set[str]:
    """Ids of the queries that have neither question nor instruction."""
    return {
        row["question_id"]
        for rows in queries.batches(_READ)
        for row in rows
        if not query_text(row["question"], row["instruction"])
    }


def imageless(queries: "Queries") -> set[str]:
    """Ids of the queries whose image a retriever is not given.

    Asked of the table: rows that were encoded before are not encoded again.
    """
    images, ids = queries.images, queries.ids.to_pylist()
    return {
        query_id
        for query_id, path in zip(ids, queries.column("img_path"), strict=True)
        if path is None or images is None or (images.missing == "skip" and not images.exists(path))
    }


def without_rankings(run: Run, query_ids: AbstractSet[str]) -> Run:
    """The run with no passages for some of its queries."""
    ranked = run.select([query_id for query_id in run.query_ids if query_id not in query_ids])
    return ranked.with_empty(sorted(query_ids)).select(run.query_ids)
