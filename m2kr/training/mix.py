"""Other data beside a recipe's own, against forgetting."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from m2kr.data.built_sources import BuiltSources
from m2kr.errors import MissingError, UsageError
from m2kr.paths import data_root
from m2kr.sources import RELEASED, SPLIT_ALIASES, normalise
from m2kr.training.recipe import Data, Recipe, Share, Steps
from m2kr.training.recipe_checks import check_recipe
from m2kr.training.recipe_file import load_recipe

if TYPE_CHECKING:
    import os

_ALL = "m2kr"


def mixed(recipe: Recipe, mix: str, data: "str | os.PathLike[str] | None" = None) -> Recipe:
    """The recipe with a source, or all of M2KR's that are built, added to its mixture.

    The recipe's own sources keep their shares among each other, and all of it gets weights. Sources of
    ``m2kr`` come as in the packaged stage 3 (``repeat``, ``take``), those that the recipe has already left
    out.

    Args:
        recipe: Of one's own data.
        mix: ``m2kr:0.5`` or ``SOURCE:0.5``: whose train split, and its share of visits;
            ``SOURCE@EDITION:0.5`` where several editions hold the source.
        data: The data root; see `m2kr.paths.data_root`.

    Raises:
        UsageError: It is not understood, or there is nothing to be added.
        MissingError: Nothing of it is built.
    """
    name, colon, text = mix.rpartition(":")
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not colon or not name.strip() or not 0 < share < 1:
        raise UsageError(
            f"--mix {mix} is not understood",
            expected="SOURCE:SHARE, a share of visits between 0 and 1: m2kr:0.5, mini:0.2",
        )
    root = data_root(data)
    added = _added(name.strip(), recipe, BuiltSources.below(root))
    if not added:
        raise MissingError(
            f"--mix {mix}: no train split of M2KR is built that the recipe doesn't have already",
            where=str(root),
            expected=f"a built source's name in place of m2kr, or one of {', '.join(RELEASED)}",
            fix="m2kr build okvqa --route release",
        )
    visits = _visits(recipe, recipe.data.sources, root), _visits(recipe, added, root)
    sources = [
        dataclasses.replace(each, weight=part * count / sum(counts), repeat=1)
        for part, shares, counts in zip(
            (1 - share, share), (recipe.data.sources, added), visits, strict=True
        )
        for each, count in zip(shares, counts, strict=True)
    ]
    made = dataclasses.replace(
        recipe, data=dataclasses.replace(recipe.data, sources=tuple(sources))
    )
    check_recipe(made)
    return made


def _added(name: str, recipe: Recipe, built: BuiltSources) -> list[Share]:
    own = {(normalise(each.source), _split(each.split)) for each in recipe.data.sources}
    if normalise(name) != _ALL:
        name, _, edition = name.partition("@")
        source = built.name_of(name)
        held = built.editions.get(source, {})
        if len(held) > 1 and not edition:
            raise UsageError(
                f"--mix {name}: it is built in several editions",
                expected=f"one of {', '.join(held)}",
                fix=f"--mix {source}@{next(iter(held))}:SHARE",
            )
        if (normalise(source), "train") in own:
            raise UsageError(
                f"--mix {name}: the recipe has its train split already",
                expected=f"another source, or --set data.sources.{source}.weight=...",
            )
        return [Share(source, edition=edition or None)]
    return [
        each
        for each in load_recipe("stage3").data.sources
        if (each.source, each.split) not in own
        and any(
            each.split in edition.manifest["splits"]
            for edition in built.editions.get(each.source, {}).values()
        )
    ]


def _split(name: str) -> str:
    return SPLIT_ALIASES.get(name.lower(), name.lower())


def _visits(recipe: Recipe, shares: Sequence[Share], root: "os.PathLike[str]") -> list[float]:
    """What each of some sources has of their visits, without those of others."""
    if len(shares) == 1:
        return [1.0]
    if all(share.weight is not None for share in shares):
        return [share.weight or 0.0 for share in shares]
    from m2kr.training.mixture import Mixture, open_splits

    data = Data(sources=tuple(shares))
    alone = Recipe(recipe.name, data=data, steps=Steps(seed=recipe.steps.seed))
    facts = Mixture(alone, open_splits(alone, root)).facts()
    return [float(each["visits_per_epoch"]) for each in facts["sources"]]
