"""What encoders are given at a time, and what they give back for it, in whatever arrays they compute."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from m2kr.errors import InputError
from m2kr.retrieval.protocol import Side, UndeclaredImages

if TYPE_CHECKING:
    from PIL.Image import Image

    from m2kr.data.records import Passages, Queries

    Images = Sequence[Image | None]

# Of numpy or torch, on any device: 2-D = one vector a row; a list of 2-D (or 3-D) = one
# (tokens x dim) matrix a row.
Encoded = Any
_EXPECTED = (
    "a 2-D array (rows x dim), or a list of 2-D arrays (tokens x dim), one a row of the batch; "
    "numpy arrays or torch tensors of numbers"
)


class Batch:
    """Rows to encode, one position per row in every field.

    Args:
        ids: Question or passage ids.
        texts: Questions, or passage texts.
        instructions: The queries' instructions; ``""`` for passages. `m2kr.instructions.join_question` puts
            instruction and question together as the official evaluation does.
        images: RGB images, None where a row has none; or a function that gives them when they are
            first asked for.
    """

    __slots__ = ("_images", "ids", "instructions", "texts")

    def __init__(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        instructions: Sequence[str],
        images: "Images | Callable[[], Images]",
    ) -> None:
        self.ids, self.texts, self.instructions = ids, texts, instructions
        self._images = images

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def images(self) -> "Images":
        """RGB images, None where a row has none; they are decoded when they are first asked for.

        Raises:
            InputError: the retriever doesn't declare that it reads images on this side, so that none
                were looked for; says how to declare it. Or an image is damaged.
            MissingError: a row names an image that no root holds (policy ``error``).
        """
        if callable(self._images):
            self._images = self._images()
        return self._images


def batches_by_length(
    window: Sequence[Mapping[str, Any]], side: Side, size: int
) -> Iterator[list[int]]:
    """Places of a window's rows in batches of similar length, longest first."""
    fields = ("question", "instruction") if side == "query" else ("passage_content",)
    lengths = [sum(len(row[field]) for field in fields) for row in window]
    order = sorted(range(len(window)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def make_batch(records: "Passages | Queries", rows: list[dict[str, Any]], side: Side) -> Batch:
    """The batch of some rows."""
    query = side == "query"
    return Batch(
        ids=[row["question_id" if query else "passage_id"] for row in rows],
        texts=[row["question" if query else "passage_content"] for row in rows],
        instructions=[row["instruction"] if query else "" for row in rows],
        images=partial(_images, records, rows),
    )


def _images(records: "Passages | Queries", rows: list[dict[str, Any]]) -> "Images":
    images: object = records.images
    if isinstance(images, UndeclaredImages):
        images.refuse()
    return [records.image(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Form:
    """What all rows of both sides have in common.

    Attributes:
        late: Whether a row is a matrix (late interaction), not a vector.
        dim: Numbers in a vector.
    """

    late: bool
    dim: int

    def __str__(self) -> str:
        if self.late:
            return f"a matrix a row, of shape (tokens, {self.dim})"
        return f"one vector a row, of shape ({self.dim},)"


def checked_output(
    encoded: Encoded, ids: Sequence[str], where: str
) -> tuple[list[NDArray[Any]], Form]:
    """The rows that an encoder gave for a batch, as numpy arrays of floats in main memory.

    Args:
        encoded: What it returned.
        ids: Of the batch's rows.
        where: The encoder and batch, for errors.

    Returns:
        One vector or one matrix for each of ``ids``, and their form.

    Raises:
        InputError: it is no such thing; says what it is.
    """

    def wrong(what: str, fix: str | None = None) -> InputError:
        return InputError(what, where=where, expected=_EXPECTED, fix=fix)

    try:
        array = _array(encoded)
        if array is not None:
            if array.ndim not in (2, 3):
                raise wrong(f"returned an array of shape {array.shape}")
            parts = list(array)
        elif isinstance(encoded, list | tuple):
            parts = [_listed(part) for part in encoded]
        else:
            raise _Refused(f"returned {_described(encoded)}")
    except _Refused as refused:
        raise wrong(*refused.args) from refused
    if len(parts) != len(ids):
        raise wrong(f"returned {len(parts)} rows for a batch of {len(ids)}")
    axes = {part.ndim for part in parts}
    if len(axes) > 1 or not axes <= {1, 2}:
        raise wrong("returned a list of arrays of shapes " + _shapes(parts))
    dims = {part.shape[-1] for part in parts}
    if len(dims) > 1 or dims == {0}:
        raise wrong("returned rows of unlike dimensions: shapes " + _shapes(parts))
    if not (np.isfinite(array).all() if array is not None else all(map(_finite, parts))):
        odd = next(row for row, part in zip(ids, parts, strict=True) if not _finite(part))
        raise wrong(f"returned NaN or infinity for '{odd}'")
    return parts, Form(axes == {2}, dims.pop())


class _Refused(Exception):
    """What was returned can't be taken; the arguments are ``what`` and ``fix`` of the error."""


def _array(given: Any) -> NDArray[Any] | None:
    """An array or tensor of numbers as numpy's; None for what is neither."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(given, torch.Tensor):
        try:
            tensor = given.detach().to_dense() if given.layout != torch.strided else given.detach()
            # numpy has no bfloat16, nor what is smaller.
            if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float64):
                tensor = tensor.float()
            array = tensor.cpu().numpy()
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise _Refused(
                f"returned a tensor without values in main memory: {str(error).splitlines()[0]}"
            ) from error
    elif isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise _Refused("returned an array with masked values", "fill them: array.filled(0)")
    elif isinstance(given, np.ndarray | np.generic) or hasattr(given, "__array__"):
        array = np.asarray(given)
    else:
        return None
    if array.dtype.kind == "V" and "float" in array.dtype.name:  # another library's bfloat16
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise _Refused(
            f"returned an array of type {array.dtype}, shape {array.shape}",
            "a list of arrays for rows of unlike lengths" if array.dtype.kind == "O" else None,
        )
    numbers: NDArray[Any] = array if array.dtype.kind == "f" else array.astype(np.float32)
    return numbers


def _listed(part: Any) -> NDArray[Any]:
    """One element of a list that was returned."""
    array = _array(part)
    if array is None:
        fix = "return the array itself, without .tolist()" if isinstance(part, list) else None
        raise _Refused(f"returned a list of {_described(part, many=True)}", fix)
    return array


def _described(given: Any, *, many: bool = False) -> str:
    if given is None:
        return "None"
    if isinstance(given, dict):
        keys = ", ".join(map(repr, list(given)[:5]))
        return f"{'dicts' if many else 'a dict'} with the keys {keys}"
    name = type(given).__name__
    return f"{name}s" if many else f"a {name}" if isinstance(given, str) else f"an object of {name}"


def _shapes(parts: Sequence[NDArray[Any]]) -> str:
    seen = list(dict.fromkeys(str(part.shape) for part in parts))
    return ", ".join(seen[:4]) + (" …" if len(seen) > 4 else "")


def _finite(part: NDArray[Any]) -> bool:
    return bool(np.isfinite(part).all())
