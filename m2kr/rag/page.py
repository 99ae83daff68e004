"""A page of readers' answers: a report's folder with scores, plots, and every question."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr._version import __version__
from m2kr.errors import M2KRError, UsageError, plainly
from m2kr.evaluation.result_data import open_split
from m2kr.progress import SILENT, Progress
from m2kr.rag.arm_scores import ArmScores
from m2kr.rag.grid import USUAL_K, AnswerGrid, compare_answers
from m2kr.rag.page_questions import ShownArm, write_questions
from m2kr.rag.records import ARMS, RETRIEVED
from m2kr.rag.tables import AnswerTable
from m2kr.report.page.data_files import DataFiles
from m2kr.report.page.folder import (
    INDEX,
    replacing_folder,
    require_report_folder,
    write_report_page,
)

if TYPE_CHECKING:
    from os import PathLike

    from m2kr.rag.records import RagResult

logger = logging.getLogger("m2kr.rag")

_FEW = 2  # results, of which the answers with every k are shown


def write_answers_page(
    results: "Sequence[RagResult]",
    folder: "str | PathLike[str]",
    *,
    data: "str | PathLike[str] | None" = None,
    images: Sequence[str | Path] = (),
    progress: Progress = SILENT,
) -> Path:
    """Writes a page of answers, whole or not at all; an older report of this name is replaced.

    Where a split is not there any more, the page is made without its questions, and says so.

    Args:
        results: Of any readers and splits.
        folder: What is written.
        data: Data root searched first for the splits.
        images: Image roots searched first.
        progress: Told of images and questions.

    Returns:
        Path of the page.

    Raises:
        InputError: Something else than a report of ours is there, or records are damaged.
        MissingError: A result has no records beside it.
        UsageError: There are no results.
    """
    if not results:
        raise UsageError("there are no results to report")
    target = Path(folder).resolve()
    require_report_folder(Path(folder))
    by_split: dict[tuple[str, ...], list[RagResult]] = defaultdict(list)
    for result in {str(r.path or id(r)): r for r in results}.values():
        split = (result.source, result.split, result.edition, str(result.fingerprints.get("eval")))
        by_split[split].append(result)
    with plainly(target), replacing_folder(target) as aside:
        aside.mkdir()
        files, notes = DataFiles(aside), []
        columns = []
        for number, (key, group) in enumerate(by_split.items()):
            one_of_several = sum(other[:2] == key[:2] for other in by_split) > 1
            column, said = _column(
                group, number, files, data, images, progress, with_edition=one_of_several
            )
            columns.append(column)
            notes += said
        facts = {
            "version": __version__,
            "columns": columns,
            "notes": list(dict.fromkeys(notes)),
        }
        title = f"Answers on {columns[0]['label']}" if len(columns) == 1 else "Answers of readers"
        write_report_page(
            aside, facts, "answers.js", title=title, noun="question", nouns="questions", one="arm"
        )
    return target / INDEX


def _column(
    results: "Sequence[RagResult]",
    number: int,
    files: DataFiles,
    data: "str | PathLike[str] | None",
    images: Sequence[str | Path],
    progress: Progress,
    *,
    with_edition: bool,
) -> tuple[dict[str, Any], list[str]]:
    """All that the page shows of one split, and its notes."""
    first = results[0]
    label = f"{first.source}/{first.split}"
    key = f"{first.source}.{first.split}"
    if with_edition:
        digest = str(first.fingerprints.get("eval")).rpartition(":")[2][:6]
        label, key = f"{label} ({first.edition} {digest})", f"{key}.{first.edition}.{digest}"
    tables = [AnswerTable.of(result) for result in results]
    notes = [note for table in tables for note in table.notes]
    grid: AnswerGrid | None = None
    if len(results) > 1:
        try:
            grid = compare_answers(results)
        except M2KRError as error:
            notes.append(f"{label}: no table of readers by retrievers: {error.what}")
        else:
            notes += grid.comparison.notes
    shown = _shown(results)
    if len(results) > _FEW:
        notes.append(
            f"{label}: questions show the answers with {USUAL_K} retrieved passages, or of a result "
            "without them with the most, of each of the many results; tables and plots show all."
        )
    column = {
        "key": key,
        "label": label,
        "edition": first.edition,
        "partial": any(result.partial for result in results),
        "questions": max(table.parts[0].questions for table in tables),
        "scorers": list(dict.fromkeys(name for result in results for name in result.scorers)),
        "tables": [
            _table(table, name)
            | {
                "reader": result.reader["name"],
                "retriever": (result.retriever or {}).get("name"),
            }
            for result, table, name in zip(results, tables, _names(results), strict=True)
        ],
        "grid": _grid(grid),
        "arms": [
            {
                "label": arm.label,
                "kind": (of := arm.scores.arms[arm.arm]).kind,
                "k": of.k,
                "reader": arm.reader,
            }
            for arm in shown
        ],
        "browser": _browser(first, shown, number, files, data, images, progress),
    }
    return column, notes


def _browser(
    result: "RagResult",
    arms: Sequence[ShownArm],
    number: int,
    files: DataFiles,
    data: "str | PathLike[str] | None",
    images: Sequence[str | Path],
    progress: Progress,
) -> dict[str, Any]:
    """Writes a split's questions and says where they are, or why they are not."""
    try:
        split = open_split(result, data=data, images=images)
        _ = split.queries_view, split.passages_view  # whose files are checked when they are opened
    except M2KRError as error:
        logger.warning("%s: no questions in the report: %s", result.source, error.what)
        return {"fault": f"The questions are not in this report: {error.what}."}
    left_out = write_questions(split, arms, files, str(number), progress)
    split.require_unharmed()
    return {"folder": str(number), **left_out}


