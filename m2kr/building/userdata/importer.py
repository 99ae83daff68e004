"""Bring your own data: passages and queries, as records or files, become a source like any other."""

import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m2kr.building.userdata.builder import ImportedBuilder
from m2kr.building.userdata.fields import (
    PASSAGE_NAMES,
    QUERY_NAMES,
    Row,
    as_grade,
    as_id,
    passage_row,
    query_row,
    warn_of_near_misses,
)
from m2kr.building.userdata.layouts import LAYOUTS, GivenFiles, Layout, SplitFiles, canonical_split
from m2kr.building.userdata.qrels import judgements_of, qrels_file
from m2kr.building.userdata.readers import Record, RecordFile
from m2kr.errors import InputError, M2KRError, MissingError, UsageError, plainly
from m2kr.paths import data_root
from m2kr.progress import SILENT, Progress

if TYPE_CHECKING:
    from m2kr.building.build import Built
    from m2kr.data.load import Split

LayoutName = Literal["files", "beir", "mbeir", "ret-m2kr"]
Records = Any  # Iterable[Mapping[str, Any]] | Mapping[str, Any] | a data frame of any library
Judgements = Mapping[str, Mapping[str, float] | Iterable[str]]
_SAMPLE = 1000  # records whose fields are looked at
_FRAME_ROWS = 10_000  # rows of a data frame that become dicts at a time
Paths = str | Path | Sequence[str | Path]


@plainly()
def from_records(
    passages: Records,
    queries: Records,
    *,
    name: str | None = None,
    images: Paths = (),
    instruction: str | None = None,
    qrels: "Judgements | Records | str | Path | None" = None,
    split: str = "test",
    edition: str | None = None,
    data: str | Path | None = None,
    drop_missing: bool = False,
    relevance_threshold: float = 1,
) -> "Split":
    """A split made of the caller's own passages and queries, written and loaded like any other.

    Args:
        passages: Dicts with ``passage_id`` and ``passage_content`` (or ``id`` and ``text``; see
            `m2kr.building.userdata.fields.PASSAGE_NAMES`), or texts or dicts by id. ``title``,
            ``language`` and ``img_path`` may be added. A generator will do: nothing is held in
            memory. So will a data frame (pandas, polars, Arrow).
        queries: Dicts with ``question_id`` and ``question``, ``img_path`` or both, and
            ``pos_item_ids`` where known (see `m2kr.building.userdata.fields.QUERY_NAMES`), or questions
            or dicts by id. ``answers``, ``instruction`` and others may be added. Grades of the positives may
            stand beside them in ``pos_item_grades``, or positives be grades by id.
        name: Source name, and the edition's unless that is given. Without one the source is called
            ``mine``, in an edition named after its content, so that nothing else is ever replaced
            (``m2kr remove mine --all`` makes room).
        images: Folders, archives or Arrow files that ``img_path`` is relative to.
        instruction: Instruction of queries that bring none; by default the benchmark's own for the
            query's task.
        qrels: Passage ids by query id, or grades by passage id by query id, or records or a file of
            judgements (see `m2kr.building.userdata.qrels`). They replace ``pos_item_ids``.
        split: Split name.
        edition: Edition to write into.
        data: Data root; see `m2kr.paths.data_root`.
        drop_missing: Count positives that are no passages as never found, in place of raising.
        relevance_threshold: Grade from which a passage counts as right.

    Raises:
        InputError: a record is wrong; names its number and field.
        UsageError: the name is taken, by a source of the benchmark or by other data of your own.
        MissingError: an image root or the file of judgements does not exist.

    Example:
        >>> import m2kr
        >>> passages = [{"id": "p1", "text": "The tower was completed in 1889."}]
        >>> queries = [{"id": "q1", "question": "When was it built?", "positives": ["p1"]}]
        >>> mine = m2kr.from_records(passages, queries)  # doctest: +SKIP
        >>> m2kr.evaluate(mine, "bm25")  # doctest: +SKIP
    """
    from m2kr.building.publish import discard_unfinished
    from m2kr.data.load import load

    split = canonical_split(split)
    with tempfile.TemporaryDirectory(prefix="m2kr-") as folder:
        layout = Layout(
            _spool(passages, Path(folder), "passages", passage_row, PASSAGE_NAMES),
            {
                split: SplitFiles(
                    _spool(queries, Path(folder), "queries", query_row, QUERY_NAMES),
                    _spool_qrels(qrels, Path(folder)),
                )
            },
            _roots(images),
        )
        builder = ImportedBuilder(
            "mine" if name is None else name,
            layout,
            kind="records",
            instruction=instruction,
            drop_missing=drop_missing,
            relevance_threshold=relevance_threshold,
        )
        own_place = name is None and edition is None
        if own_place:
            edition = f"{builder.source.name}-{builder.content[:12]}"
        builder.replaces = False
        try:
            built = _build(builder, data_root(data), edition)
        except M2KRError:
            if own_place and builder.folder:  # mended records will go to another place
                discard_unfinished(builder.folder, builder.source.config)
            raise
    return load(builder.source.name, split, edition=built.folder.name, data=data)


