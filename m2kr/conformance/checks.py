"""The checks: each a function of a bench that raises `Failed`, or returns what is worth a note."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from m2kr.conformance.bench import (
    DEPTH,
    Bench,
    Differs,
    Failed,
    NotApplicable,
    differs,
    renamed,
    require_alike,
    require_complete,
    scores_of,
)
from m2kr.conformance.corpus import LONG, PICTURES, TWIN, Corpus, draw_pictures
from m2kr.conformance.watch import files_written
from m2kr.data.row_hash import content_of, order_of
from m2kr.errors import M2KRError
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.own_code import json_settings
from m2kr.retrieval.protocol import RunContext
from m2kr.retrieval.search_split import index_pool, rank_queries
from m2kr.retrievers._memo import MEMO

if TYPE_CHECKING:
    from m2kr.data.records import Passages, Queries
    from m2kr.retrieval.protocol import Retriever
    from m2kr.retrieval.run import Run


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that every retriever keeps to.

    Attributes:
        name: In tables, and for tests.
        run: Looks; raises `Failed` or `NotApplicable`, or returns a note.
        fix: What to do where it fails.
        odd: Whether it gives odd input, so that an exception is a failure of its own kind.
    """

    name: str
    run: Callable[[Bench], str | None]
    fix: str
    odd: bool


REGISTERED: dict[str, Check] = {}
# The check that a search of the corpus as it is belongs to.
PLAINEST = "whole runs"


def _check(
    name: str, fix: str, *, odd: bool = False
) -> Callable[[Callable[[Bench], str | None]], None]:
    def register(run: Callable[[Bench], str | None]) -> None:
        REGISTERED[name] = Check(name, run, fix, odd)

    return register


@_check(
    "describes itself", "a name, settings that JSON can hold, and modalities; see m2kr.Retriever"
)
def _describes(bench: Bench) -> str:
    retriever = bench.make()
    settings = json_settings(retriever)
    before = json.dumps(settings, sort_keys=True)
    bench.run(bench.corpus, retriever=retriever)
    if json.dumps(json_settings(retriever), sort_keys=True) != before:
        raise Failed("settings are others after a search than before")
    return f"{retriever.name}, reads {_said(bench)}"


def _said(bench: Bench) -> str:
    sides = bench.reads.as_dict()
    return "; ".join(f"{side}: {' and '.join(kinds) or 'nothing'}" for side, kinds in sides.items())


@_check(
    PLAINEST,
    "every query in the run, if only with no passages; passages of the pool; k at most",
)
def _whole(bench: Bench) -> None:
    bench.run(bench.corpus, 3)
    if not bench.baseline.counts().sum():
        raise Failed("no query has a passage")


@_check(
    "ids", "keep ids as they are: no cleaning, no case, no int(), no splitting at '/'", odd=True
)
def _ids(bench: Bench) -> None:
    odd = [
        *("07", "1", "1.0", "7", "A", "a", "a b", "a/b/c", "a:b", "a\u0301", "\u00e1"),
        *("p\u05d0", "q" * 3000, "r" * 300, "r" * 300 + "s", "\U0001f986"),
    ]
    queries = ["007", "7", "Q", "q", "q/1 ?", "\u00e9", "e\u0301", "\u00fc" * 500]
    plain = sorted(row["passage_id"] for row in bench.corpus.passages)
    # In the same order: passages that score alike then stay in it.
    passages = dict(zip(plain, sorted(odd), strict=True))
    asked = dict(zip((row["question_id"] for row in bench.corpus.queries), queries, strict=True))
    same = {query: query for query in asked}
    run = bench.run(bench.corpus.renamed(passages, same))
    require_alike(renamed(bench.baseline, passages, same), run, "with other passage ids")
    run = bench.run(bench.corpus.renamed(passages, asked))
    if bench.reads.query:
        require_alike(renamed(bench.baseline, passages, asked), run, "with other query ids")


