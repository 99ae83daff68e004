"""Gold answers: of a built split, or of a file of one's own."""

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.building.userdata.readers import parse_json
from m2kr.errors import InputError
from m2kr.rag.answers_file import answer_text
from m2kr.rag.question_kinds import EVQA_TYPES
from m2kr.rag.record_files import (
    PlacedRow,
    RowFile,
    bare_name,
    column_of,
    first_ids,
    read_row_file,
    rows_by_id,
)
from m2kr.rag.scorer import GoldAnswer

if TYPE_CHECKING:
    from m2kr.data.load import Split

log = logging.getLogger("m2kr.rag")

ANNOTATORS = 10  # of every OK-VQA question; builds leave blank answers out
_MOST_FEWER = 0.01  # of the questions; upstream 36 of 140,550 answers are blank
_AT_ONCE = 4096
_COLUMNS = (
    *("question_id", "question", "answers", "question_type", "answer_eval"),
    *("wikidata_value", "wikidata_range"),
)
_TYPE_NAMES = ("question_type", "type")
_GROUP_NAMES = ("group", "data_split")
_SEVERAL = ";|\n"
_POINTED = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
_GoldReader = Callable[[str, PlacedRow, str | None], GoldAnswer]


def gold_answers(split: "Split") -> dict[str, GoldAnswer]:
    """The gold answers of a built split, in its order; questions without any are left out.

    The group of a question is its value of the first column that the source breaks results down by (not
    the question's type): ``data_split`` of Infoseek, the ``form`` of mini. OK-VQA's annotators are ten: those
    whose blank answers the build left out are blank.
    """
    table = split.queries_view.table
    names = [name for name in _COLUMNS if name in table.column_names]
    group = _group_column(split, table.column_names)
    if group and group not in names:
        names.append(group)
    golds, fewer = dict[str, GoldAnswer](), 0
    for batch in table.select(names).to_batches(max_chunksize=_AT_ONCE):
        for row in batch.to_pylist():
            gold = _of_split_row(row, group, split.source)
            if gold is not None:
                golds[gold.question_id] = gold
                fewer += len(row["answers"]) < ANNOTATORS
    if split.source == "okvqa" and fewer > _MOST_FEWER * len(golds):
        log.warning(
            "%s: %s of %s questions have fewer than ten answers; soft accuracy takes the others for "
            "annotators who gave none, and is too low if equal answers were left out",
            split.label,
            f"{fewer:,}",
            f"{len(golds):,}",
        )
    return golds


def _group_column(split: "Split", present: Sequence[str]) -> str | None:
    columns = split.manifest["source"].get("groups", ())
    usual = [name for name in columns if name not in ("question_type", "task") and name in present]
    return usual[0] if usual else None


def _of_split_row(row: Mapping[str, Any], group: str | None, source: str) -> GoldAnswer | None:
    answers = list(row["answers"] or ())
    if source == "okvqa":
        answers += [""] * (ANNOTATORS - len(answers)) if answers else []
    else:
        answers += [form for form in row.get("answer_eval") or () if form not in answers]
    # Frames write NaN where there is no number.
    bounds = [number for number in row.get("wikidata_range") or () if _is_number(number)]
    value = row.get("wikidata_value") if _is_number(row.get("wikidata_value")) else None
    if not any(map(str.strip, answers)) and value is None:
        return None
    return GoldAnswer(
        row["question_id"],
        row["question"],
        tuple(answers),
        row.get("question_type"),
        row[group] if group else None,
        value,
        _pair(bounds),
    )


@dataclass(frozen=True, slots=True)
class GoldFile:
    """The gold answers of a file.

    Attributes:
        golds: By id, in its order.
        without: Ids of questions without a gold answer.
        form: Whose form it has, for the scorers: ``okvqa``, ``infoseek`` (also rows of one's own with a value
            or a range), ``evqa`` (by its question types) or ``own``.
    """

    golds: Mapping[str, GoldAnswer]
    without: frozenset[str]
    form: str


