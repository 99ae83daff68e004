"""Calling a retriever: what it says of itself is checked, and so is the run that it gives."""

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

from m2kr.errors import InputError
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.own_code import own_code, user_attribute
from m2kr.retrieval.protocol import (
    Modalities,
    RetrieverBase,
    RunContext,
    RunStats,
    modalities_of,
    readable,
)
from m2kr.retrieval.run import Run

if TYPE_CHECKING:
    from m2kr.data.records import Passages, Queries
    from m2kr.retrieval.protocol import Retriever

_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair: no file can hold it
_PARTS = ("name", "settings", "modalities", "index", "search")


def check(retriever: object, where: str | None = None) -> None:
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
    reads(retriever)


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


def reads(retriever: object) -> Modalities:
    """What a retriever declares to read.

    Raises:
        InputError: it declares it in a form that can't be read.
        RetrieverError: a property of it raised something.
    """
    with own_code(retriever, f"reading {type(retriever).__name__}.modalities"):
        return modalities_of(retriever)


def begin_run(retriever: object, context: RunContext) -> None:
    """Gives a retriever what the run has for it, if it is one that takes it.

    Raises:
        RetrieverError: its own code raised something.
    """
    if isinstance(retriever, RetrieverBase):
        with own_code(retriever, f"{type(retriever).__name__}.begin_run"):
            retriever.begin_run(context)


def stats_of(retriever: object) -> RunStats:
    """What a retriever tells of its run, if it is one that does.

    Raises:
        RetrieverError: its own code raised something.
    """
    if not isinstance(retriever, RetrieverBase):
        return RunStats()
    with own_code(retriever, f"{type(retriever).__name__}.run_stats"):
        return retriever.run_stats()


def index(retriever: "Retriever", passages: "Passages", workdir: Path) -> None:
    """Has a retriever take in a pool, whose images it can only read if it declares to.

    Raises:
        RetrieverError: its own code raised something.
    """
    with own_code(retriever, f"{type(retriever).__name__}.index of {len(passages):,} passages"):
        retriever.index(readable(passages, retriever, "document"), workdir=workdir)


def search(retriever: "Retriever", queries: "Queries", k: int) -> Run:
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
