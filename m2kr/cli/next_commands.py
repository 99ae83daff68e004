"""What to do with results: commands to copy."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2kr.evaluation.result import Result

_NAMED = 20  # results; of more, their folder is named


def next_commands(
    results: "Sequence[Result]",
    out: Path,
    *,
    data: Path | None,
    edition: str | None,
    images: Sequence[Path] = (),
) -> Iterator[str]:
    """The commands that show, compare and report some results.

    Args:
        results: Results that were just saved.
        out: The folder that they were saved in.
        data: The data root, if it was given.
        edition: The edition, if it was given.
        images: The image roots that were given.
    """
    from m2kr import paths
    from m2kr.data.built_sources import BuiltSources

    files = [str(out / f"{result.name}.json") for result in results]
    root = ["--data", str(data)] if data is not None else []
    first = results[0]
    built = BuiltSources.below(paths.data_root(data)).editions.get(first.source, {})
    if first.edition in built:  # it is not where a judge file stood in its place
        which = ["--edition", first.edition] if edition is not None or len(built) > 1 else []
        split = ["--split", first.split] if first.split != "test" else []
        roots = [word for image in images for word in ("--images", str(image))]
        options = ["--run", files[0], *split, *which, *root, *roots]
        query = _missed(first)
        if query.startswith("-"):
            yield _joined("show", first.source, *options, "--", query)
        else:
            yield _joined("show", first.source, query, *options)
    several = [*dict.fromkeys(files)]
    many = several if len(several) <= _NAMED else [str(out)]
    judged = [(r.source, r.split, r.edition) for r in results if r.metrics]
    if len(set(judged)) < len(judged) and len(several) > 1:
        yield _joined("compare", *many)
    if judged:
        yield _joined("report", *many, "--html", "report", *root)


def _joined(*words: str) -> str:
    return shlex.join(("m2kr", *words))


def _missed(result: "Result") -> str:
    """The query that did worst in the metric that the source's paper reports first, the first of equals.

    Its id is one that can be copied, if there is any.
    """
    import numpy as np

    scores = next(
        (
            result.scores[name]
            for name in (result.headline, *result.scores)
            if name in result.scores and not np.isnan(result.scores[name]).all()
        ),
        np.zeros(len(result.query_ids)),
    )
    places: list[int] = np.argsort(scores, kind="stable").tolist()
    ordered = [result.query_ids[place] for place in places]
    return next((query for query in ordered if query.isprintable()), ordered[0])
