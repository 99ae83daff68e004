"""Searching one split with one retriever: it and its images are checked before, the run after."""

import inspect
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m2kr.errors import CheckError, InputError, MissingError, UsageError
from m2kr.fingerprint import images_part
from m2kr.progress import SILENT, Progress, task
from m2kr.retrieval.clock import Spent, loads, now
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.own_code import json_settings, own_code, user_attribute
from m2kr.retrieval.protocol import (
    Modalities,
    Retriever,
    RetrieverBase,
    RunContext,
    RunStats,
    modalities_of,
    readable,
)
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.run import Run
from m2kr.retrieval.run_rows import Ties

if TYPE_CHECKING:
    from m2kr.data.images.store import ImageStore
    from m2kr.data.load import Split
    from m2kr.data.records import Passages, Queries
    from m2kr.search.config import SearchConfig

logger = logging.getLogger("m2kr.retrieval")

MissingQueries = Literal["error", "empty"]
_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair: no file can hold it
_PARTS = ("name", "settings", "modalities", "index", "search")


@dataclass(frozen=True)
class SplitSearch:
    """What searching a split gave.

    Attributes:
        run: Every query of the split, in its order, cut at k. Its metadata say how it was made, with
            ``images`` (coverage and policy, as in `Result.images`).
        spent: By stage: ``load`` (images looked up and hashed, weights), ``encode``, ``index``,
            ``search``; ``reuse``, of rows that were kept; of ``encode`` the part ``encode document``.
        encoded: Rows by stage that were encoded now; empty for a retriever that tells of none.
        lacking: Queries that the run lacked.
        index_bytes: What is searched, on disk.
        how: As `Result.search`.
        reused: Rows by stage that had been encoded before.
        notes: What the retriever says of it, in sentences.
    """

    run: Run
    spent: Mapping[str, Spent]
    encoded: Mapping[str, int]
    lacking: int
    index_bytes: int
    how: Mapping[str, Any] | None
    reused: Mapping[str, int]
    notes: Sequence[str] = ()


def search_split(
    split: "Split",
    retriever: Retriever,
    *,
    k: int = 500,
    workdir: str | Path | None = None,
    searching: "SearchConfig | None" = None,
    cache: Path | None = None,
    missing_queries: MissingQueries = "error",
    ties: Ties = "m2kr",
    progress: Progress = SILENT,
) -> SplitSearch:
    """The checked rankings of a retriever on a split; needs no judgements.

    Args:
        split: A loaded split.
        retriever: What ranks its pool.
        k: Depth.
        workdir: Where the index goes; a temporary folder if absent.
        searching: How token vectors are searched; by default as the retriever says, which is exactly
            if nobody told it otherwise.
        cache: Folder in which encoded rows are kept across runs, for retrievers that say what decides them.
        missing_queries: What queries that the run lacks lead to: an error, or an empty ranking.
        ties: Which passages of equal score come first where the run is cut; the run is in that order.
        progress: Told of the stages and the rows that are done of them.

    Raises:
        UsageError: k is not positive, or the retriever doesn't search as it is asked to.
        MissingError: images are not there.
        CheckError: the run lacks queries, or names queries or passages that don't exist.
    """
    if k < 1:
        raise UsageError(f"k is {k}", expected="at least 1")
    if not len(split.queries_view) or not len(split.passages_view):
        raise InputError("the split has no queries or no passages", where=split.label)
    began = now()
    check_retriever(retriever)
    reads = declared_modalities(retriever)
    images = require_images(split, reads)
    json_settings(retriever)  # refused now, not after the search
    check_search(retriever, searching)
    with _folder(workdir) as folder:
        context = RunContext(folder, cache, searching, progress, split.fingerprints, split)
        before, loaded, loads_before = _size(folder), now(), loads()
        with task(progress, "index", len(split.passages_view)):
            index_pool(retriever, split.passages_view, context)
        written, indexed, loads_indexing = _size(folder) - before, now(), loads() - loads_before
        with task(progress, "search", len(split.queries_view)):
            run = rank_queries(retriever, split.queries_view, k)
        searched, loads_searching = now(), loads() - loads_before - loads_indexing
    stats = stats_of(retriever)
    seen = image_fingerprint(split, reads)
    looking = (loaded - began) + (now() - searched)
    spent = _by_stage(
        stats,
        looking + loads_indexing + loads_searching,
        indexed - loaded - loads_indexing,
        searched - indexed - loads_searching,
    )
    facts = {
        "source": split.source,
        "split": split.split,
        "edition": split.edition,
        "fingerprints": {**split.fingerprints, **({"images": seen} if seen else {})},
        "images": images,
        "k": k,
        "settings": json_settings(retriever),  # such as weights that it has learned
        "modalities": reads.as_dict(),
    }
    # Exact search gives one result, whatever it is done with: only another is worth a word.
    if stats.search and stats.search.get("mode") != "exact":
        facts["search"] = dict(stats.search)
    if isinstance(retriever, RunRetriever):  # what it recorded stays
        facts = {"k": min(k, run.depth)} if run.depth else {}
    checked, lacking = checked_run(split, run, k, missing_queries, ties)
    notes = list(stats.notes)
    if _is_of_another_pool(run, split):
        notes.append("the rankings were made for another pool than the one that they are scored on")
    learned = run.recorded.get("settings", {}).get("learned")
    if isinstance(learned, Mapping) and _learned_on(learned) == split.fingerprints["queries"]:
        notes.append(
            "the weights were learned on these very queries, so the scores are no test of them"
        )
    checked = checked.named(retriever.name, **facts)
    index_bytes = written if stats.index_bytes is None else stats.index_bytes
    how = {**stats.search, **stats.cost} if stats.search else None
    return SplitSearch(
        checked, spent, stats.encoded, lacking, index_bytes, how, stats.reused, notes
    )


