"""What should not matter to a score, and how far it moves by it all the same."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.errors import M2KRError, UsageError
from m2kr.progress import task
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.perturb import perturb
from m2kr.retrievers import create_by, find
from m2kr.retrievers._memo import MEMO
from m2kr.retrievers._settings import arguments
from m2kr.robustness.baseline import Baseline

if TYPE_CHECKING:
    from m2kr.retrieval.protocol import Retriever
    from m2kr.retrieval.run import Run

ORDER, BATCH, PADDING, DTYPE = "order of rows", "batch size", "padding", "dtype"
# Of these a retriever that is right moves by nothing.
EXACT = (ORDER, BATCH, PADDING)
_TASK = "bands"
_ROWS, _TOKENS = 7, 1024  # a batch that is unlike every usual one


@dataclass(frozen=True)
class Recipe:
    """How a retriever is made again with another setting.

    Attributes:
        spec: As for `m2kr.retrievers.create`; empty for an object that a caller made.
        settings: What it was made with.
    """

    spec: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)

    @cached_property
    def _factory(self) -> Callable[..., Any]:
        return find(self.spec)

    def takes(self, name: str) -> bool:
        """Whether there is such a setting to give anew."""
        return bool(self.spec) and name in arguments(self._factory)

    def make(self, **changes: object) -> "Retriever":
        """A new retriever with these settings changed."""
        return create_by(self._factory, self.spec, {**self.settings, **changes})


def measure_bands(baseline: Baseline, recipe: Recipe) -> dict[str, Any]:
    """How far scores move by what should not move them, as `Result.bands` has it.

    Rows in another order, batches, padding and number type are indexed anew, and nothing that was
    encoded before is used for them.
    """
    ways: dict[str, Callable[[], Run]] = {}
    kinds: dict[str, dict[str, Any]] = {}
    for change in baseline.changes(matters=False):
        if why := baseline.unread(change):
            kinds[change.name] = {"skipped": why}
        elif change.name != ORDER:
            ways[change.name] = lambda change=change: baseline.ask(change)  # type: ignore[misc]
    ways |= {
        ORDER: lambda: _anew(baseline, baseline.retriever, shuffled=True),
        BATCH: lambda: _batched(baseline, recipe, shuffled=False),
        PADDING: lambda: _batched(baseline, recipe, shuffled=True),
        DTYPE: lambda: _anew(baseline, _other_dtype(baseline, recipe), shuffled=False),
    }
    with task(baseline.progress, _TASK, len(ways), "searches"):
        for name, way in ways.items():
            try:
                kinds[name] = baseline.compare(way())
            except M2KRError as error:
                kinds[name] = {"skipped": error.what}
            baseline.progress.advance(_TASK, 1)
    most: dict[str, float] = {}
    for kind in kinds.values():
        for name, metric in kind.get("metrics", {}).items():
            most[name] = max(most.get(name, 0.0), abs(metric["delta"]))
    return {"kinds": kinds, "max": most}


def moved(bands: Mapping[str, Any]) -> list[str]:
    """The kinds that a right retriever is not moved by, and this one is."""
    return [
        name
        for name in EXACT
        if any(bands["kinds"][name].get("flips", {}).values())
        or any(metric["delta"] for metric in bands["kinds"][name].get("metrics", {}).values())
    ]


def _anew(baseline: Baseline, retriever: "Retriever", *, shuffled: bool) -> "Run":
    """The run of a retriever that indexes everything again."""
    from m2kr.retrieval.search_split import search_split

    split = perturb(baseline.split, ORDER) if shuffled else baseline.split
    MEMO.clear()
    with tempfile.TemporaryDirectory(dir=baseline.workdir, ignore_cleanup_errors=True) as folder:
        found = search_split(
            split,
            retriever,
            k=baseline.plan.k,
            workdir=Path(folder),
            searching=baseline.searching,
            ties=baseline.ties,
            progress=baseline.progress,
        )
    MEMO.clear()
    return found.run


def _batched(baseline: Baseline, recipe: Recipe, *, shuffled: bool) -> "Run":
    """The run with other batches; shuffled and not sorted by length, rows are padded otherwise, too."""
    retriever = baseline.retriever
    if recipe.takes("token_budget"):
        other = recipe.make(token_budget=_TOKENS)
        return _anew(baseline, other, shuffled=shuffled)
    changes: dict[str, Any] = {}
    if shuffled:
        if not isinstance(retriever, EncoderRetriever):
            raise UsageError(f"{retriever.name} is no encoder, and pads nothing")
        changes["_window_batches"] = 1
    else:
        if not isinstance(getattr(retriever, "batch_size", None), int):
            raise UsageError(f"{retriever.name} has no batch_size")
        changes["batch_size"] = _ROWS - 2 * (retriever.batch_size == _ROWS)  # type: ignore[attr-defined]
    with _set_for_now(retriever, changes):
        return _anew(baseline, retriever, shuffled=shuffled)


def _other_dtype(baseline: Baseline, recipe: Recipe) -> "Retriever":
    if not recipe.takes("dtype"):
        raise UsageError(f"{baseline.retriever.name} has no setting dtype")
    now = dict(baseline.retriever.settings).get("dtype")
    return recipe.make(dtype="float32" if now == "bfloat16" else "bfloat16")


@contextmanager
def _set_for_now(retriever: object, values: Mapping[str, Any]) -> Iterator[None]:
    before = {name: getattr(retriever, name) for name in values}
    try:
        for name, value in values.items():
            setattr(retriever, name, value)
    except AttributeError as error:
        raise UsageError(f"{next(iter(values))} can't be set") from error
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(retriever, name, value)
