"""How far a cheap MaxSim can be from the canonical one: the proof that discarding is safe.

Let q_i be the rows of a query and d_j the tokens of a passage p, both float16 as the canonical scorer
sees them (zero rows left out), K their dimension and L the number of rows. A cheap pass replaces

    d_j = x_j + e_j      q_i = y_i + f_i

by coarser x_j and y_i (bfloat16, or int8 times a scale), multiplies those, and takes maxima. Then

    q_i·d_j = y_i·x_j + y_i·e_j + f_i·d_j
           <= y_i·x_j + |y_i| |e_j| + |f_i| |d_j|                               (Cauchy-Schwarz)

and with w_i >= max_j y_i·x_j, r = max_j |e_j| and n = max_j |d_j| over the passage's tokens

    s(q, p) = sum_i max_j q_i·d_j  <=  sum_i w_i  +  A r  +  B n,   A = sum_i |y_i|,  B = sum_i |f_i|.

A zero token in the passage only raises the right side. That is exact arithmetic; rounding comes on top:

* y_i·x_j. *int8*: int32 sums are exact (K 127² < 2**31). *float32 and bfloat16*: products and sums are
  float32, in any order, with or without FMA. Each of at most K steps is off by u = 2**-24 of the
  partial sums, or by 2u where the hardware truncates (tensor cores), so the sum is off by at most
  1.01 K 2u |y_i| |x_j| (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Nothing
  underflows: all inputs are multiples of 2**-24, all products and partial sums of 2**-48.
* A bfloat16 product is then rounded once, to v. Round-to-nearest moves it by 2**-8 |v| at most, so it
  was at most v + 2**-8 |v|. This grows with v, so that the maximum may be taken first. Where
  all v of a row are negative, 0 may stand in for their maximum: it is above it.
* The sum over rows, the scale, A r, B n and the final additions: at most L + 8 roundings, each off
  by u of something below 1.1 (A (n + r) + B n) (Rows of
  other queries come in as zeros, which round nothing.)
* r, n, A and B themselves are computed in float32 or float64; their squares' sums are off by a
  factor of 1 + (K + 8) u at most, and so many times more than enough is added (`widened`).
  For int8 the residual e_j = d_j - a c_j is itself off by 3 u |d_j|.

All of this is below ``slack(K, L) (A + B) (n + r)`` with slack = 2**-21 (K + L + 32): u is 2**-24, so each
of the K + L + 32 roundings is granted 8 u. Altogether

    s(q, p)  <=  U(q, p)  =  sum_i w_i  +  A r  +  B n  +  slack (A + B) (n + r)

and a passage with U(q, p) below the k-th best canonical score found so far can't be among the best
k. One with U equal to it can, by its id, and is kept.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_UNIT = 2.0**-24
_GRANTED = 8 * _UNIT  # a rounding, as the module's text counts them
BF16_UNIT = 2.0**-8  # half a unit in the last place, relative, of a bfloat16


def slack(dim: int, rows: int) -> float:
    """What all float32 roundings of a pass cost at most, per unit of (A + B)(n + r)."""
    return _GRANTED * (dim + rows + 32)


def widened(vectors: "torch.Tensor") -> "torch.Tensor":
    """Euclidean lengths over the last axis, float32, never below the true ones.

    Args:
        vectors: (... x dim) float32, multiples of 2**-24 or zero, or off by the text's 3 u.
    """
    import torch

    found: torch.Tensor = torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float32)
    return found * (1 + _GRANTED * (vectors.shape[-1] + 8))


def margin(
    big_a: "torch.Tensor",
    big_b: "torch.Tensor",
    residual: "torch.Tensor",
    length: "torch.Tensor",
    dim: int,
    rows: int,
) -> "torch.Tensor":
    """A r + B n + slack (A + B)(n + r): what a pass's sums may lack, (passages x queries).

    Args:
        big_a: (queries) the A of the module's text.
        big_b: (queries) its B.
        residual: (passages) its r.
        length: (passages) its n.
        dim: Its K.
        rows: Its L, or more.
    """
    spare = slack(dim, rows) * (length + residual)
    return (residual + spare)[:, None] * big_a + (length + spare)[:, None] * big_b
