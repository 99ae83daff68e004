"""Triton kernels for exact search on a GPU: MaxSim without its products, and sums in order.

`fused_maxsim` multiplies float16 tokens and query rows on tensor cores and keeps only maxima. A program owns
some rows and as many passages as a tile has columns; step t multiplies the rows with token t of each
of these passages, so that the maximum over tokens is one of two tiles, number by number: nothing is
moved between threads, whatever the lengths. A passage that is shorter than its neighbours repeats its
last token, which changes no maximum; passages come sorted by length, so this is rare. Sums over a
query's rows are taken once, behind the last token.

A tile of rows meets the same tokens as those that run beside it: these come from the cache, 2 bytes
for each `TileShape.rows` products.

`kernels_work` tries both on the device, so that a Triton that is missing, fails or adds up in less than
float32 leaves the plain products of torch.

The same kernels run without a GPU under ``TRITON_INTERPRET=1``, which is how they are tested there.
"""

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from m2kr.search.exact import bounds

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("m2kr.search")
_measuring = threading.Lock()

PART = 32  # rows that are added in one go; queries are filled up to a multiple of it with zeros
_COLUMNS = 128
MOST_DIM = 256  # of wider tokens a tile doesn't fit the shared memory


@dataclass(frozen=True, slots=True)
class TileShape:
    """How a GPU should work on a tile.

    Attributes:
        rows: Query rows of a tile, a multiple of `PART`.
        passages: Passages of a tile.
        warps: Warps of a program.
        stages: Steps whose tokens are in shared memory, being fetched or used.
    """

    rows: int
    passages: int
    warps: int
    stages: int


# Accumulators and maxima take 8 bytes a product: two tiles of half the size let one multiply while
# the other takes maxima, a big one asks less of the cache. Which is faster is measured; the last one is
# for GPUs with little shared memory.
SHAPES = (
    TileShape(128, 128, 8, 3),
    TileShape(256, 64, 8, 3),
    TileShape(128, 64, 4, 3),
    TileShape(64, 128, 4, 3),
    TileShape(64, 64, 4, 2),
)


@cache
def _compiled() -> "tuple[Any, Any]":
    """Both programs. Raises ImportError where Triton isn't installed."""
    from triton import jit  # type: ignore[import-not-found, import-untyped, unused-ignore]

    from m2kr.search.exact import kernels

    # Sizes change from call to call; compiling for some of them anew isn't worth its seconds.
    sizes = ["all_rows", "passages", "parts_a_query"]
    return (
        jit(kernels.maxsim_kernel, do_not_specialize=sizes),
        jit(kernels.add_in_order_kernel, do_not_specialize=["rows", "columns"]),
    )


