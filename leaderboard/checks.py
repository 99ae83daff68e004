"""What a run must be like to be scored: a table of small checks, each with what the submitter can do.

A check looks at a `RunCase` and says what is wrong with it. Its stage says what must be known first: the
``card`` alone, the ``file``, its ``rows``, the ``data`` that it was made on, the ``run`` (rows without a
fault) or the ``result`` of scoring it. Where an earlier stage failed, later ones that need it are left out.
"""

import difflib
import logging
import math
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from m2kr.errors import M2KRError, UsageError
from m2kr.evaluation.metrics import parse
from m2kr.packed import open_unpacked
from m2kr.retrieval.run import Run
from m2kr.retrieval.run_io import unchecked_rows
from m2kr.retrieval.run_rows import RunRows, TooManyRows

from .id_spelling import KnownIds, shown_id
from .known_data import KnownSplit, known_data_of, known_split
from .problems import Problem, SubmissionRefused
from .system_card import DEEPEST, SHALLOWEST, SubmittedRun

if TYPE_CHECKING:
    from m2kr.evaluation.result import Result

TOLERANCE = 1e-6  # between a claimed score and ours
_QUERIES = 10_000  # of data that are neither known nor at hand
_EXAMPLES = 3
_BEGIN = 1 << 20  # bytes; a line is shorter

Stage = Literal["card", "file", "rows", "data", "run", "result"]


@dataclass
class RunCase:
    """A submitted run, and what has become known of it so far.

    Attributes:
        submitted: What the card says of it.
        path: Its file.
        rows: What the file holds.
        remarks: What its reader warned of.
        known: The data that it was made on.
        ranked: The run, if its rows make one.
        result: Of scoring it.
    """

    submitted: SubmittedRun
    path: Path
    rows: RunRows | None = None
    remarks: tuple[str, ...] = ()
    known: KnownSplit | None = None
    ranked: Run | None = None
    result: "Result | None" = None
    _ids: dict[str, KnownIds] = field(default_factory=dict)

    @property
    def recorded(self) -> Mapping[str, Any]:
        """Fingerprints of the data that the file says it was made on; empty if it doesn't say."""
        given = self.rows.metadata.get("fingerprints") if self.rows is not None else None
        return given if isinstance(given, Mapping) else {}

    @property
    def queries(self) -> "pa.ChunkedArray":
        """Ids of the split's queries."""
        assert self.known is not None
        return self.known.split.queries_view.ids

    @property
    def passages(self) -> "pa.ChunkedArray":
        """Ids of the pool."""
        assert self.known is not None
        return self.known.split.passages_view.ids

    def meant(self, kind: Literal["queries", "passages"], unknown: str) -> str:
        """What known id an unknown one is like."""
        if kind not in self._ids:
            self._ids[kind] = KnownIds(getattr(self, kind))
        return self._ids[kind].meant_by(unknown)


@dataclass(frozen=True, slots=True)
class RunCheck:
    """A check.

    Attributes:
        name: As problems name it.
        stage: What must be known first.
        look: Finds faults.
        doc: What it asks for, in a sentence.
    """

    name: str
    stage: Stage
    look: Callable[[RunCase], Iterable[Problem]]
    doc: str


RUN_CHECKS: dict[str, RunCheck] = {}
_Look = Callable[[RunCase], Iterable[Problem]]


def _run_check(name: str, stage: Stage) -> Callable[[_Look], _Look]:
    def register(look: _Look) -> _Look:
        doc = (look.__doc__ or "").strip().partition("\n")[0]
        RUN_CHECKS[name] = RunCheck(name, stage, look, doc)
        return look

    return register


def check_run(case: RunCase, data: Path | None = None) -> list[Problem]:
    """All that is wrong with a run before it is scored; fills in what becomes known of it.

    Args:
        case: The run; its ``ranked`` and ``known`` are there afterwards if nothing is wrong.
        data: Data root.
    """
    problems = [*_faults(case, "card"), *_faults(case, "file")]
    readable = not any(RUN_CHECKS[p.check].stage == "file" for p in problems)
    lacking = _find_data(case, data)  # before the file: its queries bound what is read
    if readable:
        problems += _read(case)
        if lacking and case.recorded:  # then it can be told which part differs
            lacking = _find_data(case, data)
    problems += lacking
    if case.rows is not None:
        problems += _faults(case, "rows")
        if case.known is not None:
            problems += _faults(case, "data")
        if not problems:
            problems += _rank(case) or _faults(case, "run")
    return problems


