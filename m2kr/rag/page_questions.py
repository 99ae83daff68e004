"""The questions of a page of answers as data that it reads in blocks: see `m2kr.report.page.queries`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from m2kr.data.records import Queries
from m2kr.display import fit_for_html as fit
from m2kr.progress import Progress, task
from m2kr.rag.arm_scores import GROUPINGS, NO_VALUE, ArmScores
from m2kr.rag.gold import gold_answers
from m2kr.rag.records import DETAIL, RULE, SCORE
from m2kr.report.page.queries import (
    LISTED,
    LONGEST,
    MOST,
    MOST_ANSWERS,
    RANKED,
    PagePassages,
    filter_columns,
    query_column,
    right_passage_rows,
    value_filters,
)
from m2kr.report.page.thumbnails import Thumbnails

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.data.load import Split
    from m2kr.rag.records import RagResult
    from m2kr.rag.scorer import GoldAnswer
    from m2kr.report.page.data_files import DataFiles

_LONGEST_DETAIL = 1_500  # characters
_TEXTS = ("question_id", "answer", "answer_passage_id", "passage_ids", "detail")
_NUMBERS = ("answer_score", "input_tokens", "output_tokens", "seconds", "dollars")


@dataclass(frozen=True)
class ShownArm:
    """One arm of one result as a page shows it.

    Attributes:
        label: Its name there.
        result: The result.
        scores: Its scores.
        arm: Its place among their arms.
        reader: A number that arms of the same reader share.
    """

    label: str
    result: "RagResult"
    scores: ArmScores
    arm: int
    reader: int = 0


def write_questions(
    split: "Split",
    arms: Sequence[ShownArm],
    files: "DataFiles",
    folder: str,
    progress: Progress,
) -> dict[str, Any]:
    """Writes what a page shows of each question that some arm was asked, in the split's order.

    Memory is that of the records, and of a block's texts.

    Args:
        split: Whose questions and passages they are.
        arms: Whose answers are shown, in their order.
        files: Where to.
        folder: Name of the folder.
        progress: Told of images and questions.

    Returns:
        What was left out, as `m2kr.report.page.queries.write_queries` says.
    """
    rows = _asked(split, arms)
    queries = Queries(split.queries_view.table.take(pa.array(rows[:MOST], pa.int64())))
    ids = queries.ids.to_pylist()
    tables = _Records(arms, ids)
    golds = gold_answers(split)
    paths = query_column(queries, "img_path")
    thumbnails = Thumbnails(split.images, files, folder, len(set(paths) - {None}), progress)
    images = thumbnails.numbers(paths)
    right, _ = right_passage_rows(split, queries)
    passages = PagePassages(split, files, folder, thumbnails)
    with task(progress, "questions", len(ids)):
        for start in range(0, len(ids), RANKED):
            block = slice(start, min(start + RANKED, len(ids)))
            data = _passages_of(split, tables, passages, right, golds, ids, block)
            files.write(f"{folder}/hits-{start // RANKED}", data)
            progress.advance("questions", block.stop - start)
    starts = passages.close()
    thumbnails.close()
    filters, codes = value_filters(_filters(split, queries, arms, ids))
    rules: dict[str, int] = {}
    for start in range(0, len(ids), LISTED):
        block = slice(start, min(start + LISTED, len(ids)))
        listed = {
            "id": [fit(one) for one in ids[block]],
            "question": [fit(one or "") for one in queries.column("question")[block]],
            "answers": [_accepted(golds.get(one)) for one in ids[block]],
            "image": images[block],
            "filters": {name: values[block] for name, values in codes.items()},
        } | tables.listed(block, rules)
        files.write(f"{folder}/list-{start // LISTED}", listed)
    files.write(
        f"{folder}/meta",
        {
            "count": len(ids),
            "listed": LISTED,
            "ranked": RANKED,
            "texts": starts,
            "filters": filters,
            "rules": [fit(rule) for rule in rules],
        },
    )
    return {
        "queries_left_out": max(0, len(rows) - MOST),
        "images_missing": thumbnails.missing,
        "images_left_out": thumbnails.left_out,
        "texts_cut": passages.cut,
        "faults": [],
    }


def _asked(split: "Split", arms: Sequence[ShownArm]) -> list[int]:
    """Rows of the questions that some arm was asked, in the split's order."""
    asked = {one for shown in arms for one in shown.scores.question_ids}
    ids = split.queries_view.ids.to_pylist()
    return [row for row, one in enumerate(ids) if one in asked]