def fused_maxsim(
    rows: "torch.Tensor",
    queries: int,
    tokens: "torch.Tensor",
    starts: "torch.Tensor",
    lengths: "torch.Tensor",
    shape: TileShape,
) -> "torch.Tensor":
    """Per query and passage the sum over the rows of the best product, (queries x passages) float32.

    Products are exact and added in float32 in an unknown order, and so are the maxima.

    Args:
        rows: (all rows x dim) float16, contiguous, dim at most `MOST_DIM`: as many rows a query, a
            multiple of `PART`, filled up with zero rows.
        queries: How many.
        tokens: (tokens x dim) float16, contiguous.
        starts: (passages) int64, the row of each one's first token.
        lengths: (passages) int32, each 1 or more; sorted, or the work is that of the longest in
            every `TileShape.passages`.
        shape: One of `SHAPES`.
    """
    import torch

    kernel, _ = _compiled()
    dim, passages = tokens.shape[1], len(starts)
    sums = torch.zeros((queries, passages), dtype=torch.float32, device=tokens.device)
    if not queries or not passages:
        return sums
    grid = (-(-len(rows) // shape.rows), -(-passages // shape.passages))
    with _on(tokens):
        kernel[grid](
            rows,
            tokens,
            starts,
            lengths,
            sums,
            len(rows),
            passages,
            len(rows) // queries // PART,
            ROWS=shape.rows,
            PASSAGES=shape.passages,
            DIM=dim,
            WIDTH=max(16, 1 << (dim - 1).bit_length()),
            PART=PART,
            num_warps=shape.warps,
            num_stages=shape.stages,
            enable_fp_fusion=False,
        )
    return sums


def add_in_order(values: "torch.Tensor") -> "torch.Tensor":
    """Sums over the rows of a contiguous float64 matrix, first row to last, (columns)."""
    _, kernel = _compiled()
    rows, columns = values.shape
    sums = values.new_zeros(columns)
    if columns:
        with _on(values):
            grid = (-(-columns // _COLUMNS),)
            kernel[grid](values, sums, rows, columns, COLUMNS=_COLUMNS, enable_fp_fusion=False)
    return sums


def _on(tensor: "torch.Tensor") -> Any:
    """Makes a tensor's GPU the current one, where Triton starts programs."""
    import torch

    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


@cache
def kernels_work(device: str) -> bool:
    """Whether both kernels do there what `bounds` and `reference` assume; tried once a process."""
    try:
        found = all(_as_assumed(device, sign) for sign in (1.0, -1.0))
        reason = "it multiplies or adds wrongly"
    except Exception as error:  # noqa: BLE001 - a compiler's, a driver's, an operating system's
        found, reason = False, f"{type(error).__name__}: {error}".splitlines()[0]
    if not found:
        logger.info(
            "exact search uses plain products on %s, not the fused kernel: %s", device, reason
        )
    return found


def fastest_shape(device: str, dim: int) -> TileShape | None:
    """The fastest of `SHAPES`, measured once a process; None where no kernel can be used.

    Each is compiled for it, which takes seconds the first time; Triton keeps the results on disk.
    """
    with _measuring:  # threads that measure at once measure each other
        return _shape(device, dim)


@cache
def _shape(device: str, dim: int) -> TileShape | None:
    import torch

    if dim > MOST_DIM or not kernels_work(device):
        return None
    if torch.device(device).type != "cuda":
        return SHAPES[0]
    seconds = {}
    for one in SHAPES:
        try:
            seconds[one] = _seconds(device, dim, one)
        except Exception as error:  # noqa: BLE001 - too much shared memory, mostly
            logger.debug("%s isn't for %s: %s", one, device, error)
    logger.debug("seconds of tiles on %s: %s", device, seconds)
    return min(seconds, key=lambda one: seconds[one]) if seconds else None


def _as_assumed(device: str, sign: float) -> bool:
    """Compares small hostile matrices with exact products, and with sums in order."""
    import torch

    random = torch.Generator().manual_seed(5)
    queries, rows, dim = 3, 2 * PART, 128
    lengths = torch.tensor([1, 1, 2, 5, 17, 17, 40])
    starts = lengths.cumsum(0) - lengths + 3
    tokens = torch.randn((int(lengths.sum()) + 3, dim), generator=random)
    asked = torch.randn((queries, rows, dim), generator=random)
    tokens, asked = tokens / tokens.norm(dim=-1, keepdim=True), asked / 8
    tokens[4], asked[0] = 0.2749, -0.3127  # sums that grow
    tokens[5, ::2], tokens[5, 1::2], asked[1, 3:9] = 1.0, -1.0, 0.9961  # ones that cancel
    # One big product and many that fewer bits than float32's would lose.
    tokens[-40:], asked[1, 9:20] = 2.0**-9, 2.0**-9
    tokens[-40:, 7], asked[1, 9:20, 7] = 1.0, 1.0
    asked[2, PART + 1 :] = 0
    tokens, asked = (tokens * sign).half(), asked.half()
    found = fused_maxsim(
        asked.view(-1, dim).to(device),
        queries,
        tokens.to(device),
        starts.to(device),
        lengths.int().to(device),
        SHAPES[-1],
    )
    right, spare = torch.zeros(found.shape, dtype=torch.float64), torch.zeros(found.shape)
    for passage, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        own = tokens[start : start + length].double()
        right[:, passage] = torch.matmul(asked.double(), own.T).amax(2).sum(1)
        spare[:, passage] = asked.float().norm(dim=2).sum(1) * own.norm(dim=1).max()
    spare *= bounds.slack(dim, rows)
    values = torch.randn((77, 130), generator=random).double() * sign
    total = torch.zeros(130, dtype=torch.float64)
    for row in values:
        total += row
    in_order = add_in_order(values.to(device)).cpu()
    return bool(((found.cpu() - right).abs() <= spare).all()) and torch.equal(in_order, total)


def _seconds(device: str, dim: int, shape: TileShape) -> float:
    """Time of 512 passages of 64 tokens and 16,384 rows, the best of some."""
    import torch

    tokens = torch.ones((512 * 64, dim), dtype=torch.float16, device=device)
    rows = torch.ones((512 * PART, dim), dtype=torch.float16, device=device)
    starts = torch.arange(512, device=device) * 64
    lengths = torch.full((512,), 64, dtype=torch.int32, device=device)
    best = float("inf")
    for _ in range(4):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        fused_maxsim(rows, 512, tokens, starts, lengths, shape)
        torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