@_check(
    "order of rows",
    "take nothing from a row's number; what is kept by row needs the ids' order, too",
)
def _order(bench: Bench) -> str:
    work, cache = bench.folder("work"), bench.folder("cache")
    mixed = bench.corpus.in_order(
        lambda rows: sorted(rows, key=lambda row: hashlib.md5(str(row).encode()).digest())  # noqa: S324
    )
    note = ""
    for corpus in (mixed, bench.corpus):
        run = bench.run(corpus, workdir=work, cache=cache)
        note = require_alike(bench.baseline, run, "with rows in another order") or note
    return note


@_check(
    "queries alone", "score a query by itself: no mean, scale or rank over the queries of a batch"
)
def _alone(bench: Bench) -> str:
    retriever = bench.kept()
    MEMO.clear()
    whole, note = bench.run(bench.corpus, retriever=retriever), ""
    MEMO.clear()
    for row in bench.corpus.queries:
        run = bench.ask(retriever, replace(bench.corpus, queries=(row,)))
        note = require_alike(run, whole, "asked alone, and among others") or note
    return note


@_check("batch size", "no row's vector may depend on the batch: no batch norm, model.eval()")
def _batch_size(bench: Bench) -> str:
    if "token_budget" in bench.settings:
        retriever = bench.fresh(token_budget=1)
    else:
        retriever = bench.fresh()
        if not isinstance(getattr(retriever, "batch_size", None), int):
            raise NotApplicable("it has no batch_size")
        try:
            retriever.batch_size = 1  # type: ignore[attr-defined]
        except AttributeError as error:
            raise NotApplicable("its batch_size can't be set") from error
    return require_alike(
        bench.baseline, bench.run(bench.corpus, retriever=retriever), "in batches of one"
    )


@_check("padding", "mask what fills a row up: attention mask, and no padding in means and maxima")
def _padding(bench: Bench) -> str:
    retriever = bench.kept()
    MEMO.clear()
    run = bench.run(bench.corpus.and_query(LONG), retriever=retriever)
    note = require_alike(bench.baseline, _without(run, query="q9"), "beside a long query")
    if isinstance(retriever, EncoderRetriever):  # others may count words over all passages
        MEMO.clear()
        run = bench.run(bench.corpus.and_passage(LONG), retriever=retriever)
        longer = require_alike(
            bench.baseline, _without(run, passage="p50"), "beside a long passage"
        )
        note = longer or note
    return note


def _without(run: "Run", query: str = "", passage: str = "") -> "Run":
    """The run without a query, or without a passage."""
    return type(run).from_dict(
        {
            asked: {name: score for name, score in scores_of(run, asked).items() if name != passage}
            for asked in run.query_ids
            if asked != query
        },
        name=run.name,
    )


_DEPTHS = (1, 2, 3, 5, 8, 15)


@_check("k", "cut after the tie rule: score descending, then id ascending; m2kr.ranking.TopK does")
def _depth(bench: Bench) -> None:
    retriever = bench.kept()
    whole = bench.run(bench.corpus, retriever=retriever)
    for k in _DEPTHS:
        run = bench.ask(retriever, bench.corpus, k)
        for query in run.query_ids:
            if run.passage_ids(query) != whole.passage_ids(query)[:k]:
                last = run.passage_ids(query)[-1:], whole.passage_ids(query)[k - 1 : k]
                raise Differs(
                    f"for query {query!r}, passage {k} is {last[0]} with k = {k}, and {last[1]} with more",
                    exact=True,
                )


@_check("equal texts", "equal passages get equal scores: the id alone may tell them apart")
def _twins(bench: Bench) -> str:
    if not bench.reads.passage:
        raise NotApplicable("it reads nothing of passages")
    plain = bench.corpus.with_passages(lambda _: {"img_path": None})
    run = bench.run(plain)
    one, other = (r["passage_id"] for r in plain.passages if r["passage_content"] == TWIN)
    exact = True
    for query in run.query_ids:
        scores = scores_of(run, query)
        if (one in scores) != (other in scores):
            raise Differs(f"of two equal passages, query {query!r} ranks one", exact=True)
        if one not in scores:
            continue
        apart = abs(scores[one] - scores[other])
        exact = exact and not apart
        if apart > 1e-6 * max(map(abs, scores.values())):
            raise Differs(
                f"equal passages score {scores[one]:.6g} and {scores[other]:.6g} for {query!r}",
                exact=True,
            )
    return "" if exact else "equal but for rounding, which then decides their order"