def _by_stage(
    stats: RunStats, looking: Spent, indexing: Spent, searching: Spent
) -> dict[str, Spent]:
    """What each stage took: encoders tell what of indexing and searching was theirs."""
    none = Spent()
    document = stats.spent("encode document")
    spent = {
        "load": looking,
        "encode": none,
        "encode document": document,
        "reuse": none,
        "index": indexing,
        "search": searching,
    }
    for side, within in (("document", "index"), ("query", "search")):
        for stage in ("encode", "reuse"):
            part = stats.spent(f"{stage} {side}")
            spent[stage] += part
            spent[within] -= part
    return spent


def check_retriever(retriever: object, where: str | None = None) -> None:
    """Refuses what is no retriever, or describes itself in a form that can't be read.

    Its settings aren't looked at: for some, a checkpoint has to be fetched and hashed first.

    Args:
        retriever: What should be one.
        where: How it was named, for the error.

    Raises:
        InputError: it lacks a part, is a class, or a part has a wrong form.
        RetrieverError: one of its properties raised something.
    """
    kind = type(retriever).__name__
    if isinstance(retriever, type):
        raise InputError(
            f"{retriever.__name__} is a class, not a retriever",
            where=where,
            expected=f"an object of it: {retriever.__name__}()",
        )
    parts = [p for p in _PARTS if p != "modalities" or not hasattr(type(retriever), "reads_images")]
    lacking = [p for p in parts if inspect.getattr_static(retriever, p, retriever) is retriever]
    if lacking:
        raise InputError(
            f"{kind} is not a retriever: it has no {', '.join(lacking)}",
            where=where,
            expected="the attributes name, settings and modalities; the methods index and search",
            fix="subclass m2kr.EncoderRetriever, or see the protocol m2kr.Retriever",
        )
    _require_encoders(retriever, where)
    name = user_attribute(retriever, "name")
    if not isinstance(name, str) or not name.strip() or _HALF.search(name):
        raise InputError(f"its name is {name!r}", where=f"{kind}.name", expected="a text")
    declared_modalities(retriever)


