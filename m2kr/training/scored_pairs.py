"""Scored passages of a split's queries, read from a mined file or a run, by rows of both tables."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from m2kr.errors import CheckError, InputError, MissingError
from m2kr.parquet import ParquetReader
from m2kr.retrieval.run import Run
from m2kr.retrieval.run_io import MINED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.data.load import Split

FORMAT = "m2kr-mined-1"


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPairs:
    """Which passages have a score for which queries; 9 bytes a pair.

    Attributes:
        offsets: int64, (queries + 1): where each query's pairs begin, by its row in the split.
        rows: int32, a pair: the passage's row in the split's pool; a query's in the file's order.
        scores: A pair's; float32, unless another type was asked for.
        kept: Bool, a pair: whether a mined file offers it as a negative; all where it is a run.
        provenance: What the file says of how it was made.
    """

    offsets: "NDArray[np.int64]"
    rows: "NDArray[np.int32]"
    scores: "NDArray[np.floating[Any]]"
    kept: "NDArray[np.bool_]"
    provenance: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash (hex) of all pairs, their order and scores."""
        total = hashlib.blake2b(digest_size=16)
        for array in (self.offsets, self.rows, self.scores, self.kept):
            total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()


def read_provenance(path: Path) -> dict[str, Any] | None:
    """What a mined file says of how it was made; None if the file is something else.

    Raises:
        MissingError: there is no such file.
        InputError: it was written by another version, or is damaged.
    """
    if not path.is_file():
        raise MissingError(
            "there is no such file", where=str(path), fix="m2kr mine SOURCE -r RETRIEVER --out FILE"
        )
    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            return None
    try:
        raw = (pq.read_metadata(path).metadata or {}).get(MINED)
        if raw is None:
            return None
        facts = json.loads(raw)
        sound = facts["format"] == FORMAT and isinstance(facts["fingerprints"], dict)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"the mined file is damaged: {error}", where=str(path)) from error
    if not sound:
        raise InputError(
            f"it is a mined file of another version: {facts['format']}",
            where=str(path),
            expected=FORMAT,
        )
    return dict(facts)


def read_pairs(
    path: Path,
    split: "Split",
    parts: tuple[str, ...] = ("queries", "pool"),
    dtype: type[np.floating[Any]] = np.float32,
) -> ScoredPairs:
    """The pairs of a mined file or a run.

    Args:
        path: Its file.
        split: Whose queries and passages they must be.
        parts: Fingerprints in which the file and the split must agree, where the file says any.
        dtype: Of the scores.

    Raises:
        MissingError: there is no such file.
        InputError: it is neither, or damaged.
        CheckError: it was made for another split, or names queries or passages that this one lacks.
    """
    provenance = read_provenance(path)
    if provenance is None:
        return _of_run(path, split, parts, dtype)
    _require_same(path, split, provenance["fingerprints"], parts)
    return _of_mined(path, split, provenance, dtype)


def row_of_query(split: "Split", query: int | str) -> int:
    """Row of a query that is given by it, or by its id.

    Raises:
        InputError: the split has no such query.
    """
    if isinstance(query, str):
        row = int(split.query_rows([query])[0])
        if row >= 0:
            return row
        split.query(query)  # raises, and names the nearest
    return int(query)


