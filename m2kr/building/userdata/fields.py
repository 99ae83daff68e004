"""From a user's record to a row of our tables: under which names a field may come, and what it may hold."""

import contextlib
import difflib
import itertools
import json
import logging
import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

from m2kr.building.userdata.readers import Record, parse_json
from m2kr.data.images.store import clean_path
from m2kr.errors import InputError
from m2kr.instructions import join_question
from m2kr.schema import LOST_GRADES, LOST_IDS
from m2kr.unicode_halves import mended_text

log = logging.getLogger("m2kr.building")

Row = dict[str, Any]
_Value = TypeVar("_Value")

# Names of a column of grades, without case and punctuation.
GRADE_NAMES = frozenset(
    (
        *("score", "relevance", "rel", "label", "grade", "gain", "rating", "judgment", "judgement"),
        *("relevancegrade", "relevancelabel", "relevancescore", "relevancejudgment"),
        *("relevancejudgement", "relevant", "isrelevant", "qrel"),
    )
)
# What separates the answers of a cell that may hold several, and what other languages' lists look like.
_SEPARATORS = ";|\n"
_LIST = re.compile(r"""\s*(["']\s*\[.*\]\s*["']|\{.*\}|\((.*,.*)\))\s*""", re.DOTALL)
_SURELY_GRADES = frozenset(
    (
        *("positemgrades", "positivegrades", "positivesgrades", "posgrades", "grades"),
        *("gains", "relevances", "relevancegrades"),
    )
)
_GRADES_BESIDE = frozenset(name.removesuffix("s") for name in _SURELY_GRADES) | GRADE_NAMES
_ITEM_IDS = frozenset(("id", "did", "docid", "docno", "passageid", "corpusid", "pid"))
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

# Column -> accepted names, ours first. Ours decides; of the others all must say the same. They cover BEIR
# (_id, text, title), M-BEIR (qid, query_txt, query_img_path, pos_cand_list, did, txt) and ReT-M2KR
# (data_id, image_path, passage_id, answer, passage_text, passage_image_path).
PASSAGE_NAMES: dict[str, tuple[str, ...]] = {
    "passage_id": ("passage_id", "_id", "id", "docid", "doc_id", "did", "docno", "pid"),
    "passage_content": (
        *("passage_content", "text", "contents", "content", "passage_text", "passage", "txt"),
    ),
    "language": ("language", "lang"),
    "title": ("title",),
    "img_id": ("img_id",),
    "img_path": ("img_path", "image_path", "image", "passage_image_path"),
}
QUERY_NAMES: dict[str, tuple[str, ...]] = {
    "question_id": ("question_id", "_id", "id", "query_id", "qid", "data_id"),
    "question": ("question", "query", "text", "query_txt"),
    "instruction": ("instruction",),
    "img_id": ("img_id",),
    "img_path": ("img_path", "image_path", "image", "query_img_path"),
    "image_id": ("image_id",),
    "pos_item_ids": (
        *("pos_item_ids", "positives", "positive_ids", "pos_cand_list", "passage_id"),
        *("relevant_docs", "relevant_ids", "gold_ids"),
    ),
    "answers": ("answers", "answer"),
    "gold_answer": ("gold_answer",),
    "question_type": ("question_type",),
}


def passage_row(
    record: Record, where: str, *, flat: bool = False, title_in_text: bool = False
) -> Row:
    """The passage row of a record.

    Args:
        record: Fields under any of `PASSAGE_NAMES`; others are left alone.
        where: The record's place, for errors.
        flat: Values are text, lists are JSON.
        title_in_text: The text becomes ``title text``, as BEIR's tools index it.

    Raises:
        InputError: a field is missing or holds something else; names place and field.
    """
    get = _Getter(record, PASSAGE_NAMES, where, flat)
    path = get.path("img_path")
    title = get.text("title")
    text = get.text("passage_content")
    if text is None and path is None and not (title and title_in_text):
        get.missing("passage_content", "a text (or an image)")
    if title_in_text:
        text = f"{title or ''} {text or ''}".strip()
    return {
        "passage_id": get.identifier("passage_id"),
        "passage_content": text or "",
        "language": get.text("language") or "en",
        "title": title,
        "img_id": get.label("img_id"),
        "img_path": path,
    }


