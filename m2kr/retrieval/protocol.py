"""What a retriever is, what a run gives it, and what it tells of the run afterwards."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NoReturn,
    Protocol,
    TypeVar,
    get_args,
    runtime_checkable,
)

from m2kr.errors import InputError
from m2kr.progress import SILENT, Progress
from m2kr.retrieval.clock import Spent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from m2kr.data.load import Split
    from m2kr.data.records import Passages, Queries
    from m2kr.retrieval.run import Run

Modality = Literal["text", "image"]
Side = Literal["query", "document"]
_EXAMPLE = 'modalities = {"query": ["text", "image"], "passage": ["text"]}'
_TEXT: frozenset[Modality] = frozenset({"text"})


@dataclass(frozen=True, slots=True)
class Modalities:
    """What a retriever reads on each side; images are only looked for where "image" is named.

    Attributes:
        query: ``text``, ``image``, both or neither; any collection of them is taken.
        passage: The same.

    Raises:
        InputError: something else is named.

    Example:
        >>> Modalities(query={"text", "image"}).as_dict()
        {'query': ['image', 'text'], 'passage': ['text']}
    """

    query: frozenset[Modality] = _TEXT
    passage: frozenset[Modality] = _TEXT

    def __post_init__(self) -> None:
        object.__setattr__(self, "query", _named(self.query, "query"))
        object.__setattr__(self, "passage", _named(self.passage, "passage"))

    def of_side(self, side: Side) -> frozenset[Modality]:
        """What is read of queries, or of passages (``document``)."""
        return self.query if side == "query" else self.passage

    def as_dict(self) -> dict[str, list[str]]:
        """The same for JSON: sorted lists under ``query`` and ``passage``."""
        return {"query": sorted(self.query), "passage": sorted(self.passage)}


@dataclass(frozen=True, slots=True)
class RunContext:
    """What one run gives a retriever, before it indexes.

    Attributes:
        workdir: Where its index goes; outlives the search.
        cache: Folder in which encoded rows are kept across runs; None for the working folder alone.
        search: A `m2kr.search.config.SearchConfig`: how token vectors are searched; None for the
            retriever's own way.
        progress: Told of stages and the rows that are done of them.
        fingerprints: Of the split that is searched.
        split: That split, for who needs another one of its source; None for records without one.
    """

    workdir: Path | None = None
    cache: Path | None = None
    search: Any = None
    progress: Progress = SILENT
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    split: "Split | None" = None


@dataclass(slots=True)
class RunStats:
    """What a retriever tells of a run afterwards; all of it goes into the result.

    Attributes:
        seconds: By stage: in an encoder (``encode document``, ``encode query``), and opening rows that
            were kept (``reuse document``, ``reuse query``).
        reused: Rows by stage that had been encoded (or indexed) before; equal ones may count once.
        index_bytes: On disk, of what is searched; None for all that was written to the working folder.
        search: How it searched: mode and settings, the same for the same search. None if there is but
            one way.
        cost: What that took.
        notes: What must be said beside the scores, in sentences.
        cpu_seconds: As ``seconds``, of processors.
        encoded: Rows by stage that were encoded now.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    reused: dict[str, int] = field(default_factory=dict)
    index_bytes: int | None = None
    search: Mapping[str, Any] | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    encoded: dict[str, int] = field(default_factory=dict)

    def spent(self, stage: str) -> Spent:
        """What a stage took so far."""
        return Spent(self.seconds.get(stage, 0.0), self.cpu_seconds.get(stage, 0.0))

    def spend(self, stage: str, spent: Spent) -> None:
        """Adds to it."""
        total = self.spent(stage) + spent
        self.seconds[stage], self.cpu_seconds[stage] = total.wall, total.cpu


@runtime_checkable
class Retriever(Protocol):
    """Anything that indexes passages and answers queries with ranked ids.

    One that wants more of a run, or tells more of it, derives from `RetrieverBase`.
    """

    @property
    def name(self) -> str:
        """Name in tables and file names."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that changes its scores, as JSON values; kept in the result."""
        ...

    @property
    def modalities(self) -> Modalities | Mapping[str, Any]:
        """What it reads of queries and passages; see `modalities_of`."""
        ...

    def index(self, passages: "Passages", *, workdir: Path) -> None:
        """Takes in the pool; files go below ``workdir``, which outlives the search."""
        ...

    def search(self, queries: "Queries", k: int) -> "Run":
        """Ranks up to ``k`` passages for every query; each query is in the run, if only with none."""
        ...