def _find_data(case: RunCase, data: Path | None) -> list[Problem]:
    """Finds the data that a run was made on; why not, if they aren't there."""
    try:
        case.known = known_split(case.submitted, data, recorded=case.recorded)
    except SubmissionRefused as refused:
        return list(refused.problems)
    except M2KRError as error:
        expected, fix = error.expected or "", error.fix or ""
        return [Problem("data-at-hand", case.submitted.file, error.what, expected, fix)]
    return []


def check_scores(case: RunCase) -> list[Problem]:
    """What is wrong with what is claimed of a run that was scored."""
    return _faults(case, "result")


def _faults(case: RunCase, stage: Stage) -> list[Problem]:
    checks = (check for check in RUN_CHECKS.values() if check.stage == stage)
    return [problem for check in checks for problem in check.look(case)]


def _read(case: RunCase) -> list[Problem]:
    """Reads the file; what the reader says of it if it can't be."""
    name = case.submitted.file
    known = known_data_of(case.submitted)
    queries = len(case.queries) if case.known else known.counts["queries"] if known else _QUERIES
    most = queries * DEEPEST
    try:
        with _warnings() as said:
            # Of a ranking that is only a little too deep, the check of depth says which it is.
            case.rows = unchecked_rows(case.path, 2 * most)
    except TooManyRows as error:
        expected = f"at most {most:,} rows: {DEEPEST} for each query"
        fix = "cut the rankings (Run.top), and save one run a file"
        return [Problem("size-limits", name, error.what, expected, fix)]
    except M2KRError as error:
        check = "finite-scores" if "not finite" in error.what else "readable"
        where = _plain_where(error.where, case)
        return [Problem(check, where, error.what, error.expected or "", error.fix or _WRITE)]
    case.remarks = tuple(text.removeprefix(f"{case.path}: ") for text in said)
    return [] if case.rows else [Problem("readable", name, "it holds no run", "", _WRITE)]


_WRITE = "write it with m2kr.Run.save, or with m2kr eval, and put it into the submission by m2kr submit init"


def _plain_where(where: str | None, case: RunCase) -> str:
    """A place in the file, named as in the submission."""
    return (where or case.submitted.file).replace(str(case.path), case.submitted.file)


def _rank(case: RunCase) -> list[Problem]:
    """Makes a run of the rows, in the order of the split's queries."""
    rows = case.rows
    assert rows is not None
    try:
        run = Run(
            rows.query_ids,
            rows.counts(),
            pa.DictionaryArray.from_arrays(rows.codes, rows.vocabulary),
            rows.flat_scores,
        )
        case.ranked = run.select(case.queries.to_pylist())
    except M2KRError as error:
        return [Problem("readable", case.submitted.file, error.what, error.expected or "", _WRITE)]
    return []


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What readers of runs warn of meanwhile, in this thread."""
    said: list[str] = []
    own, log = threading.get_ident(), logging.getLogger("m2kr.retrieval")

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == own and record.levelno >= logging.WARNING:
                said.append(record.getMessage())

    listener = Listener()
    log.addHandler(listener)
    try:
        yield said
    finally:
        log.removeHandler(listener)


@_run_check("k-as-stated", "card")
def _k_is_allowed(case: RunCase) -> Iterator[Problem]:
    """The card says how deep the rankings are: 100 to 500, or the whole pool where it is smaller."""
    k, known = case.submitted.k, known_data_of(case.submitted)
    pool = known.counts["passages"] if known else None
    least = min(SHALLOWEST, pool or 1)
    if not least <= k <= DEEPEST:
        yield Problem(
            "k-as-stated",
            f"{case.submitted.file}, k",
            f"the card says that the rankings are {k} deep",
            f"{least} to {DEEPEST}",
            f"m2kr eval … --k {DEEPEST}, and make the submission of its result",
        )


@_run_check("claimed-metrics", "card")
def _claims_are_of_metrics(case: RunCase) -> Iterator[Problem]:
    """Claimed scores are of metrics that we compute, by their full names, as shares from 0 to 1."""
    for name, value in case.submitted.scores.items():
        where = f"{case.submitted.file}, scores, {name}"
        try:
            metric = parse(name)
        except UsageError as error:
            yield Problem(
                "claimed-metrics", where, error.what, error.expected or "", _renamed(error)
            )
            continue
        if metric.name != name:
            yield Problem(
                "claimed-metrics",
                where,
                f"the metric {name!r} is spelled otherwise",
                metric.name,
                f"write {metric.name}",
            )
        elif metric.k > case.submitted.k:
            yield Problem(
                "claimed-metrics",
                where,
                f"{name} needs {metric.k} passages a query, and the run is {case.submitted.k} deep",
                f"cut-offs up to {case.submitted.k}",
                f"leave it out, or m2kr eval … --k {DEEPEST}",
            )
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            yield Problem(
                "claimed-metrics", where, f"the score is {value!r}", "a number from 0 to 1", _CLAIM
            )


_CLAIM = "copy it from the result's JSON, or leave scores out: they are computed of the run"


def _renamed(error: UsageError) -> str:
    return (error.fix or "").replace("--metrics ", "write ") or _CLAIM


@_run_check("size-limits", "file")
def _size_is_bounded(case: RunCase) -> Iterator[Problem]:
    """A run's file holds at most 500 rows a query; reading counts them."""
    if not case.path.is_file():
        yield Problem(
            "size-limits", case.submitted.file, "there is no such file", "a run file", _WRITE
        )


