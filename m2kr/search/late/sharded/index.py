"""Search of a compressed index in shards, with the very result of one search of all of it.

Each step of the funnel keeps the best so many of the whole pool, and a passage's score in a step
depends on nothing but the query and its own codes. So the shards score, and who asks cuts:

1. ``probe``: each shard returns its own best `SearchSettings.candidates`; the best of all go on;
2. ``refine``: each shard scores those of its passages that are left;
3. ``final``: canonical scores of the last ones.

That is three calls a shard for each batch of queries. Nothing has to be remembered between calls,
so a shard that was lost and opened anew goes on.

Products with centroids and rebuilt tokens are made in the fastest type of each machine. Machines
that differ in it could choose differently, and are refused.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from m2kr.errors import M2KRError
from m2kr.progress import Silent
from m2kr.search.late import canonical, compressed
from m2kr.search.late.compressed import SearchSettings
from m2kr.search.late.index import funnel
from m2kr.search.late.sharded.groups import LOOKS
from m2kr.search.topk import TopK, id_ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from m2kr.progress import Progress
    from m2kr.search.late.index.files import IndexFiles
    from m2kr.search.late.sharded.groups import IndexShard
    from m2kr.search.late.sharded.owners import Owners

    Numbers = NDArray[np.int64]
    Scores = NDArray[np.integer] | NDArray[np.floating]

_TASK = "sharded search"


def search(
    owners: "Owners",
    shards: "Sequence[IndexShard]",
    files: "IndexFiles",
    queries: "Sequence[NDArray[np.floating]]",
    k: int,
    ranks: "Numbers | None" = None,
    *,
    settings: SearchSettings | None = None,
    progress: "Progress | None" = None,
) -> "tuple[Numbers, NDArray[np.float64], SearchSettings]":
    """Search of a compressed index by the owners of its shards.

    Args:
        owners: Of ``shards``.
        shards: From `sharded.groups.index_shards`.
        files: The index.
        queries: As `compressed.search`.
        k: Passages a query.
        ranks: As `compressed.search`.
        settings: As `compressed.search`.
        progress: Told of the queries that are done.

    Returns:
        Numbers and scores: what `compressed.search` of the whole index returns; and the settings.

    Raises:
        M2KRError: machines differ in their arithmetic; and as `compressed.search` and `Owners.call`.
    """
    kinds = set(owners.call("arithmetic", [()] * len(owners)))
    if len(kinds) > 1:
        raise M2KRError(
            f"some machines multiply in {' and some in '.join(sorted(kinds))}: they would choose "
            "different passages",
            fix="search on machines of one kind",
        )
    suited = settings or SearchSettings.suited(k, len(files), files.settings.nbits)
    settings = compressed.widened(suited, k)
    ranks = id_ranks(files.ids()) if ranks is None else ranks
    rounded = canonical.rounded(queries, files.settings.dim)
    live = [number for number, query in enumerate(rounded) if len(query.rows)]
    best = TopK(len(live), ranks, k)
    funnel_of = _Funnel(
        owners,
        [(int(files.firsts[a.first]), int(files.firsts[a.last])) for a in shards],
        settings,
        ranks,
    )
    # Two bytes a product, and one for its rounded form; rows are filled up to 128.
    rows = max((-(-len(query.rows) // 128) * 128 for query in rounded), default=128)
    batch = max(1, LOOKS // (3 * rows * files.settings.centroids))
    progress = progress or Silent()
    progress.start(_TASK, len(live), "queries")
    for first in range(0, len(live), batch):
        asked = [rounded[number] for number in live[first : first + batch]]
        for place, (passages, scores) in enumerate(funnel_of.narrow(asked)):
            best.push(np.full(len(passages), first + place), passages, scores)
        progress.advance(_TASK, len(asked))
    progress.done(_TASK)
    # A query without rows scores 0 with everything: the tie rule alone ranks the pool.
    _, firsts = np.unique(ranks, return_index=True)
    numbers = np.tile(firsts[:k], (len(queries), 1)).astype(np.int64)
    scores = np.zeros(numbers.shape)
    numbers[live], scores[live] = best.result()
    return numbers, scores, settings


@dataclass(frozen=True, slots=True)
class _Funnel:
    """The steps, each asked of all owners and cut over all of their answers.

    Attributes:
        owners: Of the shards.
        ranges: First passage of each shard, and one past its last.
        settings: How many passages each step keeps.
        id_ranks: Per passage of the pool the rank of its id, which breaks ties.
    """

    owners: "Owners"
    ranges: "Sequence[tuple[int, int]]"
    settings: SearchSettings
    id_ranks: "Numbers"

    def narrow(
        self, queries: "Sequence[canonical.Query]"
    ) -> "list[tuple[Numbers, NDArray[np.float64]]]":
        """Per query the passages that are left, and their final scores."""
        settings, pool = self.settings, self.ranges[-1][1] if self.ranges else 0
        passages = [np.arange(pool)] * len(queries)
        if pool > settings.candidates:
            asked = (queries, settings.probes, settings.candidates)
            answers = self.owners.call("probe", [asked] * len(self.owners))
            passages = [
                _best_of(found, self.id_ranks, settings.candidates)
                for found in zip(*answers, strict=True)
            ]
        if queries and len(passages[0]) > settings.scored:
            scores = self._scores("refine", queries, passages)
            passages = [
                numbers[funnel.best(found, self.id_ranks[numbers], settings.scored)]
                for numbers, found in zip(passages, scores, strict=True)
            ]
        return list(zip(passages, self._scores("final", queries, passages), strict=True))

    def _scores(
        self, step: str, queries: "Sequence[canonical.Query]", passages: "Sequence[Numbers]"
    ) -> "list[NDArray[np.float64]]":
        """Scores of the passages, each by the shard that holds it."""
        held = [
            [(first <= numbers) & (numbers < last) for numbers in passages]
            for first, last in self.ranges
        ]
        asked = [
            (queries, [numbers[mine] for numbers, mine in zip(passages, masks, strict=True)])
            for masks in held
        ]
        # Steps' scores are float32, which float64 holds as they are.
        scores = [np.empty(len(numbers)) for numbers in passages]
        for masks, answers in zip(held, self.owners.call(step, asked), strict=True):
            for into, mine, found in zip(scores, masks, answers, strict=True):
                into[mine] = found
        return scores


def _best_of(found: "Sequence[tuple[Numbers, Scores]]", ranks: "Numbers", count: int) -> "Numbers":
    numbers = np.concatenate([numbers for numbers, _ in found])
    scores = np.concatenate([scores for _, scores in found])
    return numbers[funnel.best(scores, ranks[numbers], count)]
