"""`evaluate`: sources times retrievers, one result each."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from m2kr import paths
from m2kr.data.images import Missing
from m2kr.data.load import Split, load
from m2kr.errors import UsageError
from m2kr.evaluation.cache import EmbeddingCache
from m2kr.evaluation.harness import evaluate as evaluate_one
from m2kr.evaluation.protocol import check
from m2kr.evaluation.report import as_text
from m2kr.evaluation.result import Result
from m2kr.evaluation.retriever import Progress, Retriever
from m2kr.evaluation.seeds import over_seeds
from m2kr.retrievers import create
from m2kr.search.late.modes import Searching

if TYPE_CHECKING:
    from os import PathLike

    from m2kr.search.late.modes import Mode


class Results(list[Result]):
    """Results in the order they were computed; ``print`` shows them as a table."""

    def __str__(self) -> str:
        return as_text(self)


def evaluate(
    source: "str | Split | Sequence[str | Split]",
    retriever: "str | Retriever | Sequence[str | Retriever]",
    *,
    split: str = "test",
    k: int = 500,
    metrics: str = "default",
    settings: Mapping[str, str] | None = None,
    edition: str | None = None,
    data: "str | PathLike[str] | None" = None,
    images: "Sequence[str | Path]" = (),
    missing_images: Missing = "error",
    search: str | Searching | None = None,
    audit: int = 0,
    max_hours: float = 4.0,
    seeds: int = 1,
    cache: bool | None = None,
    out: "str | PathLike[str] | None" = None,
    workdir: "str | PathLike[str] | None" = None,
    progress: Progress | None = None,
) -> Results:
    """Evaluates retrievers on splits with M2KR's metrics.

    Args:
        source: A source name, a loaded `Split` (then ``split``, ``edition``, ``data`` and images are
            its own), or several.
        retriever: A name (``bm25``), ``package.module:Class``, ``file.py:Class``, an object with
            ``index`` and ``search``, or several.
        split: Split of the sources given by name.
        k: Depth of the rankings; the published protocol searches 500 deep.
        metrics: ``default``, or ``full`` for nDCG, MAP and precision as well.
        settings: Settings of the retrievers given by name; ``bm25.k1`` is for that one alone.
        edition: Edition of the sources given by name.
        data: Data root.
        images: Image roots searched first.
        missing_images: ``error``, ``black`` or ``skip``.
        search: How late-interaction retrievers search: ``exact``, ``compressed``, ``official`` (the
            published protocol), or a `Searching` that says more; by default as a retriever's own
            ``searching`` says, which is exactly.
        audit: Queries that are searched exactly, too, to tell the recall of the other modes.
        max_hours: What exact search may take by its estimate.
        seeds: Indexes to build, with seeds that count up from that of ``search``. The scores are those
            of the first; ``search["seeds"]`` of the result has mean and range over all.
        cache: Whether encoded rows are kept below the data root, and found there. By default they
            are, unless a ``workdir`` is given.
        out: Folder for results and runs; nothing is saved if absent.
        workdir: Folder for encoded rows and indexes; a temporary one if absent. An evaluation that
            was cut off goes on with what it finds there.
        progress: Called with (stage, done, total).

    Returns:
        One result for each source and retriever; ``print`` them for a table.

    Raises:
        M2KRError: unknown names, missing data, images or packages, or a retriever that breaks its
            contract; see the subclasses.
    """

    def opened(name: str | Split) -> Split:
        if isinstance(name, Split):
            return name
        return load(
            name, split, edition=edition, data=data, images=images, missing_images=missing_images
        )

    named = [source] if isinstance(source, str | Split) else list(source)
    for name in named:  # before any work: what isn't there is told now
        opened(name)
    searching = _searching(search, audit, max_hours)
    one_retriever = isinstance(retriever, str) or not isinstance(retriever, Sequence)
    retrievers = [
        create(r, settings_of(r, settings or {})) if isinstance(r, str) else r
        for r in (cast("Sequence[str | Retriever]", [retriever] if one_retriever else retriever))
    ]
    for each in retrievers:
        check(each)
    results = Results()
    with tempfile.TemporaryDirectory(prefix="m2kr-") as scratch:
        base = Path(workdir) if workdir is not None else Path(scratch)
        for name in named:
            one = opened(
                name
            )  # at its turn: it may have been built anew while others were evaluated
            for i, each in enumerate(retrievers):
                folder = base / f"{one.source}.{one.split}.{i}.{each.name}"
                folder.mkdir(parents=True, exist_ok=True)
                kept = _cache(one, data, workdir is None if cache is None else cache)
                found = [
                    evaluate_one(
                        one,
                        each,
                        k=k,
                        metrics=metrics,
                        workdir=folder,
                        searching=asked,
                        cache=kept,
                        progress=progress,
                    )
                    for asked in _seeded(searching, seeds)
                ]
                results.append(over_seeds(found) if seeds > 1 else found[0])
                if out is not None:
                    results[-1].save(Path(out))
    return results


def _searching(search: str | Searching | None, audit: int, max_hours: float) -> Searching | None:
    """The search that was asked for; None to leave it to the retrievers."""
    plain = Searching()
    if isinstance(search, Searching):
        return replace(
            search,
            audit=audit or search.audit,
            max_hours=search.max_hours if max_hours == plain.max_hours else max_hours,
        )
    if search is None and not audit and max_hours == plain.max_hours:
        return None
    return Searching(mode=cast("Mode", search or plain.mode), audit=audit, max_hours=max_hours)


def _seeded(searching: Searching | None, seeds: int) -> list[Searching | None]:
    if seeds == 1:
        return [searching]
    if seeds < 1 or searching is None or searching.mode == "exact":
        raise UsageError(
            f"{seeds} seeds of exact search" if seeds > 1 else f"seeds is {seeds}",
            expected="1, or more for the indexes of compressed or official search",
            fix="--search official --seeds 3",
        )
    return [replace(searching, seed=searching.seed + i) for i in range(seeds)]


def _cache(split: Split, data: "str | PathLike[str] | None", wanted: bool) -> EmbeddingCache | None:
    """The cache of the data root that a split lies in."""
    if not wanted:
        return None
    folder = getattr(split, "folder", None)
    return EmbeddingCache.below(folder.parent if folder else paths.data_root(data))


def settings_of(retriever: str, settings: Mapping[str, str]) -> dict[str, str]:
    """The settings meant for one retriever: those without a name before a dot, and its own."""
    own = f"{retriever}."
    common = {key: value for key, value in settings.items() if "." not in key}
    return common | {k.removeprefix(own): v for k, v in settings.items() if k.startswith(own)}
