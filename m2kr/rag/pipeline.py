"""Readers asked on a split: without passages, with a run's, with the right ones; judged and recorded."""

import difflib
import importlib.metadata
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import atomic
from m2kr.data.load import Split, load
from m2kr.errors import InputError, UsageError, plainly
from m2kr.evaluation.harness import describe_split
from m2kr.evaluation.result import versions
from m2kr.fingerprint import images_part
from m2kr.progress import Progress
from m2kr.progress_bars import bars
from m2kr.rag.answer_in_passage import answers_in_passages
from m2kr.rag.answering import Answering, AskedQuestions, Spending
from m2kr.rag.arms import DEFAULT_K, arms_for, parsed_k
from m2kr.rag.gold import gold_answers
from m2kr.rag.judging import Judging
from m2kr.rag.kept_answers import STORE_NAME, AnswerStore
from m2kr.rag.own_reader import adapted_reader, checked_facts
from m2kr.rag.reader_registry import open_reader, reader_names
from m2kr.rag.records import RECORDS_ENDING, RagResult, RecordsWriter
from m2kr.rag.scorer import AnswerScorer
from m2kr.rag.scorer_registry import default_scorers, is_scorer_setting, open_scorer, scorer_name
from m2kr.rag.used_run import UsedRun, use_run
from m2kr.retrieval.protocol import Modalities
from m2kr.retrieval.run import Run
from m2kr.retrieval.search_split import MissingQueries, require_images
from m2kr.sources import UNKNOWN

if TYPE_CHECKING:
    from os import PathLike

    from m2kr.data.images.store import Missing
    from m2kr.rag.reader import Reader

logger = logging.getLogger("m2kr.rag")

_SIGHT = Modalities(frozenset({"image", "text"}), frozenset())


class RagResults(list[RagResult]):
    """Results, reader after reader, and for each the runs.

    Attributes:
        spent: What this call took; a result holds what its answers took, whoever asked for them.
        store: The file of kept answers; None if they were kept for this call alone.
    """

    def __init__(self, results: Iterable[RagResult] = ()) -> None:
        super().__init__(results)
        self.spent = Spending()
        self.store: Path | None = None


