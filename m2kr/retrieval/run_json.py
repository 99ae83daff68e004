"""Runs as JSON: ``{query: {passage: score}}``, plain or as MTEB saves predictions."""

import json
import logging
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from m2kr.errors import InputError
from m2kr.retrieval import trec
from m2kr.retrieval.run import Run

if TYPE_CHECKING:
    import gzip

logger = logging.getLogger("m2kr.evaluation")

_EXPECTED = "{query: {passage: score}}, plain or in MTEB's {subset: {split: ...}}"
_META = "mteb_model_meta"
_MAX_BYTES = 1 << 30
_PIECE = 1 << 20


def write(run: Run, file: "IO[bytes] | gzip.GzipFile", *, mteb: bool = False) -> None:
    """Writes a run, query after query, best passages first; its metadata are lost.

    Args:
        run: The run.
        file: Where to.
        mteb: Below MTEB's subset and split, with the run's name as the model's.
    """
    before, after = "{", "\n}\n"
    if mteb:
        meta = json.dumps({_META: {"model_name": run.name, "revision": None}}, ensure_ascii=False)
        split = json.dumps(str(run.metadata.get("split", "test")), ensure_ascii=False)
        before, after = f'{meta[:-1]}, "default": {{{split}: {{', "\n}}}\n"
    file.write(before.encode())
    for place, (query, ids, scores) in enumerate(run.items()):
        ranked = json.dumps(dict(zip(ids, scores.tolist(), strict=True)), ensure_ascii=False)
        key = json.dumps(query, ensure_ascii=False)
        file.write(f"{',' if place else ''}\n{key}: {ranked}".encode())
    file.write(after.encode())


def read(path: Path) -> Run:
    """A run from JSON.

    Raises:
        InputError: it is no JSON, holds something else than scores, or several subsets or splits.
    """
    with trec.opened(path) as file:
        # In pieces: a plain file's `read` takes memory for all that it may get.
        raw = b"".join(islice(iter(partial(file.read, _PIECE), b""), _MAX_BYTES // _PIECE + 1))
    if len(raw) > _MAX_BYTES:
        raise InputError(
            f"over {_MAX_BYTES >> 30} GiB of JSON", expected="a run of that size as TREC or Parquet"
        )
    try:
        found = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", where=str(path), expected=_EXPECTED) from error
    name = path.name.split(".")[0]
    meta = found.get(_META) if isinstance(found, dict) else None
    model = meta.get("model_name") if isinstance(meta, dict) else None
    if isinstance(model, str):
        name = model or name
        del found[_META]
    rankings = _rankings(found, path, least=2 if isinstance(model, str) else 0)
    queries = [(query, scored) for query, scored in rankings.items()]
    for query, scored in queries:
        bad = [p for p, s in scored.items() if type(s) not in (int, float)]
        if bad:
            raise InputError(
                f"query '{query}', passage '{bad[0]}': the score is {scored[bad[0]]!r}",
                where=str(path),
                expected="a number",
            )
    try:
        run = Run.from_dict(rankings, name=name)
    except OverflowError as error:
        raise InputError(f"a score is too large: {error}", where=str(path)) from error
    values = np.array([score for _, scored in queries for score in scored.values()], np.float64)
    owner = np.repeat(np.arange(len(queries)), [len(scored) for _, scored in queries])
    kind = trec.kind_of(values, owner)
    whole = all(type(score) is int for _, scored in queries for score in scored.values())
    if kind in ("ranks", "unclear") and whole:
        raise InputError(
            "whole numbers that can be read in two ways: as ranks (the lowest is best) and as scores (the "
            "highest is best)",
            where=str(path),
            expected="scores",
            fix="write scores with a point (3.0), ranks negated (-3)",
        )
    if kind in ("ranks", "rising"):
        logger.warning(
            "%s: scores rise through every query's passages, and the highest counts as best; ranks or "
            "distances have to be negated first",
            path,
        )
    return run


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} is there twice in one object")
    return found


def _rankings(found: Any, path: Path, least: int) -> dict[str, dict[str, Any]]:
    """The object whose values' values are scores, below subsets and splits of which there is one.

    Args:
        found: The document.
        path: For messages.
        least: How far below it is at the least.
    """
    inside = ""
    for depth in range(3):
        if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
            break
        below = [value for scored in found.values() for value in scored.values()]
        if depth >= least and not (below and all(isinstance(value, dict) for value in below)):
            return found
        if len(found) != 1:
            raise InputError(
                f"it holds {len(found)} runs{inside}: {', '.join(found) or 'nothing'}",
                where=str(path),
                expected="one subset and one split",
                fix="save the object of one split as a file of its own",
            )
        name, found = next(iter(found.items()))
        inside += f" in '{name}'"
    raise InputError("it is not a run", where=str(path), expected=_EXPECTED)
