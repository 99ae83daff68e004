"""Which cheap passes a machine should use: those that prove right on it, the fastest of them.

A pass is tried on products whose exact results are known. One that is missing, fails or exceeds its
bound is left out; ``torch._int_mm`` is private to torch and may go away.
"""

import logging
import time
from functools import cache
from typing import TYPE_CHECKING

from m2kr.errors import CheckError
from m2kr.search.exact import bounds, gpu_fused, passes
from m2kr.search.exact.passes import GROUP_ROWS, PASSES, TILE_TOKENS, Pass

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("m2kr.search")

_DIM, _LENGTH, _REPEATS = 128, 64, 5
# What a second pass has to do again, after the first one's wide margin: measured, 13 to 21 % of
# 10,000 passages.
_LEFT_BY_INT8 = 0.25


@cache
def pipeline(device: str) -> tuple[str, ...]:
    """Names of the passes to use, first to last; tried and measured once a process (some 50 ms).

    Call it where torch uses as many threads as the search will.

    Raises:
        CheckError: not even float32 products are right.
    """
    if not device.startswith("cpu"):
        return on_a_gpu(device)
    names = ("bf16", "int8", "float32")
    seconds = {name: _seconds(PASSES[name], device) for name in names if pass_works(name, device)}
    if "float32" not in seconds:
        raise _wrong(device)
    costs: dict[tuple[str, ...], float] = {(name,): cost for name, cost in seconds.items()}
    if "int8" in seconds:
        second = min(("bf16", "float32"), key=lambda name: seconds.get(name, float("inf")))
        costs[("int8", second)] = costs.pop(("int8",)) + _LEFT_BY_INT8 * seconds[second]
    best = min(costs, key=lambda one: costs[one])
    logger.debug("passes on %s: %s of %s", device, best, seconds)
    return best


def on_a_gpu(device: str) -> tuple[str, ...]:
    """What needs no second pass, the fused kernel if it can be used, and the next best otherwise.

    A tile alone tells nothing of a GPU's speed, so nothing is measured.
    """
    if not pass_works("float32", device):
        raise _wrong(device)
    names = ("fused", "fp16", "bf16", "float32")
    best = next(name for name in names if pass_works(name, device))
    logger.debug("the pass on %s: %s", device, best)
    return (best,)


def _wrong(device: str) -> CheckError:
    return CheckError(
        f"torch's float32 products on {device} are wrong",
        fix="python -m torch.utils.collect_env, and another build of torch",
    )


def pass_works(name: str, device: str) -> bool:
    """Whether a pass multiplies here as `bounds` assumes."""
    if name == "fused":
        return gpu_fused.fastest_shape(named(device), _DIM) is not None
    one = PASSES[name]
    try:
        return all(_as_assumed(one, device, sign) for sign in (1.0, -1.0))
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        logger.info("the pass %s can't be used on %s: %s", name, device, error)
        return False


def named(device: str) -> str:
    """A device as tensors on it name it: ``cuda`` is one of the numbered ones."""
    import torch

    return str(torch.empty(0, device=device).device)


def _sample(device: str, sign: float) -> "tuple[torch.Tensor, torch.Tensor]":
    """Passages and rows: random ones, ones full of large values, ones that cancel."""
    import torch

    random = torch.Generator().manual_seed(5)
    tokens = torch.randn((24, _LENGTH, _DIM), generator=random)
    tokens /= tokens.norm(dim=-1, keepdim=True)
    rows = torch.randn((96, _DIM), generator=random)
    rows /= rows.norm(dim=-1, keepdim=True)
    tokens[3] = 0.2749
    rows[5] = -0.3127
    tokens[4, :, ::2], tokens[4, :, 1::2] = 1.0, -1.0
    rows[6] = 0.9961
    return (tokens * sign).half().to(device), rows.half().float().to(device)


def _as_assumed(one: Pass, device: str, sign: float) -> bool:
    """Compares with the exact products of the same codes."""
    import torch

    tokens, rows = _sample(device, sign)
    codes = one.code_tokens(tokens).codes
    queries = passes.code_queries(one, rows, [len(rows)])
    flat, shape = codes.flatten(0, 1), (len(tokens), _LENGTH)
    found = one.widen(passes.maxima(one, flat, shape, queries)).cpu().double()
    left, right = codes.cpu().double(), queries.codes.cpu().double()
    best = torch.matmul(left, right).amax(1)
    spare = torch.zeros(())
    if codes.is_floating_point():
        sizes = left.norm(dim=2).amax(1)[:, None] * right.norm(dim=0)
        spare = bounds.slack(_DIM, 1) * sizes
    # The bfloat16 pass may put 0 for a negative maximum.
    highest = best.clamp(min=0) + 3 * bounds.BF16_UNIT * best.abs() + spare
    return bool(((found >= best - spare) & (found <= highest)).all())


def _seconds(one: Pass, device: str) -> float:
    """Time of one tile, the best of some."""
    import torch

    tokens = torch.ones((TILE_TOKENS // _LENGTH, _LENGTH, _DIM), dtype=torch.float16, device=device)
    rows = torch.ones((GROUP_ROWS, _DIM), dtype=torch.float32, device=device)
    codes = one.code_tokens(tokens).codes.flatten(0, 1)
    queries = passes.code_queries(one, rows, [GROUP_ROWS])
    shape = (TILE_TOKENS // _LENGTH, _LENGTH)
    work = codes.new_empty(passes.work_size(len(codes), queries), dtype=one.product_dtype)
    best = float("inf")
    for _ in range(_REPEATS):
        _wait(device)
        start = time.perf_counter()
        passes.maxima(one, codes, shape, queries, work)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def _wait(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