def _names(results: "Sequence[RagResult]") -> list[str]:
    """A name for each result, of those of one label with the digits of their files."""
    labels = [result.label for result in results]
    return [
        f"{label} {result.name.rpartition('.')[2]}" if labels.count(label) > 1 else label
        for label, result in zip(labels, results, strict=True)
    ]


def _shown(results: "Sequence[RagResult]") -> list[ShownArm]:
    """The arms whose answers are shown: of many results with one k alone, and each reader's others once."""
    readers = list(dict.fromkeys(map(_reader_facts, results)))
    placed: dict[tuple[int, str, int, int], ShownArm] = {}
    for number, (result, name) in enumerate(zip(results, _names(results), strict=True)):
        scores = ArmScores.of(result)
        reader = readers.index(_reader_facts(result))
        ks = [arm.k for arm in scores.arms if arm.kind == RETRIEVED]
        usual = USUAL_K if USUAL_K in ks else max(ks, default=0)
        for place, arm in enumerate(scores.arms):
            retrieved = arm.kind == RETRIEVED
            if retrieved and len(results) > _FEW and arm.k != usual:
                continue
            if len(results) == 1:
                label = arm.label
            elif retrieved:
                label = f"{name} @{arm.k}"
            else:
                label = f"{result.reader['name']}, {arm.label}"
            key = (reader, arm.kind, number if retrieved else 0, arm.k if retrieved else 0)
            placed.setdefault(key, ShownArm(label, result, scores, place, reader))
    order = sorted(placed, key=lambda key: (key[0], ARMS.index(key[1]), *key[2:]))
    return [placed[key] for key in order]


def _reader_facts(result: "RagResult") -> str:
    return json.dumps([result.reader["name"], result.reader.get("facts")], sort_keys=True)


def _table(table: AnswerTable, name: str) -> dict[str, Any]:
    """A table without what the page doesn't show."""
    arms = [{"label": arm.label, "kind": arm.kind, "k": arm.k} for arm in table.arms]
    facts = table.as_dict() | {"label": name, "arms": arms}
    for part in facts["parts"]:
        for pairs in part["pairs"].values():
            for pair in pairs:
                pair.pop("groups")
    return facts


def _grid(grid: AnswerGrid | None) -> dict[str, Any] | None:
    """The readers by retrievers, by the metric that is shown first."""
    if grid is None or not grid.comparison.by_source:
        return None
    source, metric = next(iter(grid.comparison.headlines.items()))
    compared = grid.comparison.by_source[source][metric]

    def cell(system: str | None) -> Mapping[str, Any] | None:
        if system is None:
            return None
        low, high = compared.intervals[system]
        return {
            "value": compared.means[system],
            "low": low,
            "high": high,
            "letters": compared.letters[system],
        }

    return {
        "metric": metric,
        "questions": compared.queries,
        "readers": grid.readers,
        "columns": grid.columns,
        "cells": [
            [cell(grid.systems.get((reader, column))) for column in grid.columns]
            for reader in grid.readers
        ],
    }
