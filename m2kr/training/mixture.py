"""Which query is met when, with which passages: a pure function of the number of the visit."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from m2kr.data.load import Split
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.training.batch import Drawn, Visit
from m2kr.training.draws import Purpose, draw_uniform, generator
from m2kr.training.mined_file import MinedFile
from m2kr.training.recipe_checks import check_recipe
from m2kr.training.right_passages import plain
from m2kr.training.share_rows import ShareRows, open_share
from m2kr.training.teacher import Teacher
from m2kr.training.visit_order import VisitOrder

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import numpy as np

    from m2kr.training.recipe import Recipe, Share

_RAREST = 1_000_000


def open_splits(
    recipe: "Recipe",
    data_root: "str | os.PathLike[str] | None" = None,
    images: "Sequence[str | Path]" = (),
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
        open_share(share, f"data.sources[{number}]", data_root, images)
        for number, share in enumerate(recipe.data.sources)
    ]


class Mixture:
    """The visits of a recipe over its splits.

    Visit n is the same whenever, wherever and after whatever it is asked for. In an epoch each row is
    visited ``repeat`` times; with weights, sources are gone through at their own pace, pass after pass.
    A visit draws one of the query's positives, then its negatives: mined ones first, then uniform ones
    over all rows of the corpus that are not right for the query, neither by id nor by their text.

    Tables stay on disk: 2.8 million queries over 8.8 million passages open in 7 s of a processor, with
    0.6 GB of memory at most and 0.1 GB afterwards.

    Args:
        recipe: Its ``data``, ``negatives``, ``distillation`` and ``steps.seed`` are read.
        splits: One for each of the recipe's sources; see `open_splits`.

    Attributes:
        shares: The sources with the rows that are visited.
        pools: Each distinct pool: number of the first share that has it, and where the pool begins in
            the corpus of all.
        pool_of: For each share the number under which its pool is there.
        teachers: For each share the scores that are distilled; None without a teacher.
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
        check_recipe(recipe)
        if len(splits) != len(sources):
            raise UsageError(f"{len(splits)} splits for {len(sources)} sources")
        self.shares = [
            ShareRows(share, number, split, self._seed)
            for number, (share, split) in enumerate(zip(sources, splits, strict=True))
        ]
        _require_common(sources)
        weights = [share.weight for share in sources if share.weight is not None]
        quotas = [len(each.rows) * each.share.repeat for each in self.shares]
        self._order = VisitOrder(quotas, weights or None, self._seed)
        self.epoch_visits = self._order.epoch_visits
        self.pools = self._distinct_pools()
        self._require_negatives()
        negatives, distillation = recipe.negatives, recipe.distillation
        self._mined: list[MinedFile | None] = [None] * len(splits)
        if negatives.mined and negatives.file:
            with _key_named("negatives.file", splits):
                self._mined = [*MinedFile.of_splits(negatives.file, splits)]
        self.teachers: list[Teacher] | None = None
        if distillation.kind != "none" and distillation.file:
            with _key_named("distillation.file", splits):
                self.teachers = Teacher.of_splits(distillation.file, splits)

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
        # With shuffled labels nothing may depend on what is right for the query itself.
        of_row = self.labelled_by(share_number, row)
        rng = generator(self._seed, Purpose.VISIT, number)
        positives = share.positives(of_row)
        positive = int(positives[rng.integers(len(positives))])
        passages = [Drawn(share_number, positive, "positive")]
        judged = {*share.no_negatives(of_row)}
        texts = {plain(share.texts[each]) for each in judged}
        passages += self._draw_mined(rng, share, of_row, judged, texts)
        passages += self._draw_uniform(rng, share, of_row, judged, texts, passages)
        return Visit(number, share_number, row, tuple(passages))

    def labelled_by(self, share: int, row: int) -> int:
        """The row whose passages a query is trained with: its own, unless labels are shuffled."""
        return self.shares[share].other(row) if self._recipe.data.shuffle_labels else row

    def right(self, visit: Visit) -> "list[int]":
        """Pool rows of all passages that are right for a visit's query, the drawn one among them."""
        row = self.labelled_by(visit.share, visit.row)
        return self.shares[visit.share].no_negatives(row)

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
        files = [*self._mined, *(self.teachers or ())]
        parts += [None if file is None else file.fingerprint for file in files]
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
                    "passages": len(each.split.passages_view),
                }
                for each, count in zip(self.shares, visits, strict=True)
            ],
            "corpus": sum(len(self.shares[number].split.passages_view) for number in self.pools),
        }

    def _distinct_pools(self) -> dict[int, int]:
        """For each distinct pool the number of a share that has it, with where it begins in the corpus."""
        first: dict[tuple[str, str], int] = {}
        self.pool_of: list[int] = []
        for share in self.shares:
            known = share.split.fingerprints["pool"], share.split.passages_view.order
            self.pool_of.append(first.setdefault(known, share.number))
        sizes = [len(self.shares[number].split.passages_view) for number in first.values()]
        starts = accumulate(sizes, initial=0)
        return dict(zip(first.values(), starts, strict=False))

    def _corpus(self, share: int) -> tuple[dict[int, int], int]:
        """The pools that a share's negatives are drawn from, with where each begins, and their size."""
        own = self.pool_of[share]
        pools = self.pools if self._recipe.negatives.pool == "mixture" else {own: 0}
        last = [*pools][-1]
        return pools, pools[last] + len(self.shares[last].split.passages_view)

    def _require_negatives(self) -> None:
        """Refuses a corpus that is too small for the query with most right passages, before any visit."""
        count = self._recipe.negatives.uniform + self._recipe.negatives.mined
        for share in self.shares:
            row, size = share.most_judged, self._corpus(share.number)[1]
            left = size - len(share.no_negatives(row))
            if left < count:
                raise self._too_few(share, row, count, size, left)

    def _too_few(self, share: ShareRows, row: int, count: int, size: int, left: int) -> InputError:
        alone = len(self._corpus(share.number)[0]) < len(self.pools)
        return InputError(
            f"{count:,} negatives are asked for, but of {size:,} passages only {left:,} are wrong for "
            f"the query {share.question_id(row)!r}",
            where=share.split.label,
            fix="fewer negatives (--set negatives.uniform=…)"
            + (", or --set negatives.pool=mixture" if alone else ""),
        )

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
        pools, size = self._corpus(share.number)
        taken = {each.row for each in drawn}

        def place_of(place: int) -> tuple[int, int]:
            number = next(n for n in reversed(pools) if pools[n] <= place)
            return number, place - pools[number]

        def refused(place: int) -> bool:
            number, its_row = place_of(place)
            if number == own and (its_row in judged or its_row in taken):
                return True
            return plain(self.shares[number].texts[its_row]) in texts

        places = draw_uniform(rng, size, count, refused)
        if len(places) < count:
            raise self._too_few(share, row, count, size, len(places))
        found = (place_of(place) for place in places)
        # A pool that several shares have is the query's own, if that is one of them.
        return [
            Drawn(share.number if number == own else number, its_row, "uniform")
            for number, its_row in found
        ]

    def _draw_mined(
        self,
        rng: "np.random.Generator",
        share: ShareRows,
        row: int,
        judged: set[int],
        texts: set[str],
    ) -> list[Drawn]:
        mined = self._mined[share.number]
        rows: list[int] = [] if mined is None else mined.negatives(row).tolist()
        left = [
            each for each in rows if each not in judged and plain(share.texts[each]) not in texts
        ]
        count = min(self._recipe.negatives.mined, len(left))
        chosen = rng.permutation(len(left))[:count]
        return [Drawn(share.number, left[place], "mined") for place in chosen]


def _require_common(shares: "Sequence[Share]") -> None:
    """Refuses a weight that its source would hardly be met by."""
    whole = sum(share.weight or 0 for share in shares)
    for share in shares:
        if share.weight is not None and not share.weight * _RAREST >= whole:  # NaN isn't, either
            raise UsageError(
                f"weight {share.weight:g} is no part of the visits, or less than one in {_RAREST:,}",
                where=f"data.sources: {share.source}",
                fix="leave the source out, or give it more weight",
            )


@contextmanager
def _key_named(key: str, splits: Sequence[Split]) -> Iterator[None]:
    """Errors about a file that isn't there name the recipe's key."""
    try:
        yield
    except MissingError as error:
        raise MissingError(
            error.what,
            where=f"{key}: {error.where}",
            expected="a file of m2kr mine (MINED.parquet in a recipe is a placeholder, to be set)",
            fix=f"{mine_command(splits[0].source)} and --set {key}=FILE",
        ) from error


def mine_command(source: str) -> str:
    """The command that makes a mined file."""
    return f"m2kr mine {source} -r RETRIEVER --out FILE"