def query_row(
    record: Record,
    where: str,
    *,
    flat: bool = False,
    positives: Mapping[str, float] | None = None,
) -> Row:
    """The query row of a record; ``instruction`` is ``""`` where the record has none.

    Args:
        record: Fields under any of `QUERY_NAMES`; others are left alone.
        where: The record's place, for errors.
        flat: Values are text, lists are JSON.
        positives: Grades by passage id; they replace those in the record.

    Raises:
        InputError: a field is missing or holds something else; names place and field.
    """
    get = _Getter(_apart(record), QUERY_NAMES, where, flat)
    path = get.path("img_path")
    question = get.text("question") or ""
    grades = get.grades() if positives is None else positives
    if path is None and not question.strip():
        get.missing("question", "a text, an image path in 'img_path', or both")
    return {
        "question_id": get.identifier("question_id"),
        "question": question if question.strip() else "",
        "instruction": get.text("instruction") or "",
        "img_id": get.label("img_id"),
        "img_path": path,
        "image_id": get.label("image_id"),
        "pos_item_ids": list(grades),
        "pos_item_grades": list(grades.values()),
        "answers": get.answers(),
        "gold_answer": get.label("gold_answer"),
        "question_type": get.label("question_type"),
    }


def _apart(record: Record) -> Record:
    """The record; of a BEIR folder that was exported from here, instruction and question apart.

    Its text is both, and ``metadata`` has each: else the text would get a second instruction.
    """
    more, text = record.get("metadata"), record.get("text")
    if not isinstance(more, Mapping) or not isinstance(more.get("instruction"), str):
        return record
    if text != join_question(more["instruction"], str(more.get("question") or "")):
        return record
    return {key: value for key, value in record.items() if key != "text"} | dict(more)


def query_id(record: Record, where: str) -> str:
    """The id of a query record.

    Raises:
        InputError: there is none.
    """
    return _Getter(record, QUERY_NAMES, where, flat=False).identifier("question_id")


def query_task(row: Row) -> str:
    """What a query row consists of: ``I2T``, ``Q2T`` or ``IQ2T``."""
    if row["img_path"] is None:
        return "Q2T"
    return "IQ2T" if row["question"] else "I2T"


def warn_of_near_misses(
    where: object, fields: Iterable[str], names: Mapping[str, tuple[str, ...]]
) -> None:
    """Warns about fields that no column takes but that look like a misspelt one."""
    known = [name for accepted in names.values() for name in accepted]
    near = []
    for field in sorted(field for field in set(fields) - set(known) if len(field) < 64):
        alike = difflib.get_close_matches(field.lower(), known, n=1, cutoff=0.8)
        if alike and simple(field) not in _SURELY_GRADES:
            near.append(f"'{field}' (for '{alike[0]}'?)")
    if near:
        log.warning("%s: fields not used: %s", where, ", ".join(near))


@lru_cache(10_000)
def simple(name: str) -> str:
    """A column's name without case and punctuation: ``Query-ID`` -> ``queryid``."""
    return re.sub(r"[\W_]", "", name).lower()


def shown_names(names: Iterable[str]) -> str:
    """Names of columns for a message."""
    return ", ".join(f"'{name:.40}'" for name in itertools.islice(names, 12)) or "none"


def as_id(value: object, where: str, name: str) -> str:
    """An id.

    Args:
        value: A text that is not blank, or a whole number.
        where: The record's place.
        name: The field's.

    Raises:
        InputError: it is neither.
    """
    expected = "an id: a text that is not blank, or a whole number"
    if not isinstance(value, bool) and isinstance(value, numbers.Integral):
        return str(int(value))
    text = _string(value, where, name, expected)
    if not text.strip():
        _wrong(value, where, name, expected)
    return text


