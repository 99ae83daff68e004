"""Claims as pages show them: by protocol, each with what was recomputed of the same."""

from collections.abc import Iterable
from dataclasses import dataclass

from m2kr.evaluation.metrics import heading, metrics

from ..claims import CLAIM_METRICS, Claim, by_protocol
from ..protocols import PROTOCOLS
from ..source_facts import source_facts
from .recomputed import RecomputedScores

_HEADINGS = {
    "unclear": "R@{k} or PR@{k}",
    "entity_recall": "entity R@{k}",
    "mean_recall": "mean of R@{k}",
    "vqa_soft_accuracy": "VQA soft accuracy",
    "infoseek_accuracy": "Infoseek accuracy",
    "bem_accuracy": "BEM accuracy",
    "vqa_accuracy": "VQA accuracy",
}
_NAMES = {"remuq": "ReMuQ", "www2025-mdr": "WWW 2025 challenge"}


@dataclass(frozen=True, slots=True)
class BesideClaim:
    """A recomputed score beside a claim.

    Attributes:
        href: The system's page, from the site's root.
        shown: The score in points of 100.
        difference: From the claim, in words.
        version: Of the system.
    """

    href: str
    shown: str
    difference: str
    version: str


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A claim in a table.

    Attributes:
        claim: It.
        anchor: Its id on the page.
        source_title: Name of its source for people.
        heading: What tables call its metric.
        meaning: What that measures.
        void: Whether it must not be used.
        beside: What was recomputed of the same.
    """

    claim: Claim
    anchor: str
    source_title: str
    heading: str
    meaning: str
    void: bool
    beside: tuple[BesideClaim, ...]


@dataclass(frozen=True, slots=True)
class ClaimGroup:
    """The claims of a protocol.

    Attributes:
        name: Of the protocol.
        title: For people.
        apart: What makes it incomparable.
        rows: Its claims.
        beside: Whether anything was recomputed of any of them.
    """

    name: str
    title: str
    apart: str
    rows: tuple[ClaimRow, ...]
    beside: bool


def claim_groups(claims: Iterable[Claim], scores: RecomputedScores) -> list[ClaimGroup]:
    """Claims by protocol, never two protocols in one group."""
    groups = []
    for name, group in by_protocol(claims).items():
        rows = tuple(_row(claim, scores) for claim in group)
        protocol = PROTOCOLS[name]
        any_beside = any(row.beside for row in rows)
        groups.append(ClaimGroup(name, protocol.title, protocol.apart, rows, any_beside))
    return groups


def source_title(name: str) -> str:
    """What people call a source: ``okvqa`` -> ``OKVQA``."""
    if name in source_facts():
        return source_facts()[name].title.partition(":")[0]
    return _NAMES.get(name, name)


def _row(claim: Claim, scores: RecomputedScores) -> ClaimRow:
    stem, _, k = claim.metric.partition("@")
    name = heading(claim.metric) if stem in metrics() else _HEADINGS[stem].format(k=k)
    beside = tuple(
        BesideClaim(
            f"systems/{score.entry.card.name}.html",
            f"{100 * score.value:.1f}",
            f"{score.difference:+.1f}".replace("-", "\N{MINUS SIGN}"),
            score.entry.card.version,
        )
        for score in scores.of(claim)
    )
    void = claim.state in ("superseded", "buggy input")
    return ClaimRow(
        claim,
        f"claim-{claim.id}",
        source_title(claim.source),
        name,
        CLAIM_METRICS[stem],
        void,
        beside,
    )
