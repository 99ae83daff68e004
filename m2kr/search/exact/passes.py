"""The cheap passes: upper bounds of many MaxSim scores at once, from coarse codes.

Each pass codes tokens and query rows coarsely, multiplies the codes with torch and takes maxima over
each passage. `bounds` proves that what comes out, plus a margin, is never below the canonical score.

A product's output is much bigger than its inputs, so products are cut into tiles whose output stays
in the cache until its maxima are taken. Passages of a tile have the same length, which makes the
maximum over each a plain reduction. For each shape of a product the library makes and keeps a program,
so both sides are rounded up to few shapes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from m2kr.search.exact import bounds

if TYPE_CHECKING:
    import torch

TILE_TOKENS = 2048
GROUP_ROWS = 400
ROUND_TOKENS, _ROUND_ROWS = 128, 16
# bfloat16 maxima are taken as int16, several times faster. That needs a value that isn't negative
# in every row, so passages of few tokens, where there often is none, go the slow way.
_SHORT = 8
_FP16_UNIT, _FP16_TINY = 2.0**-11, 2.0**-25
_BEYOND = 2.0**64


@dataclass(frozen=True, slots=True)
class CodedTokens:
    """Coded tokens of some passages, and what their passages lost.

    Attributes:
        codes: (passages x length x dim), in the pass's type.
        scale: (passages) float32, what the codes are to be multiplied with.
        residual: (passages) float32, the r of `bounds`.
        length: (passages) float32, its n.
        shortest: (passages) float32, the length of the shortest token; 0 if one is all zeros.
    """

    codes: "torch.Tensor"
    scale: "torch.Tensor"
    residual: "torch.Tensor"
    length: "torch.Tensor"
    shortest: "torch.Tensor"

    def of(
        self, which: "slice | torch.Tensor", codes: "torch.Tensor | None" = None
    ) -> "CodedTokens":
        """Some of the passages, without codes or with other ones."""
        return CodedTokens(
            self.codes[:0] if codes is None else codes,
            self.scale[which],
            self.residual[which],
            self.length[which],
            self.shortest[which],
        )


@dataclass(frozen=True, slots=True)
class CodedQueries:
    """Coded rows of some queries.

    Attributes:
        codes: (dim x all rows and some zero ones), in the pass's type.
        fold: (as many rows x queries) float32; a row's scale in its query's column, else 0.
        big_a: (queries) float32, the A of `bounds`.
        big_b: (queries) float32, its B.
        rows: Rows of the longest query.
    """

    codes: "torch.Tensor"
    fold: "torch.Tensor"
    big_a: "torch.Tensor"
    big_b: "torch.Tensor"
    rows: int

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self.codes.shape[0]


class Pass:
    """One way to code and multiply; tensors are on one device throughout.

    This one, ``float32``, is for every machine: float16 codes, which are the tokens themselves,
    multiplied in float32. Its margin is about 0.0001 a query row for unit vectors.
    """

    name = "float32"
    _codes, _products = "float16", "float32"

    @property
    def dtype(self) -> "torch.dtype":
        """The type of token codes."""
        return _dtype(self._codes)

    @property
    def product_dtype(self) -> "torch.dtype":
        """The type of products and their maxima."""
        return _dtype(self._products)

    def code_tokens(self, tokens: "torch.Tensor") -> CodedTokens:
        """Codes (passages x length x dim) float16 tokens."""
        import torch

        lengths = bounds.widened(tokens.float())
        longest = lengths.amax(1)
        ones, zeros = torch.ones_like(longest), torch.zeros_like(longest)
        return CodedTokens(tokens, ones, zeros, longest, lengths.amin(1))

    def code_rows(self, rows: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """Codes (rows x dim) float32 query rows: codes, the scale of each, and y (see `bounds`)."""
        return rows, rows.new_ones(len(rows)), rows

    def multiply(self, left: "torch.Tensor", right: "torch.Tensor", out: "torch.Tensor") -> None:
        """Products of token codes (tokens x dim) and query codes (dim x rows)."""
        import torch

        torch.mm(left.float(), right, out=out)

    def highest(self, products: "torch.Tensor", out: "torch.Tensor") -> None:
        """Maxima of (passages x length x rows) products over the length, `widen` permitting."""
        import torch

        torch.amax(products, 1, out=out)

    def widen(self, maxima: "torch.Tensor") -> "torch.Tensor":
        """Maxima to upper bounds w_i without scales, float32; see `bounds`."""
        return maxima.float()


class Bf16(Pass):
    """bfloat16 codes, products rounded to bfloat16 by the library.

    The fastest where the processor multiplies bfloat16 tiles (AMX). Margin about 0.005 a row.
    """

    name = "bf16"
    _codes, _products = "bfloat16", "bfloat16"

    def code_tokens(self, tokens: "torch.Tensor") -> CodedTokens:
        """As `Pass`; the residual is what rounding to bfloat16 takes away."""
        import torch

        exact = tokens.float()
        codes = exact.bfloat16()
        lengths = bounds.widened(exact)
        residual = bounds.widened(exact.sub_(codes)).amax(1)
        return CodedTokens(
            codes, torch.ones_like(residual), residual, lengths.amax(1), lengths.amin(1)
        )

    def code_rows(self, rows: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """As `Pass`."""
        codes = rows.bfloat16()
        return codes, rows.new_ones(len(rows)), codes.float()

    def multiply(self, left: "torch.Tensor", right: "torch.Tensor", out: "torch.Tensor") -> None:
        """As `Pass`."""
        import torch

        torch.mm(left, right, out=out)

    def highest(self, products: "torch.Tensor", out: "torch.Tensor") -> None:
        """As `Pass`. Of several tokens whose products are all negative, 0 is above the maximum."""
        import torch

        if products.shape[1] < _SHORT:
            torch.amax(products, 1, out=out)
        else:
            # Signed 16-bit order is that of the floats, if one of them isn't negative.
            torch.amax(products.view(torch.int16), 1, out=out.view(torch.int16))
            out.view(torch.int16).clamp_(min=0)

    def widen(self, maxima: "torch.Tensor") -> "torch.Tensor":
        """As `Pass`."""
        import torch

        wide = maxima.float()
        if maxima.view(torch.int16).amin() >= 0:
            return wide.mul_(1 + bounds.BF16_UNIT)
        return wide.add_(wide.abs(), alpha=bounds.BF16_UNIT)


class Int8(Pass):
    """int8 codes, one scale a passage and one a query row; products exact in int32. CPU only.

    The fastest where the processor has int8 dot products only (VNNI). Margin about 0.016 a row.
    """

    name = "int8"
    _codes, _products = "int8", "int32"

    def code_tokens(self, tokens: "torch.Tensor") -> CodedTokens:
        """As `Pass`; the residual is what whole steps take away."""
        import torch

        exact = tokens.float()
        scale = _scale(exact.abs().amax((1, 2)))
        codes = (exact / scale[:, None, None]).round_()
        lengths = bounds.widened(exact)
        residual = bounds.widened(exact.sub_(codes * scale[:, None, None])).amax(1)
        return CodedTokens(codes.to(torch.int8), scale, residual, lengths.amax(1), lengths.amin(1))

    def code_rows(self, rows: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """As `Pass`."""
        import torch

        scale = _scale(rows.abs().amax(1))
        codes = (rows / scale[:, None]).round_()
        return codes.to(torch.int8), scale, codes * scale[:, None]

    def multiply(self, left: "torch.Tensor", right: "torch.Tensor", out: "torch.Tensor") -> None:
        """As `Pass`."""
        import torch

        torch._int_mm(left, right, out=out)


class Fp16(Pass):
    """float16 codes, which are the tokens and rows themselves; products rounded to float16.

    For GPUs. Tensor cores multiply float16 exactly and add the products, several at a time and each
    cut off where the largest ends, to a float32: at most 2 K numbers are cut, each by 2 u of at most
    |q_i| |d_j|, which is half of what `bounds` grants for it. Rounding to float16 moves a product v by
    2**-11 |v| or, below float16's normal numbers, by 2**-25. Margin about 0.0005 a row, so that no
    other pass need follow.

    As ``fused`` a whole block is multiplied at once and nothing is rounded to float16, see `gpu_fused`:
    its sums over rows take maxima of exact products added in float32, in an unknown order. Margin
    about 0.0002 a row.
    """

    _products = "float16"

    def __init__(self, name: str) -> None:
        self.name = name

    def code_rows(self, rows: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """As `Pass`."""
        return rows.half(), rows.new_ones(len(rows)), rows

    def multiply(self, left: "torch.Tensor", right: "torch.Tensor", out: "torch.Tensor") -> None:
        """As `Pass`."""
        import torch

        if left.is_cuda:
            torch.mm(left, right, out=out)
        else:  # what it adds float16 products in isn't known there
            out.copy_(torch.mm(left.float(), right.float()))

    def widen(self, maxima: "torch.Tensor") -> "torch.Tensor":
        """As `Pass`."""
        # What float16 can't hold is infinite: the least of it, or more than any product of two
        # float16 vectors. An infinity would make NaN of the other queries' zeros.
        wide = maxima.float().nan_to_num_(posinf=_BEYOND, neginf=-65504.0)
        return wide.add_(wide.abs(), alpha=_FP16_UNIT).add_(_FP16_TINY)


PASSES: dict[str, Pass] = {
    one.name: one for one in (Bf16(), Int8(), Pass(), Fp16("fp16"), Fp16("fused"))
}
FLAT = ("fp16", "fused")  # a block's own tokens are the codes: they need no other order


def _dtype(name: str) -> "torch.dtype":
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _scale(largest: "torch.Tensor") -> "torch.Tensor":
    """127 steps reach the largest value; zeros take any step."""
    import torch

    return torch.where(largest > 0, largest / 127, torch.ones_like(largest))


def code_queries(one: Pass, rows: "torch.Tensor", lengths: "list[int]") -> CodedQueries:
    """Codes queries whose rows lie one after another.

    Args:
        one: The pass.
        rows: (all rows x dim) float32, multiples of 2**-24.
        lengths: Rows of each query.
    """
    import torch

    padding = round_up(len(rows), _ROUND_ROWS) - len(rows)
    rows = torch.cat([rows, rows.new_zeros((padding, rows.shape[1]))])
    codes, scale, exact = one.code_rows(rows)
    counts = torch.tensor(lengths, device=rows.device)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=rows.device), counts)
    member = torch.zeros((len(rows), len(lengths)), dtype=torch.float32, device=rows.device)
    member[torch.arange(len(owner), device=rows.device), owner] = 1.0
    big_a = bounds.widened(exact)
    big_b = bounds.widened(rows - exact)
    return CodedQueries(
        codes.T.contiguous(),
        member * scale[:, None],
        (big_a[:, None] * member).sum(0),
        (big_b[:, None] * member).sum(0),
        max(lengths, default=0),
    )


def upper(
    one: Pass, maxima: "torch.Tensor", tokens: CodedTokens, queries: CodedQueries
) -> "torch.Tensor":
    """Upper bounds U of the canonical scores, (passages x queries) float32; see `bounds`."""
    import torch

    sums = torch.mm(one.widen(maxima), queries.fold) * tokens.scale[:, None]
    return sums + bounds.margin(
        queries.big_a, queries.big_b, tokens.residual, tokens.length, queries.dim, queries.rows
    )


def maxima(
    one: Pass,
    codes: "torch.Tensor",
    shape: tuple[int, int],
    queries: CodedQueries,
    work: "torch.Tensor | None" = None,
    out: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    """Multiplies and takes the maxima over each passage, (passages x rows) of `Pass.product_dtype`.

    Args:
        one: The pass.
        codes: (tokens x dim), passage after passage. Where it goes on behind them, so may the
            multiplication, to the next multiple of `ROUND_TOKENS`.
        shape: Passages, and tokens of each.
        queries: The other side.
        work: Memory for the products, as many values as `work_size` says.
        out: Memory for the result.
    """
    passages, length = shape
    rows, count = queries.codes.shape[1], passages * length
    if work is None:
        work = codes.new_empty(work_size(count, queries), dtype=one.product_dtype)
    if out is None:
        out = work.new_empty((passages, rows))
    padded = codes[: round_up(count, ROUND_TOKENS)]
    products = work[: len(padded) * rows].view(len(padded), rows)
    one.multiply(padded, queries.codes, products)
    one.highest(products[:count].view(passages, length, rows), out)
    return out


def work_size(tokens: int, queries: CodedQueries) -> int:
    """Values that `maxima` needs for the products of so many tokens."""
    return round_up(tokens, ROUND_TOKENS) * queries.codes.shape[1]


def round_up(number: int, step: int) -> int:
    """The next multiple of ``step``."""
    return -(-number // step) * step
