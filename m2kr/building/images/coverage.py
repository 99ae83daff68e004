"""Which of the images that some splits need are here and sound: decoded once, then remembered.

Beside a store, ``reports/<edition>/<CONFIG>.parquet`` has a row an image (`SCHEMA`), and
``<CONFIG>.json`` the counts per split. An image that was sound is not decoded again as long as the
user's own roots are what they were; a store only grows.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from m2kr import atomic
from m2kr.building.images.check import ImageLimits, verify_images
from m2kr.data.images.shards import holds_shards
from m2kr.data.images.store import Coverage, ImageStore, clean_path
from m2kr.errors import InputError
from m2kr.progress import Progress

if TYPE_CHECKING:
    from m2kr.data.load import Split

SCHEMA = pa.schema(
    [
        pa.field("img_path", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # ok, damaged or missing
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
    ]
)
OK, DAMAGED, MISSING = "ok", "damaged", "missing"
_ROOTS = b"m2kr.image_roots"
_BATCH = 10_000
Row = tuple[str, str, str, str, int, int, str]


@dataclass(frozen=True)
class Needed:
    """The distinct image paths of one split.

    Attributes:
        split: Its name.
        paths: They, in the order met, as the tables have them.
        rows: Queries with an image.
    """

    split: str
    paths: pa.Array
    rows: int

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.paths), _BATCH):
            yield from self.paths.slice(start, _BATCH).to_pylist()


@dataclass(frozen=True)
class SplitCoverage:
    """The images of one split.

    Attributes:
        split: Its name.
        rows: Queries (and passages, if asked for) with an image.
        needed: Distinct images.
        ok: Here and sound.
        damaged: Here, and no image that can be decoded.
        missing: Not here.
    """

    split: str
    rows: int
    needed: int
    ok: int
    damaged: int
    missing: int

    @property
    def share(self) -> float:
        """Of the needed images, those that are sound; 1 if none is needed."""
        return self.ok / self.needed if self.needed else 1.0


@dataclass(frozen=True)
class ImageCoverage:
    """What a look at the images of some splits found.

    Attributes:
        splits: One each.
        reasons: Images by what is wrong with them.
        examples: The first few of these, with reason and detail.
        checked: Images that were decoded for it; the others were known.
        table: The Parquet file with a row an image.
    """

    splits: list[SplitCoverage]
    reasons: dict[str, int]
    examples: list[dict[str, str]]
    checked: int
    table: Path


def examine(
    wanted: Sequence[Needed],
    images: ImageStore | None,
    table: Path,
    why: dict[str, tuple[str, str]],
    *,
    jobs: int | None = None,
    limits: ImageLimits | None = None,
    anew: bool = False,
    progress: Progress,
) -> ImageCoverage:
    """Decodes what is here and not known to be sound, and writes the table.

    Args:
        wanted: Of each split.
        images: Where they are; None for nowhere.
        table: The Parquet file; one that is there says what is known.
        why: Reason and detail by path, of those that could not be fetched.
        jobs: Decoder processes.
        limits: Of an image.
        anew: Decode those, too, that are known to be sound.
        progress: Told of each image.
    """
    every = pc.unique(pa.concat_arrays([each.paths for each in wanted]))
    roots = _own_roots(images)
    known = pa.array([], pa.large_string()) if anew else _known(table, roots, every)
    task = "checking images"
    progress.start(task, len(every), "images")
    progress.advance(task, len(known))
    new = every.filter(pc.invert(pc.is_in(every, known)))
    counted, checked = Counter[str](), 0
    examples: list[dict[str, str]] = []
    table.parent.mkdir(parents=True, exist_ok=True)
    with atomic.writing(table) as aside, _Table(aside, roots) as out:
        out.keep(table, known)
        for row in _found(new, images, why, jobs, limits):
            if row[1] != OK:
                counted[row[2]] += 1
                if len(examples) < 5:
                    examples.append({"img_path": row[0], "reason": row[2], "detail": row[3]})
            checked += row[1] != MISSING
            progress.advance(task, 1)
            out.add(row)
    progress.done(task)
    wrong = pq.read_table(table, columns=["img_path", "status"], filters=[("status", "!=", OK)])
    return ImageCoverage(
        [_of_split(each, wrong) for each in wanted], dict(counted), examples, checked, table
    )


def _found(
    paths: pa.Array,
    images: ImageStore | None,
    why: dict[str, tuple[str, str]],
    jobs: int | None,
    limits: ImageLimits | None,
) -> Iterator[Row]:
    here = []
    for path in (path for part in _parts(paths) for path in part):
        if images is not None and images.exists(path):
            here.append(path)
        else:
            reason, detail = why.get(path, ("in no image root", ""))
            yield path, MISSING, reason, detail, 0, 0, ""
    if not here or images is None:
        return
    reading = ((path, lambda path=path: images.read(path)) for path in here)
    with closing(verify_images(reading, jobs=jobs, limits=limits)) as results:
        for each in results:
            status = OK if each.ok else DAMAGED
            yield each.name, status, each.rule, each.detail, each.width, each.height, each.format


def _of_split(each: Needed, wrong: pa.Table) -> SplitCoverage:
    own = wrong.filter(pc.is_in(wrong["img_path"].cast(pa.large_string()), each.paths))
    missing = int(pc.sum(pc.equal(own["status"], MISSING)).as_py() or 0)
    damaged = len(own) - missing
    ok = len(each) - len(own)
    return SplitCoverage(each.split, each.rows, len(each), ok, damaged, missing)


def _own_roots(images: ImageStore | None) -> str:
    """What the user's own roots are now; stores of shards only grow and are left out."""
    if images is None:
        return ""
    pairs = zip(images.roots, images.identity(), strict=True)
    return repr([tuple(identity) for root, identity in pairs if not _is_store(root)])


