"""Sources: what a benchmark row is, and the names that they have; nothing here imports a builder."""

import difflib
import importlib.util
import pkgutil
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from m2kr.errors import UsageError
from m2kr.schema import Column

Task = Literal["I2T", "Q2T", "IQ2T", "mixed"]
BUILDERS_PACKAGE = "m2kr_builders"
UNKNOWN = "unknown"  # whether scores compare with published ones
# What the authors' release holds, and the stem of its files there.
RELEASED = {
    "wit": "WIT",
    "iglue": "IGLUE",
    "kvqa": "KVQA",
    "cc3m": "CC",
    "msmarco": "MSMARCO",
    "oven": "OVEN",
    "llava": "LLaVA",
    "okvqa": "OKVQA",
    "infoseek": "Infoseek",
    "evqa": "EVQA",
}
SPLIT_ALIASES = {"val": "valid", "validation": "valid", "dev": "valid"}


@dataclass(frozen=True, slots=True)
class Option:
    """A choice that a build of a source offers.

    Attributes:
        name: Name for ``--set name=value``.
        default: Its value unless given.
        doc: What it decides, in one sentence.
        choices: The values it takes; empty where any will do (`kind` then says which).
        kind: ``text`` or ``count`` (a whole number from 0).
    """

    name: str
    default: str
    doc: str
    choices: tuple[str, ...] = ()
    kind: Literal["text", "count"] = "text"


@dataclass(frozen=True, slots=True)
class Variant:
    """A named way of building a source differently, which is an edition of its own.

    Attributes:
        options: The options that make it.
        title: One line for people.
        expected: Row counts, in place of the source's.
        comparable: Whose numbers its scores compare with.
    """

    options: Mapping[str, str]
    title: str
    expected: Mapping[str, int]
    comparable: str


@dataclass(frozen=True, slots=True)
class Rule:
    """How a build decides what the public record leaves open.

    Attributes:
        name: The builder's method, or the function of its file, that decides it.
        says: What it does, in one sentence.
        basis: ``read`` in official material or counted, ``inferred`` from it or from derived code,
            or ``ours``.
        option: The option that changes it, if any.
        when: Options under which it applies; always if empty.
    """

    name: str
    says: str
    basis: Literal["read", "inferred", "ours"]
    option: str = ""
    when: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """One row of the benchmark, as its builder file declares it.

    Attributes:
        name: Lower-case name on the command line.
        config: Stem of the folders, as in the authors' release: ``OKVQA`` gives ``OKVQA_data``.
        title: One line for tables.
        task: What a query consists of: image (I2T), question (Q2T) or both (IQ2T).
        pools: Query split -> the passage split that it is searched in.
        headline: Metric that the paper reports first, such as ``hit_rate@5``.
        groups: Extra query columns by whose values results are also broken down.
        expected: Row counts by split or pool name, as published; checked after a full build.
        default_edition: Edition a plain build writes to.
        licence: Terms of the built data.
        version: Number of the way its rows are made. Whoever changes the rows that the same files give,
            or the spec in more than words, raises it: builds of another version are made anew.
        aliases: Further accepted names.
        query_columns: Extra query columns, each documented.
        passage_columns: Extra passage columns, each documented.
        comparable: Why scores don't compare with published ones, whatever the route. By default it is
            unknown: only the release, or a build that is equal to it, proves that they do.
        released: The authors' release holds the source, so it can be built by that route.
        options: Choices of the sources route.
        variants: Editions with options of their own, by edition name.
        rules: Decisions of the sources route that the public record leaves open.
        image_notes: Where the images are, for those who don't have them; builds don't fetch them.
        image_store: Store below the data root that its images are put in; sources whose images are
            the same share one. Its own name if empty.
        image_names: Other names that its images may have; see `m2kr.data.images.names`.
        unjudged: What a query without a right passage counts as: ``undefined`` (left out of the
            mean), or ``miss`` where the published numbers count it so.
    """

    name: str
    config: str
    title: str
    task: Task
    pools: Mapping[str, str]
    headline: str
    licence: str
    version: int = 1
    homepage: str = ""
    citation: str = ""
    summary: str = ""
    groups: tuple[str, ...] = ()
    expected: Mapping[str, int] = field(default_factory=dict)
    default_edition: str = "rebuilt"
    aliases: tuple[str, ...] = ()
    query_columns: tuple[Column, ...] = ()
    passage_columns: tuple[Column, ...] = ()
    comparable: str = UNKNOWN
    released: bool = False
    options: tuple[Option, ...] = ()
    variants: Mapping[str, Variant] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    image_notes: tuple[str, ...] = ()
    image_store: str = ""
    image_names: tuple[str, ...] = ()
    unjudged: Literal["undefined", "miss"] = "undefined"


