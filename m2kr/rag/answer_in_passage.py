"""How often an accepted answer is in the first passages of a run: what a reader could copy at most."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from m2kr.data.lookup import values_at
from m2kr.errors import CheckError
from m2kr.evaluation.answer_ranks import AnswersInTexts
from m2kr.evaluation.significance import bootstrap_interval
from m2kr.rag.gold import gold_answers
from m2kr.rag.record_files import first_ids
from m2kr.rag.scorer import GoldAnswer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.data.load import Split
    from m2kr.retrieval.run import Run


@dataclass(frozen=True, slots=True)
class AnswersInPassages:
    """At which rank each question's first passage with an accepted answer stands.

    Attributes:
        question_ids: Of the questions with an accepted answer that isn't blank.
        within: Per question that rank (from 1) as pseudo recall finds answers, within words, too; infinity
            if there is none.
        words: The same of whole words: no letter or digit goes on before or after the answer.
    """

    question_ids: tuple[str, ...]
    within: "NDArray[np.float64]"
    words: "NDArray[np.float64]"

    def shares(self, k: int) -> dict[str, dict[str, float | int | None]]:
        """The share of questions with an answer in the first ``k`` passages, with its 95 % interval.

        By ``within`` and ``words``: ``value, low, high`` (None of no question) and ``n``.
        """
        return {
            "within": _share(self.within <= k),
            "words": _share(self.words <= k),
        }


def answers_in_passages(
    split: "Split",
    run: "Run",
    golds: Mapping[str, GoldAnswer] | None = None,
) -> AnswersInPassages:
    """Where a run's passages hold accepted answers.

    Found as pseudo recall finds them (``answer.strip().lower() in text.lower()``), and beside that as whole
    words. Unlike pseudo recall's, blank answers are in no text. For a reader that copies it is an upper
    bound; one that knows the answer, or infers it, can be above.

    Args:
        split: The split; its pool must have the run's passages.
        run: Rankings of its queries; a query that it lacks has no passages.
        golds: Accepted answers by question; the split's if absent.

    Raises:
        CheckError: the run names passages that the pool lacks.
    """
    golds = gold_answers(split) if golds is None else golds
    answers = {i: _not_blank(gold.answers) for i, gold in golds.items()}
    ids = [i for i, accepted in answers.items() if accepted]
    rows = split.passage_rows(run.vocabulary.to_pylist())
    if (rows < 0).any():
        lost = run.vocabulary.filter(pc.less(rows, 0)).to_pylist()
        raise CheckError(
            f"{len(lost):,} passages of the run are not in the pool: {first_ids(lost)}",
            where=f"run '{run.name}' on {split.label}",
            expected="a run over the passages of this split",
        )
    column = split.passages_view.table.column("passage_content")
    within, words = np.full(len(ids), np.inf), np.full(len(ids), np.inf)
    place = {i: n for n, i in enumerate(ids)}
    # The run's own order of queries, those without an answer as such.
    found = AnswersInTexts(
        [answers.get(query, []) for query in run.query_ids],
        lambda places: values_at(column, rows[places]),
    ).first_ranks(run)
    for query, *ranks in zip(run.query_ids, *found, strict=True):
        if query in place:
            within[place[query]], words[place[query]] = ranks
    return AnswersInPassages(tuple(ids), within, words)


def _not_blank(answers: Iterable[str]) -> list[str]:
    return [answer for answer in dict.fromkeys(answers) if answer.strip()]


def _share(hits: "NDArray[np.bool_]") -> dict[str, float | int | None]:
    if not len(hits):
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = bootstrap_interval(hits.astype(np.float64))
    return {"value": float(hits.mean()), "low": low, "high": high, "n": len(hits)}
