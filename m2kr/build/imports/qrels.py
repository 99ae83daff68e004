"""Judgements from a user's file: BEIR, TREC, M-BEIR and plain two- or three-column forms."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from m2kr.build.imports.fields import is_missing
from m2kr.build.imports.readers import Record, RecordFile, read_lines, record_file
from m2kr.errors import InputError, MissingError

_QUERY = ("query-id", "query_id", "question_id", "qid", "q_id")
_PASSAGE = ("corpus-id", "corpus_id", "passage_id", "docid", "doc_id", "did", "pid")
_GRADE = ("score", "relevance", "rel", "label")
_EXPECTED = "'query-id corpus-id score' (BEIR), 'qid 0 docid rel' (TREC) or 'qid docid'"


@dataclass(slots=True)
class Judged:
    """The grades of one query's passages, all above 0, and the first place it is judged at."""

    line: int
    grades: dict[str, float] = field(default_factory=dict)


def qrels_file(path: Path) -> RecordFile:
    """A file of judgements: ``.jsonl`` or ``.parquet`` records, or lines of text of any other name.

    Raises:
        MissingError: there is no such file.
    """
    if path.suffix in (".jsonl", ".parquet"):
        return record_file(path)
    if not path.is_file():
        raise MissingError("there is no such file", where=str(path), expected=_EXPECTED)
    shown = str(path).replace("{", "{{").replace("}", "}}")
    return RecordFile(path, f"{shown}, line {{n}}", flat=True)


def read_qrels(file: RecordFile) -> dict[str, Judged]:
    """Grades above 0 by query id and passage id, in file order.

    Raises:
        InputError: a line has another form; names it.
    """
    judged: dict[str, Judged] = {}
    lines = _text(file) if file.flat else _records(file)
    for n, query, passage, grade in lines:
        entry = judged.setdefault(query, Judged(n))
        if grade > 0:
            entry.grades[passage] = grade
    return judged


def _records(file: RecordFile) -> Iterator[tuple[int, str, str, float]]:
    for n, record in file:
        query, passage = _first(record, _QUERY), _first(record, _PASSAGE)
        if query is None or passage is None:
            raise InputError(
                "the judgement lacks a query or a passage id",
                where=file.where(n),
                expected="fields 'query-id', 'corpus-id' and 'score'",
            )
        yield n, str(query), str(passage), _grade(_first(record, _GRADE), file.where(n))


def _first(record: Record, names: tuple[str, ...]) -> object:
    return next((record[name] for name in names if not is_missing(record.get(name))), None)


def _text(file: RecordFile) -> Iterator[tuple[int, str, str, float]]:
    place: tuple[int, int, int] | None = None
    width = 0
    for n, line in read_lines(file):
        if not line.strip():
            continue
        cells = (
            line.split("\t") if "\t" in line else line.split(",") if _is_csv(file) else line.split()
        )
        cells = [cell.strip() for cell in cells]
        if place is None:
            place, header = _places(cells)
            width = len(cells)
            if place is None:
                raise InputError(
                    f"the line has {len(cells)} columns", where=file.where(n), expected=_EXPECTED
                )
            if header:
                continue
        if len(cells) != width:
            raise InputError(
                f"the line has {len(cells)} columns", where=file.where(n), expected=f"{width}"
            )
        query, passage = cells[place[0]], cells[place[1]]
        if not query or not passage:
            raise InputError("an id is blank", where=file.where(n), expected=_EXPECTED)
        yield n, query, passage, _grade(cells[place[2]] if place[2] >= 0 else None, file.where(n))


def _is_csv(file: RecordFile) -> bool:
    return ".csv" in file.path.suffixes


def _places(cells: list[str]) -> tuple[tuple[int, int, int] | None, bool]:
    """Columns of query, passage and grade (-1: none), and whether this line is a header."""
    lower = [cell.lower() for cell in cells]
    query = next((i for i, c in enumerate(lower) if c in _QUERY), None)
    passage = next((i for i, c in enumerate(lower) if c in _PASSAGE), None)
    if query is not None and passage is not None:
        return (query, passage, next((i for i, c in enumerate(lower) if c in _GRADE), -1)), True
    # TREC has four columns; M-BEIR adds its task id as a fifth.
    forms = {2: (0, 1, -1), 3: (0, 1, 2), 4: (0, 2, 3), 5: (0, 2, 3)}
    return forms.get(len(cells)), False


def _grade(value: object, where: str) -> float:
    if value is None:
        return 1
    try:
        grade = float(str(value))
    except ValueError:
        grade = float("nan")
    if grade != grade:
        raise InputError(f"the grade {value!r:.60} is no number", where=where, expected=_EXPECTED)
    return grade