def files_by_split(path: Path, splits: "Sequence[Split]") -> list[Path]:
    """Which file is for which split: by source and split, as mined files and runs of ours say.

    Args:
        path: A file, or a folder of them. A file that says nothing is for the only split.
        splits: Of a mixture.

    Raises:
        MissingError: there is no such file or folder.
        InputError: a split has no file, or two.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    made_for = {file: _made_for(file) for file in files}
    chosen: list[Path | None] = []
    for split in splits:
        own = [f for f, told in made_for.items() if told == (split.source, split.split)]
        if len(own) > 1:
            names = ", ".join(file.name for file in own)
            raise InputError(
                f"{len(own)} files are for {split.label}: {names}",
                where=str(path),
                expected="one for each source, or a single file",
            )
        chosen.append(own[0] if own else None)
    if not any(chosen):
        if len(files) == len(splits) == 1 and made_for[files[0]] is None:
            return list(files)
        if not files:
            raise MissingError("the folder has no .parquet file", where=str(path))
        told = ", ".join(sorted({"/".join(each) for each in made_for.values() if each}))
        raise InputError(
            f"it is for {told or 'no source that it names'}, and the mixture has "
            f"{', '.join(split.label for split in splits)}",
            where=str(path),
            fix=f"m2kr mine {splits[0].source} --split {splits[0].split} -r RETRIEVER --out FILE",
        )
    lacking = {split.label: split for split, file in zip(splits, chosen, strict=True) if not file}
    if lacking:
        there = {split.label for split in splits} - set(lacking)
        folder = path if path.is_dir() else Path("FOLDER")
        commands = [
            f"m2kr mine {split.source} --split {split.split} -r RETRIEVER "
            f"--out {folder / f'{split.source}.{split.split}.parquet'}"
            for split in lacking.values()
        ]
        raise InputError(
            f"it is for {', '.join(sorted(there))}, and the mixture also has {', '.join(lacking)}",
            where=str(path),
            expected="a folder with a file for each source of the mixture, or only sources that have one",
            fix="; ".join(commands) + ("" if path.is_dir() else f" ({path.name} in FOLDER, too)"),
        )
    return [file for file in chosen if file is not None]


def _made_for(path: Path) -> tuple[str, str] | None:
    """Source and split that a file says it was made for."""
    facts: Mapping[str, Any] | None = read_provenance(path)
    if facts is None:
        facts = Run.load(path).metadata
    told = facts.get("source"), facts.get("split")
    return (told[0], told[1]) if all(isinstance(word, str) for word in told) else None  # type: ignore[return-value]


def _require_same(
    path: Path, split: "Split", recorded: Mapping[str, Any], parts: tuple[str, ...]
) -> None:
    """Refuses a file that was made for other data."""
    for part in parts:
        if part in recorded and recorded[part] != split.fingerprints[part]:
            raise CheckError(
                f"it was made for {_WORDS[part]} other than those of {split.label}",
                where=str(path),
                expected=f"{part} {split.fingerprints[part][:16]}…, and it says "
                f"{str(recorded[part])[:16]}…",
                fix=f"m2kr mine {split.source} --split {split.split} --edition {split.edition} -r …",
            )


_WORDS = {
    "queries": "queries",
    "judgements": "right passages and answers",
    "pool": "passages",
    "eval": "data",
}


def _of_run(
    path: Path, split: "Split", parts: tuple[str, ...], dtype: type[np.floating[Any]]
) -> ScoredPairs:
    run = Run.load(path)
    recorded = run.recorded
    _require_same(path, split, recorded.get("fingerprints", {}), parts)
    settings = recorded.get("settings", {})
    if "reranker" in settings and type(settings.get("depth")) is int:
        run = run.top(settings["depth"])  # what is below has no score of the re-ranker's
    rows = split.passages_view.row_numbers(run.vocabulary)
    _require_known(path, split, rows, run.vocabulary, "passages")
    queries = _query_rows(path, split, pa.array(run.query_ids, pa.large_string()))
    return _grouped(
        np.repeat(queries, run.counts()),
        rows[run.codes].astype(np.int32),
        run.flat_scores.astype(dtype),
        np.ones(len(run.codes), bool),
        len(split),
        {**run.metadata, "retriever": {"name": run.name, "settings": settings}},
    )


def _of_mined(
    path: Path, split: "Split", provenance: Mapping[str, Any], dtype: type[np.floating[Any]]
) -> ScoredPairs:
    """Read by row groups: ids are compared, unless the pool lies in the very order of the file's rows."""
    pool = split.passages_view
    by_row = provenance.get("pool_order") == pool.order
    columns = ["question_id", "passage_row" if by_row else "passage_id", "score", "kept"]
    ids: list[pa.Array] = []
    counts: list[NDArray[np.int64]] = []
    parts: list[tuple[NDArray[np.int32], NDArray[Any], NDArray[np.bool_]]] = []
    with ParquetReader(path) as file:
        if lacking := set(columns) - set(file.schema.names):
            raise InputError(f"it has no column {sorted(lacking)[0]}", where=str(path))
        for number in range(file.groups):
            table = file.group(number, columns)
            first, size = _stretches(table.column("question_id"))
            ids.append(first)
            counts.append(size)
            if by_row:
                rows = table.column("passage_row").to_numpy().astype(np.int32)
                if len(rows) and not 0 <= rows.min() <= rows.max() < len(pool):
                    raise InputError("it names passages that the pool lacks", where=str(path))
            else:
                coded = _coded(table.column("passage_id"))
                places = pool.row_numbers(coded.dictionary)
                _require_known(path, split, places, coded.dictionary, "passages")
                rows = places[coded.indices.to_numpy()].astype(np.int32)
            scores = table.column("score").to_numpy().astype(dtype)
            kept = table.column("kept").to_numpy(zero_copy_only=False).astype(bool)
            parts.append((rows, scores, kept))
    queries = _query_rows(path, split, pa.chunked_array(ids, pa.large_string()))
    rows, scores, kept = (
        np.concatenate([part[i] for part in parts])
        if parts
        else np.empty(0, (np.int32, dtype, bool)[i])
        for i in range(3)
    )
    owners = np.repeat(queries, np.concatenate([*counts, np.empty(0, np.int64)]).astype(np.int64))
    return _grouped(owners, rows, scores, kept, len(split), provenance)