class _Records:
    """The arms' answers to some questions, by block of them."""

    def __init__(self, arms: Sequence[ShownArm], ids: Sequence[str]) -> None:
        self.arms = arms
        self.scorers = list(dict.fromkeys(n for shown in arms for n in shown.scores.scores))
        self._rows: list[NDArray[np.int64]] = []
        self._tables: dict[int, pa.Table] = {}
        for shown in arms:
            places = {one: place for place, one in enumerate(shown.scores.question_ids)}
            of = np.array([places.get(one, -1) for one in ids], np.int64)
            arm_rows = shown.scores.rows[:, shown.arm]
            self._rows.append(np.where(of >= 0, arm_rows[of], -1))
            if id(shown.scores) not in self._tables:
                self._tables[id(shown.scores)] = shown.result.records()

    def taken(self, arm: int, block: slice, columns: Sequence[str]) -> list[dict[str, Any] | None]:
        """Of each question of a block some columns of its record; None where it has none."""
        rows = self._rows[arm][block]
        there = rows >= 0
        table = self._tables[id(self.arms[arm].scores)]
        names = [name for name in columns if name in table.column_names]
        told = iter(table.select(names).take(pa.array(rows[there])).to_pylist())
        return [next(told) if one else None for one in there]

    def listed(self, block: slice, rules: dict[str, int]) -> dict[str, Any]:
        """What the list shows: distinct answers of each question, which arm gave which, and verdicts."""
        said: list[dict[str, int]] = [{} for _ in range(block.stop - block.start)]
        which: list[list[int]] = []
        scores: dict[str, list[list[float | None]]] = {name: [] for name in self.scorers}
        codes: dict[str, list[list[int]]] = {name: [] for name in self.scorers}
        columns = ["answer", *(p + n for n in self.scorers for p in (SCORE, RULE))]
        for arm in range(len(self.arms)):
            records = self.taken(arm, block, columns)
            of_arm = []
            for texts, record in zip(said, records, strict=True):
                if record is None:
                    of_arm.append(-1)
                    continue
                text = fit(record["answer"] or "")
                text = text if len(text) <= LONGEST else text[:LONGEST] + "…"
                of_arm.append(texts.setdefault(text, len(texts)))
            which.append(of_arm)
            for name in self.scorers:
                values = [None if r is None else r.get(SCORE + name) for r in records]
                scores[name].append([None if v is None else round(v, 4) for v in values])
                told = [None if r is None else r.get(RULE + name) for r in records]
                codes[name].append(
                    [-1 if rule is None else rules.setdefault(rule, len(rules)) for rule in told]
                )
        return {
            "said": [list(texts) for texts in said],
            "which": which,
            "scores": [scores[name] for name in self.scorers],
            "rules": [codes[name] for name in self.scorers],
        }


def _accepted(gold: "GoldAnswer | None") -> list[str]:
    """The accepted answers as people read them: each once, and a number with its range."""
    if gold is None:
        return []
    answers = [fit(answer.strip()) for answer in dict.fromkeys(gold.answers) if answer.strip()]
    if gold.value_range is not None:
        low, high = gold.value_range
        answers.append(f"{low:g} to {high:g}")
    elif gold.value is not None:
        answers.append(f"{gold.value:g}")
    return answers[:MOST_ANSWERS]


