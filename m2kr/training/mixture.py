"""Which query is met when, with which passages: a pure function of the number of the visit."""

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.data.load import Split, load
from m2kr.errors import InputError, UsageError
from m2kr.hashes import file_sha256
from m2kr.training.batch import Drawn, Visit
from m2kr.training.draws import Purpose, draw_uniform, generator
from m2kr.training.share_rows import ShareRows
from m2kr.training.visit_order import VisitOrder

if TYPE_CHECKING:
    import os

    import numpy as np

    from m2kr.training.recipe import Recipe, Share

_RAREST = 1_000_000


def open_splits(
    recipe: "Recipe",
    data_root: "str | os.PathLike[str] | None" = None,
    images: Sequence[str | Path] = (),
) -> list[Split]:
    """The splits of a recipe's mixture, in its order.

    Args:
        recipe: Names them.
        data_root: Where they were built; see `m2kr.paths.data_root`.
        images: Image roots searched before the sources' own.

    Raises:
        UsageError: The recipe names none, or there is no such source or split.
        MissingError: A source is not built.
    """
    return [
        load(share.source, share.split, edition=share.edition, data=data_root, images=images)
        for share in recipe.data.sources
    ]


class Mixture:
    """The visits of a recipe over its splits.

    Visit n is the same whenever, wherever and after whatever it is asked for. In an epoch each row is
    visited ``repeat`` times; with weights, sources are gone through at their own pace, pass after pass.
    A visit draws one of the query's positives, then its negatives: mined ones first, then uniform ones
    over all rows of the corpus that are not right for the query, neither by id nor by their text.

    Args:
        recipe: Its ``data``, ``negatives``, ``distillation`` and ``steps.seed`` are read.
        splits: One for each of the recipe's sources; see `open_splits`.

    Attributes:
        shares: The sources with the rows that are visited.
        pools: Each distinct pool: number of the first share that has it, and where the pool begins in
            the corpus of all.
        pool_of: For each share the number under which its pool is there.
        epoch_visits: Visits of an epoch: rows times ``repeat``, of all sources together.

    Raises:
        UsageError: The mixture is impossible.
        InputError: A source has no row to train on, or the corpus is too small for the negatives.
        MissingError: There is no mined file.
    """

    def __init__(self, recipe: "Recipe", splits: Sequence[Split]) -> None:
        self._recipe = recipe
        self._seed = recipe.steps.seed
        sources = recipe.data.sources
        _check(sources, recipe)
        if len(splits) != len(sources):
            raise UsageError(f"{len(splits)} splits for {len(sources)} sources")
        self.shares = [
            ShareRows(share, number, split, self._seed)
            for number, (share, split) in enumerate(zip(sources, splits, strict=True))
        ]
        weights = [share.weight for share in sources if share.weight is not None]
        quotas = [len(each.rows) * each.share.repeat for each in self.shares]
        self._order = VisitOrder(quotas, weights or None, self._seed)
        self.epoch_visits = self._order.epoch_visits
        self.pools = self._distinct_pools()
        self._mined = self._open_mined()

    def visit(self, number: int) -> Visit:
        """The query and passages of a visit, counted from 0 over all ranks and epochs.

        Raises:
            InputError: The corpus has too few passages that are wrong for the query.
        """
        if number < 0:
            raise UsageError(f"there is no visit {number}", expected="0 or more")
        share_number, before = self._order[number]
        share = self.shares[share_number]
        row = share.row(before)
        rng = generator(self._seed, Purpose.VISIT, number)
        of_row = share.other(row) if self._recipe.data.shuffle_labels else row
        positives = share.positives(of_row)
        positive = int(positives[rng.integers(len(positives))])
        passages = [Drawn(share_number, positive, "positive")]
        # Of the query itself, too: shuffled labels must not make its right passages negatives.
        judged = {*map(int, share.judged(of_row)), *map(int, share.judged(row))}
        texts = {share.texts[each] for each in judged}
        passages += self._draw_mined(rng, share, row, judged, texts)
        passages += self._draw_uniform(rng, share, row, judged, texts, passages)
        return Visit(number, share_number, row, tuple(passages))

    def right(self, visit: Visit) -> "list[int]":
        """Pool rows of all passages that are right for a visit's query, the drawn one among them."""
        share = self.shares[visit.share]
        row = share.other(visit.row) if self._recipe.data.shuffle_labels else visit.row
        return [*map(int, share.judged(row))]

    @cached_property
    def fingerprint(self) -> str:
        """Hash (hex) of all data that visits depend on: rows and their order, judgements, pools, files."""
        parts: list[Any] = [
            {
                "fingerprints": share.split.fingerprints,
                "queries": share.split.queries_view.order,
                "passages": share.split.passages_view.order,
                "rows": hashlib.blake2b(share.rows.tobytes()).hexdigest(),
            }
            for share in self.shares
        ]
        negatives, teacher = self._recipe.negatives, self._recipe.distillation
        used = (
            negatives.file if negatives.mined else None,
            teacher.file if teacher.kind != "none" else None,
        )
        parts += [None if file is None else file_sha256(Path(file)) for file in used]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """What is visited, for plans and logs. JSON values."""
        visits = self._order.totals(self.epoch_visits)
        return {
            "epoch_visits": self.epoch_visits,
            "sources": [
                {
                    "source": each.split.source,
                    "split": each.split.split,
                    "edition": each.split.edition,
                    "rows": len(each.split),
                    "other_tasks": each.other_tasks,
                    "without_positive": each.without_positive,
                    "rows_visited": len(each.rows),
                    "visits_per_epoch": count,
                    "passages": len(each.split.passages),
                }
                for each, count in zip(self.shares, visits, strict=True)
            ],
            "corpus": sum(len(self.shares[number].split.passages) for number in self.pools),
        }

    def _distinct_pools(self) -> dict[int, int]:
        """For each distinct pool the number of a share that has it, with where it begins in the corpus."""
        first: dict[tuple[str, str], int] = {}
        self.pool_of: list[int] = []
        for share in self.shares:
            known = share.split.fingerprints["pool"], share.split.passages_view.order
            self.pool_of.append(first.setdefault(known, share.number))
        sizes = [len(self.shares[number].split.passages) for number in first.values()]
        starts = accumulate(sizes, initial=0)
        return dict(zip(first.values(), starts, strict=False))

    def _draw_uniform(
        self,
        rng: "np.random.Generator",
        share: ShareRows,
        row: int,
        judged: set[int],
        texts: set[str],
        drawn: list[Drawn],
    ) -> list[Drawn]:
        count = self._recipe.negatives.uniform + self._recipe.negatives.mined - len(drawn) + 1
        own = self.pool_of[share.number]
        pools = self.pools if self._recipe.negatives.pool == "mixture" else {own: 0}
        last = list(pools)[-1]
        size = pools[last] + len(self.shares[last].split.passages)
        taken = {each.row for each in drawn}

        def place_of(place: int) -> tuple[int, int]:
            number = next(n for n in reversed(pools) if pools[n] <= place)
            return number, place - pools[number]

        def refused(place: int) -> bool:
            number, its_row = place_of(place)
            if number == own and (its_row in judged or its_row in taken):
                return True
            return self.shares[number].texts[its_row] in texts

        places = draw_uniform(rng, size, count, refused)
        if len(places) < count:
            question = share.question_id(row)
            raise InputError(
                f"{count} negatives are asked for, but of {size:,} passages only {len(places):,} are "
                f"wrong for the query {question!r}",
                where=share.split.label,
                fix="fewer negatives (--set negatives.uniform=…), or --set negatives.pool=mixture",
            )
        found = (place_of(place) for place in places)
        # A pool that several shares have is the query's own, if that is one of them.
        return [
            Drawn(share.number if number == own else number, its_row, "uniform")
            for number, its_row in found
        ]

    def _open_mined(self) -> Any:
        negatives = self._recipe.negatives
        if not negatives.mined:
            return None
        mined_file: Any = import_module("m2kr.training.mined_file")
        return mined_file.MinedFile.open(Path(str(negatives.file)))

    def _draw_mined(
        self,
        rng: "np.random.Generator",
        share: ShareRows,
        row: int,
        judged: set[int],
        texts: set[str],
    ) -> list[Drawn]:
        if self._mined is None:
            return []
        question = share.question_id(row)
        rows = [int(each) for each in self._mined.negatives(question)]
        left = [each for each in rows if each not in judged and share.texts[each] not in texts]
        count = min(self._recipe.negatives.mined, len(left))
        chosen = rng.permutation(len(left))[:count]
        return [Drawn(share.number, left[place], "mined") for place in chosen]


