"""What readers of a board should know of a run that was scored: facts, no verdicts, and never a refusal.

Whoever has the test's right passages can make any run; that a score is recomputed proves arithmetic alone.
What such runs tend to look like is said here, so that people ask. An honest run may look so, too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.data.lookup import id_hashes
from m2kr.evaluation.result import Result
from m2kr.sources import RELEASED, normalise

from .known_data import known_data_of
from .system_card import SystemCard, TrainingData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.retrieval.run import Run

    from .checks import RunCase

_FEWEST = 20  # queries of which anything is said
_PERFECT = 0.99  # of the queries that can be answered
_MOSTLY = 0.95
_TIED = 0.05  # of the queries
_FAR = 5  # times the range of all other scores
_TOP = 10  # ranks that a sketch knows
_ALIKE, _SAME_FIRST = 0.97, 0.95
_SAMPLE = 512  # queries by which most pairs are told apart

Note = Callable[["RunCase", SystemCard], Iterable[str]]


def run_notes(case: "RunCase", card: SystemCard) -> tuple[str, ...]:
    """What is odd about a run by itself, in sentences.

    Args:
        case: A run that was scored.
        card: Of its system.
    """
    return tuple(sentence for look in _NOTES for sentence in look(case, card))


def _result(case: "RunCase") -> Result:
    assert case.result is not None
    return case.result


def _short_rankings(case: "RunCase", card: SystemCard) -> Iterator[str]:
    """Rankings with fewer passages than the run is deep count as they are: nothing more was found."""
    del card
    counts, k = _result(case).counts, case.submitted.k
    short, empty = counts["short_rankings"], counts["empty_rankings"]
    if short:
        yield (
            f"{short:,} of {counts['queries']:,} rankings have fewer than {k} passages"
            + (f", {empty:,} of them none" if empty else "")
            + "; they are scored as they are"
        )


def _perfection(case: "RunCase", card: SystemCard) -> Iterator[str]:
    """The right passage stands first wherever there is one."""
    del card
    scores = _result(case).scores.get("hit_rate@1")
    if scores is None:
        return
    reachable = _reachable(case)
    judged = ~np.isnan(scores) & reachable
    n, hits = int(judged.sum()), float(np.nansum(scores[judged]))
    if n >= _FEWEST and hits >= _PERFECT * n:
        yield (
            f"a right passage stands first in {hits / n:.1%} of the queries that have one in the pool, as "
            "it would if the judgements had been used"
        )


def _reachable(case: "RunCase") -> "NDArray[np.bool_]":
    """Per query of the result whether a right passage is in the pool."""
    assert case.known is not None
    split = case.known.split
    judged = split.queries_view.judgements()
    right = pc.greater_equal(judged.column("relevance"), split.relevance_threshold)
    inside = pc.is_in(judged.column("passage_id"), split.passages_view.ids.combine_chunks())
    queries = judged.column("question_id").filter(pc.and_(right, inside))
    ids = pa.array(_result(case).query_ids, queries.type)
    reachable: NDArray[np.bool_] = pc.is_in(ids, queries.combine_chunks()).to_numpy(False)
    return reachable


def _above_ceiling(case: "RunCase", card: SystemCard) -> Iterator[str]:
    """A score is above the most that the audit of the data found possible for a retriever."""
    del card
    known = known_data_of(case.submitted)
    for metric, ceiling in (known.ceilings if known else {}).items():
        facts = _result(case).metrics.get(metric, {})
        low = facts.get("low")
        if low is not None and low > ceiling + 1e-9:
            yield (
                f"{metric} is {facts['value']:.4f}; the audit of these data found {ceiling:.4f} to be the "
                "most that can be had from what retrievers see"
            )


def _all_or_nothing(case: "RunCase", card: SystemCard) -> Iterator[str]:
    """Right passages stand first or not at all: further ranks are no better than chance."""
    del card
    scores, counts = _result(case).scores, _result(case).counts
    if not {"hit_rate@1", "hit_rate@100"} <= scores.keys():
        return
    first, later = scores["hit_rate@1"], scores["hit_rate@100"]
    defined = ~np.isnan(first) & _reachable(case)
    missed = defined & (first == 0)
    n, hits = int(missed.sum()), int((later[missed] > 0).sum())
    at_first = int((first[defined] > 0).sum())
    if n < _FEWEST or at_first < max(_FEWEST, _TIED * defined.sum()):
        return
    by_chance = _hits_by_chance(case, missed, min(99, counts["passages"] - 1))
    if hits <= by_chance + 3 * np.sqrt(by_chance) and hits <= _TIED * at_first + by_chance:
        yield (
            f"in {at_first:,} queries a right passage stands first, and of the other {n:,} only {hits:,} "
            f"have one at ranks 2 to 100, where a random order has {by_chance:.0f}"
        )


def _hits_by_chance(case: "RunCase", queries: "NDArray[np.bool_]", ranks: int) -> float:
    """In how many of some queries a random order has a right passage within so many ranks."""
    assert case.known is not None
    judged = case.known.split.queries_view.judgements()
    ids = pa.array(_result(case).query_ids, judged.column("question_id").type)
    owners = pc.index_in(judged.column("question_id"), ids).drop_null().to_numpy()
    positives = np.bincount(owners, minlength=len(queries))[queries]
    share = ranks / _result(case).counts["passages"]
    return float((1 - (1 - min(share, 1.0)) ** positives).sum())


def _score_jump(case: "RunCase", card: SystemCard) -> Iterator[str]:
    """First passages' scores form two groups, far apart, and one of them is right."""
    del card
    run, hits = _result(case).run, _result(case).scores.get("hit_rate@1")
    if run is None or hits is None:
        return
    known = np.flatnonzero((run.counts() > 0) & ~np.isnan(hits))
    if len(known) < 2 * _FEWEST:
        return
    tops = run.flat_scores[run.offsets[:-1][known]]
    order = np.argsort(tops, kind="stable")
    steps = np.diff(tops[order])
    begin = int(steps.argmax()) + 1
    low, high = order[:begin], order[begin:]
    if len(high) < _FEWEST or len(low) < _FEWEST:
        return
    width = max(np.ptp(tops[low]), np.ptp(tops[high]))
    right = hits[known] > 0
    if (
        steps[begin - 1] > _FAR * max(width, 1e-12)
        and right[high].mean() >= _MOSTLY
        and right[low].mean() < _MOSTLY / 2
    ):
        yield (
            f"in {len(high):,} queries the first passage's score lies far above that of all others, and it "
            f"is right in {right[high].mean():.1%} of them; in the other {len(low):,} in "
            f"{right[low].mean():.1%}"
        )


