"""What an encoder gives back for a batch, in whatever arrays it computes, taken or refused."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2kr.errors import InputError

# Of numpy or torch, on any device: 2-D = one vector a row; a list of 2-D (or 3-D) = one
# (tokens x dim) matrix a row.
Encoded = Any
EXPECTED = (
    "a 2-D array (rows x dim), or a list of 2-D arrays (tokens x dim), one a row of the batch; "
    "numpy arrays or torch tensors of numbers"
)


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


def rows_of(encoded: Encoded, ids: Sequence[str], where: str) -> tuple[list[NDArray[Any]], Form]:
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
        return InputError(what, where=where, expected=EXPECTED, fix=fix)

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
            found = tensor.cpu().numpy()
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise _Refused(
                f"returned a tensor without values in main memory: {str(error).splitlines()[0]}"
            ) from error
    elif isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise _Refused("returned an array with masked values", "fill them: array.filled(0)")
    elif isinstance(given, np.ndarray | np.generic) or hasattr(given, "__array__"):
        found = np.asarray(given)
    else:
        return None
    if found.dtype.kind == "V" and "float" in found.dtype.name:  # another library's bfloat16
        found = found.astype(np.float32)
    if found.dtype.kind not in "fiub":
        raise _Refused(
            f"returned an array of type {found.dtype}, shape {found.shape}",
            "a list of arrays for rows of unlike lengths" if found.dtype.kind == "O" else None,
        )
    numbers: NDArray[Any] = found if found.dtype.kind == "f" else found.astype(np.float32)
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
