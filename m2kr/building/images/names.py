"""Millions of names to be asked for, at 16 bytes each."""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

import numpy as np

_HASH = np.dtype([("hi", "<u8"), ("lo", "<u8")])


class NameSet:
    """Remembers names by 128-bit hashes.

    Args:
        names: To begin with.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._settled = np.zeros(0, _HASH)
        self._new: set[bytes] = set()
        for name in names:
            self.add(name)
            if len(self._new) >= 1 << 20:
                self.settle()
        self.settle()

    def __len__(self) -> int:
        return len(self._settled) + len(self._new)

    def __contains__(self, name: str) -> bool:
        digest = _digest(name)
        if digest in self._new:
            return True
        hi, lo = np.frombuffer(digest, _HASH)[0]
        column = self._settled["hi"]
        first, last = bisect_left(column, hi), bisect_right(column, hi)
        return bool((self._settled["lo"][first:last] == lo).any())

    def add(self, name: str) -> None:
        """Takes a name in that is not there yet."""
        self._new.add(_digest(name))

    def settle(self) -> None:
        """Moves names from a set, which takes 100 bytes each, to the sorted array."""
        if self._new:
            new = np.frombuffer(b"".join(self._new), _HASH)
            both = np.concatenate([self._settled, new])
            self._settled = both[np.argsort(both["hi"], kind="stable")]
            self._new.clear()


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()