@_check("empty passage", "expect texts of no characters, of blanks, of one letter", odd=True)
def _empty_passage(bench: Bench) -> None:
    corpus = bench.corpus
    for place, text in enumerate(("", "  \n\t", "x")):
        corpus = corpus.and_passage(text, f"p5{place}")
    bench.run(corpus)


@_check(
    "empty query",
    "expect questions and instructions of no characters; an empty ranking will do",
    odd=True,
)
def _empty_query(bench: Bench) -> None:
    bench.run(bench.corpus.and_query("").and_query(" \t", "\n", "q10"))


@_check(
    "no image",
    "expect None among batch.images, and img_path null; an empty ranking will do",
    odd=True,
)
def _no_image(bench: Bench) -> None:
    if "image" not in bench.reads.query | bench.reads.passage:
        raise NotApplicable("it reads no images")
    bench.run(bench.corpus.with_queries(lambda _: {"img_path": None}))
    bench.run(bench.corpus.with_passages(lambda _: {"img_path": None}))


@_check(
    "missing image",
    "open images by batch.images or records.image(row), and let its errors pass",
    odd=True,
)
def _missing_image(bench: Bench) -> None:
    sides = [side for side in ("query", "passage") if "image" in getattr(bench.reads, side)]
    if not sides:
        raise NotApplicable("it reads no images")

    def pictured(side: str, path: str) -> Corpus:
        def put(row: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"img_path": path if row["img_path"] else None}

        corpus = bench.corpus
        return corpus.with_queries(put) if side == "query" else corpus.with_passages(put)

    for side in sides:
        gone, black = pictured(side, "gone.png"), pictured(side, "black.png")
        bench.run(replace(gone, missing="skip"))
        run = bench.run(replace(gone, missing="black"))
        require_alike(
            bench.run(black), run, f"a missing image of a {side}, shown black, and a black one"
        )
        try:
            bench.run(gone)
        except M2KRError:
            continue
        raise Failed(f"an image of a {side} is not there, and nothing was said")


_ODD = (
    *(
        "\U0001f469\u200d\U0001f680 \U0001f986",
        "e\u0301\u0327\u0323",
        "i\u0307\u00df\ufb01",
        "a\x00b",
    ),
    *(
        "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
        "\u5c71\u306f\u9ad8\u3044\u3002",
        "\ufeff\u202e\ufffd",
    ),
)


@_check("unicode", "texts are any Unicode: emoji, right to left, combining marks, NUL", odd=True)
def _unicode(bench: Bench) -> None:
    corpus = bench.corpus
    for place, text in enumerate(_ODD):
        corpus = corpus.and_passage(text, f"p6{place}").and_query(text, text, f"q6{place}")
    bench.run(corpus)


@_check("k above the corpus", "rank what there is: no filling up, no index out of range", odd=True)
def _deep(bench: Bench) -> None:
    few = replace(bench.corpus, passages=bench.corpus.passages[2:5])
    for k in (1, 3, 4, 500):
        bench.run(few, k)


@_check(
    "one passage",
    "expect a corpus of one passage, and one query: no division by a spread of 0",
    odd=True,
)
def _one(bench: Bench) -> None:
    corpus = replace(
        bench.corpus, passages=bench.corpus.passages[3:4], queries=bench.corpus.queries[:1]
    )
    for k in (1, 10):
        bench.run(corpus, k)


@_check("repeats itself", "seed every draw; model.eval(); no order of a set or of threads")
def _repeats(bench: Bench) -> None:
    run, asked_again, by_another = bench.repeated
    try:
        require_alike(run, asked_again, "searched twice", exact=True)
        require_alike(run, by_another, "by two fresh retrievers", exact=True)
    except Differs as why:
        raise Failed(str(why)) from why


@_check("index before search", "raise an error where search() comes before index()")
def _unindexed(bench: Bench) -> None:
    try:
        rank_queries(bench.make(), bench.corpus.records()[1], 3)
    except Exception:  # noqa: BLE001 - whatever it says
        return
    raise Failed("it searched, and had indexed nothing")