@_run_check("readable", "file")
def _is_readable(case: RunCase) -> Iterator[Problem]:
    """The file is a run in Parquet or TREC's form, whole, that can be read in one way alone."""
    # Whether it is whole, reading tells. Text of other forms would be read, too.
    if case.path.name.endswith(".parquet") or not case.path.is_file():
        return
    with suppress(M2KRError, OSError, EOFError, zlib.error), open_unpacked(case.path) as file:
        begin = file.read(_BEGIN)
        cells = next((line.split() for line in begin.split(b"\n") if line.strip()), [])
        if cells and (len(cells) < 6 or cells[1] not in (b"Q0", b"q0", b"0")):
            yield Problem(
                "readable",
                f"{case.submitted.file}:1",
                "its first line is not one of TREC's",
                "qid Q0 docid rank score tag, parted by blanks or tabs",
                _WRITE,
            )


@_run_check("one-reading", "rows")
def _has_one_reading(case: RunCase) -> Iterator[Problem]:
    """Ranks and scores agree, and no line may be a comment or a row."""
    for remark in case.remarks:
        yield Problem(
            "one-reading",
            case.submitted.file,
            remark,
            "a run that nobody can read otherwise",
            "give scores that order the passages as the ranks do, best highest; " + _WRITE,
        )


@_run_check("finite-scores", "rows")
def _scores_are_finite(case: RunCase) -> Iterator[Problem]:
    """No score is NaN or infinite."""
    rows = case.rows
    assert rows is not None
    bad = np.flatnonzero(~np.isfinite(rows.flat_scores))
    if len(bad):
        owner = int(np.searchsorted(rows.offsets, bad[0], "right")) - 1
        yield Problem(
            "finite-scores",
            f"{case.submitted.file}, query {shown_id(rows.query_ids[owner])}",
            f"{len(bad):,} scores are not finite, such as {rows.flat_scores[bad[0]]}",
            "finite numbers",
            "leave out what should not be ranked",
        )


@_run_check("passages-once", "rows")
def _passages_are_there_once(case: RunCase) -> Iterator[Problem]:
    """No query ranks a passage twice."""
    rows = case.rows
    assert rows is not None
    width = max(1, len(rows.vocabulary))
    keys = np.sort(rows.owners() * width + rows.codes)
    again = keys[1:][keys[1:] == keys[:-1]]
    if len(again):
        owner, code = divmod(int(again[0]), width)
        yield Problem(
            "passages-once",
            f"{case.submitted.file}, query {shown_id(rows.query_ids[owner])}",
            f"{len(np.unique(again // width)):,} queries rank a passage twice, such as "
            f"{shown_id(rows.vocabulary[code].as_py())}",
            "each passage once a query",
            "keep the higher score of each passage",
        )


