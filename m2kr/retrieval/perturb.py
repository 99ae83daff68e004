"""A split whose queries are changed in one way: what a retriever reads is seen by what it misses.

Each perturbation changes the views that retrievers are given, and nothing on disk: right passages,
answers and ids stay, so that scores are paired query by query. What is encoded of a changed view is
kept nowhere (its records have no fingerprint), and the split's fingerprints say that it is perturbed.
Draws are seeded and depend on ids, not on the order of rows.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from m2kr.data.images.store import ImageStore, black_image, decode
from m2kr.data.load import Split
from m2kr.data.records import Passages, Queries
from m2kr.errors import UsageError
from m2kr.instructions import TEMPLATES

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from m2kr.data.images.index import Identity

Reads = Literal["text", "image", ""]
Records = TypeVar("Records", Passages, Queries)
_SEED = 0
_AVERAGED = 64  # images whose mean colour is taken
_TAKEN = 100_000  # rows
_QUALITY = 90  # of the JPEG that an image is written to anew
_ALTERED = "m2kr perturbed image"  # begins the paths of altered images; no folder is called so
_IMAGE_COLUMNS = ("img_path", "img_id", "image_id")


class _NothingToChange(Exception):
    """The split has nothing that a perturbation would change; says what it lacks."""


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One way to change a split.

    Attributes:
        name: In tables and results.
        reads: What a retriever must read of queries to be able to notice; "" for none of it.
        matters: Whether scores may well change (an ablation); if not, they should stay (a band).
        queries: The changed queries.
        passages: The changed passages, where those change as well.
    """

    name: str
    reads: Reads
    matters: bool
    queries: Callable[[Queries], Queries]
    passages: Callable[[Passages], Passages] = lambda passages: passages


@dataclass(frozen=True)
class PerturbedSplit(Split):
    """A split whose views are changed; its tables on disk, and its judgements, are those of `base`.

    Attributes:
        base: The split as it is.
        perturbation: Name of the change, of `PERTURBATIONS`.
    """

    base: Split | None = None
    perturbation: str = ""

    @property
    def _base(self) -> Split:
        assert self.base is not None
        return self.base

    @property
    def fingerprints(self) -> dict[str, str]:
        """Those of the split; marked where the changed queries enter, so that no other has the same."""
        mark = f"perturbed ({self.perturbation}): "
        return {
            part: value if part in ("judgements", "pool") else mark + value
            for part, value in self._base.fingerprints.items()
        }

    @cached_property
    def images(self) -> ImageStore | None:
        """The images that the changed queries name, and all of the split's own."""
        return self.queries_view.images

    @cached_property
    def queries_view(self) -> Queries:
        """The changed queries."""
        changed = PERTURBATIONS[self.perturbation].queries(self._base.queries_view)
        return replace(changed, fingerprint="")

    @cached_property
    def passages_view(self) -> Passages:
        """The passages; kept as those of the split unless they are changed."""
        passages = self._base.passages_view
        changed = PERTURBATIONS[self.perturbation].passages(passages)
        return passages if changed is passages else replace(changed, fingerprint="")


def perturb(split: Split, name: str) -> Split:
    """A split changed in one way.

    Args:
        split: A loaded split.
        name: One of `PERTURBATIONS`.

    Raises:
        UsageError: there is no such perturbation, or nothing in the split that it would change.

    Example:
        >>> import m2kr
        >>> from m2kr.retrieval.perturb import perturb
        >>> mini = m2kr.load("mini")  # doctest: +SKIP
        >>> m2kr.evaluate(perturb(mini, "no image"), "image_concepts")  # doctest: +SKIP
    """
    if name not in PERTURBATIONS:
        raise UsageError(
            f"there is no perturbation '{name}'", expected=f"one of {', '.join(PERTURBATIONS)}"
        )
    if isinstance(split, PerturbedSplit):
        raise UsageError("a perturbed split is perturbed again", where=split.label)
    facts = {field.name: getattr(split, field.name) for field in fields(Split)}
    note = f"its queries are perturbed: {name}"
    manifest = {**split.manifest, "comparable": note}
    made = PerturbedSplit(**{**facts, "manifest": manifest}, base=split, perturbation=name)
    try:
        made.queries_view  # noqa: B018 - read now, so that what can't be changed is said now
    except _NothingToChange as error:
        raise UsageError(str(error), where=f"'{name}' of {split.label}") from error
    return made


