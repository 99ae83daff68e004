"""A set of millions of ids in 16 bytes each, which knows on which lines one was used twice."""

import hashlib
from array import array
from bisect import bisect_left
from typing import Any

import numpy as np

from m2kr.building.userdata.readers import RecordFile
from m2kr.errors import InputError


class IdSet:
    """Ids as 128-bit hashes; complete after `seal`."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._lines = array("Q")
        self._hi: Any = None
        self._lo: Any = None

    def __len__(self) -> int:
        return len(self._lines) if self._hi is None else len(self._hi)

    def add(self, row_id: str, line: int) -> None:
        """Adds the id of a line."""
        self._digests += hashlib.blake2b(row_id.encode(), digest_size=16).digest()
        self._lines.append(line)

    def seal(self, file: RecordFile, name: str) -> None:
        """Ends the adding and forgets the lines.

        Args:
            file: Where the ids come from, for errors.
            name: Name of the id column.

        Raises:
            InputError: an id was added twice; names both lines.
        """
        pairs = np.frombuffer(self._digests, "<u8").reshape(-1, 2)
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        hi, lo = pairs[order, 0], pairs[order, 1]
        equal = np.flatnonzero((hi[1:] == hi[:-1]) & (lo[1:] == lo[:-1]))
        if len(equal):
            at = min(equal, key=lambda i: self._lines[order[i + 1]])
            first, second = self._lines[order[at]], self._lines[order[at + 1]]
            raise InputError(
                f"this {name} was already used in {file.where(first)}",
                where=file.where(second),
                expected="a different id for each record",
            )
        self._hi, self._lo = hi, lo
        self._digests, self._lines = bytearray(), array("Q")

    def __contains__(self, row_id: str) -> bool:
        digest = hashlib.blake2b(row_id.encode(), digest_size=16).digest()
        hi, lo = (int.from_bytes(part, "little") for part in (digest[:8], digest[8:]))
        at = bisect_left(self._hi, hi)
        while at < len(self._hi) and self._hi[at] == hi:
            if self._lo[at] == lo:
                return True
            at += 1
        return False
