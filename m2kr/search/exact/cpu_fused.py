"""Bounds of MaxSim scores by the compiled kernel, `maxsim.c`: products, maxima and sums in one go.

Four tokens of a passage share a scale s: a token is d = s c + e with int8 codes c, and r is the longest
|e| of the four. A query row is q = a h + f, with codes h of 8 or 16 bits. In the terms of `bounds`,
x = s c and y = a h, so that for the tokens j and rows i of a passage

    q_i·d_j  <=  a_i s_j (h_i·c_j)  +  |y_i| r_j  +  |f_i| |d_j|
    s(q, p)  <=  sum_i a_i max_j ( s_j (h_i·c_j) + |h_i| r_j )  +  B n,      B = sum_i |f_i|

which is tighter than `bounds`' own form: each token brings the residual of its own four, not that of the
passage's worst. The kernel gives the first sum. There h·c is exact in int32 (at most 512 dims of at most
2**15 * 127); turned to float32, scaled and added to |h| r it is rounded three times, each time by 2**-24
of less than |y| (n + r); the sum over rows is in float64, and rounded once. |h|, r, n and B are as little
too small, or made larger by what they may be, as `bounds` says. So ``slack (A + B)(n + r)`` covers it all as
it does there, and U = the kernel's sum + B n + slack (A + B)(n + r) is never below the canonical score.

The kernel is compiled when the package is built, if there is a compiler; where there is none, or it gives
anything wrong when it is tried, `passes` do the work. ``M2KR_KERNEL=torch`` says so, too; the name of a
kind (``avx2``) takes that one instead of the best that runs here.
"""

import ctypes
import importlib.util
import logging
import os
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.errors import InputError, M2KRError, UsageError
from m2kr.search.exact import bounds, canonical, reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from m2kr.concurrency import Workers
    from m2kr.search.exact.canonical import RoundedQuery

logger = logging.getLogger("m2kr.search")

VARIABLE = "M2KR_KERNEL"
GROUP = 4  # tokens that share a scale
MOST_DIMS = 512
_LANES = 16  # the most of any kind
_SPAN = 64  # passages a thread takes at a time, at least
_SPANS = 8  # times that it takes some, at most


