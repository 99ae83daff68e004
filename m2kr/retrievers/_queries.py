"""What the baselines make of a query: its text, and no ranking where it gives them nothing."""

from collections.abc import Set as AbstractSet

import numpy as np
import pyarrow as pa

from m2kr.retrieval.run import Run


def query_text(question: str, instruction: str) -> str:
    """The question, or the instruction where there is none.

    An image-to-text query has no question; its instruction is all that a text-only system can read,
    and it says nothing about the image. So a text-only score there is the honest floor.
    """
    return question.strip() or instruction.strip()


def without_rankings(run: Run, query_ids: AbstractSet[str]) -> Run:
    """The run with no passages for some of its queries."""
    if not query_ids:
        return run
    kept = np.array([query_id not in query_ids for query_id in run.query_ids], bool)
    rows = np.repeat(kept, run.counts())
    ids = pa.DictionaryArray.from_arrays(run.codes[rows], run.vocabulary)
    counts = np.where(kept, run.counts(), 0)
    return Run(
        run.query_ids, counts, ids, run.flat_scores[rows], name=run.name, metadata=run.metadata
    )
