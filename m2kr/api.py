"""`evaluate`: sources times retrievers, one result each; `compare`: what sets the systems apart."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from m2kr.data.images.store import Missing
from m2kr.data.load import Split, load
from m2kr.display import escaped, html_table
from m2kr.errors import CheckError, InputError, M2KRError, UsageError, plainly
from m2kr.evaluation.compare import Comparison, compare_results
from m2kr.evaluation.harness import evaluate_split, over_seeds, plan_metrics
from m2kr.evaluation.judge_file import JudgeFile, names_judge_file, require_run
from m2kr.evaluation.metrics import Chosen, Spec, choose, own
from m2kr.evaluation.result import Result, file_word
from m2kr.evaluation.result_files import is_result, load_results, result_files
from m2kr.evaluation.scoring import is_judged, require_judgements
from m2kr.progress import Progress
from m2kr.progress_bars import bars
from m2kr.report.tables import as_text, notes, rows
from m2kr.retrieval.cache import cache_folder
from m2kr.retrieval.clock import now
from m2kr.retrieval.protocol import Retriever
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.run import Run
from m2kr.retrieval.run_rows import Ties
from m2kr.retrieval.search_split import (
    MissingQueries,
    check_retriever,
    check_search,
    checked_run,
    declared_modalities,
    require_images,
)
from m2kr.retrievers import adapted, create, find
from m2kr.robustness.bands import Recipe
from m2kr.robustness.baseline import Baseline
from m2kr.robustness.results import with_robustness
from m2kr.search.config import SearchConfig

if TYPE_CHECKING:
    from os import PathLike

    from m2kr.search.config import Mode

logger = logging.getLogger("m2kr")
_PREVIEW = 3  # results of many in a line each


class Results(list[Result]):
    """Results in the order they were computed; ``print`` shows them as a table.

    Attributes:
        unsaved: Why some of them could not be saved, if so; each was logged, too.
    """

    def __init__(self, results: Iterable[Result] = ()) -> None:
        super().__init__(results)
        self.unsaved: list[M2KRError] = []

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        first = "".join(f"\n  {result!r}" for result in self[:_PREVIEW])
        more = f"\n  and {len(self) - _PREVIEW} more" if len(self) > _PREVIEW else ""
        return f"Results of {len(self)} evaluations{':' if self else ''}{first}{more}"

    def _repr_html_(self) -> str:
        heads, body = rows(self)
        lines = [html_table(f"{len(self)} results", body, heads)]
        return "".join([*lines, *(f"<div>{escaped(note)}</div>" for note in notes(self))])

    @classmethod
    def load(cls, *paths: "str | PathLike[str]") -> Self:
        """Saved results, from files, folders of them and patterns such as ``results/mini.*.json``.

        Raises:
            MissingError: nothing of that name, or no result in the folder.
            InputError: it is not a result, or damaged.
        """
        return cls(load_results(*map(Path, paths)))

    def compare(self, metrics: "str | Sequence[str]" = "default") -> Comparison:
        """Compares the systems that these are results of; see `compare`."""
        return compare(self, metrics=metrics)

    def report(
        self,
        folder: "str | PathLike[str]",
        *,
        data: "str | PathLike[str] | None" = None,
        images: "Sequence[str | Path]" = (),
    ) -> Path:
        """Writes a page with tables, plots and every query; see `m2kr.report.page.folder.write_report`."""
        from m2kr.report.page.folder import write_report

        return write_report(self, folder, data=data, images=images)


@plainly()
def evaluate(
    source: "str | Path | Split | Sequence[str | Path | Split]",
    retriever: "str | Retriever | Run | Sequence[str | Retriever | Run]",
    *,
    split: str = "test",
    k: int | None = None,
    metrics: "Spec | Callable[..., Any] | Sequence[str | Callable[..., Any]]" = "default",
    settings: Mapping[str, str] | None = None,
    edition: str | None = None,
    data: "str | PathLike[str] | None" = None,
    images: "Sequence[str | Path]" = (),
    missing_images: Missing = "error",
    missing_queries: MissingQueries = "error",
    ties: Ties = "m2kr",
    label: str = "",
    search: str | SearchConfig | None = None,
    audit: int = 0,
    max_hours: float = 4.0,
    seeds: int = 1,
    ablate: bool = False,
    bands: bool = False,
    cache: bool | None = None,
    out: "str | PathLike[str] | None" = None,
    workdir: "str | PathLike[str] | None" = None,
    progress: Progress | None = None,
) -> Results:
    """Evaluates retrievers on splits with M2KR's metrics.

    Args:
        source: A source name, a loaded `Split` or the path of a judge file (then ``split``,
            ``edition``, ``data`` and images are its own), or a list. Of a list, splits
            without judgements are searched and not scored.
        retriever: A name (``bm25``), ``package.module:Class``, ``file.py:Class``, ``st:NAME``, an object
            with ``index`` and ``search``, a model of sentence-transformers, a `Run`, or several.
        split: Split of the sources given by name.
        k: Depth of the rankings; by default 500, the published protocol's, or a replayed run's own.
        metrics: ``default``, ``full`` (nDCG, MAP and precision as well), names (``ndcg@10``),
            ``my_metric.py:fn@10``, functions (see `m2kr.evaluation.metrics`), or several.
        settings: Settings of the retrievers given by name; ``bm25.k1`` is for that one alone.
        edition: Edition of the sources given by name.
        data: Data root.
        images: Image roots searched first.
        missing_images: ``error``, ``black`` or ``skip``.
        missing_queries: What queries that a run lacks lead to: ``error``, or ``empty`` rankings.
        ties: Which passages come first of those that score alike: ``m2kr`` (the lower id), ``trec`` or
            ``trec9`` (the higher; see `m2kr.evaluation.harness.evaluate_split`).
        label: Put behind the retrievers' names in tables and file names.
        search: How late-interaction retrievers search: ``exact``, ``compressed``, ``official`` (the
            published protocol), or a `SearchConfig` that says more; by default as a retriever's own
            ``searching`` says, which is exactly.
        audit: Queries that are searched exactly, too, to tell the recall of the other modes.
        max_hours: What exact search may take; estimated after its first block.
        seeds: Indexes to build, with seeds that count up from that of ``search``. The scores are those
            of the first; ``search["seeds"]`` of the result has mean and range over all.
        ablate: Search again without image, question or instruction, and with other ones, too; see
            `Result.ablations`. The passages are indexed once.
        bands: Search again with what should not matter changed; see `Result.bands`. The passages are
            indexed four times more.
        cache: Whether encoded rows are kept below the data root, and found there. By default they
            are, unless a ``workdir`` is given.
        out: Folder for results and runs; nothing is saved if absent. Each experiment has files of its
            own; the same one has the same.
        workdir: Folder for encoded rows and indexes; a temporary one if absent. An evaluation that
            was cut off goes on with what it finds there.
        progress: A `m2kr.progress.Progress`: told of stages and the rows that are done of them. By
            default bars, where a terminal or notebook shows them; `m2kr.progress.SILENT` for none.

    Returns:
        One result for each source and retriever; ``print`` them for a table.

    Raises:
        M2KRError: unknown names, missing data, images or packages, or a retriever that breaks its
            contract; see the subclasses.
    """

    def opened(name: str | Path | Split) -> Split:
        if isinstance(name, Split):
            return name
        if names_judge_file(name):
            return JudgeFile.load(name)
        return load(
            str(name),
            split,
            edition=edition,
            data=data,
            images=images,
            missing_images=missing_images,
        )

    named = [source] if isinstance(source, str | Path | Split) else list(source)
    chosen = _chosen(metrics)
    searching = _searching(search, audit, max_hours)
    one_retriever = isinstance(retriever, str) or not isinstance(retriever, Sequence)
    several = cast("Sequence[str | Retriever | Run]", [retriever] if one_retriever else retriever)
    specs = [RunRetriever(r) if isinstance(r, Run) else r for r in several]
    given = [_settings_for(r, settings or {}) if isinstance(r, str) else {} for r in specs]
    retrievers = [
        create(r, set_) if isinstance(r, str) else adapted(r)
        for r, set_ in zip(specs, given, strict=True)
    ]
    if ablate or bands:
        _require_searches(retrievers, seeds)
    # Everything that can be checked is, for all of them, before the first row is encoded.
    one_split = isinstance(source, str | Path | Split)
    opening = []
    for name in named:
        began = now()
        split_ = opened(name)
        opening.append(now() - began)  # files are checked when they are first opened
        if one_split:
            require_judgements(split_)
        elif not is_judged(split_):
            logger.warning("%s has no judgements: searched, not scored", split_.label)
        for each in retrievers:
            _check(split_, each, chosen, k, searching, missing_queries)
    if out is not None:
        _require_folder(Path(out))
    results = Results()
    with ExitStack() as stack:
        told = progress or stack.enter_context(bars())
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="m2kr-"))
        base = Path(workdir) if workdir is not None else Path(scratch)
        for name, first in zip(named, opening, strict=True):
            began = now()
            one = opened(name)  # at its turn: it may have been built anew meanwhile
            spent = first + (now() - began)
            for i, (each_spec, each) in enumerate(zip(specs, retrievers, strict=True)):
                folder = base / f"{one.source}.{one.split}.{i}.{file_word(each.name)}"
                folder.mkdir(parents=True, exist_ok=True)
                wanted = workdir is None if cache is None else cache
                found = [
                    evaluate_split(
                        one,
                        each,
                        k=k,
                        metrics=chosen,
                        workdir=folder,
                        searching=asked,
                        cache=cache_folder(one.folder.parent) if wanted else None,
                        missing_queries=missing_queries,
                        ties=ties,
                        label=label,
                        arguments=given[i],
                        require_qrels=one_split,
                        opening=spent,
                        progress=told,
                    )
                    for asked in _seeded(searching, seeds)
                ]
                result = over_seeds(found) if seeds > 1 else found[0]
                if result.metrics and (ablate or bands):
                    recipe = Recipe(each_spec, given[i]) if isinstance(each_spec, str) else Recipe()
                    baseline = Baseline(
                        *(one, each, result, plan_metrics(chosen, k), folder, ties, searching),
                        told,
                    )
                    result = with_robustness(baseline, recipe, ablate=ablate, bands=bands)
                results.append(result)
                if out is not None:
                    try:
                        with plainly(out):
                            results[-1] = replace(results[-1], path=results[-1].save(Path(out)))
                    except M2KRError as error:
                        logger.error("%s could not be saved: %s", results[-1].name, error)
                        results.unsaved.append(error)
    return results


def _require_searches(retrievers: Sequence[Retriever], seeds: int) -> None:
    """Refuses what can't be searched with again."""
    for each in retrievers:
        if isinstance(each, RunRetriever):
            raise UsageError(
                "a run that is replayed has no ranking of changed queries",
                where=f"retriever {each.name}",
                expected="retrievers that search, for ablations and bands",
            )
    if seeds > 1:
        raise UsageError("ablations and bands are of one index", expected="seeds=1 (--seeds 1)")


