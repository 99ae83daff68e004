"""The programs of `gpu_fused`, in Triton's language: what each means is said there.

Import it where Triton is installed, only.
"""

# ruff: noqa: N803 - upper case says that a value is known when Triton compiles.

import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]


def maxsim_kernel(
    rows: tl.tensor,
    tokens: tl.tensor,
    starts: tl.tensor,
    lengths: tl.tensor,
    sums: tl.tensor,
    all_rows: tl.tensor,
    passages: tl.tensor,
    parts_a_query: tl.tensor,
    ROWS: tl.constexpr,
    PASSAGES: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
) -> None:
    """See `gpu_fused.fused_maxsim`; ``all_rows`` counts what is in ``rows``, ``PART`` rows are one part."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * PASSAGES + tl.arange(0, PASSAGES)
    place = tl.arange(0, WIDTH)
    left = tl.load(
        rows + row[:, None] * DIM + place[None, :],
        mask=(row < all_rows)[:, None] & (place < DIM)[None, :],
        other=0.0,
    )
    # Columns beyond the last passage do what that one does, and are not stored.
    chosen = tl.minimum(column, passages - 1)
    start = tl.load(starts + chosen)
    last = tl.load(lengths + chosen) - 1
    best = tl.full((ROWS, PASSAGES), float("-inf"), tl.float32)
    for step in range(0, tl.max(last, axis=0) + 1):
        token = start + tl.minimum(last, step)
        at = tokens + token[None, :] * DIM + place[:, None]
        if WIDTH == DIM:  # noqa: SIM108 - Triton compiles one branch only
            right = tl.load(at)
        else:
            right = tl.load(at, mask=(place < DIM)[:, None], other=0.0)
        best = tl.maximum(best, tl.dot(left, right, out_dtype=tl.float32))
    added = tl.sum(tl.reshape(best, (ROWS // PART, PART, PASSAGES)), axis=1)
    part = tl.program_id(0).to(tl.int64) * (ROWS // PART) + tl.arange(0, ROWS // PART)
    query = part // parts_a_query
    tl.atomic_add(
        sums + query[:, None] * passages + column[None, :],
        added,
        mask=(part * PART < all_rows)[:, None] & (column < passages)[None, :],
        sem="relaxed",
    )


def add_in_order_kernel(
    values: tl.tensor, sums: tl.tensor, rows: tl.tensor, columns: tl.tensor, COLUMNS: tl.constexpr
) -> None:
    """See `gpu_fused.add_in_order`."""
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < columns
    total = tl.zeros((COLUMNS,), tl.float64)
    for row in range(0, rows):
        total += tl.load(values + row * columns + column, mask=inside, other=0.0)
    tl.store(sums + column, total, mask=inside)