def as_grade(value: object, where: str, name: str = "grade") -> float:
    """A grade of relevance.

    Args:
        value: A finite number, the text of one, or whether the passage is right.
        where: The record's place.
        name: The field's.

    Raises:
        InputError: it is none of that: null, blank, NaN or words say nothing of relevance.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip(" ")):
        value = float(value)
    if isinstance(value, numbers.Real | Decimal) or type(value).__name__ in ("bool", "bool_"):
        with contextlib.suppress(ValueError, OverflowError):
            grade = float(value)  # type: ignore[arg-type]
            if math.isfinite(grade):
                return grade
    raise InputError(
        f"field '{name}': {_describe(value)} is no number",
        where=where,
        expected="the grade of a passage, such as 0, 1 or 2",
    )


def _wrong(value: object, where: str, name: str, expected: str) -> NoReturn:
    raise InputError(
        f"field '{name}' is {_describe(value)}", where=where, expected=expected
    ) from None


def _describe(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, str) and not value.strip():
        return "blank"
    kind = type(value).__name__
    return f"{value!r:.60}" if isinstance(value, str | int | float) else f"a {kind}"


def _string(value: object, where: str, name: str, expected: str) -> str:
    if not isinstance(value, str):
        _wrong(value, where, name, expected)
    return mended_text(str(value))


def is_missing(value: object) -> bool:
    """None, NaN, NaT and pandas' NA: what an absent value looks like in a data frame."""
    if value is None or isinstance(value, str):
        return value is None
    if isinstance(value, float):
        return math.isnan(value)
    return type(value).__name__ in ("NAType", "NaTType")


@lru_cache(1000)
def _names_there(fields: tuple[str, ...], of_query: bool) -> dict[str, list[str]]:
    """By column its names among a record's fields, if any; most records of a file have the same ones."""
    names = QUERY_NAMES if of_query else PASSAGE_NAMES
    there = {column: [n for n in accepted if n in fields] for column, accepted in names.items()}
    return {column: found for column, found in there.items() if found}


