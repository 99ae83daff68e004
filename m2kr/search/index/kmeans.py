"""Centroids of many token vectors: seeded k-means that looks for neighbours in groups.

Comparing every token with every centroid is nearly all of the cost of k-means, and of coding tokens
afterwards. Here centroids are grouped (by k-means again, of the few centroids); a token is compared
with the groups' means first, then with the centroids of the nearest groups only. What is found is
the nearest centroid or, for a few percent of the tokens, one nearly as near. `nearest_centroids` with
``groups=None`` compares with all.
"""

import logging
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from m2kr.errors import UsageError
from m2kr.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


logger = logging.getLogger("m2kr.search")

_MOST_BITS = 18  # a query is multiplied with every centroid
_FEW = 1024  # centroids that need no groups
_CHUNK = 1 << 15  # tokens in work at a time
_SCORES = 1 << 22  # similarities in work at a time, where all centroids are compared
# The library prepares, and remembers, code for each shape of product: few shapes save both.
_ROWS, _COLUMNS = 512, 64
_GROUP_ITERATIONS = 3
_EARLY, _EARLY_PART = 3, 3  # iterations that look at every third token
_TASK = "k-means"


@dataclass(frozen=True, slots=True)
class Training:
    """How k-means is run.

    Attributes:
        seed: Of the first centroids, which are tokens of the sample.
        iterations: At most.
        tolerance: Stops when an iteration lowers the mean squared distance by less than this share.
        spherical: Compare by dot product and give centroids length 1, as the official index does;
            else by distance, and centroids are means, which leaves smaller residuals.
        groups_tried: Nearest groups of centroids that a token is compared with; 0 for all.
    """

    seed: int = 0
    iterations: int = 5
    tolerance: float = 0.02
    spherical: bool = False
    groups_tried: int = 12

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.groups_tried < 0 or self.seed < 0:
            raise UsageError(
                f"k-means can't run with {self}",
                expected="an iteration at least, and no negative number",
            )


@dataclass(frozen=True, slots=True)
class CentroidGroups:
    """Centroids by the group they belong to.

    Attributes:
        means: (groups x dim), in the type of products.
        members: Per group its centroids' numbers.
    """

    means: "torch.Tensor"
    members: "list[torch.Tensor]"


def centroid_count(tokens: int) -> int:
    """Centroids for a pool: the power of two nearest to 0.6 tokens**0.75, at most 2**18.

    Up to a million tokens that is what the official 16 times their root comes to. Beyond, the kinds
    of tokens grow faster than that root; where a centroid stands for several kinds, the steps of a
    search that look at centroids alone lose passages. The official rule, which rounds the power
    down, is `official_train.official_centroid_count`.
    """
    return 1 << min(_MOST_BITS, max(0, round(math.log2(0.6 * max(2, tokens) ** 0.75))))


def train_centroids(
    sample: "NDArray[np.float16]",
    count: int,
    settings: Training | None = None,
    progress: Progress = SILENT,
) -> "NDArray[np.float32]":
    """Centroids (count x dim) of a sample of tokens (tokens x dim).

    The same sample, count and settings give the same centroids on the same machine.

    Raises:
        UsageError: the sample has fewer tokens than centroids are asked for.
    """
    import torch

    settings, progress = settings or Training(), progress
    if not 1 <= count <= len(sample):
        raise UsageError(
            f"{count} centroids can't be had of {len(sample)} tokens",
            expected="a token for each at least",
            fix="ask for fewer centroids",
        )
    random = torch.Generator().manual_seed(settings.seed)
    tokens = torch.from_numpy(np.ascontiguousarray(sample))
    centroids = tokens[torch.randperm(len(tokens), generator=random)[:count]].float()
    if settings.spherical:
        centroids = torch.nn.functional.normalize(centroids)
    before, codes = float("inf"), None
    # The first iterations move centroids far, for which a part of the tokens is enough.
    few = not settings.spherical and count > _FEW and settings.iterations > _EARLY
    some = tokens[::_EARLY_PART] if few and count * _EARLY_PART <= len(tokens) else tokens
    progress.start(_TASK, settings.iterations, "iterations")
    for iteration in range(settings.iterations):
        groups = group_centroids(centroids, settings)
        if iteration == _EARLY and len(some) < len(tokens):
            some, codes, before = tokens, None, float("inf")
        codes, scores = nearest_centroids(some, centroids, settings, groups, codes)
        error = _mean_error(some, scores, settings)
        logger.info("k-means, iteration %d: mean squared distance %.4f", iteration + 1, error)
        progress.advance(_TASK, 1)
        centroids = _means(some, codes, scores, centroids)
        if settings.spherical:
            centroids = torch.nn.functional.normalize(centroids)
        if len(some) == len(tokens) and before - error < settings.tolerance * before:
            break
        before = error
    progress.done(_TASK)
    found: NDArray[np.float32] = centroids.numpy()
    return found