@plainly()
def answer_questions(
    source: "str | Path | Split",
    reader: "str | Reader | Sequence[str | Reader]",
    *,
    run: "str | Path | Run | Sequence[str | Path | Run] | None" = None,
    split: str = "test",
    k: "str | int | Sequence[int]" = DEFAULT_K,
    scorers: "str | AnswerScorer | Sequence[str | AnswerScorer] | None" = None,
    settings: Mapping[str, str] | None = None,
    edition: str | None = None,
    data: "str | PathLike[str] | None" = None,
    images: Sequence[str | Path] = (),
    missing_images: "Missing" = "error",
    missing_queries: MissingQueries = "error",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> RagResults:
    """Asks readers a split's questions and judges what they answer.

    Each question that has an accepted answer is asked without passages (``none``), with the first k
    passages of each run for each k (``retrieved``), and with its right passages (``oracle``): at most as
    many as the largest k, those in which an accepted answer stands first, then the others, each in the
    order of ``pos_item_ids``. A question without a right passage isn't asked there. Where a run has fewer
    than k passages for a query the reader gets those; where it has none, it answers as without.

    Answers are kept as they come, by all that the reader was and was given, in ``answers.sqlite`` of the
    folder ``out``: the same question is never asked twice, whatever arm, k, run or process asks. What
    is cut off goes on with the same call. Processes that share the folder divide the questions.

    ``seconds`` of an answer are those since the answer before it in its batch: their sum is the time
    that the reader took.

    Args:
        source: Source name, or an opened split.
        reader: A name (see `m2kr.rag.reader_registry.open_reader`), ``file.py:Class``,
            ``package.module:Class``, an object that answers, or several.
        run: A run, a run file (patterns and results as of ``run:FILE``) or a retriever's name, which then
            searches; or several. Without one there are two arms.
        split: Split of the source.
        k: Numbers of passages.
        scorers: Names (see `m2kr.rag.scorer_registry.open_scorer`) or scorers; by default those of the
            source.
        settings: By name, strings: those without a point in their name are the readers', and so are
            ``reader.KEY``; ``NAME.KEY`` are of the reader or scorer NAME.
        edition: Edition of the source.
        data: Data root.
        images: Image roots searched first. Images are opened only for readers that see them.
        missing_images: ``error``, ``black`` or ``skip`` (the reader gets none).
        missing_queries: What queries that a run lacks lead to: ``error``, or ``empty`` rankings.
        out: Folder for results, records and kept answers; nothing is saved if absent.
        progress: A `m2kr.progress.Progress`; by default bars, where a terminal or notebook shows them.

    Returns:
        A result for each reader and run.

    Raises:
        M2KRError: unknown names, missing data, images or packages, a run of another split, or a reader
            that breaks its contract; see the subclasses.
    """
    ks = parsed_k(k)
    split_ = source if isinstance(source, Split) else load(
        str(source), split, edition=edition, data=data, images=images, missing_images=missing_images
    )  # fmt: skip
    given_readers, given_runs = _several(reader), _several(run)
    given_scorers = _several(scorers) or default_scorers(split_.source)
    if not given_readers:
        raise UsageError("there is no reader", expected="one of " + ", ".join(reader_names()))
    scorer_names = [scorer_name(one) for one in given_scorers if isinstance(one, str)]
    of_scorers = {
        key: value
        for key, value in (settings or {}).items()
        if is_scorer_setting(key, scorer_names)
    }
    own = _settings_by_owner(
        {key: value for key, value in (settings or {}).items() if key not in of_scorers},
        [name for one in (*given_readers, *given_runs) for name in _owner_names(one)],
    )
    with ExitStack() as stack:
        told = progress or stack.enter_context(bars())
        # Everything that can be checked is, for all of them, before the first question is asked.
        readers = [
            open_reader(one, {**own.get("reader", {}), **_settings_of(one, own)})
            if isinstance(one, str)
            else adapted_reader(one)
            for one in given_readers
        ]
        facts = [checked_facts(one.facts(), f"reader {one.name}") for one in readers]
        questions = AskedQuestions(split_, gold_answers(split_))
        if not questions.ids:
            raise InputError(
                f"none of its {len(split_):,} questions has an accepted answer",
                where=split_.label,
                expected="a split whose queries have answers",
            )
        judges: list[AnswerScorer] = [
            open_scorer(one, of_scorers) if isinstance(one, str) else one for one in given_scorers
        ]
        _require_different_names(judges)
        seen = {
            sight: require_images(split_, _SIGHT) if sight else None
            for sight in {one.sees_images for one in readers}
        }
        folder = _folder(out, stack)
        runs: list[UsedRun | None] = [
            use_run(
                one,
                split_,
                ks[-1],
                settings=_settings_of(one, own) if isinstance(one, str) else None,
                missing_queries=missing_queries,
                progress=told,
            )
            for one in given_runs
        ]
        store = stack.enter_context(AnswerStore(folder / STORE_NAME))
        results = RagResults()
        results.store = store.path if out is not None else None
        for one, spec, fact in zip(readers, given_readers, facts, strict=True):
            for each in runs or [None]:
                arms = arms_for(ks, retrieved=each is not None)
                answering = Answering(questions, one, fact, each, arms, store, told, results.spent)
                with _told_of_kept(results):
                    answering.answer_all()
                described = {
                    "name": one.name,
                    "spec": spec if isinstance(spec, str) else one.name,
                    "facts": fact,
                }
                result = _result(answering, judges, described, seen[one.sees_images])
                result = _with_records(result, answering, judges, folder)
                if out is None:
                    result = replace(result, table=result.records(), path=None)
                results.append(result)
        split_.require_unharmed()
    return results


@contextmanager
def _told_of_kept(results: RagResults) -> Iterator[None]:
    """Says what is kept where the reader stops, or is stopped."""
    try:
        yield
    except BaseException:
        if results.spent.asked and results.store is not None:
            logger.warning(
                "%s new answers are kept in %s: the same command goes on from there",
                f"{results.spent.asked:,}",
                results.store,
            )
        raise


def _several(given: Any) -> list[Any]:
    if given is None:
        return []
    one = isinstance(given, str | Path | Run) or not isinstance(given, Sequence)
    several = [given] if one else list(given)
    return [str(each) if isinstance(each, Path) else each for each in several]


def _owner_names(given: object) -> list[str]:
    """What settings may name a reader or run by: all of it, its name, or its class."""
    if not isinstance(given, str):
        return [str(getattr(given, "name", ""))]
    first, _, last = given.strip().rpartition(":")
    return [given.strip(), first, last]


def _settings_of(spec: object, own: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {key: value for name in _owner_names(spec) for key, value in own.get(name, {}).items()}


def _settings_by_owner(
    settings: Mapping[str, str], owners: Iterable[str]
) -> dict[str, dict[str, str]]:
    """Settings by the name that stands before a point; those of every reader are under ``reader``.

    Raises:
        UsageError: a name is none of those in use.
    """
    known = sorted({"reader", *owners} - {""}, key=len, reverse=True)
    found: dict[str, dict[str, str]] = {}
    for key, value in settings.items():
        owner = next((name for name in known if key.startswith(f"{name}.")), None)
        if owner is None and "." in key:
            name, _, rest = key.partition(".")
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"--set {key}: '{name}' is no reader, retriever or scorer in use",
                expected=f"{rest} for the readers, or NAME.{rest} of one of "
                + ", ".join(sorted(known)),
                fix=f"did you mean '{near[0]}.{rest}'?" if near else None,
            )
        found.setdefault(owner or "reader", {})[
            key if owner is None else key.removeprefix(f"{owner}.")
        ] = value
    return found


def _require_different_names(scorers: Sequence[AnswerScorer]) -> None:
    names = [scorer.name for scorer in scorers]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"the scorer '{name}' is given twice", expected="each scorer once")