def read_gold_file(path: Path, *, types: Path | None = None) -> GoldFile:
    """Gold answers from a file: VQA's annotations, Infoseek's JSON lines, or rows of one's own.

    Rows of one's own have ``question_id``, ``answers`` (a list, its JSON text, or one answer), or ``answer``,
    and, where they know them, ``question``, ``question_type``, ``group``, ``value`` and ``value_range``.
    Rows of E-VQA's CSV files, known by their question types, part answers by ``|``; ids must be added.
    Files are those that `m2kr.rag.record_files.read_row_file` reads; VQA's may be zipped.

    Args:
        path: The file.
        types: Infoseek's file of question types (``data_id``, ``question_type``), or any such table.

    Raises:
        MissingError: there is no such file.
        InputError: it can't be read, or a question is there twice.
    """
    file = read_row_file(path)
    form = _form_of(file)
    kinds = _types(types) if types is not None else {}
    id_column = "question_id" if form == "okvqa" else "data_id" if form == "infoseek" else None
    read: _GoldReader = (
        _of_annotation
        if form == "okvqa"
        else _of_infoseek
        if form == "infoseek"
        else _OwnRows(file).gold
    )
    golds: dict[str, GoldAnswer] = {}
    without: list[str] = []
    twice: list[str] = []
    rows = list(rows_by_id(file, id_column))
    if types is not None and not any(question in kinds for question, _ in rows):
        raise InputError("it has the type of no question", where=str(types), fix=f"types of {path}")
    for question, placed in rows:
        if question in golds:
            twice.append(question)
            continue
        gold = read(question, placed, kinds.get(question))
        golds[question] = gold
        if (
            not any(map(str.strip, gold.answers))
            and gold.value is None
            and gold.value_range is None
        ):
            without.append(question)
    if twice:
        raise InputError(
            f"{len(twice):,} questions are there more than once: {first_ids(twice)}",
            where=str(path),
            expected="one row a question",
        )
    if form == "own" and any(gold.question_type in EVQA_TYPES for gold in golds.values()):
        form = "evqa"
    for question in without:
        del golds[question]
    if form == "own" and any(g.value is not None or g.value_range for g in golds.values()):
        form = "infoseek"
    return GoldFile(golds, frozenset(without), form)


def _form_of(file: RowFile) -> str:
    columns = set(file.columns)
    if "answer_eval" in columns and "data_id" in columns:
        return "infoseek"
    first = file.rows[0].row.get("answers")
    if file.wrapper == "annotations" or (
        isinstance(first, list) and first and isinstance(first[0], dict) and "answer" in first[0]
    ):
        return "okvqa"
    return "own"


def _types(path: Path) -> dict[str, str]:
    file = read_row_file(path)
    column = column_of(file, "question_type", _TYPE_NAMES, None)
    if column is None:
        raise InputError(
            "no column holds question types", where=str(path), expected="one called question_type"
        )
    pairs = ((question, _text(placed, column)) for question, placed in rows_by_id(file))
    return {question: kind for question, kind in pairs if kind}


def _of_annotation(question: str, placed: PlacedRow, kind: str | None) -> GoldAnswer:
    """VQA's: ``answers`` is a list of objects, an annotator each; blank ones count as annotators."""
    given = placed.row.get("answers")
    if not isinstance(given, list) or not all(
        isinstance(item, dict) and isinstance(item.get("answer"), str) for item in given
    ):
        raise InputError(
            "field 'answers' is no list of annotators' answers",
            where=placed.where,
            expected='[{"answer": "pear", …}, …]',
        )
    answers = tuple(item["answer"] for item in given)
    return GoldAnswer(question, _text(placed, "question") or "", answers, kind)


def _of_infoseek(question: str, placed: PlacedRow, kind: str | None) -> GoldAnswer:
    """Infoseek's: ``answer_eval`` is texts, or the value and range of a number, alone or in a list.

    Of several numbers the first counts, as upstream. Printed copies have the range as two texts, which
    only the question's type tells from names.
    """
    accepted = placed.row.get("answer_eval")
    kind = kind or _text(placed, "question_type")
    answers = _texts(placed.row.get("answer"), placed, "answer")
    first = accepted[0] if isinstance(accepted, list) and accepted else accepted
    value: float | None = None
    bounds: tuple[float, float] | None = None
    if isinstance(first, dict):
        try:
            value = _finite(first["wikidata"])
            bounds = _bounds(first["range"])
        except (KeyError, TypeError, ValueError):
            raise InputError(
                "field 'answer_eval' is neither texts nor a number with its range",
                where=placed.where,
                expected='[{"wikidata": 31.0, "range": [27.9, 34.1]}]',
            ) from None
    else:
        texts = _texts(accepted, placed, "answer_eval")
        if kind is None and len(texts) == 2 and all(map(_POINTED.fullmatch, texts)):
            raise InputError(
                f"field 'answer_eval' is {texts!r:.60}: the range of a number, or two texts?",
                where=placed.where,
                expected="the question's type, Numerical or String",
                fix="--set types=infoseek_val_qtype.jsonl",
            )
        if (kind or "").casefold().startswith("num") and len(texts) == 2:
            try:
                bounds, texts = _bounds(texts), []
            except ValueError:
                bounds = None
        answers = [*answers, *texts]
    return GoldAnswer(
        question,
        _text(placed, "question") or "",
        tuple(dict.fromkeys(answers)),
        kind,
        _text(placed, "data_split"),
        value,
        bounds,
    )