def group_centroids(centroids: "torch.Tensor", settings: Training) -> CentroidGroups | None:
    """CentroidGroups of centroids, a few hundred in each; None where there are few centroids."""
    import torch

    if len(centroids) <= _FEW or not settings.groups_tried:
        return None
    count = 1 << round(math.log2(math.sqrt(len(centroids))) - 1)
    random = torch.Generator().manual_seed(settings.seed)
    directions = torch.nn.functional.normalize(centroids)
    means = directions[torch.randperm(len(centroids), generator=random)[:count]]
    flat = Training(spherical=True, groups_tried=0)
    for _ in range(_GROUP_ITERATIONS):
        codes, scores = nearest_centroids(directions, means, flat, None)
        means = torch.nn.functional.normalize(_means(directions, codes, scores, means))
    order = torch.argsort(codes, stable=True)
    sizes = torch.bincount(codes, minlength=count).tolist()
    return CentroidGroups(means.to(product_dtype()), list(torch.split(order, sizes)))


def nearest_centroids(
    tokens: "torch.Tensor",
    centroids: "torch.Tensor",
    settings: Training,
    groups: CentroidGroups | None,
    known: "torch.Tensor | None" = None,
) -> "tuple[torch.Tensor, torch.Tensor]":
    """The nearest centroid of each token, and how near.

    Args:
        tokens: (tokens x dim), of any float type.
        centroids: (centroids x dim) float32.
        settings: Spherical or not; how many groups to look into.
        groups: From `group_centroids`; None to compare with every centroid.
        known: A centroid a token that is compared, too.

    Returns:
        Centroids' numbers (int64); and float32 dot products, less half the centroid's squared length
        unless spherical. Both are one a token.
    """
    import torch

    dtype = product_dtype()
    columns = centroids.to(dtype)
    bias = (centroids * centroids).sum(1) / -2
    if settings.spherical:
        bias = torch.zeros_like(bias)
    bias = bias.to(dtype)
    codes = torch.empty(len(tokens), dtype=torch.int64)
    scores = torch.empty(len(tokens), dtype=torch.float32)
    step = _CHUNK if groups else max(1, _SCORES // len(centroids))
    sides = [_side(columns[m], bias[m]) for m in groups.members] if groups else []
    for first in range(0, len(tokens), step):
        part = tokens[first : first + step].to(dtype)
        if groups is None:
            best, found = _row_maxima(torch.addmm(bias, part, columns.T))
        else:
            best, found = _in_groups(part, groups, sides, settings.groups_tried)
        best = best.float()
        if known is not None:
            before = known[first : first + step]
            same = (part * columns[before]).sum(1, dtype=torch.float32) + bias[before]
            better = same > best
            best, found = torch.where(better, same, best), torch.where(better, before, found)
        codes[first : first + step], scores[first : first + step] = found, best
    return codes, scores


def _in_groups(
    part: "torch.Tensor",
    groups: CentroidGroups,
    sides: "list[tuple[torch.Tensor, torch.Tensor]]",
    tried: int,
) -> "tuple[torch.Tensor, torch.Tensor]":
    import torch

    tried = min(tried, len(sides))
    near = torch.mm(part, groups.means.T).float().numpy()
    picked = np.argpartition(near, near.shape[1] - tried, axis=1)[:, -tried:]
    chosen = torch.from_numpy(picked.reshape(-1))
    # Pairs of token and group, group by group, so that each group is one product.
    order = torch.argsort(chosen, stable=True)
    counts = torch.bincount(chosen, minlength=len(sides)).tolist()
    best = torch.full((len(chosen),), -torch.inf, dtype=part.dtype)
    found = torch.zeros(len(chosen), dtype=torch.int64)
    for pairs, (columns, bias), members in zip(
        torch.split(order, counts), sides, groups.members, strict=True
    ):
        if len(pairs) and len(members):
            wanted = torch.zeros(_rounded(len(pairs), _ROWS), dtype=torch.int64)
            wanted[: len(pairs)] = pairs // tried
            products = torch.addmm(bias, part.index_select(0, wanted), columns)
            values, places = _row_maxima(products[: len(pairs)])
            best[pairs], found[pairs] = values, members[places]
    values, places = best.view(-1, tried).max(1)
    return values, found.view(-1, tried).gather(1, places[:, None])[:, 0]


def _side(columns: "torch.Tensor", bias: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """A group's centroids as the right side of a product, filled up with ones that never win."""
    import torch

    width = _rounded(len(columns), _COLUMNS)
    right = torch.zeros((columns.shape[1], width), dtype=columns.dtype)
    right[:, : len(columns)] = columns.T
    filled = torch.full((width,), -torch.inf, dtype=bias.dtype)
    filled[: len(columns)] = bias
    return right, filled


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step


def _row_maxima(scores: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """``scores.max(1)``, many times faster: numpy looks for maxima with vector instructions."""
    import torch

    ordered = scores
    if scores.dtype == torch.bfloat16:
        # Floats are ordered like their bits, once those of negative ones are turned round.
        bits = scores.view(torch.int16)
        ordered = (bits >> 15).bitwise_and_(0x7FFF).bitwise_xor_(bits)
    places = torch.from_numpy(ordered.numpy().argmax(1))
    return scores.gather(1, places[:, None])[:, 0], places


def _means(
    tokens: "torch.Tensor",
    codes: "torch.Tensor",
    scores: "torch.Tensor",
    before: "torch.Tensor",
) -> "torch.Tensor":
    """The mean of each centroid's tokens; one without any becomes one of the worst placed tokens."""
    import torch

    sums = torch.zeros_like(before)
    for first in range(0, len(tokens), _CHUNK):
        part = slice(first, first + _CHUNK)
        sums.index_add_(0, codes[part], tokens[part].float())
    counts = torch.bincount(codes, minlength=len(before))
    means = sums / counts.clamp(min=1)[:, None]
    empty = torch.nonzero(counts == 0)[:, 0]
    if len(empty):
        worst = torch.argsort(scores, stable=True)[: len(empty)]
        means[empty[: len(worst)]] = tokens[worst].float()
    return means


def _mean_error(tokens: "torch.Tensor", scores: "torch.Tensor", settings: Training) -> float:
    squares = 0.0
    for first in range(0, len(tokens), _CHUNK):
        squares += float(tokens[first : first + _CHUNK].float().square().sum())
    # |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2), and |c| = 1 if spherical.
    own = 1.0 if settings.spherical else 0.0
    return max(0.0, squares / len(tokens) + own - 2 * float(scores.double().mean()))


@cache
def product_dtype() -> "torch.dtype":
    """The type for products that only choose: bfloat16 where the processor multiplies its tiles (AMX).

    Decided by what the processor says, not by a measurement as in `exact.choose`: what is built and found
    must not depend on how busy the machine was.
    """
    import torch

    from m2kr.search.exact.choose import pass_works

    said = Path("/proc/cpuinfo")
    tiles = (
        said.is_file() and "amx_bf16" in said.read_text(encoding="utf-8", errors="replace").split()
    )
    return torch.bfloat16 if tiles and pass_works("bf16", "cpu") else torch.float32