def _check(sources: "Sequence[Share]", recipe: "Recipe") -> None:
    """Refuses what no mixture can be made of."""
    if not sources:
        raise UsageError(
            "the recipe names no data",
            where="data.sources",
            expected="one source or more: {source: mini, split: train}",
        )
    weighted = [share for share in sources if share.weight is not None]
    if weighted and len(weighted) < len(sources):
        without = next(share for share in sources if share.weight is None)
        raise UsageError(
            f"{weighted[0].source} has a weight and {without.source} has none",
            where="data.sources",
            expected="a weight for every source, or none (then rows times repeat count)",
        )
    whole = sum(share.weight or 0 for share in weighted)
    for share in sources:
        where = f"data.sources: {share.source}"
        if share.repeat < 1:
            raise UsageError(f"repeat is {share.repeat}", where=where, expected="1 or more")
        if share.weight is None:
            continue
        if not (math.isfinite(share.weight) and share.weight > 0):
            raise UsageError(f"weight is {share.weight}", where=where, expected="a number above 0")
        if share.weight * _RAREST < whole:
            raise UsageError(
                f"weight {share.weight} is less than one visit in {_RAREST:,}", where=where
            )
        if share.repeat != 1:
            raise UsageError(
                f"both weight ({share.weight}) and repeat ({share.repeat}) are given",
                where=where,
                expected="one of them: a weight decides how often rows are visited by itself",
            )
    negatives = recipe.negatives
    if negatives.uniform < 0 or negatives.mined < 0:
        raise UsageError(
            f"negatives: uniform {negatives.uniform}, mined {negatives.mined}", expected="0 or more"
        )
    if negatives.mined and not negatives.file:
        raise UsageError(
            f"negatives.mined is {negatives.mined}, but negatives.file is not given",
            fix="m2kr mine … makes the file",
        )
