"""What may be spent on an endpoint, and what was."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from m2kr.building.fetch.retry import Stopped
from m2kr.errors import M2KRError

# Tokens that a chat template adds to a request, generously.
_TEMPLATE = 64
# Taken for an image until the first answer about one has come.
_IMAGE = 4096


class BudgetSpent(M2KRError):
    """The next request could exceed the budget (exit 1)."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars per million tokens; None where unknown."""

    tokens_in: float | None = None
    tokens_out: float | None = None

    def dollars(self, input_tokens: int | None, output_tokens: int | None) -> float | None:
        """What so many tokens cost; None if that isn't known."""
        if self.tokens_in is None or self.tokens_out is None:
            return None
        if input_tokens is None or output_tokens is None:
            return None
        return (input_tokens * self.tokens_in + output_tokens * self.tokens_out) / 1e6


@dataclass(slots=True, eq=False)  # two requests are never one, however alike
class Expense:
    """One request.

    Attributes:
        input_bound: Tokens that it has at most.
        output_bound: Tokens that its answer has at most.
        image: Whether it has one.
        asked: Whether the model may have worked, so that it may have to be paid.
        input_tokens: By the server's word, if it said so.
        output_tokens: The same.
    """

    input_bound: int
    output_bound: int
    image: bool
    asked: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(slots=True)
class Outlay:
    """What was spent.

    Attributes:
        requests: Made, failed ones included.
        unknown: Of these, how many may have to be paid without that the server said for what: they
            count as dear as they can have been.
        input_tokens: By the server's word.
        output_tokens: The same.
        tokens_at_most: With those of unknown requests.
        dollars: By the server's word and the prices; None if there are no prices.
        dollars_at_most: With those of unknown requests.
    """

    requests: int = 0
    unknown: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    tokens_at_most: int = 0
    dollars: float | None = None
    dollars_at_most: float | None = None


@dataclass
class Budget:
    """Limits of what one client spends; several threads use it.

    A request is counted before it is made, as dear as it can be: a token has at least one byte, an
    answer ends at ``max_tokens``; an image counts as four times what the dearest request so far had
    (the first goes alone, to know it). A server that takes more than this, by a prompt of its own or by
    reasoning beyond ``max_tokens``, is known by its first answer. So the budget isn't exceeded, and a
    little of it stays.

    Attributes:
        prices: Of tokens.
        dollars: At most; None for no limit.
        tokens: Read and written, at most.
        requests: At most, repeated ones included.
    """

    prices: Prices = field(default_factory=Prices)
    dollars: float | None = None
    tokens: int | None = None
    requests: int | None = None
    spent: Outlay = field(default_factory=Outlay, init=False)

    def __post_init__(self) -> None:
        self._change = threading.Condition()
        self._open: list[Expense] = []
        self._image = _IMAGE
        self._more_in = self._most_out = 0
        self._image_known = False
        if self.prices.dollars(0, 0) is not None:
            self.spent.dollars = self.spent.dollars_at_most = 0.0

    @contextmanager
    def request(
        self, text_bytes: int, output_bound: int, *, image: bool, stop: threading.Event
    ) -> Iterator[Expense]:
        """A request is made inside; waits while others under way might use the budget up.

        Args:
            text_bytes: Of what is sent, images not counted.
            output_bound: Tokens of the answer at most.
            image: Whether there is one.
            stop: Set to give up.

        Raises:
            BudgetSpent: There is not enough left.
            Stopped: ``stop`` was set.
        """
        with self._change:
            while True:
                if stop.is_set():
                    raise Stopped
                tokens = text_bytes + _TEMPLATE + self._more_in + (self._image if image else 0)
                expense = Expense(tokens, max(output_bound, self._most_out), image)
                lacking = self._lacking(expense)
                alone = image and not self._image_known and self._limited
                if not (self._open and (lacking or alone)):
                    break
                self._change.wait(0.1)
            if lacking:
                raise self._error(lacking)
            self._open.append(expense)
        try:
            yield expense
        finally:
            with self._change:
                self._open.remove(expense)
                self._settle(expense)
                self._change.notify_all()

    @property
    def _limited(self) -> bool:
        return self.dollars is not None or self.tokens is not None

    def _settle(self, expense: Expense) -> None:
        spent, known = self.spent, None not in (expense.input_tokens, expense.output_tokens)
        spent.requests += 1
        if known:
            read, written = expense.input_tokens or 0, expense.output_tokens or 0
            spent.input_tokens += read
            spent.output_tokens += written
            self._most_out = max(self._most_out, written)
            if not expense.image:
                self._more_in = max(self._more_in, self._more_in + read - expense.input_bound)
            else:
                self._image = max(4 * read, self._image if self._image_known else 0)
                self._image_known = True
        elif expense.asked:
            spent.unknown += 1
            read, written = expense.input_bound, expense.output_bound
        else:
            return
        spent.tokens_at_most += read + written
        dollars = self.prices.dollars(read, written)
        if dollars is not None:
            spent.dollars_at_most = (spent.dollars_at_most or 0.0) + dollars
            if known:
                spent.dollars = (spent.dollars or 0.0) + dollars

    def _lacking(self, expense: Expense) -> str:
        """The limit that a request might exceed, in words; "" if none."""
        under_way = [*self._open, expense]
        if self.requests is not None and self.spent.requests + len(under_way) > self.requests:
            return f"{self.requests:,} requests"
        tokens = sum(e.input_bound + e.output_bound for e in under_way)
        if self.tokens is not None and self.spent.tokens_at_most + tokens > self.tokens:
            return f"{self.tokens:,} tokens; the next request may take {tokens:,}"
        costs = [self.prices.dollars(e.input_bound, e.output_bound) for e in under_way]
        if self.dollars is not None:
            ahead = sum(cost or 0.0 for cost in costs)
            # A sum of floats may be off in its last digits.
            if (self.spent.dollars_at_most or 0.0) + ahead > self.dollars * (1 + 1e-12):
                return f"${self.dollars:g}; the next request may cost ${ahead:.6f}"
        return ""

    def _error(self, lacking: str) -> BudgetSpent:
        spent = self.spent
        return BudgetSpent(
            f"the budget is used up: {lacking}",
            expected=f"so far {describe_spent(spent)}",
            fix="all answers are kept: the same command goes on from here, with a budget of its own "
            "(--set budget=DOLLARS, token_budget=N or request_budget=N)",
        )


def describe_spent(spent: Outlay) -> str:
    """What was spent, in one line; what is not known is said, never taken for 0."""
    parts = [f"{spent.requests:,} requests"]
    parts.append(f"{spent.input_tokens:,} tokens read and {spent.output_tokens:,} written")
    if spent.dollars is not None:
        parts.append(f"${spent.dollars:.6f}")
    line = ", ".join(parts)
    if spent.unknown:
        most = "" if spent.dollars_at_most is None else f", ${spent.dollars_at_most:.6f} at most"
        line += (
            f"; besides, {spent.unknown:,} requests without a word on their tokens "
            f"({spent.tokens_at_most:,} tokens at most in all{most})"
        )
    return line