class _OwnRows:
    """Rows of one's own: which columns they have, and the gold answer of each."""

    def __init__(self, file: RowFile) -> None:
        self._file = file
        names = {bare_name(name): name for name in file.columns}
        self._answers = names.get("answers") or names.get("answer")
        self._question = names.get("question")
        self._type = column_of(file, "question_type", _TYPE_NAMES, None)
        self._group = column_of(file, "group", _GROUP_NAMES, None)
        self._value, self._range = names.get("value"), names.get("valuerange")
        if self._answers is None and self._value is None and self._range is None:
            raise InputError(
                "no column holds gold answers, of " + ", ".join(map(repr, file.columns))[:300],
                where=str(file.path),
                expected="one called answers (or value, value_range)",
            )

    def gold(self, question: str, placed: PlacedRow, kind: str | None) -> GoldAnswer:
        """The gold answer of a row."""
        row = placed.row
        return GoldAnswer(
            question,
            (_text(placed, self._question) if self._question else None) or "",
            tuple(self._several(placed)),
            kind or (_text(placed, self._type) if self._type else None),
            _text(placed, self._group) if self._group else None,
            self._number(placed, row.get(self._value)) if self._value else None,
            self._numbers(placed, row.get(self._range)) if self._range else None,
        )

    def _several(self, placed: PlacedRow) -> list[str]:
        name = self._answers
        if name is None:
            return []
        value = placed.row.get(name)
        kind = _text(placed, self._type) if self._type else None
        if isinstance(value, str) and kind in EVQA_TYPES:
            return [part.strip() for part in value.split("|") if part.strip()]
        if isinstance(value, str) and self._file.flat:
            if value.lstrip().startswith("["):
                value = self._listed(placed, name, value)
            elif marks := [mark for mark in _SEVERAL if mark in value]:
                raise InputError(
                    f"field {name!r} is {value!r:.60}: one answer, or several parted by {marks[0]!r}?",
                    where=placed.where,
                    expected='a JSON list, such as ["pear", "pears"]',
                )
        return _texts(value, placed, name)

    def _listed(self, placed: PlacedRow, name: str, value: str) -> Any:
        try:
            return parse_json(value)
        except ValueError:
            raise InputError(
                f"field {name!r} is {value!r:.60}",
                where=placed.where,
                expected='a JSON list, such as ["pear", "pears"]',
            ) from None

    def _number(self, placed: PlacedRow, value: Any) -> float | None:
        if value is None or value == "":
            return None
        try:
            return _finite(value)
        except (TypeError, ValueError):
            raise InputError(
                f"field {self._value!r} is {value!r:.60}", where=placed.where, expected="a number"
            ) from None

    def _numbers(self, placed: PlacedRow, value: Any) -> tuple[float, float] | None:
        if value is None or value == "" or value == []:
            return None
        try:
            return _bounds(parse_json(value) if isinstance(value, str) else value)
        except (TypeError, ValueError):
            raise InputError(
                f"field {self._range!r} is {value!r:.60}",
                where=placed.where,
                expected="two numbers, such as [27.9, 34.1]",
            ) from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _pair(bounds: Sequence[float]) -> tuple[float, float] | None:
    return (bounds[0], bounds[1]) if len(bounds) == 2 else None


def _bounds(value: Any) -> tuple[float, float]:
    low, high = value
    return _finite(low), _finite(high)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(number := float(value)):
        raise ValueError("no finite number")
    return number


def _text(placed: PlacedRow, name: str) -> str | None:
    value = placed.row.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value or None
    return answer_text(value, placed.where, name)


def _texts(value: Any, placed: PlacedRow, name: str) -> list[str]:
    """A list of texts or numbers, or one, or none."""
    items: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
    texts = (answer_text(item, placed.where, name) for item in items)
    return [text for text in texts if text is not None]