def comparable_notes(notes: Iterable[str]) -> str:
    """Why scores don't compare, from several reasons; empty if there is none.

    That it is unknown says nothing beside a reason.
    """
    reasons = dict.fromkeys(note for note in notes if note and note != UNKNOWN)
    return "; ".join(reasons) or (UNKNOWN if UNKNOWN in notes else "")


def verdict(comparable: str) -> str:
    """Whether scores compare with published ones, in words; of what manifests and results say of it."""
    if comparable == UNKNOWN:
        return "nothing shows whether its scores compare with published numbers"
    if comparable:
        return f"not comparable with published numbers: {comparable}"
    return "its scores compare with the published numbers"


def build_command(name: str, *options: str) -> str:
    """The command that builds a source as users want it first: the authors' tables, if they have it."""
    route = ("--route", "release") if name in RELEASED else ()
    return shlex.join(("m2kr", "build", name, *route, *options))


def normalise(name: str) -> str:
    """A name without case and punctuation: ``E-VQA`` -> ``evqa``."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def resolve_split(name: str, known: Mapping[str, str] | tuple[str, ...]) -> str:
    """The split for a name or alias; a split of just that name comes first.

    Raises:
        UsageError: the source has no such split; names those it has.
    """
    wanted = name.strip()
    lower = wanted.lower()
    for choice in (wanted, lower, plain_split(lower), SPLIT_ALIASES.get(lower, lower)):
        if choice in known:
            return choice
    raise UsageError(f"there is no split '{name}'", expected="one of " + ", ".join(known))


def plain_split(name: str) -> str:
    """A name that a split's folder can have: letters, digits and _."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name.strip())


def folded_splits(names: Iterable[str]) -> dict[str, str]:
    """Canonical split names; where several names stand for one split, each stays as it is."""
    canonical = {name: SPLIT_ALIASES.get(name.lower(), name) for name in names}
    counts = Counter(canonical.values())
    return {name: split if counts[split] == 1 else name for name, split in canonical.items()}


@cache
def builder_modules() -> dict[str, str]:
    """Module path of every builder by its file's name, which is its source's; nothing is imported."""
    return {
        info.name: f"{BUILDERS_PACKAGE}.{info.name}"
        for info in pkgutil.iter_modules(map(str, builder_folders()))
        if not info.name.startswith("_")
    }


def builder_folders() -> list[Path]:
    """Where builders lie."""
    package = importlib.util.find_spec(BUILDERS_PACKAGE)
    found = package.submodule_search_locations if package is not None else None
    return [Path(folder) for folder in found or ()]


def builder_names() -> dict[str, str]:
    """The sources that have a builder, by normalised name; nothing is imported."""
    return {normalise(name): name for name in builder_modules()}


def nearest_source(name: str, names: Mapping[str, str]) -> str:
    """What a typed name stands for.

    Args:
        name: What was typed.
        names: Accepted names (normalised), and what each stands for.

    Raises:
        UsageError: nothing of that name; suggests the nearest.
    """
    wanted = normalise(name)
    if wanted in names:
        return names[wanted]
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.6)
    raise UsageError(
        f"there is no source '{name}'",
        expected="one of " + ", ".join(sorted(set(names.values()))),
        fix=f"did you mean '{names[near[0]]}'?" if near else "m2kr list",
    )