def _ties(case: "RunCase", card: SystemCard) -> Iterator[str]:
    """All passages of a query score alike, so that their ids decide."""
    del card
    run = _result(case).run
    if run is None:
        return
    counts = run.counts()
    several = np.flatnonzero(counts > 1)
    first = run.flat_scores[run.offsets[:-1][several]]
    last = run.flat_scores[run.offsets[1:][several] - 1]
    alike = int((first == last).sum())
    if alike >= max(_FEWEST, _TIED * len(run)):
        yield (
            f"in {alike:,} of {len(run):,} queries all passages score alike, and the order of their ids "
            "decides"
        )


def _recorded_making(case: "RunCase", card: SystemCard) -> Iterator[str]:
    """What the file itself says of its making that lowers what its scores mean."""
    del card
    assert case.known is not None
    if case.rows is None:
        return
    metadata = case.rows.metadata
    images = metadata.get("images")
    if isinstance(images, Mapping):
        found, total = images.get("found"), images.get("total")
        if type(found) is int and type(total) is int and 0 <= found < total:
            yield f"it was made with {total - found:,} of {total:,} images missing, as its file says"
    learned = _inside(metadata, "settings", "learned", "learned_on", "queries")
    if learned == case.known.split.fingerprints["queries"]:
        yield "its weights were learned on these very queries, as its file says"


