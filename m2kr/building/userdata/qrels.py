"""Judgements from a user's file: BEIR, TREC, M-BEIR and plain two- or three-column forms."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from m2kr.building.userdata.fields import GRADE_NAMES, as_grade, as_id, shown_names, simple
from m2kr.building.userdata.readers import (
    Record,
    RecordFile,
    file_kind,
    quoted_cells,
    read_lines,
    record_file,
    text_file,
)
from m2kr.errors import InputError, MissingError

# Names of columns and fields without case and punctuation, the surest first.
_QUERY = ("queryid", "questionid", "qid", "topicid", "topic", "query")
_PASSAGE = (
    *("corpusid", "passageid", "documentid", "docid", "docno", "did", "pid"),
    *("document", "doc", "passage"),
)
_MAY_BE_TEXTS = {"topic", "query", "document", "doc", "passage"}
_UNUSED = ("iteration", "iter", "q0", "run", "task", "taskid", "split")
_EXPECTED = "'query-id corpus-id score' (BEIR), 'qid 0 docid rel' (TREC) or 'qid docid'"
# Names of the columns by their number, where no line names them. TREC has four; M-BEIR adds its task id.
_FORMS = {
    2: ["query-id", "corpus-id"],
    3: ["query-id", "corpus-id", "score"],
    4: ["query-id", "iteration", "corpus-id", "score"],
    5: ["query-id", "iteration", "corpus-id", "score", "task"],
}
_BLANKS = " \t\v\f"  # and no others: ids may hold no-break spaces

Places = tuple[int, int, int | None]
Judgement = tuple[int, str, str, float]


@dataclass(slots=True)
class JudgedQuery:
    """The grades of one query's passages, all above 0, and the first place it is judged at."""

    line: int
    grades: dict[str, float] = field(default_factory=dict)


def qrels_file(path: Path) -> RecordFile:
    """A file of judgements: ``.jsonl`` or ``.parquet`` records, or lines of text of any other name.

    Raises:
        MissingError: there is no such file.
        InputError: it is one JSON text.
    """
    if not path.is_file():
        raise MissingError("there is no such file", where=str(path), expected=_EXPECTED)
    kind = file_kind(path)
    if kind in ("jsonl", "parquet"):
        return record_file(path)
    if kind == "json":
        raise InputError(
            "judgements are not read from one JSON text",
            where=str(path),
            expected=f"lines of text, {_EXPECTED}, or a .jsonl file of such fields",
            fix="in Python: m2kr.from_records(passages, queries, qrels=json.load(open(FILE)))",
        )
    return text_file(path)


def read_qrels(file: RecordFile) -> dict[str, JudgedQuery]:
    """Grades above 0 by query id and passage id, in file order.

    Raises:
        InputError: a line has another form, a grade is no number, or a passage has two grades; names
            the line.
    """
    judged: dict[str, JudgedQuery] = {}
    for n, query, passage, grade in judgements_of(qrels_records(file), file.where):
        grades = judged.setdefault(query, JudgedQuery(n)).grades
        if grades.setdefault(passage, grade) != grade:
            raise InputError(
                f"passage {passage!r} of query {query!r} has the grade {grade:g} here and "
                f"{grades[passage]:g} before",
                where=file.where(n),
                expected="one grade for a passage of a query: keep one of the two",
            )
    for entry in judged.values():
        entry.grades = {passage: grade for passage, grade in entry.grades.items() if grade > 0}
    return judged


def judgements_of(
    records: Iterable[tuple[int, Record]], where_of: Callable[[int], str]
) -> Iterator[Judgement]:
    """Judgements from numbered records with fields such as ``query-id``, ``corpus-id`` and ``score``.

    Args:
        records: Numbers and records.
        where_of: The place of a record, by its number.

    Raises:
        InputError: a field is missing, unclear or holds something else; names place and field.
    """
    known: dict[tuple[str, ...], Places] = {}
    for n, record in records:
        names, where = tuple(map(str, record)), where_of(n)
        if names not in known:
            places = _named(names, where, "its fields")
            if places is None:
                raise InputError(
                    "the judgement lacks a query or a passage id",
                    where=where,
                    expected="fields 'query-id', 'corpus-id' and 'score'; its fields: "
                    + shown_names(names),
                )
            if any((other[2] is None) != (places[2] is None) for other in known.values()):
                raise InputError(
                    f"this judgement has {'no' if places[2] is None else 'a'} grade, unlike others",
                    where=where,
                    expected="a grade in every record, or in none",
                )
            known[names] = places
        query, passage = (as_id(record[names[i]], where, names[i]) for i in known[names][:2])
        column = known[names][2]
        grade = 1.0 if column is None else as_grade(record[names[column]], where, names[column])
        yield n, query, passage, grade


