"""What the cheap passes are: upper bounds of many MaxSim scores at once, from coarse codes.

Each pass codes tokens and query rows coarsely, multiplies the codes with torch and takes maxima over
each passage. `bounds` proves that what comes out, plus a margin, is never below the canonical score.
The passes themselves are in `quantise`.

A product's output is much bigger than its inputs, so products are cut into tiles whose output stays
in the cache until its maxima are taken. Passages of a tile have the same length, which makes the
maximum over each a plain reduction. For each shape of a product the library makes and keeps a program,
so both sides are rounded up to few shapes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from m2kr.search.exact import bounds

if TYPE_CHECKING:
    import torch

TILE_TOKENS = 2048
GROUP_ROWS = 400
ROUND_TOKENS, _ROUND_ROWS = 128, 16


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


class Pass(Protocol):
    """One way to code and multiply. Tensors are on one device throughout."""

    name: str

    @property
    def dtype(self) -> "torch.dtype":
        """The type of token codes."""
        ...

    def code_tokens(self, tokens: "torch.Tensor") -> CodedTokens:
        """Codes (passages x length x dim) float16 tokens."""
        ...

    def code_rows(self, rows: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """Codes (rows x dim) float32 query rows: codes, the scale of each, and y (see `bounds`)."""
        ...

    @property
    def product_dtype(self) -> "torch.dtype":
        """The type of products and their maxima."""
        ...

    def multiply(self, left: "torch.Tensor", right: "torch.Tensor", out: "torch.Tensor") -> None:
        """Products of token codes (tokens x dim) and query codes (dim x rows)."""
        ...

    def highest(self, products: "torch.Tensor", out: "torch.Tensor") -> None:
        """Maxima of (passages x length x rows) products over the length, `widen` permitting."""
        ...

    def widen(self, maxima: "torch.Tensor") -> "torch.Tensor":
        """Maxima to upper bounds w_i without scales, float32; see `bounds`."""
        ...


def code_queries(one: Pass, rows: "torch.Tensor", lengths: "list[int]") -> CodedQueries:
    """Codes queries whose rows lie one after another.

    Args:
        one: The pass.
        rows: (all rows x dim) float32, multiples of 2**-24.
        lengths: Rows of each query.
    """
    import torch

    padding = rounded(len(rows), _ROUND_ROWS) - len(rows)
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
    padded = codes[: rounded(count, ROUND_TOKENS)]
    products = work[: len(padded) * rows].view(len(padded), rows)
    one.multiply(padded, queries.codes, products)
    one.highest(products[:count].view(passages, length, rows), out)
    return out


def work_size(tokens: int, queries: CodedQueries) -> int:
    """Values that `maxima` needs for the products of so many tokens."""
    return rounded(tokens, ROUND_TOKENS) * queries.codes.shape[1]


def rounded(number: int, step: int) -> int:
    """The next multiple of ``step``."""
    return -(-number // step) * step
