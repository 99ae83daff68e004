"""What is wrong with a submission: every fault that was found, each with what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from m2kr.errors import M2KRError


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a submission.

    Attributes:
        check: Name of the check that found it, such as ``every-query-once``.
        where: File, and row or field in it.
        what: What is wrong, in one sentence.
        expected: What a right value looks like.
        fix: What the submitter should do.
    """

    check: str
    where: str
    what: str
    expected: str = ""
    fix: str = ""

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what} [{self.check}]"]
        lines += [f"  expected: {self.expected}"] if self.expected else []
        lines += [f"  try:      {self.fix}"] if self.fix else []
        return "\n".join(lines)


class SubmissionRefused(M2KRError):
    """A submission has faults (exit 1)."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        more = len(self.problems) - 1
        super().__init__(
            f"{first.what} [{first.check}]" + (f"; and {more} more" if more else ""),
            where=first.where,
            expected=first.expected or None,
            fix=first.fix or None,
        )

    def __reduce__(self) -> tuple[type, tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))

    def as_dict(self) -> dict[str, Any]:
        """The first fault as of every error, and all of them under ``problems``."""
        problems = [
            {
                "check": p.check,
                "where": p.where,
                "what": p.what,
                "expected": p.expected,
                "fix": p.fix,
            }
            for p in self.problems
        ]
        return super().as_dict() | {"problems": problems}