@dataclass(frozen=True, slots=True, eq=False)
class FusedCodes:
    """Consecutive passages in the kernel's codes.

    Attributes:
        dim: Numbers in a vector.
        offsets: int64; passage i owns tokens ``offsets[i]`` to ``offsets[i + 1] - 1``.
        groups: int64, likewise its groups of four.
        codes: (tokens x dim, up to a multiple of 16) int8; a passage's tokens are sorted by magnitude.
        starts: (tokens) int32, -128 times the sum of a token's codes.
        scales: (groups) float32, the s of the module's text.
        residuals: (groups) float32, its r.
        residual: (passages) float32, the largest r.
        length: (passages) float32, the n of `bounds`.
        shortest: (passages) float32, the length of the shortest token, 0 if one is all zeros.
    """

    dim: int
    offsets: "NDArray[np.int64]"
    groups: "NDArray[np.int64]"
    codes: "NDArray[np.int8]"
    starts: "NDArray[np.int32]"
    scales: "NDArray[np.float32]"
    residuals: "NDArray[np.float32]"
    residual: "NDArray[np.float32]"
    length: "NDArray[np.float32]"
    shortest: "NDArray[np.float32]"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def part(self, first: int, last: int) -> "FusedCodes":
        """Passages ``first`` to ``last - 1``, numbered from 0; nothing is copied but where each begins."""
        a, b = int(self.offsets[first]), int(self.offsets[last])
        c, d = int(self.groups[first]), int(self.groups[last])
        return FusedCodes(
            self.dim,
            self.offsets[first : last + 1] - a,
            self.groups[first : last + 1] - c,
            *(self.codes[a:b], self.starts[a:b], self.scales[c:d], self.residuals[c:d]),
            *(side[first:last] for side in (self.residual, self.length, self.shortest)),
        )

    @classmethod
    def empty(cls, dim: int, offsets: "NDArray[np.int64]") -> "FusedCodes":
        """Room for the codes of passages with these tokens."""
        lengths = np.diff(offsets)
        groups = np.concatenate([[0], np.cumsum(-(-lengths // GROUP))]).astype(np.int64)
        tokens, fours = int(offsets[-1]), int(groups[-1])
        return cls(
            dim,
            np.ascontiguousarray(offsets, np.int64),
            groups,
            np.empty((tokens, code_width(dim)), np.int8),
            np.empty(tokens, np.int32),
            *(np.empty(n, np.float32) for n in (fours, fours, *[len(lengths)] * 3)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class FusedRows:
    """Queries in the kernel's codes.

    Attributes:
        laid_out: Their rows as the kind of processor takes them.
        bits: Of a code.
        scales: (rows and some more) float32, the a of the module's text.
        lengths: (as many) float32, |h|.
        offsets: int64; query i owns rows ``offsets[i]`` to ``offsets[i + 1] - 1``.
        big_a: (queries) float32, the A of `bounds`.
        big_b: (queries) float32, its B.
    """

    laid_out: "NDArray[np.uint8]"
    bits: int
    scales: "NDArray[np.float32]"
    lengths: "NDArray[np.float32]"
    offsets: "NDArray[np.int64]"
    big_a: "NDArray[np.float32]"
    big_b: "NDArray[np.float32]"

    def __len__(self) -> int:
        return len(self.offsets) - 1


class _Codes(ctypes.Structure):
    """``Codes`` of `maxsim.c`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("dim", "padded")),
        *(
            (name, ctypes.c_void_p)
            for name in ("offsets", "groups", "codes", "starts", "scales", "residuals")
        ),
    )


class _Query(ctypes.Structure):
    """``Query`` of `maxsim.c`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("dim", "padded", "rows", "stride")),
        *((name, ctypes.c_void_p) for name in ("by_row", "by_dim", "off")),
    )


class _Rows(ctypes.Structure):
    """``Rows`` of `maxsim.c`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "bits")),
        *((name, ctypes.c_void_p) for name in ("laid_out", "scales", "lengths")),
        ("queries", ctypes.c_int64),
        ("offsets", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """The compiled kernel for one kind of processor. Its calls leave Python's lock.

    Attributes:
        name: Of the kind, as ``avx512-vnni``.
        bits: Of query codes that cost least.
    """

    name: str
    bits: int
    _library: Any
    _kind: int

    def code(
        self,
        tokens: "NDArray[np.float16]",
        offsets: "NDArray[np.int64]",
        workers: "Workers | None" = None,
        first: int = 0,
    ) -> FusedCodes:
        """Codes passages.

        Args:
            tokens: (all tokens x dim) float16, passage after passage.
            offsets: Where each begins, and where the last one ends.
            workers: Who does it; by default this thread.
            first: Number of the first passage, for messages.

        Raises:
            InputError: a token is NaN or infinite.
        """
        tokens = np.ascontiguousarray(tokens, np.float16)
        found = FusedCodes.empty(tokens.shape[1], offsets)
        codes = _codes(found)

        def code(span: tuple[int, int]) -> None:
            begin, end = span
            self._check(
                self._library.fused_code(
                    self._kind,
                    ctypes.c_void_p(tokens.ctypes.data + tokens.strides[0] * int(offsets[begin])),
                    ctypes.byref(codes),
                    begin,
                    end,
                    *map(_address, (found.residual, found.length, found.shortest)),
                )
            )

        _map(workers, code, len(found))
        broken = np.flatnonzero(~np.isfinite(found.length))
        if len(broken):
            raise InputError(
                "a token has a value that is NaN or infinite",
                where=f"passage {first + broken[0]}",
                fix="encode it again",
            )
        return found

    def rows(self, queries: "Sequence[RoundedQuery]", dim: int, bits: int) -> FusedRows:
        """Codes queries, each with one row at least."""
        rows = np.concatenate([query.rows for query in queries]).astype(np.float64)
        counts = [len(query.rows) for query in queries]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        whole, scales = _code_rows(rows, bits)
        exact = whole * scales[:, None]
        codes = whole.astype(np.int16)
        room = np.zeros(-(-len(rows) // _LANES) * _LANES, np.float32)
        laid_out = np.empty(
            self._library.fused_rows_bytes(self._kind, len(rows), code_width(dim), bits), np.uint8
        )
        self._library.fused_rows(
            self._kind, _address(codes), len(rows), dim, code_width(dim), bits, _address(laid_out)
        )
        starts = offsets[:-1]
        return FusedRows(
            laid_out,
            bits,
            _filled(room, scales),
            _filled(room, _longer(whole)),
            offsets,
            np.add.reduceat(_longer(exact), starts).astype(np.float32),
            np.add.reduceat(_longer(rows - exact), starts).astype(np.float32),
        )

    def bounds(
        self,
        codes: FusedCodes,
        rows: FusedRows,
        workers: "Workers | None" = None,
        numbers: "NDArray[np.int64] | None" = None,
    ) -> "NDArray[np.float32]":
        """Upper bounds of canonical scores, (queries x passages); nonsense for passages without tokens.

        Args:
            codes: The passages.
            rows: The queries.
            workers: Who does it; by default this thread.
            numbers: Which passages; by default all.
        """
        found = self.sums(codes, rows, workers, numbers)
        which = slice(None) if numbers is None else numbers
        most = int(np.diff(rows.offsets).max(initial=0))
        length, residual = codes.length[which], codes.residual[which]
        spread = np.float32(bounds.slack(codes.dim, most)) * (length + residual)
        found += rows.big_b[:, None] * (length + spread)
        found += rows.big_a[:, None] * spread
        return found

    def sums(
        self,
        codes: FusedCodes,
        rows: FusedRows,
        workers: "Workers | None" = None,
        numbers: "NDArray[np.int64] | None" = None,
    ) -> "NDArray[np.float32]":
        """The first sum of the module's text, as `bounds` takes it."""
        count = len(codes) if numbers is None else len(numbers)
        found = np.empty((len(rows), count), np.float32)
        there, asked = _codes(codes), _rows(rows)

        def fill(span: tuple[int, int]) -> None:
            begin, end = span
            chosen = np.arange(begin, end) if numbers is None else numbers[begin:end]
            chosen = np.ascontiguousarray(chosen, np.int64)
            self._check(
                self._library.fused_bounds(
                    self._kind,
                    ctypes.byref(there),
                    ctypes.byref(asked),
                    _address(chosen),
                    end - begin,
                    ctypes.c_void_p(found.ctypes.data + 4 * begin),
                    count,
                )
            )

        _map(workers, fill, count)
        return found

    def scores(
        self,
        query: "RoundedQuery",
        tokens: "NDArray[np.float16]",
        starts: "NDArray[np.int64]",
        lengths: "NDArray[np.int64]",
        longest: "NDArray[np.float32]",
    ) -> "NDArray[np.float64]":
        """Canonical scores of passages where no order of summation rounds; see `reference`.

        Products are summed in float32 first, in any order. Those of float16 numbers are exact there, so that
        each of K sums is off by 2**-24 of at most |q| |d|, and the whole by less than e = 2**-23 K |q| |d|.
        The token with the largest exact product has a float32 one that is at most e below its own, which
        is at least that of the token with the largest float32 one, less e again: it is among those within
        2 e of the maximum, and these alone are multiplied in float64.

        Args:
            query: With one row at least.
            tokens: (some tokens x dim) float16, C-contiguous.
            starts: int64; the passages are ``tokens[starts[i]:starts[i] + lengths[i]]``.
            lengths: int64, none of them 0.
            longest: float32, the length of each one's longest token, or slightly more.
        """
        rows = query.rows.astype(np.float32)
        count, dim = rows.shape
        width, stride = code_width(dim), -(-count // _LANES) * _LANES
        by_row, by_dim = np.zeros((count, width), np.float32), np.zeros((dim, stride), np.float32)
        by_row[:, :dim], by_dim[:, :count] = rows, rows.T
        off = _filled(
            np.zeros(stride, np.float32), _longer(rows.astype(np.float64)) * np.float32(_off(dim))
        )
        starts, lengths = (np.ascontiguousarray(side, np.int64) for side in (starts, lengths))
        longest = np.ascontiguousarray(longest, np.float32)
        found = np.empty(len(starts))
        arrays = (side.ctypes.data for side in (by_row, by_dim, off))
        self._check(
            self._library.fused_scores(
                self._kind,
                _address(tokens),
                ctypes.byref(_Query(dim, width, count, stride, *arrays)),
                *(_address(starts), _address(lengths), _address(longest)),
                len(starts),
                _address(found),
            )
        )
        return found

    @staticmethod
    def _check(failed: int) -> None:
        if failed:
            raise MemoryError("for the search's kernel")


def code_width(dim: int) -> int:
    """Bytes of a token's codes."""
    return -(-dim // 16) * 16


def _code_rows(
    rows: "NDArray[np.float64]", bits: int
) -> "tuple[NDArray[np.float64], NDArray[np.float32]]":
    """Whole numbers of so many bits for (rows x dim), and the scale of each row."""
    most = 2 ** (bits - 1) - 1
    scales = (np.abs(rows).max(1) / most).astype(np.float32)
    # The scale is rounded, so a code could become one more than it may be.
    return np.clip(np.rint(rows / scales[:, None]), -most, most), scales


def _off(dim: int) -> float:
    """Twice what a float32 product may be off by, per unit of |q| |d|; see `Kernel.scores`."""
    return 2.0**-22 * (dim + 2)


def _longer(vectors: "NDArray[np.float64]") -> "NDArray[np.float32]":
    """Lengths of rows, float32, never below the true ones."""
    found: NDArray[np.float64] = np.sqrt((vectors * vectors).sum(1)) * (1 + 2.0**-20)
    return found.astype(np.float32)


def _filled(room: "NDArray[np.float32]", values: "NDArray[np.float32]") -> "NDArray[np.float32]":
    found = room.copy()
    found[: len(values)] = values
    return found


def _map(
    workers: "Workers | None", function: "Callable[[tuple[int, int]], None]", count: int
) -> None:
    """Calls a function for spans of so many passages."""
    if workers is None:
        function((0, count))
    else:
        size = max(_SPAN, -(-count // (_SPANS * workers.threads)))
        workers.map(function, [(i, min(i + size, count)) for i in range(0, count, size)])


def _address(array: "NDArray[Any]") -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _codes(found: FusedCodes) -> _Codes:
    arrays = (found.offsets, found.groups, found.codes, found.starts, found.scales, found.residuals)
    return _Codes(found.dim, found.codes.shape[1], *(array.ctypes.data for array in arrays))


def _rows(found: FusedRows) -> _Rows:
    return _Rows(
        int(found.offsets[-1]),
        found.bits,
        *(array.ctypes.data for array in (found.laid_out, found.scales, found.lengths)),
        len(found),
        found.offsets.ctypes.data,
    )


def kernel() -> Kernel | None:
    """The kernel that this process uses, tried once; None where torch does the work.

    Raises:
        UsageError: ``M2KR_KERNEL`` names no kind that runs here.
    """
    return _chosen(os.environ.get(VARIABLE, ""))[0]


def kernel_passes(dim: int) -> tuple[str, ...]:
    """Names of the kernel's passes over vectors of so many dims; none where it can't be used."""
    one = kernel()
    if one is None or dim > MOST_DIMS:
        return ()
    return ("fused-int8", "fused-int16") if one.bits == 8 else ("fused-int16",)


def kernel_state() -> str:
    """Which kernel runs, or why none does, in words."""
    return _chosen(os.environ.get(VARIABLE, ""))[1]


@cache
def _chosen(asked: str) -> tuple[Kernel | None, str]:
    if asked == "torch":
        return None, f"torch ({VARIABLE} says so)"
    library = _library()
    kinds = [] if library is None else _kinds(library)
    if asked and asked not in [kind.name for kind in kinds]:
        raise UsageError(
            f"{VARIABLE} is '{asked}'",
            expected=" or ".join(["torch", *(kind.name for kind in kinds)]),
        )
    for kind in kinds:
        if asked in ("", kind.name):
            if proves_right(kind):
                return kind, kind.name
            logger.warning(
                "the search's compiled kernel (%s) gives wrong results here and is not used; "
                "torch searches instead, more slowly",
                kind.name,
            )
            return None, f"torch (the kernel {kind.name} gives wrong results here)"
    if library is None:
        return None, "torch (the kernel was not compiled when m2kr was installed)"
    return None, "torch (no compiled kernel is for this processor)"


def _library() -> Any:
    spec = importlib.util.find_spec("m2kr.search.exact._maxsim")
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        library.fused_name.restype = ctypes.c_char_p
        whole = ctypes.c_int64
        results = ("kinds", "bits", "works", "rows_bytes", "code", "bounds", "scores")
        for name in results:
            getattr(library, f"fused_{name}").restype = whole
        pointer = ctypes.c_void_p
        arguments: dict[str, list[Any]] = {
            "rows_bytes": [whole] * 4,
            "rows": [whole, pointer, *[whole] * 4, pointer],
            "code": [whole, pointer, pointer, whole, whole, *[pointer] * 3],
            "scores": [whole, *[pointer] * 5, whole, pointer],
            "bounds": [whole, *[pointer] * 3, whole, pointer, whole],
        }
        for name, types in arguments.items():
            getattr(library, f"fused_{name}").argtypes = types
        for name in ("name", "bits", "works"):
            getattr(library, f"fused_{name}").argtypes = [whole]
    except (OSError, AttributeError) as error:
        logger.warning("the search's compiled kernel can't be loaded: %s", error)
        return None
    return library


def _kinds(library: Any) -> list[Kernel]:
    """Those that this processor can run, the fastest first."""
    return [
        Kernel(library.fused_name(kind).decode(), library.fused_bits(kind), library, kind)
        for kind in range(library.fused_kinds())
        if library.fused_works(kind)
    ]


def proves_right(one: Kernel) -> bool:
    """Tries a kernel on random and extreme inputs, whose results numpy computes."""
    rng = np.random.default_rng(18)
    lengths = np.array([1, 2, 3, 4, 5, 0, 90, 17])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    for dim in (128, 37):
        tokens = rng.standard_normal((int(offsets[-1]), dim))
        tokens[5:9] = 60000.0 * np.sign(tokens[5:9])
        tokens[9], tokens[12] = 2.0**-24, 0
        rows = [rng.standard_normal((n, dim)) for n in (1, 16, 100, 33)]
        rows[1][:], rows[2][3] = 60000.0, -(2.0**-24)
        stored = tokens.astype(np.float16)
        queries = canonical.rounded_queries(rows, dim)
        try:
            codes = one.code(stored, offsets)
            right = _codes_right(codes, stored.astype(np.float64)) and all(
                _sums_right(one, codes, queries, bits) for bits in (8, 16)
            )
            right = right and _scores_right(one, rng, lengths, dim)
        except M2KRError:
            right = False
        if not right:
            return False
    return True


def _codes_right(found: FusedCodes, tokens: "NDArray[np.float64]") -> bool:
    codes = found.codes.astype(np.float64)
    norms = np.sqrt((tokens * tokens).sum(1))
    right = (np.abs(codes) <= 127).all() and (found.starts == -128 * codes.sum(1)).all()
    for passage, (first, last) in enumerate(pairwise(found.offsets)):
        magnitudes = np.abs(tokens[first:last]).max(1)
        order = first + np.argsort(-magnitudes, kind="stable")
        for group, start in enumerate(range(first, last, GROUP), int(found.groups[passage])):
            four = slice(start, min(start + GROUP, last))
            true = tokens[order[four.start - first : four.stop - first]]
            scale, residual = found.scales[group], found.residuals[group]
            lost = np.sqrt(((true - scale * codes[four, : found.dim]) ** 2).sum(1)).max()
            spare = 2.0**-20 * (norms[order[four.start - first : four.stop - first]].max() + lost)
            right &= np.isclose(scale, np.abs(true).max() / 127 or 1, rtol=1e-6, atol=0)
            right &= lost <= residual + spare and residual <= lost * 1.01 + spare
            right &= residual <= found.residual[passage]
        if last > first:
            right &= norms[first:last].max() <= found.length[passage]
            right &= (found.shortest[passage] > 0) == (norms[first:last].min() > 0)
    return bool(right)


def _sums_right(
    one: Kernel,
    codes: FusedCodes,
    queries: "Sequence[RoundedQuery]",
    bits: int,
) -> bool:
    coded = one.rows(queries, codes.dim, bits)
    found = one.sums(codes, coded)
    counts = np.diff(codes.groups)
    there = np.flatnonzero(counts)
    scales, residuals = (
        np.repeat(side, GROUP)[_of_tokens(codes)].astype(np.float64)
        for side in (codes.scales, codes.residuals)
    )
    for number, query in enumerate(queries):
        whole, steps = _code_rows(query.rows.astype(np.float64), bits)
        norms = np.sqrt((whole * whole).sum(1))
        values = (whole @ codes.codes[:, : codes.dim].T.astype(np.float64)) * scales
        values += norms[:, None] * residuals
        best = np.maximum.reduceat(values, codes.offsets[:-1][there], axis=1)
        right = (best * steps[:, None]).sum(0)
        spare = bounds.slack(codes.dim, len(whole)) * coded.big_a[number]
        spare = spare * (codes.length + codes.residual)[there]
        if not (np.abs(found[number, there] - right) <= spare).all():
            return False
    return True


def _scores_right(
    one: Kernel, rng: np.random.Generator, lengths: "NDArray[np.int64]", dim: int
) -> bool:
    """To the bit, with tokens and rows of any size that is exact in all orders."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens, rows = (
        (rng.standard_normal((n, dim)) * rng.choice([2.0**-12, 0.1, 0.2], (n, 1))).astype(
            np.float16
        )
        for n in (int(offsets[-1]), 43)
    )
    numbers = np.flatnonzero(lengths)[::-1]
    for query in canonical.rounded_queries([rows, rows[:1]], dim):
        longest = np.full(len(numbers), np.sqrt((tokens.astype(np.float64) ** 2).sum(1)).max() + 1)
        found = one.scores(query, tokens, offsets[numbers], lengths[numbers], longest)
        right = reference.maxsim_many(query.rows, tokens, offsets)[numbers]
        if found.tobytes() != right.tobytes():
            return False
    return True


def _of_tokens(codes: FusedCodes) -> "NDArray[np.int64]":
    """Place of each token if passages began with a group of four, whole ones."""
    lengths = np.diff(codes.offsets)
    return np.arange(int(codes.offsets[-1])) + np.repeat(
        codes.groups[:-1] * GROUP - codes.offsets[:-1], lengths
    )