class AlteredImages(ImageStore):
    """A split's images, and beside them altered ones, made when they are read.

    Args:
        images: The split's own.
        name: Of the alteration; it is part of the altered images' paths, so that none is another's.
        alter: The bytes of an altered image from those of its original, or one picture for all.
    """

    def __init__(
        self, images: ImageStore, name: str, alter: "Callable[[bytes], bytes] | Image.Image"
    ) -> None:
        super().__init__((), missing=images.missing, max_pixels=images.max_pixels)
        self._images, self._prefix = images, f"{_ALTERED}/{name}/"
        self._alter = alter if callable(alter) else None
        self._picture = b"" if callable(alter) else _encoded(alter, "PNG")

    def altered(self, path: str) -> str:
        """The path of the altered image of a path."""
        return self._prefix + (path if self._alter else "image.png")

    def _read(self, path: str) -> tuple[bytes, str] | None:
        if not path.startswith(self._prefix):
            return self._images._read(path)
        if self._alter is None:
            return self._picture, path
        found = self._images._read(path.removeprefix(self._prefix))
        return None if found is None else (self._alter(found[0]), f"{found[1]} (altered)")

    @property
    def roots(self) -> "tuple[Path, ...]":
        """Those of the split's images."""
        return self._images.roots

    def exists(self, path: str) -> bool:
        """Whether an image, or the original of an altered one, is there."""
        picture = self._alter is None and path.startswith(self._prefix)
        return picture or self._images.exists(path.removeprefix(self._prefix))

    def stamper(self) -> Callable[[str], str | None]:
        """Stamps of the split's own images; an altered one is known by its content."""
        own = self._images.stamper()
        return lambda path: self.sha256(path) if path.startswith(self._prefix) else own(path)

    def identity(self) -> "tuple[Identity, ...]":
        """That of the split's own images."""
        return self._images.identity()