@_check("another corpus", "index() begins anew: forget what was indexed before")
def _another(bench: Bench) -> None:
    few = replace(bench.corpus, passages=bench.corpus.passages[2:9])
    retriever = bench.make()
    bench.run(bench.corpus, retriever=retriever)
    run = bench.run(few, retriever=retriever)
    right = bench.run(few, retriever=bench.make())
    require_alike(right, run, "indexed first, and after another corpus")


class _Cut:
    """A progress that ends the work once so many rows are done."""

    def __init__(self, rows: int) -> None:
        self.left = rows

    def start(self, name: str, total: int | None, unit: str = "B") -> None:
        pass

    def advance(self, name: str, n: int) -> None:  # noqa: ARG002
        self.left -= n
        if self.left <= 0:
            raise KeyboardInterrupt

    def done(self, name: str) -> None:
        pass


@_check(
    "resume", "write aside and rename; take from a folder only what is whole, and of these rows"
)
def _resume(bench: Bench) -> str:
    cut = False
    for rows in (5, len(bench.corpus.passages) + 3):
        work, cache = bench.folder("work"), bench.folder("cache")
        try:
            retriever = _in_small_steps(bench.fresh())
            bench.run(
                bench.corpus, retriever=retriever, workdir=work, cache=cache, progress=_Cut(rows)
            )
        except KeyboardInterrupt:
            cut = True
        for which in ("cut off", "done"):
            run = bench.run(bench.corpus, workdir=work, cache=cache)
            require_alike(bench.baseline, run, f"in the folder of a search that was {which}")
    return "" if cut else "it reports no progress, so it was never cut off half-way"


def _in_small_steps(retriever: "Retriever") -> "Retriever":
    if isinstance(retriever, EncoderRetriever):
        retriever._window_batches = 1  # type: ignore[misc]
        retriever.batch_size = 2
    return retriever


@_check(
    "stale passages", "what is kept must be known by the passages' texts, not by ids or file names"
)
def _stale_passages(bench: Bench) -> None:
    if not bench.reads.passage:
        raise NotApplicable("it reads nothing of passages")
    _require_new(bench, bench.corpus.with_other_texts(), "passages whose texts changed")


@_check("stale queries", "what is kept must be known by the queries' texts, not by their ids")
def _stale_queries(bench: Bench) -> None:
    if "text" not in bench.reads.query:
        raise NotApplicable("it reads no texts of queries")
    _require_new(bench, bench.corpus.with_other_questions(), "queries whose texts changed")


@_check("stale images", "what is kept must be known by the images' bytes, not by their paths")
def _stale_images(bench: Bench) -> None:
    if "image" not in bench.reads.query | bench.reads.passage:
        raise NotApplicable("it reads no images")
    folder = draw_pictures(bench.folder("pictures"))
    _require_new(
        bench,
        replace(bench.corpus, folder=folder),
        "images that were written anew",
        lambda: draw_pictures(folder, other=True),
        replace(bench.corpus, folder=draw_pictures(bench.folder("pictures"), other=True)),
    )


def _require_new(
    bench: Bench,
    changed: Corpus,
    what: str,
    change: Callable[[], Any] | None = None,
    expected: Corpus | None = None,
) -> None:
    """Refuses a retriever that ranks a changed corpus otherwise where it has seen the old one."""
    work, cache = bench.folder("work"), bench.folder("cache")
    before = bench.corpus if change is None else changed
    retriever, knows_nothing_old = bench.kept(), bench.make()
    bench.run(before, retriever=retriever, workdir=work, cache=cache)
    if change is not None:
        change()
    right = bench.run(expected or changed, retriever=knows_nothing_old)
    run = bench.run(changed, retriever=retriever, workdir=work, cache=cache)
    require_alike(right, run, f"{what}, to a retriever that knew the old ones")
    run = bench.run(changed, retriever=knows_nothing_old, workdir=work, cache=cache)
    require_alike(right, run, f"{what}, in the folder of the old ones")


# What costs time and memory, and may not change a score.
_COSTS = frozenset({"batch_size", "token_budget", "memory", "workers", "num_workers", "threads"})
_MOST_SETTINGS = 3