def _named(names: Sequence[str], where: str, what: str) -> Places | None:
    """The columns of query, passage and grade by their names; None if the former are not among them.

    Raises:
        InputError: which one holds the grades can't be told.
    """
    plain = [simple(name) for name in names]
    sides: list[int] = []
    for accepted in (_QUERY, _PASSAGE):
        surest = next((name for name in accepted if name in plain), None)
        if surest is None:
            return None
        ids = {surest, *accepted} - (_MAY_BE_TEXTS - {surest})
        places = [i for i, name in enumerate(plain) if name in ids]
        if len(places) > 1:
            raise InputError(
                f"two of the names stand for the same: {shown_names([names[i] for i in places])}",
                where=where,
                expected=f"one for the query and one for the passage; {what}: {shown_names(names)}",
            )
        sides += places
    query, passage = sides
    grades = [i for i, name in enumerate(plain) if name in GRADE_NAMES]
    known = {*_QUERY, *_PASSAGE, *_UNUSED, "indexlevel0"}  # the last is pandas' index in Parquet
    others = [i for i, name in enumerate(plain) if name not in known]
    if len(grades) > 1 or (others and not grades):
        unclear = shown_names([names[i] for i in grades or others])
        raise InputError(
            f"which one holds the grades can't be told: {unclear}",
            where=where,
            expected=f"one of {', '.join(sorted(GRADE_NAMES))}; {what}: {shown_names(names)}",
            fix="name the grades 'score'"
            + ("" if grades else "; without grades, keep only query and passage"),
        )
    return query, passage, grades[0] if grades else None


def qrels_records(
    file: RecordFile, refuse: Callable[[InputError], None] | None = None
) -> Iterator[tuple[int, Record]]:
    """Numbers and records of a file of judgements.

    Args:
        file: Records, or lines of text, whose cells are named by the first line or by their number.
        refuse: Is given the error of a line with too few or too many columns, which is then left out;
            without it the error is raised.

    Raises:
        InputError: the file can't be read.
    """
    return _text_records(file, refuse) if file.flat else iter(file)


def _text_records(
    file: RecordFile, refuse: Callable[[InputError], None] | None
) -> Iterator[tuple[int, Record]]:
    how, rows = _cells(file)
    first = next(rows, None)
    if first is None:
        return
    n, names = first
    if _named(names, file.where(n), f"the columns ({how})") is None:  # the line is a judgement
        names = _names_by_number(names, file.where(n), how)
        rows = itertools.chain([first], rows)
    for n, cells in rows:
        if len(cells) != len(names):
            error = InputError(
                f"the line has {len(cells)} columns ({how})",
                where=file.where(n),
                expected=f"{len(names)}",
            )
            if refuse is None:
                raise error
            refuse(error)
            continue
        yield n, dict(zip(names, cells, strict=True))


def _names_by_number(cells: Sequence[str], where: str, how: str) -> list[str]:
    """The columns of a file whose first line is a judgement and names nothing.

    Raises:
        InputError: there are too few or too many, or the line names some.
    """
    named = [cell for cell in cells if simple(cell) in {*_QUERY, *_PASSAGE, *GRADE_NAMES}]
    form = _FORMS.get(len(cells))
    grade = "" if form is None else dict(zip(form, cells, strict=True)).get("score", "")
    if form is None or (named and not _is_number(grade)):
        raise InputError(
            f"the line has {len(cells)} columns ({how}): {shown_names(cells)}"
            + ("; which are query and passage can't be told" if named else ""),
            where=where,
            expected=_EXPECTED,
        )
    return form


def _is_number(cell: str) -> bool:
    try:
        as_grade(cell, "")
    except InputError:
        return False
    return True


def _cells(file: RecordFile) -> tuple[str, Iterator[tuple[int, list[str]]]]:
    """How the lines are split, and their cells by number; without blank lines and comments."""
    marks = "\t," if file_kind(file.path) == "csv" else "\t"
    lines = (
        (n, line) for n, line in read_lines(file) if line.strip() and not _is_comment(line, marks)
    )
    first = next(lines, None)
    if first is None:
        return "", iter(())
    every, text = itertools.chain([first], lines), first[1]
    if "," in marks and "," in text:
        return "split at commas", _stripped(quoted_cells(file, every))
    if "\t" in text and not _is_blank_separated(text):
        return "split at tabs", _stripped((n, line.split("\t")) for n, line in every)
    return "split at blanks", ((n, _blank_separated(line)) for n, line in every)


def _is_comment(line: str, marks: str) -> bool:
    """Lines that trec_eval leaves out; an id may start with ``#`` where cells are split at marks."""
    return line.lstrip(_BLANKS).startswith("#") and not any(mark in line for mark in marks)


def _is_blank_separated(line: str) -> bool:
    """Whether a line with tabs is TREC's form with blanks in some places."""
    cells = _blank_separated(line)
    return len(cells) in (4, 5) and cells[1] in ("0", "Q0") and line.count("\t") < len(cells) - 1


def _blank_separated(line: str) -> list[str]:
    """The cells of a line, without a comment after them."""
    cells = re.split(f"[{_BLANKS}]+", line.strip(_BLANKS))
    ends = (i for i, cell in enumerate(cells) if i > 3 and cell.startswith("#"))
    return cells[: next(ends, None)]


def _stripped(rows: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    return ((n, [cell.strip(_BLANKS) for cell in cells]) for n, cells in rows)