def _passages_of(
    split: "Split",
    records: _Records,
    passages: PagePassages,
    right: "Sequence[NDArray[np.int64]]",
    golds: "Mapping[str, GoldAnswer]",
    ids: Sequence[str],
    block: slice,
) -> dict[str, Any]:
    """Of each arm and question of a block the passages, which one it was read from, and what it took."""
    details = [DETAIL + name for name in records.scorers]
    taken = [
        records.taken(arm, block, [*_TEXTS, *_NUMBERS, *details])
        for arm in range(len(records.arms))
    ]
    names = dict.fromkeys(
        p for of in taken for r in of if r is not None for p in r["passage_ids"] or ()
    )
    vocabulary = list(names)
    of_name = dict(zip(vocabulary, _row_numbers(split, vocabulary), strict=True))
    met: dict[int, None] = {}
    for place in range(block.stop - block.start):  # so that a question's passages lie together
        met.update(dict.fromkeys(right[block.start + place].tolist()))
        for of in taken:
            record = of[place]
            if record is not None:
                met.update(dict.fromkeys(of_name[p] for p in record["passage_ids"] or ()))
    met.pop(-1, None)
    passages.take(np.array(list(met), np.int64))
    holding = _holding(passages, taken, of_name, golds, ids[block])
    return {
        "passages": [
            [
                []
                if r is None
                else [_numbered(passages, of_name[p]) for p in r["passage_ids"] or ()]
                for r in of
            ]
            for of in taken
        ],
        "read": [[-1 if r is None else _place_read(r) for r in of] for of in taken],
        "holding": holding,
        "right": [passages.number[rows].tolist() for rows in right[block]],
        "numbers": [
            [None if r is None else [r.get(name) for name in _NUMBERS] for r in of] for of in taken
        ],
        "details": [
            [
                None if r is None else [_shown_detail(r.get(name)) for name in ("detail", *details)]
                for r in of
            ]
            for of in taken
        ],
    }


def _row_numbers(split: "Split", ids: Sequence[str]) -> list[int]:
    rows: list[int] = split.passages_view.row_numbers(pa.array(ids, pa.string())).tolist()
    return rows


def _numbered(passages: PagePassages, row: int) -> int:
    return int(passages.number[row]) if row >= 0 else -1


def _place_read(record: Mapping[str, Any]) -> int:
    """The place among its passages of the one that an answer was read from; -1 if it isn't known."""
    given = record["passage_ids"] or []
    return given.index(record["answer_passage_id"]) if record["answer_passage_id"] in given else -1


def _holding(
    passages: PagePassages,
    taken: Sequence[Sequence[Mapping[str, Any] | None]],
    of_name: Mapping[str, int],
    golds: "Mapping[str, GoldAnswer]",
    ids: Sequence[str],
) -> list[list[int]]:
    """Per question the passages that hold an accepted answer, as pseudo recall finds them."""
    holding = []
    for place, question in enumerate(ids):
        gold = golds.get(question)
        accepted = {a.strip().lower() for a in gold.answers} - {""} if gold else set()
        rows = {
            of_name[p]
            for of in taken
            if (record := of[place]) is not None
            for p in record["passage_ids"] or ()
        } - {-1}
        holding.append(
            sorted(
                int(passages.number[row])
                for row in rows
                if any(answer in passages.lowered[row] for answer in accepted)
            )
        )
    return holding


def _shown_detail(text: str | None) -> str:
    """A JSON object laid out for reading; empty if there is none."""
    if not text:
        return ""
    try:
        laid_out = json.dumps(json.loads(text), ensure_ascii=False, indent=1)
    except ValueError:
        laid_out = text
    laid_out = fit(laid_out)
    return laid_out if len(laid_out) <= _LONGEST_DETAIL else laid_out[:_LONGEST_DETAIL] + " …"


def _filters(
    split: "Split", queries: Queries, arms: Sequence[ShownArm], ids: Sequence[str]
) -> Iterator[tuple[str, list[str], bool]]:
    """The split's columns, and those of the records that it hasn't."""
    met: dict[str, list[str]] = {}
    for name, values, is_group in filter_columns(split, queries):
        met[name] = values
        yield name, values, is_group
    for name in GROUPINGS:
        told: dict[str, str] = {}
        for shown in arms:
            groups = shown.scores.groups.get(name)
            if groups:
                told |= dict(zip(shown.scores.question_ids, groups, strict=True))
        values = [told.get(one, NO_VALUE) for one in ids]
        if told and name not in met and values not in met.values():
            yield name, values, True
