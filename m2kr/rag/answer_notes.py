"""What must be said beside scores of answers that a server gave."""

from collections import Counter
from collections.abc import Hashable

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
            ("refused", "were refused by the model or a filter, and count as empty"),
            ("cut", "have no text, since max_tokens went into reasoning, and count as empty"),
            ("length", "were cut at max_tokens"),
            ("unknown", "came without a word on their tokens, so that sums of them are unknown"),
        ):
            if self._kinds[kind]:
                told.append(f"{self._kinds[kind]:,} of {len(self._seen):,} answers {words}.")
        return told
