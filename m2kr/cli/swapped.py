"""Arguments in the wrong order: the error says the right one."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from m2kr.data.built_sources import BuiltSources
from m2kr.errors import UsageError


@contextmanager
def hint(root: Path, verb: str, source: str, option: str, others: Sequence[str]) -> Iterator[None]:
    """Where a name is unknown because a source was given second, says which command was meant.

    Args:
        root: The data root.
        verb: Of the command.
        source: What was given as the source.
        option: That introduces what comes after it, such as ``-r``; empty if nothing does.
        others: What was given there.

    Raises:
        UsageError: The one that was raised inside, with the right order.
    """
    try:
        yield
    except UsageError as error:
        meant = [name for other in others if (name := _source(other, root))]
        is_retriever = option == "-r" and _is_retriever(source)
        unknown = error.what.startswith(("there is no source", "there is no retriever"))
        if not unknown or not (meant or is_retriever):
            raise
        second = source if is_retriever or not option else "RETRIEVER"
        words = ["m2kr", verb, *(meant[:1] or ["SOURCE"]), *([option] if option else []), second]
        fix = f"the source comes first: {shlex.join(words)}"
        raise UsageError(error.what, where=error.where, fix=fix) from error


def _source(name: str, root: Path) -> str | None:
    try:
        return BuiltSources.below(root).name_of(name)
    except UsageError:
        return None


def _is_retriever(name: str) -> bool:
    from m2kr.retrievers import names

    return name.strip().lower().replace("-", "_") in names()