def _encoded(image: "Image.Image", form: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def _halved(data: bytes) -> bytes:
    """An image at half its size and back."""
    from PIL.Image import Resampling

    image = decode(data, "an image to be resized")
    width, height = image.size
    small = image.resize((max(1, width // 2), max(1, height // 2)), Resampling.BICUBIC)
    return _encoded(small.resize((width, height), Resampling.BICUBIC), "PNG")


def _rewritten(data: bytes) -> bytes:
    """An image as JPEG."""
    return _encoded(decode(data, "an image to be written anew"), "JPEG", quality=_QUALITY)


def _with_columns(queries: Queries, **columns: Sequence[str | None]) -> Queries:
    """The queries with other values in some columns of texts.

    Raises:
        _NothingToChange: the values are the same.
    """
    import pyarrow as pa

    table: pa.Table = queries.table
    same = True
    for name, values in columns.items():
        if name not in table.column_names:  # of an own table
            continue
        place = table.column_names.index(name)
        same = same and table.column(name).to_pylist() == list(values)
        table = table.set_column(place, name, pa.array(values, table.schema.field(name).type))
    if same:
        raise _NothingToChange("it changes no query")
    return replace(queries, given=table.replace_schema_metadata(None))


def _text(queries: Queries, name: str) -> list[str]:
    """A column of texts, of which one at least is not blank."""
    values = queries.column(name)
    if not any(value.strip() for value in values):
        raise _NothingToChange(f"no query has a text in '{name}'")
    return values


def _paths(queries: Queries) -> list[str | None]:
    paths = queries.column("img_path")
    if not any(paths):
        raise _NothingToChange("no query has an image")
    return paths


def _no_image(queries: Queries) -> Queries:
    nothing = [None for _ in _paths(queries)]
    return _with_columns(queries, **dict.fromkeys(_IMAGE_COLUMNS, nothing))


def _no_question(queries: Queries) -> Queries:
    return _with_columns(queries, question=["" for _ in _text(queries, "question")])


def _no_instruction(queries: Queries) -> Queries:
    return _with_columns(queries, instruction=["" for _ in _text(queries, "instruction")])


def _other_instruction(queries: Queries) -> Queries:
    """One instruction for all: the first of ours that no query has."""
    own = {text.strip() for text in _text(queries, "instruction")}
    every = (text for listed in reversed(TEMPLATES.values()) for text in listed.templates)
    other = next(text for text in every if text.strip() not in own)
    return _with_columns(queries, instruction=[other] * len(queries))


def _shuffled_instructions(queries: Queries) -> Queries:
    texts = _text(queries, "instruction")
    if len(set(texts)) == 1:
        raise _NothingToChange("all queries have the same instruction")
    source = _derangement(texts, queries.ids.to_pylist())
    return _with_columns(queries, instruction=[texts[i] for i in source])


def _other_image(queries: Queries) -> Queries:
    paths = _paths(queries)
    rows = [row for row, path in enumerate(paths) if path is not None]
    named = [str(paths[row]) for row in rows]
    if len(set(named)) == 1:
        raise _NothingToChange("all queries have the same image")
    ids = queries.ids.to_pylist()
    source = dict(zip(rows, _derangement(named, [ids[row] for row in rows]), strict=True))
    # Ids go with the image: embeddings that were made before may be known by them.
    columns = {name: queries.column(name) for name in _IMAGE_COLUMNS if name in _names(queries)}
    return _with_columns(
        queries,
        **{
            name: [
                values[rows[source[i]]] if i in source else values[i] for i in range(len(values))
            ]
            for name, values in columns.items()
        },
    )


def _names(queries: Queries) -> list[str]:
    names: list[str] = queries.table.column_names
    return names


def _derangement(values: Sequence[str], ids: Sequence[str]) -> "NDArray[np.int64]":
    """For each row the row whose value it gets: another value wherever that is possible.

    Rows lie in groups of equal values, in an order drawn by lot, and each takes from as far behind as
    the largest group is long. Only where that group is more than half do some keep their value.
    """
    rng = np.random.default_rng(_SEED)
    by_id = np.argsort(np.array(ids, object), kind="stable")
    groups = np.unique(np.array(values, object)[by_id], return_inverse=True)[1]
    places = rng.permutation(int(groups.max()) + 1)[groups]
    order = by_id[np.lexsort((rng.random(len(groups)), places))]
    source = np.empty(len(order), np.int64)
    source[order] = np.roll(order, -int(np.bincount(groups).max()))
    return source


def _images(queries: Queries) -> ImageStore:
    if queries.images is None:
        raise _NothingToChange("the split has no image root")
    return queries.images


def _altered(
    queries: Queries, name: str, alter: "Callable[[bytes], bytes] | Image.Image"
) -> Queries:
    paths = _paths(queries)
    images = AlteredImages(_images(queries), name, alter)
    altered = [None if path is None else images.altered(path) for path in paths]
    # What is known by the id of the old image is not of this one.
    return replace(_with_columns(queries, **dict.fromkeys(_IMAGE_COLUMNS, altered)), images=images)


def _black_image(queries: Queries) -> Queries:
    return _altered(queries, "black", black_image())


def _mean_image(queries: Queries) -> Queries:
    """The mean colour of up to 64 of the images, in place of each."""
    from PIL import Image

    every, images = _paths(queries), _images(queries)
    paths = sorted({path for path in every if path is not None and images.exists(path)})
    if not paths:
        raise _NothingToChange("no image of the queries is there")
    some = map(images.open, paths[:: -(-len(paths) // _AVERAGED)])
    colours = [np.asarray(image, np.float64).mean((0, 1)) for image in some]
    red, green, blue = np.rint(np.mean(colours, 0)).astype(int).tolist()
    return _altered(queries, "mean", Image.new("RGB", black_image().size, (red, green, blue)))


def _halved_image(queries: Queries) -> Queries:
    return _altered(queries, "halved", _halved)


def _rewritten_image(queries: Queries) -> Queries:
    return _altered(queries, "jpeg", _rewritten)


def _spelled(change: Callable[[str], str]) -> Callable[[Queries], Queries]:
    """Question and instruction, written otherwise."""

    def changed(queries: Queries) -> Queries:
        both = {
            name: list(map(change, queries.column(name))) for name in ("question", "instruction")
        }
        return _with_columns(queries, **both)

    return changed


def _without_mark(text: str) -> str:
    return text.rstrip().removesuffix("?") if text.rstrip().endswith("?") else text


def _trailing(text: str) -> str:
    return f"{text} " if text.strip() else text


def _reordered(records: Records) -> Records:
    """The rows in an order drawn by lot."""
    import pyarrow as pa

    order = np.random.default_rng(_SEED).permutation(len(records))
    table: pa.Table = records.table
    # Piece by piece: no piece's texts may be as long as 2 GiB.
    parts = [table.take(order[i : i + _TAKEN]) for i in range(0, len(order), _TAKEN)]
    return replace(records, given=pa.concat_tables(parts or [table]))


_EVERY: "tuple[Perturbation, ...]" = (
    Perturbation("no image", "image", True, _no_image),
    Perturbation("black image", "image", True, _black_image),
    Perturbation("mean image", "image", True, _mean_image),
    Perturbation("another query's image", "image", True, _other_image),
    Perturbation("no question", "text", True, _no_question),
    Perturbation("no instruction", "text", True, _no_instruction),
    Perturbation("another instruction", "text", True, _other_instruction),
    Perturbation("shuffled instructions", "text", True, _shuffled_instructions),
    Perturbation("double spaces", "text", False, _spelled(lambda text: text.replace(" ", "  "))),
    Perturbation("trailing space", "text", False, _spelled(_trailing)),
    Perturbation("no question mark", "text", False, _spelled(_without_mark)),
    Perturbation("lower case", "text", False, _spelled(str.lower)),
    Perturbation("image halved and back", "image", False, _halved_image),
    Perturbation("image as JPEG", "image", False, _rewritten_image),
    Perturbation("order of rows", "", False, _reordered, _reordered),
)
PERTURBATIONS = {each.name: each for each in _EVERY}