def _inside(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


# Data beside M2KR's own that share images or texts with a source of it, by their usual names.
_SHARED: tuple[tuple[frozenset[str], frozenset[str], str], ...] = (
    (
        frozenset({"okvqa", "llava"}),
        frozenset(
            {
                "okvqa",
                "llava",
                "llavainstruct",
                "llavainstruct150k",
                "coco",
                "mscoco",
                "cococaptions",
                "vqav2",
                "vqa",
                "aokvqa",
                "visualgenome",
                "refcoco",
            }
        ),
        "both have images of COCO",
    ),
    (
        frozenset({"oven", "infoseek"}),
        frozenset({"oven", "infoseek"}),
        "InfoSeek's questions are about images of OVEN",
    ),
    (
        frozenset({"wit", "iglue"}),
        frozenset({"wit", "iglue"}),
        "IGLUE's images and texts are WIT's",
    ),
    (
        frozenset({"evqa"}),
        frozenset({"inaturalist", "inat21", "inat2021", "googlelandmarks", "gldv2"}),
        "E-VQA's images are of iNaturalist 2021 and Google Landmarks",
    ),
)
_EVERYTHING = frozenset({"m2kr", "m2krbenchmark", "preflmrpretraining"})


def _training(case: "RunCase", card: SystemCard) -> Iterator[str]:
    """What the declared training data have to do with the data that it is tested on."""
    source, split = normalise(case.submitted.source), case.submitted.split
    claimed = card.zero_shot.get(case.submitted.source, False)
    for trained in card.training_data:
        name = normalise(trained.source)
        of_it = name == source or (name in _EVERYTHING and source in RELEASED)
        if of_it and trained.split == split:
            yield f"it was trained on {_named(trained)}, which is what it is tested on, as its card says"
        elif of_it and claimed:
            yield f"it is called zero-shot on {case.submitted.source}, and was trained on {_named(trained)}"
        elif claimed:
            for sources, names, why in _SHARED:
                if source in sources and name in names and name != source:
                    yield (
                        f"it is called zero-shot on {case.submitted.source}, and was trained on "
                        f"{_named(trained)}: {why}"
                    )


def _named(trained: TrainingData) -> str:
    return trained.source + (f" ({trained.split})" if trained.split else "")


_NOTES: tuple[Note, ...] = (
    _short_rankings,
    _perfection,
    _above_ceiling,
    _all_or_nothing,
    _score_jump,
    _ties,
    _recorded_making,
    _training,
)


@dataclass(frozen=True, slots=True)
class RunLikeness:
    """Two runs that rank nearly the same.

    Attributes:
        one: Place of the first in what was compared.
        other: Place of the second.
        first: Share of queries with the same first passage.
        top: Mean share that their ten first passages have in common (Jaccard, estimated).
    """

    one: int
    other: int
    first: float
    top: float


def run_sketch(run: "Run", query_ids: Sequence[str] | None = None) -> bytes:
    """Eight bytes a query, by which runs on the same data are compared.

    They are four hashes of 16 bits: the first passage, the first five in their order, and two by which the
    sets of the first ten are compared: that of equal sets is equal, and of others with the probability of
    their Jaccard similarity (minhash). A query without results has zeros.

    Args:
        run: The run.
        query_ids: The split's queries in its order; the run's own if absent.
    """
    run = (run if query_ids is None else run.select(query_ids)).top(_TOP)
    hashes = id_hashes(run.vocabulary).astype(np.uint64)[run.codes] if len(run.codes) else _NONE
    counts, begins = run.counts(), run.offsets[:-1]
    some = np.flatnonzero(counts)
    sketch = np.zeros((len(run), 4), "<u2")
    if len(some):
        place = np.arange(len(hashes)) - np.repeat(begins, counts)
        ordered = np.where(place < 5, _mixed(hashes, place.astype(np.uint64)), np.uint64(0))
        sketch[some, 0] = _short(hashes[begins[some]])
        sketch[some, 1] = _short(np.add.reduceat(ordered, begins[some]))
        for column, seed in ((2, 101), (3, 202)):
            mixed = _mixed(hashes, np.full(len(hashes), seed, np.uint64))
            sketch[some, column] = _short(np.minimum.reduceat(mixed, begins[some]))
    return sketch.tobytes()


_NONE = np.empty(0, np.uint64)


def _mixed(values: "NDArray[np.uint64]", seeds: "NDArray[np.uint64]") -> "NDArray[np.uint64]":
    """Other hashes of hashes (splitmix64's finaliser)."""
    x = values + (seeds + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def _short(values: "NDArray[np.uint64]") -> "NDArray[np.uint16]":
    """16 bits of each, never 0."""
    return (_mixed(values, np.zeros_like(values)) % np.uint64(0xFFFF) + np.uint64(1)).astype("<u2")


def near_identical_runs(sketches: Sequence[bytes]) -> list[RunLikeness]:
    """The pairs of runs that rank nearly the same; sketches of other lengths are of other data.

    Args:
        sketches: See `run_sketch`.
    """
    pairs = []
    for size in sorted(set(map(len, sketches)) - {0}):
        places = [i for i, sketch in enumerate(sketches) if len(sketch) == size]
        rows = np.stack([np.frombuffer(sketches[i], "<u2").reshape(-1, 4) for i in places])
        step = max(1, rows.shape[1] // _SAMPLE)
        few = np.ascontiguousarray(rows[:, ::step])
        for at in range(len(places)):
            near = _likeness(few[at], few[at + 1 :])[1] >= _ALIKE - 0.1
            for other in (np.flatnonzero(near) + at + 1).tolist():
                first, top = (float(x[0]) for x in _likeness(rows[at], rows[other : other + 1]))
                if top >= _ALIKE and first >= _SAME_FIRST:
                    pairs.append(RunLikeness(places[at], places[other], first, top))
    return sorted(pairs, key=lambda pair: (pair.one, pair.other))


def _likeness(
    one: "NDArray[np.uint16]", others: "NDArray[np.uint16]"
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """By other run: the share of queries with the same first passage, and the ten's likeness.

    Queries for which neither has results say nothing.
    """
    some = (others[:, :, 0] != 0) | (one[:, 0] != 0)
    n = np.maximum(some.sum(1), 1)
    same = (others == one) & some[:, :, None]
    return same[:, :, 0].sum(1) / n, same[:, :, 2:].sum((1, 2)) / (2 * n)
