"""The cheap passes; `passes` says what a pass is, `bounds` why it is right.

* ``bf16``: the fastest where the processor multiplies bfloat16 tiles (AMX). Its margin is about 0.005
  a query row for unit vectors.
* ``int8``: the fastest where it has int8 dot products only (VNNI). Margin about 0.016 a row.
* ``float32``: everywhere. Margin about 0.0001 a row.
* ``fp16`` and ``fused``: for GPUs, which multiply the float16 vectors as they are, and add in float32.
  Margin about 0.0005 and 0.0002 a row, so that no other pass need follow.
"""

from typing import TYPE_CHECKING

from m2kr.search.exact import bounds
from m2kr.search.exact.passes import CodedTokens, Pass

if TYPE_CHECKING:
    import torch

# bfloat16 maxima are taken as int16, several times faster. That needs a value that isn't negative
# in every row, so passages of few tokens, where there often is none, go the slow way.
_SHORT = 8
_FP16_UNIT, _FP16_TINY = 2.0**-11, 2.0**-25
_BEYOND = 2.0**64


class Bf16:
    """bfloat16 codes, products rounded to bfloat16 by the library."""

    name = "bf16"

    @property
    def dtype(self) -> "torch.dtype":
        """The type of token codes."""
        import torch

        return torch.bfloat16

    def code_tokens(self, tokens: "torch.Tensor") -> CodedTokens:
        """Codes (passages x length x dim) float16 tokens."""
        import torch

        exact = tokens.float()
        codes = exact.bfloat16()
        lengths = bounds.widened(exact)
        residual = bounds.widened(exact.sub_(codes)).amax(1)
        return CodedTokens(
            codes, torch.ones_like(residual), residual, lengths.amax(1), lengths.amin(1)
        )

    def code_rows(self, rows: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """Codes (rows x dim) float32 query rows: codes, the scale of each, and y (see `bounds`)."""
        codes = rows.bfloat16()
        return codes, rows.new_ones(len(rows)), codes.float()

    @property
    def product_dtype(self) -> "torch.dtype":
        """The type of products and their maxima."""
        import torch

        return torch.bfloat16

    def multiply(self, left: "torch.Tensor", right: "torch.Tensor", out: "torch.Tensor") -> None:
        """Products of token codes (tokens x dim) and query codes (dim x rows)."""
        import torch

        torch.mm(left, right, out=out)

    def highest(self, products: "torch.Tensor", out: "torch.Tensor") -> None:
        """Maxima of (passages x length x rows) products over the length.

        Where there are several tokens and all products are negative, 0 is above their maximum.
        """
        import torch

        if products.shape[1] < _SHORT:
            torch.amax(products, 1, out=out)
        else:
            # Signed 16-bit order is that of the floats, if one of them isn't negative.
            torch.amax(products.view(torch.int16), 1, out=out.view(torch.int16))
            out.view(torch.int16).clamp_(min=0)

    def widen(self, maxima: "torch.Tensor") -> "torch.Tensor":
        """Maxima to upper bounds w_i without scales, float32; see `bounds`."""
        import torch

        wide = maxima.float()
        if maxima.view(torch.int16).amin() >= 0:
            return wide.mul_(1 + bounds.BF16_UNIT)
        return wide.add_(wide.abs(), alpha=bounds.BF16_UNIT)


class Int8:
    """int8 codes, one scale a passage and one a query row; products exact in int32. CPU only."""

    name = "int8"

    @property
    def dtype(self) -> "torch.dtype":
        """The type of token codes."""
        import torch

        return torch.int8

    def code_tokens(self, tokens: "torch.Tensor") -> CodedTokens:
        """Codes (passages x length x dim) float16 tokens."""
        import torch

        exact = tokens.float()
        scale = _scale(exact.abs().amax((1, 2)))
        codes = (exact / scale[:, None, None]).round_()
        lengths = bounds.widened(exact)
        residual = bounds.widened(exact.sub_(codes * scale[:, None, None])).amax(1)
        return CodedTokens(codes.to(torch.int8), scale, residual, lengths.amax(1), lengths.amin(1))

    def code_rows(self, rows: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """Codes (rows x dim) float32 query rows: codes, the scale of each, and y (see `bounds`)."""
        import torch

        scale = _scale(rows.abs().amax(1))
        codes = (rows / scale[:, None]).round_()
        return codes.to(torch.int8), scale, codes * scale[:, None]

    @property
    def product_dtype(self) -> "torch.dtype":
        """The type of products and their maxima."""
        import torch

        return torch.int32

    def multiply(self, left: "torch.Tensor", right: "torch.Tensor", out: "torch.Tensor") -> None:
        """Products of token codes (tokens x dim) and query codes (dim x rows)."""
        import torch

        torch._int_mm(left, right, out=out)

    def highest(self, products: "torch.Tensor", out: "torch.Tensor") -> None:
        """Maxima of (passages x length x rows) products over the length."""
        import torch

        torch.amax(products, 1, out=out)

    def widen(self, maxima: "torch.Tensor") -> "torch.Tensor":
        """Maxima to upper bounds w_i without scales, float32; see `bounds`."""
        return maxima.float()


class Float32:
    """float16 codes, which are the tokens themselves, multiplied in float32."""

    name = "float32"

    @property
    def dtype(self) -> "torch.dtype":
        """The type of token codes."""
        import torch

        return torch.float16

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

    @property
    def product_dtype(self) -> "torch.dtype":
        """The type of products and their maxima."""
        import torch

        return torch.float32

    def multiply(self, left: "torch.Tensor", right: "torch.Tensor", out: "torch.Tensor") -> None:
        """Products of token codes (tokens x dim) and query codes (dim x rows)."""
        import torch

        torch.mm(left.float(), right, out=out)

    def highest(self, products: "torch.Tensor", out: "torch.Tensor") -> None:
        """Maxima of (passages x length x rows) products over the length."""
        import torch

        torch.amax(products, 1, out=out)

    def widen(self, maxima: "torch.Tensor") -> "torch.Tensor":
        """Maxima to upper bounds w_i without scales, float32; see `bounds`."""
        return maxima


class Fp16:
    """float16 codes, which are the tokens and rows themselves; products rounded to float16.

    Tensor cores multiply float16 exactly and add the products, several at a time and each cut off
    where the largest ends, to a float32: at most 2 K numbers are cut, each by 2 u of at most
    |q_i| |d_j|, which is half of what `bounds` grants for it. Rounding to float16 moves a product v by
    2**-11 |v| or, below float16's normal numbers, by 2**-25.
    """

    name = "fp16"

    @property
    def dtype(self) -> "torch.dtype":
        """The type of token codes."""
        import torch

        return torch.float16

    def code_tokens(self, tokens: "torch.Tensor") -> CodedTokens:
        """Codes (passages x length x dim) float16 tokens."""
        return PASSES["float32"].code_tokens(tokens)

    def code_rows(self, rows: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """Codes (rows x dim) float32 query rows: codes, the scale of each, and y (see `bounds`)."""
        return rows.half(), rows.new_ones(len(rows)), rows

    @property
    def product_dtype(self) -> "torch.dtype":
        """The type of products and their maxima."""
        import torch

        return torch.float16

    def multiply(self, left: "torch.Tensor", right: "torch.Tensor", out: "torch.Tensor") -> None:
        """Products of token codes (tokens x dim) and query codes (dim x rows)."""
        import torch

        if left.is_cuda:
            torch.mm(left, right, out=out)
        else:  # what it adds float16 products in isn't known there
            out.copy_(torch.mm(left.float(), right.float()))

    def highest(self, products: "torch.Tensor", out: "torch.Tensor") -> None:
        """Maxima of (passages x length x rows) products over the length."""
        import torch

        torch.amax(products, 1, out=out)

    def widen(self, maxima: "torch.Tensor") -> "torch.Tensor":
        """Maxima to upper bounds w_i without scales, float32; see `bounds`."""
        # What float16 can't hold is infinite: the least of it, or more than any product of two
        # float16 vectors. An infinity would make NaN of the other queries' zeros.
        wide = maxima.float().nan_to_num_(posinf=_BEYOND, neginf=-65504.0)
        return wide.add_(wide.abs(), alpha=_FP16_UNIT).add_(_FP16_TINY)


class Fused(Fp16):
    """As `Fp16`, but a whole block at once, and nothing is rounded to float16: see `gpu_fused`.

    Its sums over rows take maxima of exact products added in float32, in an unknown order.
    """

    name = "fused"


PASSES: dict[str, Pass] = {one.name: one for one in (Bf16(), Int8(), Float32(), Fp16(), Fused())}
FLAT = ("fp16", "fused")  # a block's own tokens are the codes: they need no other order


def _scale(largest: "torch.Tensor") -> "torch.Tensor":
    """127 steps reach the largest value; zeros take any step."""
    import torch

    return torch.where(largest > 0, largest / 127, torch.ones_like(largest))
