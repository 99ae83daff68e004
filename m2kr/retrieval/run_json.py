"""Runs as JSON: ``{query: {passage: score}}``, plain or as MTEB saves predictions."""

import json
import logging
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from m2kr.errors import InputError
from m2kr.packed import open_unpacked
from m2kr.retrieval.ordering import RunRows
from m2kr.retrieval.run_columns import kind_of, rows_of_columns

logger = logging.getLogger("m2kr.evaluation")

_EXPECTED = "{query: {passage: score}}, plain or in MTEB's {subset: {split: ...}}"
_META = "mteb_model_meta"
_MAX_BYTES = 1 << 30
_PIECE = 1 << 20


def write_run_json(run: RunRows, file: IO[bytes], _: Path, *, mteb: bool = False) -> None:
    """Writes a run, query after query, best passages first; its metadata are lost.

    Args:
        run: The run.
        file: Where to.
        _: The file's path.
        mteb: Below MTEB's subset and split, with the run's name as the model's.
    """
    before, after = "{", "\n}\n"
    if mteb:
        meta = json.dumps({_META: {"model_name": run.name, "revision": None}}, ensure_ascii=False)
        split = json.dumps(str(run.metadata.get("split", "test")), ensure_ascii=False)
        before, after = f'{meta[:-1]}, "default": {{{split}: {{', "\n}}}\n"
    file.write(before.encode())
    for place, (query, codes, scores) in enumerate(run.by_query()):
        ranked = json.dumps(
            dict(zip(run.ids_of(codes).to_pylist(), scores.tolist(), strict=True)),
            ensure_ascii=False,
        )
        key = json.dumps(query, ensure_ascii=False)
        file.write(f"{',' if place else ''}\n{key}: {ranked}".encode())
    file.write(after.encode())


def read_run_json(path: Path) -> RunRows:
    """A run from JSON.

    Raises:
        InputError: it is no JSON, holds something else than scores, or several subsets or splits.
    """
    with open_unpacked(path) as file:
        # In pieces: a plain file's `read` takes memory for all that it may get.
        raw = b"".join(islice(iter(partial(file.read, _PIECE), b""), _MAX_BYTES // _PIECE + 1))
    if len(raw) > _MAX_BYTES:
        raise InputError(
            f"over {_MAX_BYTES >> 30} GiB of JSON", expected="a run of that size as TREC or Parquet"
        )
    try:
        document = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", where=str(path), expected=_EXPECTED) from error
    name = path.name.split(".")[0]
    meta = document.get(_META) if isinstance(document, dict) else None
    model = meta.get("model_name") if isinstance(meta, dict) else None
    if isinstance(model, str):
        name = model or name
        del document[_META]
    rankings = _rankings(document, path, least=2 if isinstance(model, str) else 0)
    for query, scored in rankings.items():
        bad = [p for p, s in scored.items() if type(s) not in (int, float)]
        if bad:
            raise InputError(
                f"query '{query}', passage '{bad[0]}': the score is {scored[bad[0]]!r}",
                where=str(path),
                expected="a number",
            )
    queries, counts = list(rankings), np.array([len(s) for s in rankings.values()], np.int64)
    owners = np.repeat(np.arange(len(counts)), counts)
    passages = [passage for scored in rankings.values() for passage in scored]
    scores = [score for scored in rankings.values() for score in scored.values()]
    try:
        values = np.array(scores, np.float64)
    except OverflowError as error:
        raise InputError(f"a score is too large: {error}", where=str(path)) from error
    kind = kind_of(values, owners)
    whole = all(type(score) is int for score in scores)
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
    # Those without passages are in the dictionary alone.
    column = pa.DictionaryArray.from_arrays(owners, pa.array(queries, pa.large_string()))
    return rows_of_columns(column, pa.array(passages, pa.large_string()), values, name=name)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    obj = dict(pairs)
    if len(obj) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} is there twice in one object")
    return obj


def _rankings(document: Any, path: Path, least: int) -> dict[str, dict[str, Any]]:
    """The object whose values' values are scores, below subsets and splits of which there is one.

    Args:
        document: What the file holds.
        path: For messages.
        least: How far below it is at the least.
    """
    inside = ""
    for depth in range(3):
        if not isinstance(document, dict) or not all(
            isinstance(v, dict) for v in document.values()
        ):
            break
        below = [value for scored in document.values() for value in scored.values()]
        if depth >= least and not (below and all(isinstance(value, dict) for value in below)):
            return document
        if len(document) != 1:
            raise InputError(
                f"it holds {len(document)} runs{inside}: {', '.join(document) or 'nothing'}",
                where=str(path),
                expected="one subset and one split",
                fix="save the object of one split as a file of its own",
            )
        name, document = next(iter(document.items()))
        inside += f" in '{name}'"
    raise InputError("it is not a run", where=str(path), expected=_EXPECTED)