def _require_encoders(retriever: object, where: str | None) -> None:
    """Refuses an encoder of one side only, before its first side is encoded."""
    if not isinstance(retriever, EncoderRetriever) or (
        type(retriever).encode_stream is not EncoderRetriever.encode_stream
    ):
        return
    for name in ("encode_query", "encode_document"):
        if getattr(getattr(retriever, name), "__func__", None) is getattr(EncoderRetriever, name):
            raise InputError(
                f"{type(retriever).__name__} has no {name}(batch)",
                where=where,
                expected="encode_query(batch) and encode_document(batch)",
                fix="encode_query = encode_document in the class, if both sides are encoded alike",
            )


def declared_modalities(retriever: object) -> Modalities:
    """What a retriever declares to read.

    Raises:
        InputError: it declares it in a form that can't be read.
        RetrieverError: a property of it raised something.
    """
    with own_code(retriever, f"reading {type(retriever).__name__}.modalities"):
        return modalities_of(retriever)


def stats_of(retriever: object) -> RunStats:
    """What a retriever tells of its run, if it is one that does.

    Raises:
        RetrieverError: its own code raised something.
    """
    if not isinstance(retriever, RetrieverBase):
        return RunStats()
    with own_code(retriever, f"{type(retriever).__name__}.run_stats"):
        return retriever.run_stats()


def index_pool(retriever: Retriever, passages: "Passages", context: RunContext) -> None:
    """Has a retriever take in a pool, whose images it can only read if it declares to.

    Args:
        retriever: Which one; it is given the context first, if it takes it.
        passages: The pool.
        context: Of the run, with a working folder.

    Raises:
        RetrieverError: its own code raised something.
    """
    assert context.workdir is not None
    with own_code(retriever, f"{type(retriever).__name__}.index of {len(passages):,} passages"):
        if isinstance(retriever, RetrieverBase):
            retriever.begin_run(context)
        retriever.index(readable(passages, retriever, "document"), workdir=context.workdir)


def rank_queries(retriever: Retriever, queries: "Queries", k: int) -> Run:
    """Has a retriever rank ``k`` passages for each query.

    Raises:
        InputError: it gave no `Run`.
        RetrieverError: its own code raised something.
    """
    kind = type(retriever).__name__
    with own_code(retriever, f"{kind}.search for {len(queries):,} queries"):
        run: object = retriever.search(readable(queries, retriever, "query"), k)
    if isinstance(run, Run):
        return run if run.name else run.named(retriever.name)
    raise InputError(
        f"returned {'None' if run is None else type(run).__name__}",
        where=f"{kind}.search",
        expected="a Run, such as m2kr.Run.from_dict({query id: {passage id: score}})",
    )


def require_queries(run: Run, ids: Sequence[str], where: str) -> None:
    """Refuses a run that lacks queries: most likely it was made for another split.

    Raises:
        CheckError: it does.
    """
    if lacking := [query for query in ids if query not in run]:
        raise CheckError(
            f"the run lacks {len(lacking):,} queries (of {len(ids):,}), such as '{lacking[0]}'",
            where=where,
            expected="each query of the split that is searched, if only with an empty ranking",
            fix="check that source, split and edition are those that the run was made for",
        )


def check_search(retriever: Retriever, searching: "SearchConfig | None") -> None:
    """Refuses a search that the retriever doesn't have.

    Raises:
        UsageError: it knows one way to search, and another is asked for.
    """
    other = searching is not None and searching.mode != "exact"
    if searching is not None and other and not isinstance(retriever, EncoderRetriever):
        raise UsageError(
            f"{retriever.name} has no {searching.mode} search",
            expected="a late-interaction retriever, such as preflmr",
            fix="--search exact",
        )


