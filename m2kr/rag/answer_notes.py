"""What must be said beside scores where a server gave answers or verdicts."""

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

from m2kr.rag.reader import Answer


class AnswerNotes:
    """Counts what answers say of themselves in their detail, each answer once."""

    def __init__(self) -> None:
        self._seen: set[Hashable] = set()
        self._models: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()

    def add(self, key: Hashable, answer: Answer) -> None:
        """Counts an answer; a key that came before isn't counted again."""
        if key in self._seen:
            return
        self._seen.add(key)
        detail = answer.detail
        if isinstance(model := detail.get("model"), str):
            self._models[model] += 1
        if isinstance(kind := detail.get("missing"), str):
            self._kinds[kind] += 1
        elif detail.get("finish_reason") == "length":
            self._kinds["length"] += 1
        if answer.input_tokens is None or answer.output_tokens is None:
            self._kinds["unknown"] += 1

    def sentences(self) -> list[str]:
        """What there is to say, most often nothing."""
        told = []
        if len(self._models) > 1:
            models = ", ".join(f"{name} ({n:,})" for name, n in sorted(self._models.items()))
            told.append(
                f"By the server's word the answers come from {len(self._models)} models, which may not "
                f"compare: {models}."
            )
        for kind, words in (
            ("refused", "were refused by the model, a filter or the server, and count as empty"),
            ("cut", "have no text, since max_tokens went into reasoning, and count as empty"),
            ("length", "were cut at max_tokens"),
            ("unknown", "came without a word on their tokens, so that sums of them are unknown"),
        ):
            if self._kinds[kind]:
                told.append(f"{self._kinds[kind]:,} of {len(self._seen):,} answers {words}.")
        return told


class VerdictCosts:
    """Sums what verdicts took that say it in their detail, as those of a judge do."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, float | None]] = {}

    def add(self, scorer: str, detail: Mapping[str, Any]) -> None:
        """Counts a verdict."""
        if "input_tokens" not in detail:
            return
        sums = self._sums.setdefault(
            scorer, {"verdicts": 0, "input_tokens": 0, "output_tokens": 0, "dollars": 0.0}
        )
        for name, value in sums.items():
            more = 1 if name == "verdicts" else detail.get(name)
            sums[name] = None if value is None or more is None else value + more

    def sentences(self) -> list[str]:
        """One for each such scorer."""
        return [
            f"{scorer}: {sums['verdicts']:,} verdicts took {_number(sums['input_tokens'])} tokens in, "
            f"{_number(sums['output_tokens'])} out, {_number(sums['dollars'], '$')}."
            for scorer, sums in self._sums.items()
        ]


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "unknown dollars" if unit else "an unknown number of"
    return f"{unit}{value:,.4f}" if unit else f"{value:,}"