class _Getter:
    """Takes typed values out of one record."""

    def __init__(
        self, record: Record, names: Mapping[str, tuple[str, ...]], where: str, flat: bool
    ) -> None:
        self._record, self._names, self._where, self._flat = record, names, where, flat
        self._there = _names_there(tuple(record), names is QUERY_NAMES)

    def _read(self, column: str, read: Callable[[str, Any], _Value]) -> _Value | None:
        """What a field holds, or None.

        Raises:
            InputError: it can't be read, or two fields with other names than ours hold different things.
        """
        there = self._there.get(column)
        if there is None:
            return None
        record, accepted = self._record, self._names[column]
        present = [name for name in there if not is_missing(record[name])]
        if not present:
            return None
        name, *rivals = present
        value = read(name, record[name])
        for rival in rivals if name != accepted[0] else ():
            try:
                same = read(rival, record[rival]) == value
            except InputError:
                continue  # such as the image itself beside its path
            if not same:
                raise InputError(
                    f"field '{name}' is {record[name]!r:.60}, field '{rival}' is "
                    f"{record[rival]!r:.60}: which one counts can't be told",
                    where=self._where,
                    expected=f"one of {', '.join(accepted)}",
                    fix=f"call the right one '{accepted[0]}', or leave the other out",
                )
        return value

    def _wrong(self, name: str, value: object, expected: str) -> NoReturn:
        _wrong(value, self._where, name, expected)

    def missing(self, column: str, expected: str) -> NoReturn:
        """Raises the error for an absent field."""
        others = ", ".join(self._names[column][1:])
        present = any(name in self._record for name in self._names[column])
        here = "" if present else f"; its fields: {shown_names(self._record)}"
        raise InputError(
            f"field '{column}' is missing",
            where=self._where,
            expected=expected
            + (f"; the field may also be called {others}" if others else "")
            + here,
            fix="name the columns in the first line; cells are split at commas in .csv and at tabs in "
            ".tsv files"
            if here and self._flat
            else None,
        )

    def text(self, column: str) -> str | None:
        """A text, or None."""
        there = self._there.get(column)
        if there is None:
            return None
        if len(there) == 1 and type(value := self._record[there[0]]) is str:  # as in most records
            return mended_text(value)
        return self._read(column, lambda name, v: _string(v, self._where, name, "a text"))

    def label(self, column: str) -> str | None:
        """A text or number as text, or None."""
        if column not in self._there:
            return None
        return self._read(column, lambda name, v: self._scalar(name, v, "a text or a number"))

    def _scalar(self, name: str, value: Any, expected: str) -> str:
        if not isinstance(value, bool):
            if isinstance(value, numbers.Integral):
                return str(int(value))
            if isinstance(value, numbers.Real) and math.isfinite(value):
                return str(float(value))
        return _string(value, self._where, name, expected)

    def identifier(self, column: str) -> str:
        """An id."""
        there = self._there.get(column, ())
        if len(there) == 1 and type(value := self._record[there[0]]) is str and value.strip():
            return mended_text(value)
        row_id = self._read(column, lambda name, value: as_id(value, self._where, name))
        if row_id is None:
            self.missing(column, "an id: a text or a whole number")
        return row_id

    def grades(self) -> dict[str, float]:
        """Grades above 0 by the id of the passage.

        The positives are ids, with their grades in a list beside them or without, a mapping from id
        to grade, or records of both. M-BEIR's card has ``{"did": id}``, its files have the id. A table
        of ours has those that its pool lacked in columns of their own.
        """
        return (self._read("pos_item_ids", self._grades) or {}) | self._lost()

    def _lost(self) -> dict[str, float]:
        name, beside = LOST_IDS.name, LOST_GRADES.name
        ids, grades = (
            []
            if is_missing(self._record.get(column))
            else self._items(column, self._record[column])
            for column in (name, beside)
        )
        if grades and len(grades) != len(ids):
            self._wrong(beside, grades, f"a grade for each of '{name}'")
        return {
            as_id(item, self._where, name): as_grade(grade, self._where, beside)
            for item, grade in zip(ids, grades or [1.0] * len(ids), strict=True)
        }

    def _grades(self, name: str, value: Any) -> dict[str, float]:
        if isinstance(value, str) and _LIST.fullmatch(value):
            try:
                value = parse_json(value)  # grades by id
            except ValueError:
                self._wrong(name, value, 'a JSON list, such as ["a", "b"]')
        if isinstance(value, Mapping):
            pairs = [*value.items()]
        else:
            items = self._items(name, value)
            beside = self._grades_beside(len(items))
            pairs = [
                self._pair(item, 1.0 if beside is None else grade)
                for item, grade in zip(items, beside or items, strict=True)
            ]
        grades: dict[str, float] = {}
        for item, value in pairs:
            row_id, grade = as_id(item, self._where, name), as_grade(value, self._where, name)
            if grades.setdefault(row_id, grade) != grade:
                self._wrong(
                    name, row_id, f"one grade for a passage: {grade:g} or {grades[row_id]:g}"
                )
        return {row_id: grade for row_id, grade in grades.items() if grade > 0}

    def _pair(self, item: Any, grade: object) -> tuple[Any, object]:
        """The id and the grade of one of the positives."""
        if isinstance(item, dict):
            keys = {simple(str(key)): key for key in item}
            ids, grades = keys.keys() & _ITEM_IDS, keys.keys() & GRADE_NAMES
            if len(ids) == 1 and len(grades) <= 1 and len(keys) == len(ids) + len(grades):
                return item[keys[ids.pop()]], item[keys[grades.pop()]] if grades else grade
        if isinstance(item, tuple) and len(item) == 2 and not isinstance(item[1], str):
            return item[0], item[1]  # as of a map in Parquet
        return item, grade

    def _grades_beside(self, count: int) -> list[float] | None:
        """The list of grades beside as many positives, if there is one.

        Fields such as ``score`` may hold it or something else, and are refused where that matters.
        """
        for name, value in self._record.items():
            if not count or simple(name).removesuffix("s") not in _GRADES_BESIDE:
                continue
            sure = simple(name) in _SURELY_GRADES
            try:
                grades = [as_grade(g, self._where, name) for g in self._items(name, value)]
            except InputError:
                if sure:
                    raise
                continue
            if sure and len(grades) != count:
                raise InputError(
                    f"field '{name}' has {len(grades)} grades for {count} positives",
                    where=self._where,
                    expected="one for each, in the same order",
                )
            if sure:
                return grades
            if len(grades) == count and any(grade != 1 for grade in grades):
                raise InputError(
                    f"field '{name}' may hold the grades of the positives, or something else",
                    where=self._where,
                    expected="grades in a field 'pos_item_grades'",
                    fix=f"rename '{name}' to 'pos_item_grades', or to what it is",
                )
        return None

    def answers(self) -> list[str]:
        """Answers; ReT-M2KR has ``{"wikidata": value, ...}`` for numbers, and scores that value."""
        return self._read("answers", self._answers) or []

    def _answers(self, name: str, value: Any) -> list[str]:
        if isinstance(value, str) and not self._is_list(value):
            # In a column of one answer a comma is part of it; where there may be several it is not sure.
            several = _SEPARATORS + ("," if self._flat and name.endswith("s") else "")
            marks = [mark for mark in several if mark in value]
            if marks or _LIST.fullmatch(value):
                raise InputError(
                    f"field '{name}' is {_describe(value)}: one answer or several?",
                    where=self._where,
                    expected="a JSON list: "
                    + json.dumps([value], ensure_ascii=False)
                    + (f" or {_as_list(value, marks)}" if marks else ""),
                )
        items = self._items(name, value)
        plain = (i["wikidata"] if isinstance(i, dict) and "wikidata" in i else i for i in items)
        return [self._scalar(name, item, "a text, or a list of texts") for item in plain]

    def _items(self, name: str, value: Any) -> list[Any]:
        """The items of a list, of the JSON text of one, or of a single value."""
        if isinstance(value, str) and self._is_list(value):
            try:
                value = parse_json(value)
            except ValueError:
                self._wrong(name, value, 'a JSON list, such as ["a", "b"]')
        if hasattr(value, "tolist"):  # numpy, as data frames give lists read from Parquet
            value = value.tolist()
        if isinstance(value, list | tuple | set | frozenset):
            ordered = sorted(value, key=str) if isinstance(value, set | frozenset) else value
            return list(ordered)
        return [] if value is None else [value]

    def _is_list(self, text: str) -> bool:
        """Whether a text can only be meant as that of a JSON list."""
        text = text.strip()
        return text.startswith("[") and (self._flat or text.endswith("]"))

    def path(self, column: str) -> str | None:
        """A path below an image root, or None."""
        return self._read(column, self._path) or None

    def _path(self, name: str, value: Any) -> str:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        expected = "a path below an image root, such as photos/cat.jpg"
        path = _string(value, self._where, name, expected)
        try:
            return clean_path(path) if path else ""
        except InputError as error:
            raise InputError(
                f"field '{name}': {error.what}", where=self._where, expected=expected
            ) from error


def _as_list(value: str, marks: Sequence[str]) -> str:
    parts = [part.strip() for part in re.split(f"[{re.escape(''.join(marks))}]+", value)]
    return json.dumps(parts, ensure_ascii=False)
