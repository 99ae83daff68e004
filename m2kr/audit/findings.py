"""What an audit says, and the table of its checks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from m2kr.audit.facts import Facts

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Hit:
    """What a check saw in one place.

    Attributes:
        where: Split, corpus or file.
        severity: ``error``: a score is wrong or means something else; ``warning``: it is doubtful, or it is
            a little off; ``note``: to be known.
        count: How many.
        total: Of how many; 0 if there is no such number.
        unit: What is counted, in the plural; with a verb if need be: ``queries repeat an earlier one``.
        effect: What it does to the score, with numbers.
        examples: Up to three.
    """

    where: str
    severity: Severity
    count: int
    total: int
    unit: str
    effect: str
    examples: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Count by total."""
        return self.count / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A hit with the code and the advice of its check."""

    code: str
    advice: str
    hit: Hit


Look = Callable[["Facts"], Iterator[Hit]]


@dataclass(frozen=True, slots=True)
class Check:
    """A check: it looks at a benchmark's facts and says what it saw.

    Attributes:
        code: Its name.
        look: Yields hits.
        doc: What it finds, in one sentence.
        advice: What to do about it.
    """

    code: str
    look: Look
    doc: str
    advice: str


CHECKS: dict[str, Check] = {}


def audit_check(code: str, advice: str) -> Callable[[Look], Look]:
    """Registers the function below it as a check; its docstring's first line says what it finds."""

    def register(look: Look) -> Look:
        CHECKS[code] = Check(code, look, (look.__doc__ or "").strip().partition("\n")[0], advice)
        return look

    return register


def graded(share: float, *, warning: float = 0.0, error: float = 2.0) -> Severity:
    """The severity of a share: from ``error`` on an error, above ``warning`` a warning."""
    return "error" if share >= error else "warning" if share > warning else "note"


def shown(text: str | None, room: int = 60) -> str:
    """A text for an example: one line, cut."""
    line = " ".join((text or "").split())
    return line if len(line) <= room else line[: room - 1] + "…"


def labelled(name: str, text: str | None, room: int = 60) -> str:
    """A name with a text behind a colon, or alone where the text is empty."""
    line = shown(text, room)
    return f"{name}: {line}" if line else name
