"""The scores of one result's answers by question and arm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.errors import InputError
from m2kr.rag.records import ARMS, NONE, ORACLE, RULE, SCORE
from m2kr.rag.scorer import UNDEFINED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.rag.records import RagResult

GROUPINGS = ("task", "question_type", "group")  # columns that scores are broken down by
NO_VALUE = "(none)"
_SUMS = ("input_tokens", "output_tokens", "seconds", "dollars")


@dataclass(frozen=True, slots=True)
class Arm:
    """With which passages a reader answered.

    Attributes:
        kind: ``none``, ``retrieved`` or ``oracle``.
        k: Passages that were asked for; 0 without retrieval.
    """

    kind: str
    k: int

    @property
    def label(self) -> str:
        """What tables call it."""
        if self.kind == NONE:
            return "no retrieval"
        return "oracle" if self.kind == ORACLE else f"{self.kind}@{self.k}"


@dataclass(frozen=True)
class ArmScores:
    """The answers of one result as arrays.

    Attributes:
        arms: No retrieval, then what was retrieved by k, then the oracle.
        question_ids: Sorted, so that equal records in another order give equal numbers.
        rows: (questions x arms) the records' row numbers; -1 where a question has no answer there.
        scores: By scorer (questions x arms); NaN where there is no answer or it could not be judged.
        defined: By scorer whether a question has an accepted answer that it can use; no other counts.
        groups: By column of `GROUPINGS` that has two values or more: each question's.
        usage: Per arm the mean of tokens, seconds and dollars a question; None if any answer's are unknown.
    """

    arms: tuple[Arm, ...]
    question_ids: tuple[str, ...]
    rows: "NDArray[np.int64]"
    scores: "Mapping[str, NDArray[np.float64]]"
    defined: "Mapping[str, NDArray[np.bool_]]"
    groups: Mapping[str, Sequence[str]]
    usage: Sequence[Mapping[str, float | None]]

    @classmethod
    def of(cls, result: "RagResult") -> "ArmScores":
        """Reads the records of a result.

        Raises:
            MissingError: They are not beside it.
            InputError: They are damaged: an answer is there twice, a score is no share, an arm is unknown.
        """
        names = list(result.scorers)
        columns = [
            "question_id",
            "arm",
            "k",
            *_SUMS,
            *GROUPINGS,
            *(kind + n for n in names for kind in (SCORE, RULE)),
        ]
        table = result.records(columns)
        where = str(result.records_path)
        ids = table.column("question_id").combine_chunks()
        arms, of_arm = _arms(table, where)
        distinct = ids.unique()
        order = pc.sort_indices(distinct)
        place = np.empty(len(distinct), np.int64)
        place[order.to_numpy()] = np.arange(len(distinct))
        of_question = place[pc.index_in(ids, distinct).to_numpy()]
        rows = np.full((len(distinct), len(arms)), -1, np.int64)
        rows[of_question, of_arm] = np.arange(len(table))
        if (rows >= 0).sum() < len(table):
            twice = np.flatnonzero(rows[of_question, of_arm] != np.arange(len(table)))[0]
            raise InputError(
                f"question '{ids[int(twice)]}' has two answers of the arm "
                f"{arms[of_arm[twice]].label}",
                where=where,
            )
        scores = {name: _spread(table, SCORE + name, rows) for name in names}
        for name, values in scores.items():
            odd = (values < 0) | (values > 1) | np.isinf(values)
            if odd.any():
                raise InputError(
                    f"a score of {values[odd][0]:g}",
                    where=f"{where}, column {SCORE + name}",
                    expected="scores from 0 to 1, or none",
                )
        return cls(
            arms,
            tuple(distinct.take(order).to_pylist()),
            rows,
            scores,
            {name: _defined(table, RULE + name, rows) for name in names},
            _groups(table, rows),
            [
                {name: _mean(table, name, rows[:, number]) for name in _SUMS}
                for number in range(len(arms))
            ],
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The arms' names."""
        return tuple(arm.label for arm in self.arms)


def _arms(table: pa.Table, where: str) -> "tuple[tuple[Arm, ...], NDArray[np.int64]]":
    """The arms in the order of tables, and each row's place among them."""
    kinds, ks = table.column("arm").to_pylist(), table.column("k").to_pylist()
    pairs = list(zip(kinds, ks, strict=True))
    unknown = [pair for pair in set(pairs) if pair[0] not in ARMS or pair[1] is None]
    if unknown:
        raise InputError(
            f"an arm '{unknown[0][0]}' with k {unknown[0][1]}",
            where=where,
            expected=f"one of {', '.join(ARMS)}",
        )
    arms = tuple(Arm(*pair) for pair in sorted(set(pairs), key=lambda p: (ARMS.index(p[0]), p[1])))
    if len({arm.label for arm in arms}) < len(arms):
        raise InputError("two k of no retrieval or of the oracle", where=where, expected="one each")
    places = {(arm.kind, arm.k): number for number, arm in enumerate(arms)}
    return arms, np.array([places[pair] for pair in pairs], np.int64)


def _spread(table: pa.Table, name: str, rows: "NDArray[np.int64]") -> "NDArray[np.float64]":
    """A column of numbers as (questions x arms); NaN for none."""
    values = table.column(name).cast(pa.float64()).to_numpy()
    if not len(values):
        return np.full(rows.shape, np.nan)
    spread: NDArray[np.float64] = np.where(rows >= 0, values[rows], np.nan)
    return spread


def _defined(table: pa.Table, name: str, rows: "NDArray[np.int64]") -> "NDArray[np.bool_]":
    """Per question whether no answer's rule says that the question has no score, whatever is answered."""
    undefined = pc.is_in(table.column(name), pa.array(sorted(UNDEFINED))).to_numpy()
    if not len(undefined):
        return np.ones(len(rows), bool)
    return ~np.asarray((undefined[rows] & (rows >= 0)).any(axis=1))


def _mean(table: pa.Table, name: str, rows: "NDArray[np.int64]") -> float | None:
    values = table.column(name).take(pa.array(rows[rows >= 0]))
    return float(pc.mean(values).as_py()) if len(values) and not values.null_count else None


def _groups(table: pa.Table, rows: "NDArray[np.int64]") -> dict[str, list[str]]:
    first = rows.max(axis=1)  # any answer's row tells it
    groups: dict[str, list[str]] = {}
    for name in GROUPINGS:
        told = table.column(name).take(pa.array(first)).to_pylist()
        values: list[Any] = [NO_VALUE if value is None else str(value) for value in told]
        if len(set(values)) > 1:
            groups[name] = values
    return groups