def _chosen(metrics: Any) -> list[str | Chosen]:
    """The metrics that were asked for: names as they are, the user's own ones imported.

    Raises:
        UsageError: a name is unknown.
        MissingError: the file of one's own is not there.
        InputError: it can't be imported, or doesn't have the function.
    """
    words = metrics.split(",") if isinstance(metrics, str) else metrics
    words = [words] if isinstance(words, Chosen) or callable(words) else words
    found: list[str | Chosen] = []
    for word in dict.fromkeys(words):
        if callable(word):
            found.append(own(word, 0))
        elif isinstance(word, str) and ".py:" in word:
            spec, _, k = word.strip().partition("@")
            if k and not (k.isdecimal() and int(k)):
                raise UsageError(f"'{word}' has no cut-off", expected=f"{spec}@5")
            found.append(own(find(spec), int(k or 0)))
        else:
            found.append(word)
    choose(found)
    return found


def _check(
    split: Split,
    retriever: Retriever,
    metrics: list[str | Chosen],
    k: int | None,
    searching: SearchConfig | None,
    missing_queries: MissingQueries,
) -> None:
    """Checks depth, search, a replayed run's queries and the images of one evaluation to come."""
    check_retriever(retriever)
    run = retriever.run if isinstance(retriever, RunRetriever) else None
    require_run(split, retriever, run is not None)
    asked = plan_metrics(metrics, k, run)
    check_search(retriever, searching)
    if run is not None:
        checked_run(split, run, asked.k, missing_queries)
    require_images(split, declared_modalities(retriever))