def checked_run(
    split: "Split",
    run: Run,
    k: int,
    missing_queries: MissingQueries = "error",
    ties: Ties = "m2kr",
) -> tuple[Run, int]:
    """The run in the split's query order, cut at k, and how many queries were not in it.

    Passages of equal score are in the order of ``ties``.

    Raises:
        CheckError: it names queries that the split lacks, or lacks some and ``missing_queries`` is
            ``error``.
    """
    queries = split.queries_view.ids.to_pylist()
    known = set(queries)
    lacking = [query for query in queries if query not in run]
    unknown = [query for query in run.query_ids if query not in known]
    if unknown or (lacking and missing_queries == "error"):
        wrong = unknown or lacking
        what = (
            f"{len(unknown):,} of the run's {len(run.query_ids):,} queries are unknown: not among the "
            f"{len(queries):,} of the split"
            if unknown
            else f"the run lacks {len(lacking):,} queries (of {len(queries):,})"
        )
        same = "check that source, split and edition are those that the run was made for"
        raise CheckError(
            f"{what}, such as " + ", ".join(map(repr, wrong[:3])),
            where=f"run '{run.name}' on {split.label}",
            expected="each query of the split, with an empty list where nothing is found",
            fix=same if unknown else f"{same}; --missing-queries empty counts them as not found",
        )
    if len(lacking) == len(queries):
        logger.warning("the run '%s' has none of the queries of %s", run.name, split.label)
    run = run.with_empty(lacking)
    if _is_of_another_pool(run, split):
        logger.warning("the run '%s' was made for another pool than %s has", run.name, split.label)
    return run.select(queries).ordered(ties).top(k), len(lacking)


def _learned_on(learned: Mapping[str, Any]) -> object:
    """The queries that a fused run's weights were learned on; see `m2kr.retrieval.run_fusion`."""
    on = learned.get("learned_on")
    return on.get("queries") if isinstance(on, Mapping) else None


def _is_of_another_pool(run: Run, split: "Split") -> bool:
    """Whether a run says that it was made for other passages; one that says nothing may be for these."""
    made_for = run.recorded.get("fingerprints", {}).get("pool")
    return bool(made_for) and made_for != split.fingerprints["pool"]


@contextmanager
def _folder(workdir: str | Path | None) -> Iterator[Path]:
    if workdir is not None:
        Path(workdir).mkdir(parents=True, exist_ok=True)
        yield Path(workdir)
    else:
        with tempfile.TemporaryDirectory(prefix="m2kr-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def require_images(split: "Split", modalities: Modalities) -> dict[str, Any] | None:
    """Coverage of the images that a retriever will read, checked before anything is encoded.

    Raises:
        MissingError: some are not there, and the policy is ``error``.
    """
    sides: list[Queries | Passages] = []
    if "image" in modalities.query:
        sides.append(split.queries_view)
    if "image" in modalities.passage:
        sides.append(split.passages_view)
    if not sides:
        return None
    columns = (side.table.column("img_path").chunks for side in sides)
    paths = chain.from_iterable(chunk.to_pylist() for chunk in chain.from_iterable(columns))
    if split.images is None:
        example = next((path for path in paths if path is not None), None)
        if example is not None:
            raise MissingError(
                f"rows name images such as '{example}', and there is no image root",
                where=split.label,
                fix="--images DIR",
            )
        return {"policy": "error", "total": 0, "found": 0, "missing": []}
    coverage = split.images.require(paths)
    return {
        "policy": split.images.missing,
        "total": coverage.total,
        "found": coverage.found,
        "missing": list(coverage.missing),
    }


def image_fingerprint(split: "Split", modalities: Modalities) -> str | None:
    """The ``images`` fingerprint of the queries; None for a retriever that reads none of them.

    A missing image is told from none: under the policy ``black`` a retriever is given another input.
    """
    if "image" not in modalities.query:
        return None
    queries, images = split.queries_view, split.images
    paths = queries.column("img_path")
    return images_part(
        (query, None if path is None else _seen(images, path))
        for query, path in zip(queries.ids.to_pylist(), paths, strict=True)
    )


def _seen(images: "ImageStore | None", path: str) -> str | None:
    if images is None:
        return None
    return images.sha256(path) or f"missing: {images.missing}"