class RetrieverBase:
    """A retriever that is told of each run before it, and tells what it took after it.

    Attributes:
        run_context: Of the present run; an empty one for who calls ``index`` and ``search`` himself.
    """

    run_context: RunContext = RunContext()

    def begin_run(self, context: RunContext) -> None:
        """Takes what the run gives; called before ``index``."""
        self.run_context = context

    def run_stats(self) -> RunStats:
        """What the run took; asked for after ``search``."""
        return RunStats()

    def pair_scores(
        self,
        rows: "Sequence[NDArray[np.int64]]",  # noqa: ARG002
    ) -> "list[NDArray[np.float64]] | None":
        """Scores of chosen passages, as a search gives them; None where a passage has none alone.

        Args:
            rows: For each query that was searched last, in order, rows of the pool; any may be empty.
        """
        return None


def modalities_of(retriever: object) -> Modalities:
    """What a retriever declares to read, by ``modalities`` or ``reads_images``.

    ``modalities`` is a `Modalities` or a mapping of the same form; a side that it leaves out reads
    text. ``reads_images = True`` means text and images on both sides.

    Raises:
        InputError: it declares something else, or one thing here and another there.
    """
    where = f"{type(retriever).__name__}.modalities"
    declared = _declared(getattr(retriever, "modalities", Modalities()), where)
    reads_images = getattr(retriever, "reads_images", None)
    if reads_images is None:
        return declared
    if not isinstance(reads_images, bool):
        raise InputError(
            f"reads_images is {reads_images!r}",
            where=type(retriever).__name__,
            expected=f"True or False; to say which side: {_EXAMPLE}",
        )
    if reads_images and declared == Modalities():
        both: frozenset[Modality] = frozenset(get_args(Modality))
        return Modalities(both, both)
    if reads_images != ("image" in declared.query | declared.passage):
        raise InputError(
            f"it is {declared.as_dict()}, and reads_images is {reads_images}",
            where=where,
            expected="one of the two, or both saying the same",
            fix="leave reads_images out",
        )
    return declared


def _declared(declared: Any, where: str) -> Modalities:
    try:
        if isinstance(declared, Modalities):
            return declared
        if isinstance(declared, Mapping) and not set(declared) - {"query", "passage"}:
            return Modalities(**declared)
    except InputError as error:
        raise InputError(error.what, where=where, expected=error.expected) from error
    if isinstance(declared, Mapping):
        odd = next(key for key in declared if key not in ("query", "passage"))
        wrong = f"it has the key {odd!r}"
    elif isinstance(declared, str | Iterable):
        wrong = f"it is {declared!r}, which doesn't say which side reads that"
    else:
        wrong = f"it is {declared!r}"
    raise InputError(wrong, where=where, expected=_EXAMPLE)


def _named(given: Any, side: str) -> frozenset[Modality]:
    """The modalities of one side."""
    try:
        named = frozenset([given] if isinstance(given, str) else given)
    except TypeError:
        named = frozenset({repr(given)})
    odd = named - set(get_args(Modality))
    if odd:
        raise InputError(
            f"the {side} side can't read {', '.join(sorted(map(str, odd)))}",
            where="modalities",
            expected=f'"text" and "image": {_EXAMPLE}',
        )
    return named


class UndeclaredImages:
    """Stands where the images of a side would be that a retriever doesn't declare to read."""

    def __init__(self, retriever: object, side: Side) -> None:
        self._who, self._side = type(retriever).__name__, side
        self._declared = modalities_of(retriever)

    def refuse(self) -> NoReturn:
        """Says what to declare.

        Raises:
            InputError: always.
        """
        name, plural = ("query", "queries") if self._side == "query" else ("passage", "passages")
        sides = self._declared.as_dict()
        sides[name] = [kind for kind in ("text", "image") if kind in {*sides[name], "image"}]
        line = str(sides).replace("'", '"')
        raise InputError(
            f"it reads images of {plural}, but doesn't say so, and none were looked for",
            where=self._who,
            expected=f"this line in the class: modalities = {line}",
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # copying and pickling ask for what isn't there
            raise AttributeError(name)
        self.refuse()


Records = TypeVar("Records", bound="Passages | Queries")


def readable(records: Records, retriever: object, side: Side) -> Records:
    """Records as a retriever may read them: their images raise, unless it declares to read them."""
    if "image" in modalities_of(retriever).of_side(side):
        return records
    undeclared: Any = UndeclaredImages(retriever, side)
    return dataclasses.replace(records, images=undeclared)
