"""What to do with results: commands to copy."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2kr.evaluation.result import Result

_NAMED = 6  # results; of more, their folder is named


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
    files = [str(out / f"{result.name}.json") for result in results]
    root = ["--data", str(data)] if data is not None else []
    roots = [word for image in images for word in ("--images", str(image))]
    first = results[0]
    which = ["--edition", edition or first.edition] if _needs_edition(first, edition, data) else []
    split = ["--split", first.split] if first.split != "test" else []
    query = _missed(first)
    # An id may begin with a dash.
    last = ["--", query] if query.startswith("-") else []
    named = [query] if not last else []
    yield _joined(
        "show", first.source, *named, "--run", files[0], *split, *which, *root, *roots, *last
    )
    several = [*dict.fromkeys(files)]
    many = several if len(several) <= _NAMED else [str(out)]
    if len({(r.source, r.split, r.edition) for r in results}) < len(several):
        yield _joined("compare", *many)
    yield _joined("report", *many, "--html", "report", *root)


def _joined(*words: str) -> str:
    return shlex.join(("m2kr", *words))


def _missed(result: "Result") -> str:
    """The first query whose score is lowest in the metric that the source's paper reports first."""
    import numpy as np

    for name in (result.headline, *result.scores):
        scores = result.scores.get(name)
        if scores is not None and not np.isnan(scores).all():
            return result.query_ids[int(np.nanargmin(scores))]
    return result.query_ids[0]


def _needs_edition(result: "Result", edition: str | None, data: Path | None) -> bool:
    from m2kr import paths
    from m2kr.data.built_sources import BuiltSources

    if edition is not None:
        return True
    return len(BuiltSources.below(paths.data_root(data)).editions.get(result.source, ())) > 1
