"""What this process has computed already, so that retrievers which share a step share its result.

The text vectors of ``dense_text`` serve ``image_concepts`` and ``fusion``; an evaluation of all of
them in one process encodes each passage and each image once. Nothing outlives the process.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DEFAULT_LIMIT = 512 << 20
# What an entry costs besides its value: key, tuple and links of the dictionary, measured.
_OVERHEAD = 400


class Memo:
    """Values by key, the least recently used dropped first.

    Args:
        limit: Bytes that may be held; a value bigger than that is not kept.

    Attributes:
        hits: Values found so far.
        size: Bytes held now.
    """

    def __init__(self, limit: int = _DEFAULT_LIMIT) -> None:
        self.limit = limit
        self.hits = 0
        self.size = 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> Any | None:
        """The value kept under a key, or None."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            self.hits += 1
            return self._values[key][0]

    def rows(
        self, keys: Sequence[Hashable], compute: "Callable[[list[int]], Iterable[NDArray[Any]]]"
    ) -> "list[NDArray[Any]]":
        """The array kept under each key; those of other keys are computed, by their places, and kept."""
        rows: dict[Hashable, Any] = {key: self.get(key) for key in dict.fromkeys(keys)}
        places = {key: place for place, key in enumerate(keys) if rows[key] is None}
        new = compute(list(places.values())) if places else ()
        for key, row in zip(places, new, strict=True):
            rows[key] = row
            self.put(key, row, row.nbytes)
        return [rows[key] for key in keys]

    @contextmanager
    def counted(self, counts: dict[str, int], name: str) -> Iterator[None]:
        """Adds the values that are found meanwhile to a count."""
        before = self.hits
        yield
        counts[name] = counts.get(name, 0) + self.hits - before

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._values.clear()
            self.size = 0

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keeps a value of ``size`` bytes; room is made by dropping old ones."""
        size += _OVERHEAD
        if size > self.limit:
            return
        with self._lock:
            self.size += size - self._values.pop(key, (None, 0))[1]
            self._values[key] = value, size
            while self.size > self.limit:
                self.size -= self._values.popitem(last=False)[1][1]


def content_key(*parts: bytes) -> bytes:
    """A 16-byte key for some content."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.digest()


MEMO = Memo()