def _coded(column: "pa.ChunkedArray") -> "pa.DictionaryArray":
    flat = column.combine_chunks()
    flat = flat.chunk(0) if isinstance(flat, pa.ChunkedArray) and flat.num_chunks == 1 else flat
    if isinstance(flat, pa.ChunkedArray):
        flat = pa.concat_arrays(flat.chunks)
    return flat if pa.types.is_dictionary(flat.type) else flat.dictionary_encode()


def _stretches(column: "pa.ChunkedArray") -> "tuple[pa.Array, NDArray[np.int64]]":
    """Runs of equal values: the values, and how many of each follow one another."""
    coded = _coded(column)
    codes = coded.indices.to_numpy(zero_copy_only=False)
    begins = np.flatnonzero(np.diff(codes, prepend=-1))
    ids = coded.dictionary.take(pa.array(codes[begins])).cast(pa.large_string())
    return ids, np.diff(np.append(begins, len(codes)))


def _query_rows(
    path: Path, split: "Split", ids: "pa.Array | pa.ChunkedArray"
) -> "NDArray[np.int64]":
    """Rows of the split's queries, of ids that may repeat."""
    coded = _coded(ids if isinstance(ids, pa.ChunkedArray) else pa.chunked_array([ids]))
    rows = split.queries_view.row_numbers(coded.dictionary)
    _require_known(path, split, rows, coded.dictionary, "queries")
    places: NDArray[np.int64] = rows[coded.indices.to_numpy(zero_copy_only=False)]
    return places


def _require_known(
    path: Path, split: "Split", rows: "NDArray[np.int64]", ids: "pa.Array", what: str
) -> None:
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        raise CheckError(
            f"it names {len(unknown):,} {what} that {split.label} lacks, such as "
            f"'{ids[int(unknown[0])].as_py()}'",
            where=str(path),
            expected=f"scores for {split.label}",
        )


def _grouped(
    owners: "NDArray[np.int64]",
    rows: "NDArray[np.int32]",
    scores: "NDArray[np.floating[Any]]",
    kept: "NDArray[np.bool_]",
    queries: int,
    provenance: Mapping[str, Any],
) -> ScoredPairs:
    if (np.diff(owners) < 0).any():
        order = np.argsort(owners, kind="stable")
        owners, rows, scores, kept = owners[order], rows[order], scores[order], kept[order]
    offsets = np.zeros(queries + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=queries), out=offsets[1:])
    return ScoredPairs(offsets, rows, scores, kept, provenance)
