"""All checks of one retriever, with a verdict for each."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m2kr.conformance.bench import Bench, Differs, Failed, NotApplicable
from m2kr.conformance.checks import PLAINEST, REGISTERED
from m2kr.errors import (
    M2KRError,
    MissingError,
    UpstreamError,
    UsageError,
    from_system,
    last_frame,
    one_line,
)
from m2kr.progress import SILENT, Progress, task
from m2kr.retrieval.search_split import check_retriever as require_retriever
from m2kr.retrievers import create_by, find
from m2kr.retrievers._settings import arguments

if TYPE_CHECKING:
    from m2kr.retrieval.protocol import Retriever

log = logging.getLogger("m2kr.conformance")

CHECKS: tuple[str, ...] = tuple(REGISTERED)
Outcome = Literal["ok", "failed", "not applicable", "not tried"]
_TASK = "check"
_FEW = 3  # checks that share no retriever


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found.

    Attributes:
        check: Its name.
        outcome: ``ok``, ``failed``, ``not applicable``, or ``not tried`` where another failure would
            decide it.
        why: What it saw, in one line; may be empty where all is well.
        fix: What to do; empty unless it failed.
    """

    check: str
    outcome: Outcome
    why: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.check, self.outcome, self.why, self.fix)))


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the checks of a retriever found.

    Attributes:
        retriever: Its name.
        all: A verdict for each check, in their order.
    """

    retriever: str
    all: tuple[Verdict, ...]

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """Those that failed."""
        return tuple(verdict for verdict in self.all if verdict.outcome == "failed")

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "retriever": self.retriever,
            "ok": not self.failed,
            "checks": [asdict(verdict) for verdict in self.all],
        }

    def __str__(self) -> str:
        return "\n".join(map(str, self.all))


def check_retriever(
    retriever: "str | Callable[..., Retriever]",
    checks: Iterable[str] = CHECKS,
    *,
    settings: Mapping[str, object] | None = None,
    progress: Progress = SILENT,
) -> Verdicts:
    """What a retriever keeps to, of all that every retriever should.

    It is run on a corpus of sixteen passages and eight queries with pictures, drawn into a temporary
    folder. One that raises in a check fails that check alone. If it raises in a search of the corpus as
    it is, ``whole runs`` fails (or the first check that is asked for), and no other is tried.

    Args:
        retriever: A name, ``file.py:Class`` and so on, as for `m2kr.evaluate`; or a class or function
            that makes one.
        checks: Names of `CHECKS`.
        settings: What it is made with.
        progress: Told of the checks.

    Raises:
        UsageError: there is no such check, or an object is given.
        M2KRError: it can't be made or loaded: packages, files or the network are not there.

    Example:
        >>> from m2kr.conformance import CHECKS, check_retriever
        >>> check_retriever("random", ["ids", "repeats itself"]).failed
        ()
    """
    names = [checks] if isinstance(checks, str) else list(checks)
    if unknown := [name for name in names if name not in REGISTERED]:
        raise UsageError(
            f"there is no check '{unknown[0]}'", expected=f"one of {', '.join(CHECKS)}"
        )
    make, taken = _maker(retriever, dict(settings or {}))
    try:
        made = make()
    except Exception as error:
        if (lacking := _lacking(error)) is None:
            raise
        raise lacking from error
    require_retriever(made)
    verdicts: list[Verdict] = []
    with (
        tempfile.TemporaryDirectory(prefix="m2kr-", ignore_cleanup_errors=True) as scratch,
        task(progress, _TASK, len(names), "checks"),
    ):
        bench = Bench(make, Path(scratch), made, taken, shares=len(names) > _FEW)
        told_of = next((name for name in (PLAINEST, *names) if name in names), PLAINEST)
        fault = _fault_of_plainest(bench, told_of)
        for name in names:
            if fault is None:
                verdicts.append(_verdict(bench, name))
            else:
                not_tried = Verdict(name, "not tried", "the plainest search fails")
                verdicts.append(fault if name == fault.check else not_tried)
            progress.advance(_TASK, 1)
    return Verdicts(made.name, tuple(verdicts))


def _fault_of_plainest(bench: Bench, check: str) -> Verdict | None:
    """What is wrong with a search of the corpus as it is, told of a check; None if nothing is."""
    try:
        bench.baseline  # noqa: B018 - run now
    except Failed as why:
        return Verdict(check, "failed", str(why), REGISTERED[PLAINEST].fix)
    except Exception as error:
        if (lacking := _lacking(error)) is not None:
            raise lacking from error
        return _raised(check, error)
    return None


def _lacking(error: BaseException) -> M2KRError | None:
    """The error for what this machine or the network lacks; None if it is something else."""
    if isinstance(error, MissingError | UpstreamError | UsageError):
        return error
    where = error.where if isinstance(error, M2KRError) else None
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ModuleNotFoundError):
            return MissingError(one_line(link), where=where)
        ours = from_system(link)
        if isinstance(ours, UpstreamError):
            return UpstreamError(ours.what, where=where, fix=ours.fix)
        link = link.__cause__
    return None


def _verdict(bench: Bench, name: str) -> Verdict:
    check = REGISTERED[name]
    try:
        try:
            note = check.run(bench) or ""
        except Differs as why:
            if bench.repeats(exact=why.exact):
                raise
            return Verdict(name, "not tried", "it doesn't repeat itself")
    except NotApplicable as why:
        return Verdict(name, "not applicable", str(why))
    except Failed as why:
        return Verdict(name, "failed", str(why), check.fix)
    except Exception as error:  # noqa: BLE001 - whatever a user's code raises
        return _raised(name, error, check.fix if check.odd else "")
    return Verdict(name, "ok", note)


def _raised(check: str, error: Exception, fix: str = "") -> Verdict:
    """The verdict of a check in which something was raised: what, and where."""
    log.info("%s: raised", check, exc_info=error)
    if isinstance(error, M2KRError):
        where, said = error.where, error.what
        fix = fix or error.fix or (f"expected: {error.expected}" if error.expected else "")
    else:
        where, said = last_frame(error, lambda _: True), one_line(error)
    return Verdict(check, "failed", " ".join(": ".join(filter(None, (where, said))).split()), fix)


def _maker(
    retriever: "str | Callable[..., Retriever]", given: dict[str, object]
) -> "tuple[Callable[..., Retriever], dict[str, Any]]":
    """What makes a retriever, and the settings that it can be given anew, with their values."""
    if isinstance(retriever, str):
        if retriever.startswith("run:"):
            raise UsageError(
                "a run that is replayed searches nothing, so there is nothing to check",
                where=retriever,
                expected="the retriever that made it",
            )
        factory: Callable[..., Any] = find(retriever)
        make: Callable[..., Retriever] = partial(_created, factory, retriever, given)
    elif isinstance(retriever, type) or not hasattr(retriever, "search"):
        factory = retriever
        make = partial(_called, retriever, given)
    else:
        raise UsageError(
            f"an object of {type(retriever).__name__} is given, and checks make retrievers anew",
            expected="its class, or a function that makes one",
            fix=f"check_retriever({type(retriever).__name__})",
        )
    parameters = arguments(factory)
    return make, {name: given.get(name, one.default) for name, one in parameters.items()}


def _created(
    factory: Callable[..., Any], spec: str, given: Mapping[str, object], **changes: object
) -> "Retriever":
    return create_by(factory, spec, {**given, **changes})


def _called(
    factory: "Callable[..., Retriever]", given: Mapping[str, object], **changes: object
) -> "Retriever":
    return factory(**{**given, **changes})
