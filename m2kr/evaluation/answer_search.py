"""Which texts hold which answers: all answers are looked for at once, in one pass over the texts.

Holding means the official ``answer.strip().lower() in text.lower()``, and for whole words that no letter
or digit goes on before or after. UTF-8 bytes hold the same substrings as characters do. Each answer has
an anchor, its rarest four bytes (of a shorter one: all), and only where an anchor lies in a text is the
whole answer compared.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

ANCHOR = 4  # bytes; of shorter answers each size takes a pass of its own
_BITS = 20
_SPREAD = np.uint32(0x9E3779B1)
_APART = b"\xff"  # between texts: in no UTF-8
_PAD = 8  # bytes that a comparison reads at once
_CELLS = 1 << 24  # of answers x texts at a time
TEXTS_AT_ONCE = 2048  # in memory, whatever the pool


class AnswerSearch:
    """Finds any of some strings in texts.

    Args:
        answers: Distinct, in lower case, none of them empty.

    Attributes:
        texts_at_once: How many texts to give to `matches`, so that memory grows with nothing.
    """

    def __init__(self, answers: Sequence[str]) -> None:
        self.texts_at_once = min(TEXTS_AT_ONCE, max(64, _CELLS // max(1, len(answers))))
        self._encoded = [answer.encode() for answer in answers]
        self._lengths = np.array([len(raw) for raw in self._encoded], np.int64)
        padded = [raw + bytes(-len(raw) % _PAD) for raw in self._encoded]
        self._eights = np.frombuffer(b"".join(padded), "<u8")
        self._first_eight = np.cumsum([0, *(len(raw) // _PAD for raw in padded)])
        self._begins_in_word = np.array([answer[0].isalnum() for answer in answers], bool)
        self._ends_in_word = np.array([answer[-1].isalnum() for answer in answers], bool)
        self._anchors: list[_Anchors] = []

    def matches(self, texts: Sequence[str]) -> "NDArray[np.uint8]":
        """(answers x texts): 2 where a text holds an answer as a whole word, 1 within one, else 0.

        Args:
            texts: In lower case, at most `texts_at_once`.
        """
        found = np.zeros((len(self._lengths), len(texts)), np.uint8)
        raw = _APART.join([text.encode() for text in texts])
        buffer = np.frombuffer(_APART + raw + _APART * _PAD, np.uint8)
        starts = np.flatnonzero(buffer == _APART[0])[: len(texts)]
        grams = _unaligned(buffer, "<u4")[: len(buffer) - _PAD + 1]
        self._anchors = self._anchors or self._rarest(grams)
        for anchors in self._anchors:
            answers, places = self._confirmed(*anchors.candidates(grams), buffer)
            texts_ = np.searchsorted(starts, places, side="left") - 1
            found[answers, texts_] = 1
            words = self._are_words(answers, places, buffer)
            found[answers[words], texts_[words]] = 2
        return found

    def _rarest(self, grams: "NDArray[np.uint32]") -> "list[_Anchors]":
        """By size the anchors: the part of each answer that the first texts hold least often."""
        sizes = np.minimum(self._lengths, ANCHOR)
        tables = []
        for size in np.unique(sizes).tolist():
            answers = np.flatnonzero(sizes == size)
            joined = b"".join(self._encoded[i] for i in answers.tolist()) + bytes(_PAD)
            lengths = self._lengths[answers]
            parts = lengths - size + 1
            owner = np.repeat(np.arange(len(answers)), parts)
            first = np.cumsum(parts) - parts
            offset = np.arange(len(owner)) - first[owner]
            begin = np.cumsum(lengths) - lengths
            window = _unaligned(np.frombuffer(joined, np.uint8), "<u4")[begin[owner] + offset]
            counts = np.bincount(_slots(grams, size), minlength=1 << _BITS)
            best = np.lexsort((offset, counts[_slots(window, size)], owner))[first]
            tables.append(_Anchors(size, answers, window[best], offset[best]))
        return tables

    def _confirmed(self, answers: "Ints", places: "Ints", buffer: "Bytes") -> "tuple[Ints, Ints]":
        """Of candidates those that are there, compared eight bytes at a time."""
        inside = (places > 0) & (places + self._lengths[answers] <= len(buffer) - _PAD)
        answers, places = answers[inside], places[inside]
        text = _unaligned(buffer, "<u8")
        settled = [(answers[:0], places[:0])]
        step = 0
        while len(answers):
            left = self._lengths[answers] - step * _PAD
            shift = (8 * np.maximum(_PAD - left, 0)).astype(np.uint64)
            read = text[places + step * _PAD] << shift >> shift
            same = read == self._eights[self._first_eight[answers] + step]
            done, more = same & (left <= _PAD), same & (left > _PAD)
            settled.append((answers[done], places[done]))
            answers, places = answers[more], places[more]
            step += 1
        return np.concatenate([a for a, _ in settled]), np.concatenate([p for _, p in settled])

    def _are_words(self, answers: "Ints", places: "Ints", buffer: "Bytes") -> "NDArray[np.bool_]":
        before = places - 1
        for _ in range(3):  # to where that character begins
            before = before - (buffer[before] & 0xC0 == 0x80)
        within = self._begins_in_word[answers] & _is_alnum(buffer, before)
        after = places + self._lengths[answers]
        within |= self._ends_in_word[answers] & _is_alnum(buffer, after)
        return ~within


class _Anchors:
    """The anchors of one size by their slot in a table, and the answers of each slot."""

    def __init__(
        self, size: int, answers: "Ints", anchors: "NDArray[np.uint32]", offsets: "Ints"
    ) -> None:
        self._size = size
        slots = _slots(anchors, size)
        order = np.argsort(slots, kind="stable")
        self._answers, self._offsets = answers[order], offsets[order]
        used, self._first, self._counts = np.unique(
            slots[order], return_index=True, return_counts=True
        )
        self._used = np.zeros(1 << _BITS, bool)
        self._used[used] = True
        self._group = np.zeros(1 << _BITS, np.int32)
        self._group[used] = np.arange(len(used))

    def candidates(self, grams: "NDArray[np.uint32]") -> "tuple[Ints, Ints]":
        """Answers, and the places where each would begin for its anchor to lie where it does."""
        slots = _slots(grams, self._size)
        places = np.flatnonzero(self._used.take(slots, mode="clip"))
        group = self._group[slots[places]]
        counts = self._counts[group]
        ends = np.cumsum(counts)
        entries = np.arange(ends[-1] if len(ends) else 0)
        entries += np.repeat(self._first[group] - ends + counts, counts)
        return self._answers[entries], np.repeat(places, counts) - self._offsets[entries]


def _unaligned(buffer: "Bytes", kind: str) -> "NDArray[Any]":
    """The numbers that begin at each byte, where one fits."""
    count = len(buffer) - np.dtype(kind).itemsize + 1
    return np.ndarray((count,), kind, buffer, strides=(1,))


def _slots(grams: "NDArray[np.uint32]", size: int) -> "NDArray[np.uint32]":
    """Places in a table of ``2 ** _BITS`` for the first bytes of each four."""
    if size < ANCHOR:
        grams = grams & np.uint32((1 << 8 * size) - 1)
    return (grams * _SPREAD) >> np.uint32(32 - _BITS)


_ASCII_ALNUM = np.array([chr(i).isalnum() for i in range(128)] + [False] * 128)


def _is_alnum(buffer: "Bytes", places: "Ints") -> "NDArray[np.bool_]":
    """Whether the characters that begin at some places are letters or digits; a text's end is none."""
    lead = buffer[places]
    known = _ASCII_ALNUM[lead]
    wide = np.flatnonzero((lead >= 0xC0) & (lead < 0xF8))
    if len(wide):
        begin, first = places[wide], lead[wide].astype(np.int64)
        size = 2 + (first >= 0xE0) + (first >= 0xF0)
        code = first & (0x7F >> size)
        for nth in range(1, ANCHOR):
            more = nth < size
            code = np.where(more, code << 6 | buffer[begin + nth * more] & 0x3F, code)
        codes, which = np.unique(code, return_inverse=True)
        known[wide] = np.array([chr(c).isalnum() for c in codes.tolist()], bool)[which]
    return known
