"""Which of the images that some splits need are here and sound: decoded once, then remembered.

Beside a store, ``reports/<edition>/<CONFIG>.parquet`` has a row an image (`SCHEMA`), and
``<CONFIG>.json`` the counts per split. An image that was sound is not decoded again as long as the
user's own roots are what they were; a store only grows.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from m2kr import atomic
from m2kr.building.images.check import verify_images
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
_OK, _DAMAGED, _MISSING = "ok", "damaged", "missing"
_ROOTS = b"m2kr.image_roots"
_BATCH = 10_000
_Row = tuple[str, str, str, str, int, int, str]


@dataclass(frozen=True)
class RequiredImages:
    """The distinct image paths of one split.

    Attributes:
        split: Its name.
        paths: They, in the order met, as the tables have them; large strings.
        rows: Queries (and passages, if asked for) with an image.
    """

    split: str
    paths: pa.Array
    rows: int


def required_images(split: "Split", *, passages: bool = False) -> RequiredImages:
    """The images of a split's queries, and of its pool if asked; a null path needs none."""
    sides = [split.queries_view, *([split.passages_view] if passages else [])]
    columns = [side.table.column("img_path") for side in sides]
    chunks = [pc.drop_null(chunk) for column in columns for chunk in column.chunks]
    rows = sum(len(chunk) for chunk in chunks)
    # Each chunk first: a column as a whole may have more text than one array takes.
    few = [pc.unique(chunk).cast(pa.large_string()) for chunk in chunks]
    return RequiredImages(split.split, pc.unique(pa.chunked_array(few, pa.large_string())), rows)


def absent_images(required: Iterable[RequiredImages], images: ImageStore | None) -> list[str]:
    """The paths that no root has, each once.

    Raises:
        InputError: a path of the tables is unsafe.
    """
    absent: dict[str, None] = {}
    for of_split in required:
        for path in _each(of_split.paths):
            try:
                clean_path(path)
            except InputError as error:
                raise InputError(
                    error.what, where=f"img_path of {of_split.split}", expected=error.expected
                ) from error
            if images is None or not images.exists(path):
                absent[path] = None
    return list(absent)


def image_urls(split: "Split", paths: set[str]) -> dict[str, str]:
    """The address of each image whose row has one in ``image_url``; nothing if the source has none."""
    urls: dict[str, str] = {}
    for table in (split.queries_view.table, split.passages_view.table):
        if not {"img_path", "image_url"} <= set(table.column_names):
            continue
        columns = (table.column(name).chunks for name in ("img_path", "image_url"))
        for chunks in zip(*columns, strict=True):
            for path, url in zip(*(chunk.to_pylist() for chunk in chunks), strict=True):
                if url and path in paths:
                    urls.setdefault(path, url)
    return urls


def count_images(split: "Split") -> Coverage:
    """How many of the distinct images that a split's queries and pool name are here; none is decoded."""
    paths = required_images(split, passages=True).paths
    return (split.images or ImageStore(())).coverage(_each(paths))


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


def examine_images(
    required: Sequence[RequiredImages],
    images: ImageStore | None,
    table: Path,
    why: dict[str, tuple[str, str]],
    *,
    anew: bool,
    progress: Progress,
) -> ImageCoverage:
    """Decodes what is here and not known to be sound, and writes the table.

    Args:
        required: Of each split.
        images: Where they are; None for nowhere.
        table: The Parquet file; one that is there says what is known.
        why: Reason and detail by path, of those that could not be fetched.
        anew: Decode those, too, that are known to be sound.
        progress: Told of each image.
    """
    paths = pc.unique(pa.concat_arrays([of_split.paths for of_split in required]))
    schema = SCHEMA.with_metadata({_ROOTS: _own_roots(images).encode()})
    known = schema.empty_table() if anew else _known_rows(table, schema, paths)
    new = paths.filter(pc.invert(pc.is_in(paths, known["img_path"].cast(pa.large_string()))))
    task = "checking images"
    progress.start(task, len(paths), "images")
    progress.advance(task, len(known))
    reasons, checked = Counter[str](), 0
    examples: list[dict[str, str]] = []
    table.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic.writing(table) as aside,
        pq.ParquetWriter(aside, schema, compression="zstd") as writer,
        closing(_examined(new, images, why)) as rows,
    ):
        if len(known):
            writer.write_table(known)
        batch: list[_Row] = []
        for row in rows:
            path, status, reason, detail, *_ = row
            if status != _OK:
                reasons[reason] += 1
                if len(examples) < 5:
                    examples.append({"img_path": path, "reason": reason, "detail": detail})
            checked += status != _MISSING
            batch.append(row)
            progress.advance(task, 1)
            if len(batch) == _BATCH:
                writer.write_table(_table(batch, schema))
                batch = []
        if batch:
            writer.write_table(_table(batch, schema))
    progress.done(task)
    faulty = pq.read_table(table, columns=["img_path", "status"], filters=[("status", "!=", _OK)])
    splits = [_of_split(of_split, faulty) for of_split in required]
    return ImageCoverage(splits, dict(reasons), examples, checked, table)


def _table(rows: list[_Row], schema: pa.Schema) -> pa.Table:
    return pa.table([[*column] for column in zip(*rows, strict=True)], schema=schema)


def _examined(
    paths: pa.Array, images: ImageStore | None, why: dict[str, tuple[str, str]]
) -> Generator[_Row]:
    here = []
    for path in _each(paths):
        if images is not None and images.exists(path):
            here.append(path)
        else:
            reason, detail = why.get(path, ("in no image root", ""))
            yield path, _MISSING, reason, detail, 0, 0, ""
    if not here or images is None:
        return
    reading = ((path, lambda path=path: images.read(path)) for path in here)
    with closing(verify_images(reading)) as results:
        for one in results:
            status = _OK if one.ok else _DAMAGED
            yield one.name, status, one.rule, one.detail, one.width, one.height, one.format


def _of_split(required: RequiredImages, faulty: pa.Table) -> SplitCoverage:
    own = faulty.filter(pc.is_in(faulty["img_path"].cast(pa.large_string()), required.paths))
    missing = int(pc.sum(pc.equal(own["status"], _MISSING)).as_py() or 0)
    needed = len(required.paths)
    counts = (required.rows, needed, needed - len(own), len(own) - missing, missing)
    return SplitCoverage(required.split, *counts)


def _own_roots(images: ImageStore | None) -> str:
    """What the user's own roots are now; stores of shards only grow and are left out."""
    if images is None:
        return ""
    pairs = zip(images.roots, images.identity(), strict=True)
    own = (identity for root, identity in pairs if not (root.is_dir() and holds_shards(root)))
    return repr([tuple(identity) for identity in own])


def _known_rows(table: Path, schema: pa.Schema, paths: pa.Array) -> pa.Table:
    """The rows of an older table that tell of sound images in the same roots."""
    try:
        if (pq.read_schema(table).metadata or {}).get(_ROOTS) != schema.metadata[_ROOTS]:
            return schema.empty_table()
        rows = pq.read_table(table, filters=[("status", "=", _OK)])
        rows = rows.filter(pc.is_in(rows["img_path"].cast(pa.large_string()), paths))
        return rows.select(schema.names).cast(schema)
    except (OSError, pa.ArrowException, KeyError):  # none yet, or damaged: nothing is known
        return schema.empty_table()


def _each(paths: pa.Array) -> Iterator[str]:
    for start in range(0, len(paths), _BATCH):
        yield from paths.slice(start, _BATCH).to_pylist()