def _require_folder(folder: Path) -> None:
    """Makes the folder for results, and sees that it can be written to.

    Raises:
        M2KRError: it can't; says why.
    """
    with plainly(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def _searching(
    search: str | SearchConfig | None, audit: int, max_hours: float
) -> SearchConfig | None:
    """The search that was asked for; None to leave it to the retrievers."""
    plain = SearchConfig()
    if isinstance(search, SearchConfig):
        return replace(
            search,
            audit=audit or search.audit,
            max_hours=search.max_hours if max_hours == plain.max_hours else max_hours,
        )
    if search is None and not audit and max_hours == plain.max_hours:
        return None
    return SearchConfig(mode=cast("Mode", search or plain.mode), audit=audit, max_hours=max_hours)


def _seeded(searching: SearchConfig | None, seeds: int) -> list[SearchConfig | None]:
    if seeds == 1:
        return [searching]
    if seeds < 1 or searching is None or searching.mode == "exact":
        raise UsageError(
            f"{seeds} seeds of exact search" if seeds > 1 else f"seeds is {seeds}",
            expected="1, or more for the indexes of compressed or official search",
            fix="--search official --seeds 3",
        )
    return [replace(searching, seed=searching.seed + i) for i in range(seeds)]


def _settings_for(retriever: str, settings: Mapping[str, str]) -> dict[str, str]:
    """The settings meant for one retriever: those without a name before a dot, and its own."""
    own = f"{retriever}."
    common = {key: value for key, value in settings.items() if "." not in key}
    return common | {k.removeprefix(own): v for k, v in settings.items() if k.startswith(own)}


@plainly()
def compare(
    *systems: "str | PathLike[str] | Result | Run | Iterable[Any]",
    metrics: "str | Sequence[str]" = "default",
    data: "str | PathLike[str] | None" = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compares systems on the same queries: differences, intervals, tests, and who can't be told apart.

    Args:
        systems: Results; paths of result files, of folders and patterns of them; runs and run files of
            ours, which are scored on the split that they were made on; or lists of any of these.
        metrics: ``default``: each source's headline metric and those that tables show; ``full``: all
            that the results have; or names such as ``hit_rate@5``.
        data: Data root, for runs.
        progress: As for `evaluate`.

    Returns:
        ``print`` it for tables; see `m2kr.evaluation.compare.Comparison`.

    Raises:
        M2KRError: files that are no results, results of different data, or a system without a result on
            a source that others have; see `m2kr.evaluation.compare.compare_results`.
    """
    with ExitStack() as stack:
        told = progress or stack.enter_context(bars())
        results = [result for one in systems for result in _results_of(one, metrics, data, told)]
        return compare_results(results, metrics=metrics, progress=told)


def _results_of(
    given: Any,
    metrics: "str | Sequence[str]",
    data: "str | PathLike[str] | None",
    progress: Progress,
) -> list[Result]:
    """The results that `compare` was given in one of many forms."""
    if isinstance(given, Result):
        return [given]
    if isinstance(given, Run):
        return [_scored(RunRetriever(given), metrics, data, progress)]
    if not isinstance(given, str | Path) and not hasattr(given, "__fspath__"):
        if not isinstance(given, Iterable):
            raise InputError(f"a {type(given).__name__} is no result", expected="results or runs")
        return [result for one in given for result in _results_of(one, metrics, data, progress)]
    results = []
    for file in result_files(str(given).removeprefix("run:")):
        if file.suffix == ".json" and is_result(file):
            results.append(Result.load(file))
        else:
            results.append(_scored(RunRetriever(file), metrics, data, progress))
    return results


def _scored(
    replayed: RunRetriever,
    metrics: "str | Sequence[str]",
    data: "str | PathLike[str] | None",
    progress: Progress,
) -> Result:
    """The result of a run on the split that it says it was made on."""
    run = replayed.run
    name, split, edition = (run.metadata.get(key) for key in ("source", "split", "edition"))
    if not all(isinstance(word, str) for word in (name, split, edition)):
        raise InputError(
            "the run doesn't say on which source and split it was made",
            where=replayed.file or f"run '{run.name}'",
            expected="a result, or a run that m2kr eval wrote",
            fix=f"m2kr eval SOURCE -r run:{replayed.file}, and compare its result"
            if replayed.file
            else "m2kr.evaluate(SOURCE, [run, other]).compare()",
        )
    opened = load(str(name), str(split), edition=str(edition), data=data)
    made_on = run.recorded.get("fingerprints", {}).get("eval")
    if made_on != opened.fingerprints.get("eval"):
        raise CheckError(
            f"the run was made on other data than {opened.label} is now",
            where=replayed.file or f"run '{run.name}'",
            expected=f"the fingerprint {made_on}",
            fix="compare the result that was saved with the run, or give the data root (--data)",
        )
    return evaluate(opened, replayed, metrics=metrics, progress=progress)[0]
