"""The page of claims: what others printed, reported and not recomputed."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import get_args

from ..claims import ClaimState
from ..protocols import PROTOCOLS
from .claim_rows import claim_groups, source_title
from .context import SiteContext
from .recomputed import RecomputedScores


def ledger_pages(site: SiteContext) -> Iterator[tuple[str, bytes]]:
    """``claims.html``."""
    groups = claim_groups(site.claims, RecomputedScores(site.boards))
    states = Counter(claim.state for claim in site.claims)
    sources = {claim.source: source_title(claim.source) for claim in site.claims}
    choices = [
        ("protocol", "Protocol", [(group.name, group.title) for group in groups]),
        ("system", "System", _plain({claim.system for claim in site.claims})),
        ("source", "Source", sorted(sources.items(), key=lambda item: item[1].lower())),
        ("status", "Status", [(state, state) for state in get_args(ClaimState) if states[state]]),
    ]
    shown = {group.name for group in groups}
    yield site.page(
        "claims.html",
        "claims.html",
        "address.js",
        "filters.js",
        title="Published numbers",
        total=len(site.claims),
        groups=groups,
        choices=[{"name": n, "label": label, "options": o} for n, label, o in choices],
        states=[(state, states[state]) for state in get_args(ClaimState) if states[state]],
        without=[p.title for name, p in PROTOCOLS.items() if name not in shown],
    )


def _plain(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, name) for name in sorted(names, key=str.lower)]