@plainly()
def import_files(
    name: str,
    passages: Path | None = None,
    queries: Path | None = None,
    qrels: Path | None = None,
    *,
    layout: LayoutName = "files",
    folder: Path | None = None,
    dataset: str | None = None,
    split: str | None = None,
    images: Paths = (),
    instruction: str | None = None,
    edition: str | None = None,
    data: str | Path | None = None,
    drop_missing: bool = False,
    relevance_threshold: float = 1,
    limit: int | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> "Built":
    """What the build of a source from a user's files left behind.

    Args:
        name: Source name, and the edition's unless that is given.
        passages: ``.jsonl``, ``.csv``, ``.tsv`` (each also ``.gz``) or ``.parquet``; fields as in
            `m2kr.building.userdata.fields.PASSAGE_NAMES`.
        queries: The same; fields as in `m2kr.building.userdata.fields.QUERY_NAMES`.
        qrels: Judgements; they replace those in the query records.
        layout: ``files`` for the above; ``beir``, ``mbeir`` or ``ret-m2kr`` find them in ``folder``.
        folder: The folder of another benchmark's files.
        dataset: Which data set of that folder, such as ``infoseek_task6`` (mbeir) or ``okvqa``.
        split: Split name; by default ``test``, or all that a BEIR folder has.
        images: Folders, archives or Arrow files that image paths are relative to; not copied.
        instruction: Instruction of queries that bring none.
        edition: Edition to write into.
        data: Data root.
        drop_missing: Count positives that are no passages as never found, and leave out judgements of
            unknown queries.
        relevance_threshold: Grade from which a passage counts as right.
        limit: Keep this many queries; see `m2kr.building.build.build`.
        force: Build again even if nothing changed.
        progress: Told of tables in rows.

    Raises:
        InputError: a record is wrong; names file, line and field.
        UsageError: the name or the combination of arguments can't be used.
        MissingError: a file is not there.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout={layout!r}", expected=f"one of {', '.join(LAYOUTS)}")
    if folder is not None and not folder.is_dir():
        raise MissingError("there is no such folder", where=str(folder))
    files = LAYOUTS[layout](GivenFiles(folder, dataset, split, passages, queries, qrels))
    builder = ImportedBuilder(
        name,
        replace(files, images=(*_roots(images), *files.images)),
        kind=layout,
        instruction=instruction,
        drop_missing=drop_missing,
        relevance_threshold=relevance_threshold,
    )
    return _build(builder, data_root(data), edition, limit=limit, force=force, progress=progress)


def _build(
    builder: ImportedBuilder,
    root: Path,
    edition: str | None,
    *,
    limit: int | None = None,
    **how: Any,
) -> "Built":
    from m2kr.building.build import build
    from m2kr.building.options import edition_name

    builder.folder = root / edition_name(builder.source, edition, limit, route=builder.route)
    return build(builder, root, edition=edition, limit=limit, **how)


def _roots(images: Paths) -> tuple[Path, ...]:
    """Image roots as absolute paths, after a look whether they are any."""
    from m2kr.data.images.store import ImageStore

    given = [images] if isinstance(images, str | os.PathLike) else images
    roots = tuple(Path(root).expanduser().absolute() for root in given)
    ImageStore(roots)
    return roots


def _spool(
    records: Records,
    folder: Path,
    what: str,
    row_of: Callable[[Record, str], Row],
    names: Mapping[str, tuple[str, ...]],
) -> RecordFile:
    """The caller's records as a file of checked rows, so that they can be read more than once."""
    file = RecordFile(folder / f"{what}.jsonl", what, "record")
    fields: set[str] = set()
    with file.path.open("w", encoding="utf-8") as out:
        for n, given in enumerate(_dicts(records, what), 1):
            record = _dict(given, file.where(n))
            if n <= _SAMPLE and len(fields) < _SAMPLE:
                fields |= {name for name in record if isinstance(name, str)}
            row = row_of(record, file.where(n))
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    warn_of_near_misses(what, fields, names)
    return file


def _dict(record: object, where: str) -> Record:
    if not isinstance(record, Mapping):
        raise InputError(
            f"the record is a {type(record).__name__}",
            where=where,
            expected="a dict, or a data frame in place of the records",
        )
    return dict(record)


def _dicts(records: Records, what: str) -> Iterator[Any]:
    if hasattr(records, "iloc") and not hasattr(records, "columns"):
        records = records.to_dict()  # a pandas series is a mapping
    if not isinstance(records, Mapping):
        yield from _rows(records, what)
        return
    id_name, text = {
        "passages": ("passage_id", "passage_content"),
        "queries": ("question_id", "question"),
    }[what]
    for key, value in records.items():
        yield {**(value if isinstance(value, Mapping) else {text: value}), id_name: key}


def _rows(records: Any, what: str) -> Iterator[Any]:
    """The rows of any sort of table, some at a time."""
    if hasattr(records, "iter_rows"):  # polars
        yield from records.iter_rows(named=True)
    elif hasattr(records, "iloc"):  # pandas
        for start in range(0, len(records), _FRAME_ROWS):
            yield from records.iloc[start : start + _FRAME_ROWS].to_dict("records")
    elif hasattr(records, "to_batches"):  # an Arrow table
        for batch in records.to_batches(max_chunksize=_FRAME_ROWS):
            yield from batch.to_pylist()
    elif hasattr(records, "to_pylist"):
        yield from records.to_pylist()
    elif hasattr(records, "to_dict") and "orient" in inspect.signature(records.to_dict).parameters:
        yield from records.to_dict("records")  # pandas' kin
    elif isinstance(records, Iterable) and not isinstance(records, str | bytes):
        yield from records
    else:
        raise InputError(
            f"the {what} are a {type(records).__name__}",
            where=what,
            expected="dicts, a mapping by id, or a data frame",
            fix="m2kr import NAME --passages FILE --queries FILE for files"
            if isinstance(records, str | os.PathLike)
            else None,
        )


def _spool_qrels(
    qrels: "Judgements | Records | str | Path | None", folder: Path
) -> RecordFile | None:
    if qrels is None:
        return None
    if isinstance(qrels, str | os.PathLike):
        return qrels_file(Path(qrels))
    file = RecordFile(folder / "qrels.jsonl", "qrels", "record")
    with file.path.open("w", encoding="utf-8") as out:
        if isinstance(qrels, Mapping):
            judgements = _judgements(qrels)
        else:
            rows = enumerate(_rows(qrels, "qrels"), 1)
            records = ((n, _dict(row, file.where(n))) for n, row in rows)
            judgements = (judged[1:] for judged in judgements_of(records, file.where))
        for query, passage, grade in judgements:
            line = {"query-id": query, "corpus-id": passage, "score": grade}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return file


def _judgements(qrels: Mapping[Any, Any]) -> Iterator[tuple[str, str, float]]:
    """Query ids, passage ids and grades of a mapping of the caller's."""
    for query, judged in qrels.items():
        where = f"qrels, query {query!r:.60}"
        query_id = as_id(query, where, "query-id")
        if isinstance(judged, Mapping):
            pairs = [*judged.items()]
        elif isinstance(judged, str) or not isinstance(judged, Iterable):
            pairs = [(judged, 1)]
        else:
            ordered = sorted(judged, key=str) if isinstance(judged, set | frozenset) else judged
            pairs = [(passage, 1) for passage in ordered]
        for passage, grade in pairs:
            passage_id = as_id(passage, where, "corpus-id")
            yield query_id, passage_id, as_grade(grade, f"{where}, passage {passage_id!r:.60}")