@_check(
    "stale settings", "name every setting that changes scores in settings, and in cache_key(side)"
)
def _stale_settings(bench: Bench) -> str:
    tried: list[str] = []
    for name, value in bench.settings.items():
        if type(value) not in (int, float) or name in _COSTS or len(tried) == _MOST_SETTINGS:
            continue
        other = {name: value + 1 if isinstance(value, int) else value / 2}
        changed = _made(bench, other)
        if changed is None:
            continue
        tried.append(name)
        work, cache = bench.folder("work"), bench.folder("cache")
        plain = bench.kept()
        bench.run(bench.corpus, retriever=plain, workdir=work, cache=cache)
        right = bench.run(bench.corpus, retriever=changed)
        if differs(bench.baseline, right) and json_settings(plain) == json_settings(changed):
            raise Differs(f"'{name}' changes the scores, and settings don't tell")
        run = bench.run(bench.corpus, retriever=changed, workdir=work, cache=cache)
        require_alike(right, run, f"with another '{name}', in the folder of the old one")
    if not tried:
        raise NotApplicable("it has no numbers among its settings")
    return f"tried: {', '.join(tried)}"


def _made(bench: Bench, settings: Mapping[str, Any]) -> "Retriever | None":
    """A retriever with such settings; None where it doesn't take their values."""
    try:
        return bench.make(**settings)
    except Exception:  # noqa: BLE001 - whatever it says of them
        return None


@_check("modalities", 'declare what is read: modalities = {"query": ["text", "image"], …}')
def _modalities(bench: Bench) -> str:
    other_images = {name: PICTURES[place - 1] for place, name in enumerate(PICTURES)}

    def other_image(row: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"img_path": other_images.get(row["img_path"])}

    changes = {
        ("query", "text"): bench.corpus.with_other_questions(),
        ("query", "image"): bench.corpus.with_queries(other_image),
        ("passage", "text"): bench.corpus.with_other_texts(),
        ("passage", "image"): bench.corpus.with_passages(other_image),
    }
    plural, ignored = {"query": "queries", "passage": "passages"}, []
    for (side, kind), corpus in changes.items():
        declared = kind in getattr(bench.reads, side)
        changed = differs(bench.baseline, bench.run(corpus))
        if changed and not declared:
            raise Differs(f"it reads {kind}s of {plural[side]}, and doesn't declare it")
        if declared and not changed:
            ignored.append(f"{kind}s of {plural[side]}")
    return f"declared, and without effect here: {', '.join(ignored)}" if ignored else ""


@_check("writes", "write below the workdir that index() is given, or below run_context.cache")
def _writes(bench: Bench) -> None:
    work, cache = bench.folder("work"), bench.folder("cache")
    with files_written(apart_from=(bench.scratch,)) as written:
        bench.run(bench.corpus, retriever=bench.make(), workdir=work, cache=cache)
    if written:
        raise Failed(
            f"it wrote {written[0]}" + (f" and {len(written) - 1} more" if written[1:] else "")
        )


@_check(
    "inputs",
    "change nothing that is given: copy rows, leave records, images and their folder alone",
)
def _inputs(bench: Bench) -> None:
    # Of its own: others may have been changed before.
    corpus = replace(bench.corpus, folder=draw_pictures(bench.folder("pictures")))
    passages, queries = corpus.records()
    retriever = bench.kept()

    def seen() -> list[Any]:
        return [
            _state(passages),
            _state(queries),
            [(p.name, p.read_bytes()) for p in sorted(corpus.folder.iterdir())],
        ]

    before = seen()
    index_pool(retriever, passages, RunContext(bench.folder("work"), bench.folder("cache")))
    require_complete(rank_queries(retriever, queries, DEPTH), corpus, DEPTH)
    after = seen()
    for what, one, other in zip(("passages", "queries", "images"), before, after, strict=True):
        if one != other:
            raise Failed(f"the {what} that it was given are others afterwards")


def _state(records: "Passages | Queries") -> list[Any]:
    table = records.table
    return [
        id(records.given),
        id(records.images),
        records.images and records.images.missing,
        order_of(records.ids),
        content_of(table, table.column_names),
    ]