def _is_store(root: Path) -> bool:
    return root.is_dir() and holds_shards(root)


def _known(table: Path, roots: str, every: pa.Array) -> pa.Array:
    """Paths that an older table found sound in the same roots."""
    none = pa.array([], pa.large_string())
    try:
        told = (pq.read_schema(table).metadata or {}).get(_ROOTS)
        if told != roots.encode():
            return none
        rows = pq.read_table(table, columns=["img_path", "status"], filters=[("status", "=", OK)])
    except (OSError, pa.ArrowException):  # none yet, or damaged: nothing is known
        return none
    sound = rows["img_path"].cast(pa.large_string()).combine_chunks()
    return every.filter(pc.is_in(every, sound))


def _parts(paths: pa.Array) -> Iterator[list[str]]:
    for start in range(0, len(paths), _BATCH):
        yield paths.slice(start, _BATCH).to_pylist()


class _Table:
    """The new table."""

    def __init__(self, path: Path, roots: str) -> None:
        self._rows: list[Row] = []
        schema = SCHEMA.with_metadata({_ROOTS: roots.encode()})
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._schema = schema

    def keep(self, old: Path, known: pa.Array) -> None:
        """Takes rows over."""
        if not len(known):
            return
        for batch in pq.ParquetFile(old).iter_batches(batch_size=_BATCH):
            own = batch.column("img_path").cast(pa.large_string())
            keep = pc.and_(pc.is_in(own, known), pc.equal(batch.column("status"), OK))
            self._write(batch.filter(keep).columns)

    def add(self, row: Row) -> None:
        """One more."""
        self._rows.append(row)
        if len(self._rows) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            self._write([pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)])
            self._rows = []

    def _write(self, columns: list[Any]) -> None:
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def __enter__(self) -> "_Table":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()


def needed(split: "Split", *, passages: bool = False) -> Needed:
    """The images of a split's queries, and of its pool if asked; a null path needs none."""
    tables = [split.queries, *([split.passages] if passages else [])]
    columns = [table.data.column("img_path") for table in tables]
    chunks = [pc.drop_null(chunk) for column in columns for chunk in column.chunks]
    rows = sum(len(chunk) for chunk in chunks)
    # Each chunk first: a column as a whole may have more text than one array takes.
    few = [pc.unique(chunk).cast(pa.large_string()) for chunk in chunks]
    return Needed(split.split, pc.unique(pa.chunked_array(few, pa.large_string())), rows)


def addresses(split: "Split", paths: set[str]) -> dict[str, str]:
    """The address of each image whose row has one in ``image_url``; nothing if the source has none."""
    found: dict[str, str] = {}
    for table in (split.queries, split.passages):
        if not {"img_path", "image_url"} <= set(table.column_names):
            continue
        named, urls = (table.data.column(name) for name in ("img_path", "image_url"))
        for chunk, own in zip(named.chunks, urls.chunks, strict=True):
            for path, url in zip(chunk.to_pylist(), own.to_pylist(), strict=True):
                if url and path in paths:
                    found.setdefault(path, url)
    return found


def lacking(wanted: Needed, images: ImageStore | None) -> Iterator[str]:
    """The paths that no root has.

    Raises:
        InputError: a path of the tables is unsafe.
    """
    for path in wanted:
        try:
            clean_path(path)
        except InputError as error:
            raise InputError(
                error.what, where=f"img_path of {wanted.split}", expected=error.expected
            ) from error
        if images is None or not images.exists(path):
            yield path


def count_images(split: "Split") -> Coverage:
    """How many of the distinct images that a split's queries and pool name are here; none is decoded."""
    wanted = needed(split, passages=True)
    return (split.images or ImageStore(())).coverage(wanted)


def describe(images: Any) -> list[str]:
    """Where images are looked for, for people."""
    return [] if images is None else [str(root) for root in images.roots]
