"""Dot products rounded as the official code's are.

Its order of nearly equal documents hangs on the last bit.
"""

from typing import TYPE_CHECKING

import numpy as np

from m2kr.errors import missing_dependency

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST = 16  # rows of either side


def products(vectors: "NDArray[np.float32]", rows: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """(vectors x rows) float32, each product added to the ones before it with one rounding.

    That is what torch does on every x86 processor, unless one side has very few rows: it is filled up.
    numpy's library does so on some processors only. Elsewhere (ARM) the last bit is torch's own.

    Raises:
        MissingError: torch isn't installed.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_dependency("torch", "models", "the published protocol") from error

    left, right = (torch.from_numpy(_filled(side)) for side in (vectors, rows))
    return (left @ right.T).numpy()[: len(vectors), : len(rows)]


def _filled(side: "NDArray[np.float32]") -> "NDArray[np.float32]":
    if len(side) >= _LEAST:
        return np.ascontiguousarray(side)
    return np.concatenate([side, np.zeros((_LEAST - len(side), side.shape[1]), np.float32)])