@_run_check("depth", "rows")
def _is_as_deep_as_stated(case: RunCase) -> Iterator[Problem]:
    """No ranking is deeper than the card says, and the file says the same."""
    rows, k = case.rows, case.submitted.k
    assert rows is not None
    counts = rows.counts()
    deeper = np.flatnonzero(counts > k)
    if len(deeper):
        yield Problem(
            "depth",
            f"{case.submitted.file}, query {shown_id(rows.query_ids[int(deeper[0])])}",
            f"{len(deeper):,} queries rank more than {k} passages, the most {int(counts.max()):,}",
            f"at most {k}, as the card says, and {DEEPEST} in any case",
            f"k: {min(int(counts.max()), DEEPEST)} in the card, or cut the rankings (Run.top)",
        )
    made = rows.metadata.get("k")
    if type(made) is int and made != k:
        yield Problem(
            "depth",
            case.submitted.file,
            f"the file says that the run was made {made} deep, the card {k}",
            "the same number",
            f"k: {made} in the card",
        )


@_run_check("deep-enough", "data")
def _is_deep_enough(case: RunCase) -> Iterator[Problem]:
    """The longest ranking has 100 passages, or the whole pool; others may be shorter."""
    rows = case.rows
    assert rows is not None
    longest = int(rows.counts().max(initial=0))
    pool = len(case.passages)
    least = min(SHALLOWEST, pool)
    if longest < least:
        yield Problem(
            "deep-enough",
            case.submitted.file,
            f"the longest ranking has {longest} of {pool:,} passages, and the card says that "
            f"they are {case.submitted.k} deep",
            f"{least} passages for some query; queries for which less is found may have fewer",
            f"m2kr eval … --k {SHALLOWEST}, and make the submission of its result",
        )


@_run_check("every-query-once", "data")
def _has_every_query_once(case: RunCase) -> Iterator[Problem]:
    """Every query of the split is in the run, once, and no other."""
    rows = case.rows
    assert rows is not None
    known = set(case.queries.to_pylist())
    times = Counter(rows.query_ids)
    yield from _unknown_queries(case, [query for query in times if query not in known])
    missing = [query for query in case.queries.to_pylist() if query not in times]
    trec = not case.submitted.file.endswith(".parquet")
    if missing:
        yield Problem(
            "every-query-once",
            case.submitted.file,
            f"{len(missing):,} of {len(known):,} queries "
            + ("is not in the run: " if len(missing) == 1 else "are not in the run, such as ")
            + _some(missing),
            "every query of the split, with an empty ranking where nothing is found",
            "save the run as Parquet: TREC's form loses queries without results"
            if trec
            else "search the whole split; Run.with_empty adds queries for which nothing is found",
        )
    twice = [query for query, n in times.items() if n > 1]
    if twice:
        yield Problem(
            "every-query-once",
            case.submitted.file,
            f"{_count(twice, 'query', 'queries')} in the run twice, such as {_some(twice)}",
            "each query once",
            _WRITE,
        )


def _unknown_queries(case: RunCase, unknown: Sequence[str]) -> Iterator[Problem]:
    if unknown:
        yield Problem(
            "every-query-once",
            f"{case.submitted.file}, query {shown_id(unknown[0])}",
            f"{_count(unknown, 'query', 'queries')} not of the split, such as {_some(unknown)}"
            + _meanings(case, "queries", unknown),
            f"question_id values of {_label(case)}",
            "check that the run was made for this source, split and edition, and that ids are as they were",
        )


@_run_check("ids-in-corpus", "data")
def _ids_are_of_the_corpus(case: RunCase) -> Iterator[Problem]:
    """Every passage is of the pool, its id byte for byte."""
    rows = case.rows
    assert rows is not None and case.known is not None
    numbers = case.known.split.passages_view.row_numbers(rows.vocabulary)
    unknown = rows.vocabulary.filter(pa.array(numbers < 0)).to_pylist()
    if unknown:
        first = int(np.flatnonzero(numbers < 0)[0])
        owner = int(np.searchsorted(rows.offsets, np.flatnonzero(rows.codes == first)[0], "right"))
        yield Problem(
            "ids-in-corpus",
            f"{case.submitted.file}, query {shown_id(rows.query_ids[owner - 1])}",
            f"{_count(unknown, 'passage', 'passages')} not in the pool, such as {_some(unknown)}"
            + _meanings(case, "passages", unknown),
            f"passage_id values of the pool of {_label(case)}",
            "check that the run was made for this source, split and edition, and that ids are as they were",
        )


