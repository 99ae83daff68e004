"""From a user's record to a row of our tables: under which names a field may come, and what it may hold."""

import difflib
import math
import numbers
import os
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from m2kr.build.imports.readers import Record, parse_json
from m2kr.data.images import clean_path
from m2kr.errors import InputError
from m2kr.instructions import TEMPLATES

Row = dict[str, Any]

# Column -> accepted names, ours first. The first one that holds something counts. They cover BEIR
# (_id, text, title), M-BEIR (qid, query_txt, query_img_path, pos_cand_list, did, txt) and ReT-M2KR
# (data_id, image_path, passage_id, answer, passage_text, passage_image_path).
PASSAGE_NAMES: dict[str, tuple[str, ...]] = {
    "passage_id": ("passage_id", "_id", "id", "docid", "doc_id", "did"),
    "passage_content": ("passage_content", "text", "contents", "content", "passage_text", "txt"),
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
    "pos_item_ids": ("pos_item_ids", "positives", "positive_ids", "pos_cand_list", "passage_id"),
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


def query_row(record: Record, where: str, *, flat: bool = False) -> Row:
    """The query row of a record; ``instruction`` is ``""`` where the record has none.

    Args:
        record: Fields under any of `QUERY_NAMES`; others are left alone.
        where: The record's place, for errors.
        flat: Values are text, lists are JSON.

    Raises:
        InputError: a field is missing or holds something else; names place and field.
    """
    get = _Getter(record, QUERY_NAMES, where, flat)
    path = get.path("img_path")
    question = get.text("question") or ""
    grades = dict.fromkeys(get.identifiers("pos_item_ids"), 1.0)
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
        "answers": get.answers("answers"),
        "gold_answer": get.label("gold_answer"),
        "question_type": get.label("question_type"),
    }


def task_of(row: Row) -> str:
    """What a query row consists of: ``I2T``, ``Q2T`` or ``IQ2T``."""
    if row["img_path"] is None:
        return "Q2T"
    return "IQ2T" if row["question"] else "I2T"


_LISTS = {"I2T": "wit", "Q2T": "msmarco", "IQ2T": "iq2t"}


def template_instruction(row: Row) -> str:
    """The benchmark's instruction for a row of this task; it depends on the row's id alone."""
    return TEMPLATES[_LISTS[task_of(row)]].choose(row["question_id"])


def near_misses(fields: Iterable[str], names: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Fields that no column takes but that look like a misspelt one, as ``'x' (for 'y'?)``."""
    known = [name for accepted in names.values() for name in accepted]
    found = []
    for field in sorted(set(fields) - set(known)):
        near = difflib.get_close_matches(field.lower(), known, n=1, cutoff=0.8)
        if near:
            found.append(f"'{field}' (for '{near[0]}'?)")
    return found


def is_missing(value: object) -> bool:
    """None, NaN, NaT and pandas' NA: what an absent value looks like in a data frame."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and math.isnan(value)


class _Getter:
    """Takes typed values out of one record."""

    def __init__(
        self, record: Record, names: Mapping[str, tuple[str, ...]], where: str, flat: bool
    ) -> None:
        self._record, self._names, self._where, self._flat = record, names, where, flat

    def _value(self, column: str) -> tuple[str, Any]:
        for name in self._names[column]:
            value = self._record.get(name)
            if value is not None and not is_missing(value):
                return name, value
        return column, None

    def _wrong(self, name: str, value: object, expected: str) -> NoReturn:
        shown = "blank" if isinstance(value, str) and not value.strip() else _shown(value)
        raise InputError(
            f"field '{name}' is {shown}", where=self._where, expected=expected
        ) from None

    def missing(self, column: str, expected: str) -> NoReturn:
        """Raises the error for an absent field."""
        others = ", ".join(self._names[column][1:])
        raise InputError(
            f"field '{column}' is missing",
            where=self._where,
            expected=expected + (f"; the field may also be called {others}" if others else ""),
        )

    def _string(self, name: str, value: object, expected: str) -> str:
        if not isinstance(value, str):
            self._wrong(name, value, expected)
        try:
            value.encode()
        except UnicodeEncodeError:
            self._wrong(name, value, "text without halves of surrogate pairs")
        return str(value)

    def text(self, column: str) -> str | None:
        """A text, or None."""
        name, value = self._value(column)
        return None if value is None else self._string(name, value, "a text")

    def label(self, column: str) -> str | None:
        """A text or number as text, or None."""
        name, value = self._value(column)
        return None if value is None else self._scalar(name, value, "a text or a number")

    def _scalar(self, name: str, value: Any, expected: str) -> str:
        if not isinstance(value, bool):
            if isinstance(value, numbers.Integral):
                return str(int(value))
            if isinstance(value, numbers.Real) and math.isfinite(value):
                return str(float(value))
        return self._string(name, value, expected)

    def _id(self, name: str, value: Any) -> str:
        expected = "an id: a text that is not blank, or a whole number"
        if not isinstance(value, bool) and isinstance(value, numbers.Integral):
            return str(int(value))
        text = self._string(name, value, expected)
        if not text.strip():
            self._wrong(name, value, expected)
        return text

    def identifier(self, column: str) -> str:
        """An id."""
        name, value = self._value(column)
        if value is None:
            self.missing(column, "an id: a text or a whole number")
        return self._id(name, value)

    def identifiers(self, column: str) -> list[str]:
        """Ids; M-BEIR's card has ``{"did": id}`` in place of an id, its files have the id."""
        name, items = self._items(column)
        plain = (i["did"] if isinstance(i, dict) and set(i) == {"did"} else i for i in items)
        return [self._id(name, item) for item in plain]

    def answers(self, column: str) -> list[str]:
        """Answers; ReT-M2KR has ``{"wikidata": value, ...}`` for numbers, and scores that value."""
        name, items = self._items(column)
        plain = (i["wikidata"] if isinstance(i, dict) and "wikidata" in i else i for i in items)
        return [self._scalar(name, item, "a text, or a list of texts") for item in plain]

    def _items(self, column: str) -> tuple[str, list[Any]]:
        name, value = self._value(column)
        if self._flat and isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = parse_json(value)
            except ValueError:
                self._wrong(name, value, 'a JSON list, such as ["a", "b"]')
        if hasattr(value, "tolist"):  # numpy, as data frames give lists read from Parquet
            value = value.tolist()
        if isinstance(value, list | tuple | set | frozenset):
            ordered = sorted(value, key=str) if isinstance(value, set | frozenset) else value
            return name, list(ordered)
        return name, [] if value is None else [value]

    def path(self, column: str) -> str | None:
        """A path below an image root, or None."""
        name, value = self._value(column)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if value is None or (isinstance(value, str) and not value):
            return None
        expected = "a path below an image root, such as photos/cat.jpg"
        path = self._string(name, value, expected)
        try:
            return clean_path(path)
        except InputError as error:
            raise InputError(
                f"field '{name}': {error.what}", where=self._where, expected=expected
            ) from error


def _shown(value: object) -> str:
    kind = type(value).__name__
    return f"{value!r:.60}" if isinstance(value, str | int | float) else f"a {kind}"
