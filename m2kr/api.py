"""`evaluate`: sources times retrievers, one result each."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from m2kr.data.images import Missing
from m2kr.data.load import Split, load
from m2kr.evaluation.harness import evaluate as evaluate_one
from m2kr.evaluation.report import as_text
from m2kr.evaluation.result import Result
from m2kr.evaluation.retriever import Progress, Retriever
from m2kr.retrievers import create

if TYPE_CHECKING:
    from os import PathLike


class Results(list[Result]):
    """Results in the order they were computed; ``print`` shows them as a table."""

    def __str__(self) -> str:
        return as_text(self)


def evaluate(
    source: "str | Split | Sequence[str | Split]",
    retriever: "str | Retriever | Sequence[str | Retriever]",
    *,
    split: str = "test",
    k: int = 500,
    metrics: str = "default",
    settings: Mapping[str, str] | None = None,
    edition: str | None = None,
    data: "str | PathLike[str] | None" = None,
    images: "Sequence[str | Path]" = (),
    missing_images: Missing = "error",
    out: "str | PathLike[str] | None" = None,
    workdir: "str | PathLike[str] | None" = None,
    progress: Progress | None = None,
) -> Results:
    """Evaluates retrievers on splits with M2KR's metrics.

    Args:
        source: A source name, a loaded `Split` (then ``split``, ``edition``, ``data`` and images are
            its own), or several.
        retriever: A name (``bm25``), ``package.module:Class``, ``file.py:Class``, an object with
            ``index`` and ``search``, or several.
        split: Split of the sources given by name.
        k: Depth of the rankings; the published protocol searches 500 deep.
        metrics: ``default``, or ``full`` for nDCG, MAP and precision as well.
        settings: Settings of the retrievers given by name; ``bm25.k1`` is for that one alone.
        edition: Edition of the sources given by name.
        data: Data root.
        images: Image roots searched first.
        missing_images: ``error``, ``black`` or ``skip``.
        out: Folder for results and runs; nothing is saved if absent.
        workdir: Folder for indexes; a temporary one if absent.
        progress: Called with (stage, done, total).

    Returns:
        One result for each source and retriever; ``print`` them for a table.

    Raises:
        M2KRError: unknown names, missing data, images or packages, or a retriever that breaks its
            contract; see the subclasses.
    """
    splits = [
        s
        if isinstance(s, Split)
        else load(
            s, split, edition=edition, data=data, images=images, missing_images=missing_images
        )
        for s in ([source] if isinstance(source, str | Split) else source)
    ]
    one_retriever = isinstance(retriever, str) or not isinstance(retriever, Sequence)
    retrievers = [
        create(r, settings_of(r, settings or {})) if isinstance(r, str) else r
        for r in (cast("Sequence[str | Retriever]", [retriever] if one_retriever else retriever))
    ]
    results = Results()
    with tempfile.TemporaryDirectory(prefix="m2kr-") as scratch:
        base = Path(workdir) if workdir is not None else Path(scratch)
        for one in splits:
            for i, each in enumerate(retrievers):
                folder = base / f"{one.source}.{one.split}.{i}.{each.name}"
                folder.mkdir(parents=True, exist_ok=True)
                results.append(
                    evaluate_one(
                        one,
                        each,
                        k=k,
                        metrics=metrics,
                        workdir=folder,
                        out=Path(out) if out is not None else None,
                        progress=progress,
                    )
                )
    return results


def settings_of(retriever: str, settings: Mapping[str, str]) -> dict[str, str]:
    """The settings meant for one retriever: those without a name before a dot, and its own."""
    own = f"{retriever}."
    common = {key: value for key, value in settings.items() if "." not in key}
    return common | {k.removeprefix(own): v for k, v in settings.items() if k.startswith(own)}