@_run_check("made-on-these-data", "data")
def _was_made_on_these_data(case: RunCase) -> Iterator[Problem]:
    """Where the file says on what data the run was made, it is those that the card says."""
    assert case.known is not None
    for part in ("eval", "pool"):
        made, known = case.recorded.get(part), case.known.split.fingerprints[part]
        if isinstance(made, str) and made != known:
            yield Problem(
                "made-on-these-data",
                case.submitted.file,
                f"the file says that the run was made on other data: {part} {shown_id(made)}",
                known,
                "evaluate on the data of the card, or make the card of the results (m2kr submit init)",
            )
            return


@_run_check("whole-data", "data")
def _is_of_whole_data(case: RunCase) -> Iterator[Problem]:
    """The data were not cut by --limit."""
    assert case.known is not None
    if case.known.split.manifest.get("partial"):
        yield Problem(
            "whole-data",
            case.submitted.file,
            f"{_label(case)} was cut when it was built (--limit)",
            "the whole source",
            "build it without --limit, and evaluate on that",
        )


@_run_check("run-sha256", "run")
def _has_the_stated_hash(case: RunCase) -> Iterator[Problem]:
    """The rankings have the hash that the card says."""
    assert case.ranked is not None
    ours = case.ranked.sha256()
    if ours != case.submitted.run_sha256:
        yield Problem(
            "run-sha256",
            case.submitted.file,
            f"these are not the rankings of the card: their hash is {ours}",
            case.submitted.run_sha256,
            "put the file there that the card was made of, or make the card anew (m2kr submit init)",
        )


@_run_check("claimed-scores", "result")
def _claims_are_true(case: RunCase) -> Iterator[Problem]:
    """Claimed scores are those that we compute, up to 1e-6."""
    result = case.result
    assert result is not None
    for name, claimed in case.submitted.scores.items():
        where = f"{case.submitted.file}, scores, {name}"
        ours = result.value(name)
        if ours is None:
            yield Problem(
                "claimed-scores",
                where,
                f"{claimed} is claimed, and {name} is undefined on these data",
                "metrics that the split has judgements or answers for",
                "leave it out",
            )
        elif abs(claimed - ours) > TOLERANCE:
            yield Problem(
                "claimed-scores",
                where,
                f"{claimed!r} is claimed, and the run has {ours!r}"
                + _likely(name, claimed, result),
                f"{ours!r}, or no claim",
                _CLAIM,
            )


def _likely(name: str, claimed: float, result: "Result") -> str:
    """What a wrong claim looks like."""
    ours = result.value(name) or 0.0
    digits = len(str(claimed).partition(".")[2])
    if abs(claimed / 100 - ours) <= TOLERANCE or round(ours * 100, digits) == claimed:
        return ": it looks like percent"
    if digits < 6 and round(ours, digits) == claimed:
        return f": it is rounded to {digits} digits"
    alike = [
        other
        for other in result.metrics
        if (value := result.value(other)) is not None and abs(value - claimed) <= TOLERANCE
    ]
    if alike:
        best = difflib.get_close_matches(name, alike, 1, 0.0)[0]
        return f": that is its {best}"
    return ""


def _count(ids: Sequence[str], one: str, many: str) -> str:
    return f"{len(ids):,} {one} is" if len(ids) == 1 else f"{len(ids):,} {many} are"


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(shown_id, ids[:_EXAMPLES]))


def _meanings(case: RunCase, kind: Literal["queries", "passages"], unknown: Sequence[str]) -> str:
    """What the first of some unknown ids may mean."""
    meanings = ((one, case.meant(kind, one)) for one in unknown[:_EXAMPLES])
    told = [f"{shown_id(one)}: {meaning}" for one, meaning in meanings if meaning]
    return f" ({'; '.join(told)})" if told else ""


def _label(case: RunCase) -> str:
    assert case.known is not None
    return case.known.split.label
