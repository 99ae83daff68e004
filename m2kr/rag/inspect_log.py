"""Readers' answers as logs of evaluations in the JSON form of Inspect AI: one file an arm."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import orjson

from m2kr import atomic
from m2kr._version import __version__
from m2kr.data.lookup import values_at
from m2kr.errors import InputError, plainly
from m2kr.evaluation.result import file_word
from m2kr.evaluation.result_data import open_split
from m2kr.progress import SILENT, Progress, task
from m2kr.rag.arm_scores import Arm, ArmScores
from m2kr.rag.gold import gold_answers
from m2kr.rag.records import DETAIL, NONE, ORACLE, RULE, SCORE
from m2kr.rag.tables import AnswerTable
from m2kr.unicode_halves import mended_text

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray

    from m2kr.data.load import Split
    from m2kr.data.records import Queries
    from m2kr.rag.records import RagResult
    from m2kr.rag.scorer import GoldAnswer

_VERSION = 2  # of the log's form
_AT_ONCE = 256  # questions whose texts are in memory
_COLUMNS = (
    *("question_id", "passage_ids", "answer", "answer_score", "answer_passage_id"),
    *("input_tokens", "output_tokens", "seconds", "dollars", "detail"),
    *("group", "question_type", "task"),
)


def write_inspect_logs(
    result: "RagResult",
    folder: "str | PathLike[str]",
    *,
    data: "str | PathLike[str] | None" = None,
    progress: Progress = SILENT,
) -> list[Path]:
    """Writes a log for each arm of a result, which `inspect_ai.log.read_eval_log` opens.

    A sample is a question. Its first message holds the question and the passages that the reader was given;
    the reader's own prompt, which puts them into its words, is told by its facts. A verdict that a scorer
    could not give is absent, and a score with one has no mean, but its least and its most.

    Args:
        result: The result, with its records beside it.
        folder: Made if need be; files of these names are replaced.
        data: Data root searched first for the split.
        progress: Told of samples.

    Returns:
        Paths of the files.

    Raises:
        M2KRError: The split or the records are not there.
    """
    if result.path is None:
        raise InputError("the result was not saved, so it has no records", where=result.name)
    target = Path(folder)
    split = open_split(result, data=data)
    scores = ArmScores.of(result)
    writer = _Logs(result, split, scores)
    written = []
    with plainly(target), task(progress, "samples", int((scores.rows >= 0).sum())):
        target.mkdir(parents=True, exist_ok=True)
        for place, arm in enumerate(scores.arms):
            path = target / writer.file_name(arm)
            with atomic.writing(path) as aside, atomic.create(aside) as file:
                writer.write(file, place, progress)
                file.flush()
                os.fsync(file.fileno())
            written.append(path)
    return written


class _Logs:
    """Writes the logs of one result."""

    def __init__(self, result: "RagResult", split: "Split", scores: ArmScores) -> None:
        self._result, self._split, self._scores = result, split, scores
        self._records = result.records()
        self._golds = gold_answers(split)
        queries: Queries = split.queries_view
        self._rows = {one: row for row, one in enumerate(queries.ids.to_pylist())}
        self._questions = queries.column("question")
        names = queries.table.column_names
        self._images = queries.column("img_path") if "img_path" in names else None
        self._texts = split.passages_view.table.column("passage_content")
        self._model = f"m2kr/{result.reader['name']}"
        self._table = AnswerTable.of(result)
        path = result.records_path
        assert path is not None
        stamp = datetime.fromtimestamp(path.stat().st_mtime, UTC)  # when it was answered
        self._created = stamp.isoformat(timespec="seconds")

    def file_name(self, arm: Arm) -> str:
        """As Inspect names its logs, time first: those of other names its viewer doesn't list."""
        stem, _, digits = self._result.name.rpartition(".")
        kind = arm.kind if arm.kind == NONE else f"{arm.kind}-{arm.k}"
        when = self._created.replace(":", "-")
        return f"{when}_{file_word(stem.replace('.', '-'))}-{kind}_{digits}.json"

    def write(self, file: BinaryIO, place: int, progress: Progress) -> None:
        """One arm's log, sample by sample."""
        rows = self._scores.rows[:, place]
        header = orjson.dumps(_fit_json(self._header(place, rows)))
        file.write(header[:-1] + b',"samples":[')
        first = True
        asked = rows[rows >= 0]
        for start in range(0, len(asked), _AT_ONCE):
            for sample in self._samples(asked[start : start + _AT_ONCE]):
                file.write((b"\n" if first else b",\n") + orjson.dumps(_fit_json(sample)))
                first = False
                progress.advance("samples", 1)
        file.write(b"]}\n")

    def _header(self, place: int, rows: "NDArray[np.int64]") -> dict[str, Any]:
        result, arm = self._result, self._scores.arms[place]
        ids = [one for one, row in zip(self._scores.question_ids, rows, strict=True) if row >= 0]
        name = f"{result.source}/{result.split}"
        plan: list[dict[str, Any]] = []
        if arm.kind not in (NONE, ORACLE) and result.retriever is not None:
            plan.append({"solver": "m2kr/retrieval", "params": dict(result.retriever)})
        elif arm.kind == ORACLE:
            plan.append({"solver": "m2kr/right_passages", "params": {"k": arm.k}})
        plan.append({"solver": "m2kr/reader", "params": dict(result.reader)})
        usage = self._usage(rows)
        return {
            "version": _VERSION,
            "status": "success",
            "eval": {
                "eval_id": f"{result.name}.{arm.label}",
                "run_id": result.name,
                "created": self._created,
                "task": f"{name} {arm.label}",
                "task_id": f"{result.name}.{arm.label}",
                "task_args": {"arm": arm.kind, "k": arm.k},
                "dataset": {
                    "name": name,
                    "location": str(self._split.folder),
                    "samples": len(ids),
                    "sample_ids": ids,
                    "shuffled": False,
                },
                "model": self._model,
                "model_args": dict(result.reader.get("facts") or {}),
                "config": {"epochs": 1},
                "packages": {"m2kr": __version__},
                "metadata": {
                    "edition": result.edition,
                    "fingerprints": dict(result.fingerprints),
                    "comparable": result.comparable,
                    "partial": result.partial,
                    "notes": list(result.notes),
                },
            },
            "plan": {"name": "m2kr rag", "steps": plan},
            "results": {
                "total_samples": len(ids),
                "completed_samples": len(ids),
                "scores": [self._score(scorer, arm) for scorer in self._scores.scores],
            },
            "stats": {
                "started_at": "",
                "completed_at": self._created,
                "model_usage": {self._model: usage} if usage else {},
            },
        }

    def _score(self, scorer: str, arm: Arm) -> dict[str, Any]:
        cell = self._table.cell(scorer, arm.label)
        values: dict[str, float | None] = {}
        if cell is not None and cell.value is not None:
            values = {"mean": cell.value, "low": cell.low, "high": cell.high}
        elif cell is not None:
            values = {"least": cell.least, "most": cell.most}
        for figure, of_arms in self._table.figures.get(scorer, {}).items():
            values.setdefault(figure, of_arms.get(arm.label, {}).get("value"))
        return {
            "name": scorer,
            "scorer": scorer,
            "scored_samples": cell.judged if cell else 0,
            "unscored_samples": cell.not_judged if cell else 0,
            "params": dict(self._result.scorers[scorer]),
            "metrics": {
                name: {"name": name, "value": value}
                for name, value in values.items()
                if value is not None
            },
        }

    def _usage(self, rows: "NDArray[np.int64]") -> dict[str, Any] | None:
        """The sums of an arm's tokens and dollars; None if they are not all known."""
        taken = self._records.take(rows[rows >= 0])
        sums: dict[str, Any] = {}
        for name in ("input_tokens", "output_tokens", "dollars"):
            column = taken.column(name)
            if column.null_count:
                return None
            sums[name] = sum(column.to_pylist())
        return _tokens(sums["input_tokens"], sums["output_tokens"], sums["dollars"])

    def _samples(self, rows: "NDArray[np.int64]") -> Iterator[dict[str, Any]]:
        scorers = list(self._scores.scores)
        columns = [*_COLUMNS, *(p + n for n in scorers for p in (SCORE, RULE, DETAIL))]
        names = [name for name in columns if name in self._records.column_names]
        records = self._records.select(names).take(rows).to_pylist()
        given = list(dict.fromkeys(p for record in records for p in record["passage_ids"] or ()))
        texts = dict(zip(given, self._passage_texts(given), strict=True))
        for record in records:
            yield self._sample(record, texts, scorers)

    def _passage_texts(self, ids: Sequence[str]) -> list[str | None]:
        import pyarrow as pa

        rows = self._split.passages_view.row_numbers(pa.array(ids, pa.string()))
        texts = values_at(self._texts, rows.clip(0)) if len(ids) else []
        return [text if row >= 0 else None for text, row in zip(texts, rows.tolist(), strict=True)]

    def _sample(
        self, record: Mapping[str, Any], texts: Mapping[str, str | None], scorers: Sequence[str]
    ) -> dict[str, Any]:
        one = record["question_id"]
        row = self._rows.get(one)
        question = (self._questions[row] if row is not None else "") or ""
        passages = record["passage_ids"] or []
        parts = [question]
        parts += [f"[{n}] {texts[p] or ''}" for n, p in enumerate(passages, 1)]
        answer = record["answer"] or ""
        said = {"role": "assistant", "content": answer, "source": "generate", "model": self._model}
        usage = None
        if record["input_tokens"] is not None and record["output_tokens"] is not None:
            usage = _tokens(record["input_tokens"], record["output_tokens"], record["dollars"])
        image = self._images[row] if self._images is not None and row is not None else None
        metadata = {
            "passage_ids": passages,
            "answer_passage_id": record["answer_passage_id"],
            "answer_score": record["answer_score"],
            "image": image,
            "group": record["group"],
            "question_type": record["question_type"],
            "task": record["task"],
            "dollars": record["dollars"],
            "detail": _parsed(record["detail"]),
        }
        return {
            "id": one,
            "epoch": 1,
            "input": question,
            "target": _targets(self._golds.get(one)),
            "messages": [
                {"role": "user", "content": "\n\n".join(parts), "source": "input"},
                said,
            ],
            "output": {
                "model": self._model,
                "choices": [{"message": said, "stop_reason": "unknown"}],
                "completion": answer,
                "usage": usage,
                "time": record["seconds"],
            },
            "scores": {
                name: {
                    "value": record[SCORE + name],
                    "answer": answer,
                    "explanation": record.get(RULE + name),
                    "metadata": _parsed(record.get(DETAIL + name)) or None,
                }
                for name in scorers
                if record[SCORE + name] is not None
            },
            "metadata": {key: value for key, value in metadata.items() if value not in (None, {})},
        }


def _tokens(tokens_in: int, tokens_out: int, dollars: float | None) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }
    return usage | ({"total_cost": dollars} if dollars else {})


def _targets(gold: "GoldAnswer | None") -> list[str]:
    if gold is None:
        return []
    answers = [answer for answer in dict.fromkeys(gold.answers) if answer.strip()]
    if gold.value is not None:
        answers.append(f"{gold.value:g}")
    return answers


def _parsed(text: str | None) -> dict[str, Any]:
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {"detail": value}


def _fit_json(value: Any) -> Any:
    """Values that every JSON reader takes: no halves of characters, no numbers but finite ones."""
    if isinstance(value, str):
        return mended_text(value)
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {mended_text(str(key)): _fit_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fit_json(item) for item in value]
    return value
