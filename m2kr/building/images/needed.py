"""Which images the built tables name, and which of them are here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from m2kr.data.images.store import Coverage, ImageStore, clean_path
from m2kr.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from m2kr.data.load import Split

_BATCH = 10_000


@dataclass(frozen=True)
class Needed:
    """The distinct image paths of one split.

    Attributes:
        split: Its name.
        paths: They, in the order met, as the tables have them.
        rows: Queries with an image.
    """

    split: str
    paths: "pa.Array"
    rows: int

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.paths), _BATCH):
            yield from self.paths.slice(start, _BATCH).to_pylist()


def needed(split: "Split", *, passages: bool = False) -> Needed:
    """The images of a split's queries, and of its pool if asked; a null path needs none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = [split.queries, *([split.passages] if passages else [])]
    columns = [table.data.column("img_path") for table in tables]
    chunks = [pc.drop_null(chunk) for column in columns for chunk in column.chunks]
    rows = sum(len(chunk) for chunk in chunks)
    # Each chunk first: a column as a whole may have more text than one array takes.
    few = [pc.unique(chunk).cast(pa.large_string()) for chunk in chunks]
    return Needed(split.split, pc.unique(pa.chunked_array(few, pa.large_string())), rows)


def addresses(split: "Split", paths: "set[str]") -> dict[str, str]:
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