def _folder(out: str | Path | None, stack: ExitStack) -> Path:
    """The folder for results, which can be written to; one for the time being if there is none."""
    if out is None:
        return Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="m2kr-", ignore_cleanup_errors=True)
            )
        )
    folder = Path(out).expanduser()
    with plainly(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    return folder


def _result(
    answering: Answering,
    scorers: Sequence[AnswerScorer],
    reader: Mapping[str, Any],
    seen: Mapping[str, Any] | None,
) -> RagResult:
    """The result of what was answered, before it is judged."""
    questions, run = answering.questions, answering.run
    split = questions.split
    judged_by = {one.name: checked_facts(one.facts(), f"scorer {one.name}") for one in scorers}
    ks = sorted({arm.k for arm in answering.arms} - {0})
    no_gold = len(split) - len(questions.ids)
    no_right = sum(
        row[number] is None for row in answering.keys for number, _ in enumerate(answering.arms)
    )
    images = None
    if answering.reader.sees_images:
        images = images_part(zip(questions.ids, answering.images, strict=True))
    notes = list(run.notes) if run else []
    if seen and seen["found"] < seen["total"]:
        given = (
            "black images in their place" if seen["policy"] == "black" else "none in their place"
        )
        notes.append(
            f"{seen['total'] - seen['found']:,} of {seen['total']:,} images are missing: {given}"
        )
    return RagResult(
        source=split.source,
        split=split.split,
        edition=split.edition,
        reader=reader,
        retriever={**run.recorded, **run.facts} if run else None,
        k=ks,
        arms=[],
        scorers=judged_by,
        totals={},
        counts={
            "questions": len(split),
            "asked": len(questions.ids),
            "no_gold": no_gold,
            "no_right_passage": no_right,
        },
        images=seen,
        fingerprints={**split.fingerprints, "images": images},
        partial=bool(split.manifest["partial"]),
        comparable=str(split.manifest.get("comparable", UNKNOWN)),
        versions=versions() | _installed(),
        experiment={
            **describe_split(split),
            "reader": reader["facts"],
            "run": {"name": run.name, "sha256": run.sha256} if run else None,
            "k": ks,
            "scorers": judged_by,
            "seen_images": images,
        },
        bounds=_bounds(questions, run, ks),
        notes=notes,
    )


def _installed() -> dict[str, str]:
    """Versions of packages that readers use, loaded or not: kept answers need none of them."""
    found = {}
    for name in ("torch", "transformers", "peft"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _bounds(questions: AskedQuestions, run: UsedRun | None, ks: Sequence[int]) -> dict[str, Any]:
    """As `RagResult.bounds`."""
    if run is None:
        return {}
    found = answers_in_passages(questions.split, run.run, questions.golds)
    shares = {str(k): found.shares(k) for k in ks}
    return {k: {**share["within"], "words": share["words"]} for k, share in shares.items()}


def _with_records(
    result: RagResult, answering: Answering, scorers: Sequence[AnswerScorer], folder: Path
) -> RagResult:
    """Judges the answers, and writes records and result: the result last."""
    judging = Judging(answering, scorers)
    path = folder / f"{result.name}{RECORDS_ENDING}"
    with (
        atomic.writing(path) as aside,
        atomic.create(aside) as file,
        RecordsWriter(file, [one.name for one in scorers]) as writer,
    ):
        for number in range(len(answering.arms)):
            judging.judge(number, writer.write)
    done = replace(
        result,
        arms=judging.arms,
        totals=judging.totals,
        notes=[*result.notes, *judging.notes],
        files={"records": path.name},
    )
    return done.save(folder / f"{result.name}.json")
