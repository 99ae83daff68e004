"""How far two scorers agree on the same answers: counts, Cohen's kappa and its interval."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from m2kr.errors import InputError

# Name of the scorer that is a model.
JUDGE = "judge"
# A score from here on counts as right.
RIGHT = 0.5
_DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two scorers' verdicts, right or wrong, on the answers that both judged.

    Attributes:
        both: Answers that are right by both.
        first_only: By the first alone.
        second_only: By the second alone.
        neither: By none.
        not_judged: That one of them didn't judge; not counted otherwise.
        observed: Share of equal verdicts; None if there are no answers.
        expected: Share that would be equal by chance.
        kappa: (observed - expected) / (1 - expected); None if undefined, as where both call every answer
            right.
        low: Of kappa's 95 % interval.
        high: See ``low``.
    """

    both: int
    first_only: int
    second_only: int
    neither: int
    not_judged: int = 0
    observed: float | None = None
    expected: float | None = None
    kappa: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def judged(self) -> int:
        """Answers that both judged."""
        return self.both + self.first_only + self.second_only + self.neither


def cohen_kappa(
    first: Sequence[float | bool | None], second: Sequence[float | bool | None], *, seed: int = 0
) -> Agreement:
    """Agreement of two scorers beyond chance (Cohen 1960), on answers in the same order.

    A score from 0.5 on is a verdict of right. The interval is that of the posterior of the four cells
    under Jeffreys' prior (Dirichlet, 1/2 each), widened to kappa itself: it stays honest for few answers
    and for perfect agreement, where a bootstrap or a standard error gives an interval of no width.
    Answers are taken as independent of each other.

    Args:
        first: Scores from 0 to 1; None for an answer that isn't judged.
        second: The same.
        seed: Of the draws.

    Raises:
        InputError: They are not equally many, or a score is none.

    Example:
        >>> pair = cohen_kappa([1, 1, 0, 0], [1, 0, 0, 0])
        >>> pair.observed, pair.expected, pair.kappa
        (0.75, 0.5, 0.5)
    """
    if len(first) != len(second):
        raise InputError(
            f"two scorers have {len(first):,} and {len(second):,} verdicts",
            expected="a verdict of each on every answer",
        )
    counts, skipped = [0, 0, 0, 0], 0
    for a, b in zip(first, second, strict=True):
        if a is None or b is None:
            skipped += 1
            continue
        if not (0 <= a <= 1 and 0 <= b <= 1):
            raise InputError(f"a verdict is {a!r} or {b!r}", expected="a score from 0 to 1")
        counts[2 * (a < RIGHT) + (b < RIGHT)] += 1
    total = sum(counts)
    cells = Agreement(counts[0], counts[1], counts[2], counts[3], skipped)
    if not total:
        return cells
    observed, expected = _shares(*(count / total for count in counts))
    # Exactly: that every verdict of both is the same one.
    if total in (counts[0], counts[3]):
        return replace(cells, observed=observed, expected=expected)
    kappa = (observed - expected) / (1 - expected)
    low, high = _interval(counts, seed)
    return replace(
        cells,
        observed=observed,
        expected=expected,
        kappa=kappa,
        low=min(low, kappa),
        high=max(high, kappa),
    )


def _shares(both: Any, first_only: Any, second_only: Any, neither: Any) -> tuple[Any, Any]:
    """Observed and expected agreement, of shares of the four cells."""
    one, other = both + first_only, both + second_only
    return both + neither, one * other + (1 - one) * (1 - other)


def _interval(counts: Sequence[int], seed: int) -> tuple[float, float]:
    import numpy as np

    draws = np.random.default_rng(seed).dirichlet([count + 0.5 for count in counts], _DRAWS)
    observed, expected = _shares(*draws.T)
    low, high = np.quantile((observed - expected) / (1 - expected), [0.025, 0.975])
    return float(low), float(high)


def agreement_table(
    records: Mapping[str, Sequence[Any]], judge: str, others: Sequence[str]
) -> list[dict[str, Any]]:
    """The judge's agreement with each other scorer, over distinct answers to questions.

    An answer that several arms gave to one question counts once.

    Args:
        records: Columns ``question_id``, ``answer`` and ``score:<scorer>`` of each, such as
            ``RagResult.records().to_pydict()``.
        judge: Name of the first scorer, as in its column.
        others: Names of the others.

    Returns:
        One object each: ``judge``, ``scorer``, ``judged`` and the attributes of `Agreement`.

    Raises:
        InputError: A column is not there.
    """
    for name in ("question_id", "answer", *(f"score:{scorer}" for scorer in (judge, *others))):
        if name not in records:
            raise InputError(
                f"the records have no column '{name}'", expected=", ".join(sorted(records))
            )
    rows: dict[Hashable, int] = {}
    for row, pair in enumerate(zip(records["question_id"], records["answer"], strict=True)):
        rows.setdefault(pair, row)
    table = []
    for scorer in others:
        first, second = (
            [records[f"score:{s}"][row] for row in rows.values()] for s in (judge, scorer)
        )
        agreement = cohen_kappa(first, second)
        table.append(
            {"judge": judge, "scorer": scorer, "judged": agreement.judged} | asdict(agreement)
        )
    return table


def describe_agreement(row: Mapping[str, Any]) -> str:
    """A row of `agreement_table` in one line."""
    judge, scorer, judged = row["judge"], row["scorer"], row["judged"]
    left = f"; {row['not_judged']:,} answers not judged by both" if row["not_judged"] else ""
    if not judged:
        return f"{judge} and {scorer}: no answer was judged by both{left}"
    kappa = "kappa undefined: all verdicts are the same"
    if row["kappa"] is not None:
        kappa = f"kappa {row['kappa']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    return (
        f"{judge} and {scorer} agree on {row['observed']:.1%} of {judged:,} distinct answers, {kappa}; right "
        f"by both {row['both']:,}, {judge} alone {row['first_only']:,}, {scorer} alone "
        f"{row['second_only']:,}, neither {row['neither']:,}{left}"
    )
