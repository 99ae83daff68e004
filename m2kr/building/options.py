"""What a build was asked for: options, edition, splits, instructions, checked before its first byte."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from m2kr.errors import UsageError
from m2kr.sources import Option, Rule, Source, resolve_split

ROUTE_EDITIONS = {"release": "m2kr", "aligned": "aligned"}


def resolve_options(
    source: Source, given: Mapping[str, str], edition: str | None = None
) -> dict[str, str]:
    """Every option of a source: those given, those of the variant that the edition names, defaults.

    Raises:
        UsageError: an option is unknown, has a wrong value, or contradicts the edition.
    """
    known = {option.name: option for option in source.options}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"{source.name} has no option {name!r}",
                expected="one of " + ", ".join(known) if known else "no option at all",
                fix=f"did you mean {near[0]!r}?" if near else None,
            )
        _check_value(source, known[name], value)
    chosen = {option.name: option.default for option in source.options}
    variant = source.variants.get(edition or "")
    fixed = dict(variant.options) if variant else {}
    for name, value in fixed.items():
        if given.get(name, value) != value:
            raise UsageError(
                f"edition {edition!r} stands for {name}={value}, but {name}={given[name]} was given",
                fix="leave one of both out, or name the edition otherwise",
            )
    return chosen | fixed | dict(given)


def _check_value(source: Source, option: Option, value: str) -> None:
    fits = value in option.choices or (not option.choices and bool(value))
    if option.kind == "count":
        fits = value in option.choices or value.isdecimal()
    if not fits:
        allowed = [*option.choices, *(["a whole number"] if option.kind == "count" else [])]
        raise UsageError(
            f"{value!r} is no value of {source.name}'s option {option.name!r}",
            expected=" or ".join(allowed) or "a value",
        )


def variant_of(source: Source, options: Mapping[str, str]) -> str | None:
    """The edition of the variant that these options make, if they make one."""
    for edition, variant in source.variants.items():
        if all(options.get(name) == value for name, value in variant.options.items()):
            return edition
    return None


def rules_for(source: Source, options: Mapping[str, str]) -> list[Rule]:
    """The open decisions that apply under some options."""
    return [r for r in source.rules if all(options.get(k) == v for k, v in r.when.items())]


def edition_name(
    source: Source,
    edition: str | None,
    limit: int | None,
    *,
    options: Mapping[str, str] | None = None,
    route: str = "sources",
) -> str:
    """The edition a build writes to: the one asked for, else the route's, variant's or source's own.

    A partial build gets ``-limitN`` behind it.

    Raises:
        UsageError: the name can't be a folder's.
    """
    own = ROUTE_EDITIONS.get(route) or variant_of(source, options or {}) or source.default_edition
    name = edition or own
    if not name or name.startswith(".") or {"/", "\\"} & set(name) or name == "downloads":
        raise UsageError(f"{name!r} cannot name an edition", expected="a plain folder name")
    return f"{name}-limit{limit}" if limit is not None else name


def chosen_splits(source: Source, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The query splits to build, in the source's order; all of them by default.

    Raises:
        UsageError: the source has no such split.
    """
    if not wanted:
        return tuple(source.pools)
    names = {resolve_split(name, dict(source.pools)) for name in wanted}
    return tuple(split for split in source.pools if split in names)


def refuse_other(
    old: Mapping[str, Any], folder: str, *, route: str, options: Mapping[str, str]
) -> None:
    """Keeps a build from replacing one that was asked for otherwise.

    Args:
        old: The manifest that is there.
        folder: Where it is.
        route: The new build's route.
        options: The new build's options.

    Raises:
        UsageError: they differ.
    """
    then = {"route": old["route"]} | dict(old["options"])
    now = {"route": route} | dict(options)
    changed = [name for name in then | now if then.get(name) != now.get(name)]
    if changed:
        was = ", ".join(f"{name}={then.get(name)}" for name in changed)
        asked = ", ".join(f"{name}={now.get(name)}" for name in changed)
        raise UsageError(
            f"{old['source']['name']} is already built here with {was}, now asked with {asked}",
            where=folder,
            fix="--edition NAME to keep both, or --force to replace it",
        )
