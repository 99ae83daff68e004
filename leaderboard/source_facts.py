"""What sources are, for readers of the boards; taken from their builders, which no board imports."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE_FACTS = Path(__file__).parent / "data" / "sources.json"


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """A source as its builder declares it; all empty of one that has no builder.

    Attributes:
        title: One line for people.
        summary: A sentence more.
        task: What a query consists of: ``I2T``, ``Q2T``, ``IQ2T`` or ``mixed``.
        headline: Metric that the paper reports first.
        licence: Terms of the data.
        homepage: https link.
        citation: BibTeX.
    """

    title: str = ""
    summary: str = ""
    task: str = ""
    headline: str = ""
    licence: str = ""
    homepage: str = ""
    citation: str = ""


@cache
def source_facts() -> dict[str, SourceFacts]:
    """All sources that have a builder, by name."""
    facts = json.loads(SOURCE_FACTS.read_text(encoding="utf-8"))
    return {name: SourceFacts(**fields) for name, fields in facts.items()}
