"""A cheap pass over a block: coding it once, then bounding scores for group after group of queries."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from m2kr.errors import InputError
from m2kr.search.exact import bounds, passes
from m2kr.search.exact.canonical import by_length, gather_rows
from m2kr.search.exact.passes import (
    FLAT,
    GROUP_ROWS,
    PASSES,
    ROUND_TOKENS,
    TILE_TOKENS,
    CodedQueries,
    CodedTokens,
    Pass,
)
from m2kr.search.exact.reference import EMPTY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from m2kr.concurrency import Workers
    from m2kr.search.exact.canonical import RoundedQuery
    from m2kr.search.store.reader import Block

_TILES_A_SPAN = 4
_GROUPS_A_TIME = 4
_NARROW_TOKENS = 4096  # for a single query
_NORM_TOKENS = 1 << 16
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _Tile:
    """Passages of one length that are multiplied together.

    Attributes:
        first: Place of its first passage in the coded order.
        count: Passages.
        start: Row of its first token in the codes.
        length: Tokens of each passage.
    """

    first: int
    count: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class CodedBlock:
    """A block in one pass's codes, ordered by length.

    Attributes:
        one: The pass.
        order: The passages, as numbers in the block, in coded order; without empty ones.
        places: Its inverse.
        starts: Where each one's codes begin, by number in the block.
        lengths: Tokens, by number in the block.
        codes: (tokens x dim) and more rows behind them.
        tokens: Scale, residual and length in coded order; its codes are empty.
        tiles: Whole passages of one length each, all of them.
    """

    one: Pass
    order: "NDArray[np.int64]"
    places: "NDArray[np.int64]"
    starts: "NDArray[np.int64]"
    lengths: "NDArray[np.int64]"
    codes: "torch.Tensor"
    tokens: CodedTokens
    tiles: "Sequence[_Tile]"


def code_block(
    one: Pass, block: "Block", workers: "Workers", storage: "torch.Tensor"
) -> CodedBlock:
    """Codes a block.

    Args:
        one: The pass.
        block: What to code.
        workers: Who does it.
        storage: In the pass's type, on its device: as many rows of dim numbers as the block has
            tokens, and `ROUND_TOKENS` more.

    Raises:
        InputError: a token is NaN or infinite.
    """
    import torch

    if one.name in FLAT:
        return _code_flat(one, block, storage)
    lengths = np.diff(block.offsets)
    flat = torch.from_numpy(block.tokens)
    starts = np.zeros(len(lengths), np.int64)
    tiles, places, row, first = [], [], 0, 0
    for part, length in _equal_lengths(lengths):
        tiles.append(_Tile(first, len(part), row, length))
        places.append(part)
        starts[part] = row + np.arange(len(part)) * length
        row += len(part) * length
        first += len(part)

    def code(number: int) -> CodedTokens:
        tile = tiles[number]
        part = places[number]
        raw = gather_rows(flat, block.offsets[part], lengths[part], tile.length)
        raw = raw.view(tile.count, tile.length, -1)
        coded = one.code_tokens(raw.to(storage.device))
        end = tile.start + tile.count * tile.length
        storage[tile.start : end] = coded.codes.flatten(0, 1)
        return coded.of(slice(None))

    parts = workers.map(code, range(len(tiles)))
    order = np.concatenate([np.zeros(0, np.int64), *places])
    none = torch.zeros(0, dtype=torch.float32, device=storage.device)
    sides = [
        torch.cat([none, *(getattr(part, name) for part in parts)])
        for name in ("scale", "residual", "length", "shortest")
    ]
    _refuse_broken(block, order, sides[2])
    inverse = np.zeros(len(lengths), np.int64)
    inverse[order] = np.arange(len(order))
    tokens = CodedTokens(storage[:0], *sides)
    return CodedBlock(one, order, inverse, starts, lengths, storage, tokens, tiles)


def _code_flat(one: Pass, block: "Block", storage: "torch.Tensor") -> CodedBlock:
    """Copies a block as it is; its passages are ordered by length, their tokens stay where they are."""
    import torch

    lengths = np.diff(block.offsets)
    order = np.argsort(lengths, kind="stable")
    order = order[np.searchsorted(lengths[order], 1) :]
    inverse = np.zeros(len(lengths), np.int64)
    inverse[order] = np.arange(len(order))
    storage[: len(block.tokens)].copy_(torch.from_numpy(block.tokens))
    device = storage.device
    counts = torch.from_numpy(lengths).to(device)
    owner = torch.repeat_interleave(
        torch.arange(len(lengths), device=device), counts, output_size=len(block.tokens)
    )
    longest = torch.zeros(len(lengths), dtype=torch.float32, device=device)
    shortest = torch.full_like(longest, torch.inf)
    for first in range(0, len(owner), _NORM_TOKENS):
        norms = bounds.widened(storage[first : min(first + _NORM_TOKENS, len(owner))])
        # Neither order says where NaN goes, so it becomes what no float16 vector's length is.
        norms.nan_to_num_(nan=torch.inf, posinf=torch.inf)
        passages = owner[first : first + _NORM_TOKENS]
        longest.scatter_reduce_(0, passages, norms, "amax")
        shortest.scatter_reduce_(0, passages, norms, "amin")
    columns = torch.from_numpy(order).to(device)
    longest, shortest = longest[columns], shortest[columns]
    _refuse_broken(block, order, longest)
    ones, zeros = torch.ones_like(longest), torch.zeros_like(longest)
    tokens = CodedTokens(storage[:0], ones, zeros, longest, shortest)
    return CodedBlock(one, order, inverse, block.offsets[:-1], lengths, storage, tokens, ())


def _refuse_broken(block: "Block", order: "NDArray[np.int64]", longest: "torch.Tensor") -> None:
    broken = np.flatnonzero(~np.isfinite(longest.cpu().numpy()))
    if len(broken):
        raise InputError(
            "a token has a value that is NaN or infinite",
            where=f"passage {block.first + order[broken].min()}",
            fix="encode it again",
        )


def _equal_lengths(lengths: "NDArray[np.int64]") -> "Iterator[tuple[NDArray[np.int64], int]]":
    """Passages of one length each, some `TILE_TOKENS` at a time; empty ones are left out."""
    order = np.argsort(lengths, kind="stable")
    order = order[np.searchsorted(lengths[order], 1) :]
    ordered = lengths[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=0))
    for start, end in pairwise([*starts, len(order)]):
        length = int(ordered[start])
        step = max(1, TILE_TOKENS // length)
        for first in range(int(start), int(end), step):
            yield order[first : min(first + step, int(end))], length


def uncoded(block: "Block", longest: "NDArray[np.float32]") -> CodedBlock:
    """A block's own tokens as float32 codes, for `narrow`.

    Args:
        block: The passages.
        longest: Per passage the length of its longest token, or slightly more.
    """
    import torch

    lengths = np.diff(block.offsets)
    numbers = np.arange(len(lengths))
    flat, length = torch.from_numpy(block.tokens), torch.from_numpy(longest)
    ones, zeros = torch.ones_like(length), torch.zeros_like(length)
    tokens = CodedTokens(flat[:0], ones, zeros, length, zeros)
    one = PASSES["float32"]
    return CodedBlock(one, numbers, numbers, block.offsets[:-1], lengths, flat, tokens, ())


def by_passage(block: CodedBlock, values: "torch.Tensor") -> "NDArray[np.float32]":
    """Values in coded order, put in the block's order; 0 for empty passages."""
    found = np.zeros(len(block.lengths), np.float32)
    found[block.order] = values.cpu().numpy()
    return found


def scan(
    block: CodedBlock, queries: "Sequence[RoundedQuery]", workers: "Workers"
) -> "NDArray[np.float32]":
    """Upper bounds of all canonical scores, (queries x passages of the block).

    Args:
        block: The passages.
        queries: Each with one row at least.
        workers: Who does it.
    """
    found = np.empty((len(queries), len(block.lengths)), np.float32)
    empty = np.flatnonzero(block.lengths == 0)
    if len(empty):
        lowest = np.array([EMPTY * len(query.rows) for query in queries], np.float32)
        found[:, empty] = np.nextafter(lowest, np.float32(np.inf))[:, None]
    groups = _groups(queries)
    coded = workers.map(
        lambda group: code(block.one, queries[group[0] : group[1]], block.codes), groups
    )
    spans = _cut(block.tiles, _TILES_A_SPAN)
    chunks = _cut(range(len(groups)), _GROUPS_A_TIME)

    def fill(place: "tuple[Sequence[int], Sequence[_Tile]]") -> None:
        chunk, span = place
        start = span[0].first
        upper = _span_bounds(block, span, [coded[group] for group in chunk], workers)
        for group, bound in zip(chunk, upper, strict=True):
            columns = block.order[start : start + len(bound)]
            found[slice(*groups[group]), columns] = bound.cpu().numpy().T

    workers.map(fill, [(chunk, span) for chunk in chunks for span in spans])
    return found


def narrow(
    block: CodedBlock, query: CodedQueries, numbers: "NDArray[np.int64]"
) -> "NDArray[np.float32]":
    """`scan` of one query and some passages with tokens, by their numbers in the block."""
    import torch

    found = np.empty(len(numbers), np.float32)
    for part, longest in by_length(block.lengths[numbers], _NARROW_TOKENS):
        chosen = numbers[part]
        lengths = block.lengths[chosen]
        codes = gather_rows(block.codes, block.starts[chosen], lengths, longest, ROUND_TOKENS)
        places = torch.from_numpy(block.places[chosen]).to(block.codes.device)
        maxima = passes.maxima(block.one, codes, (len(part), longest), query)
        upper = passes.upper(block.one, maxima, block.tokens.of(places), query)
        found[part] = upper[:, 0].cpu()
    return found


def code(one: Pass, queries: "Sequence[RoundedQuery]", like: "torch.Tensor") -> CodedQueries:
    """Queries in a pass's codes, on the device of ``like``."""
    import torch

    rows = torch.from_numpy(np.concatenate([query.rows for query in queries]))
    lengths = [len(query.rows) for query in queries]
    return passes.code_queries(one, rows.float().to(like.device), lengths)


def _groups(queries: "Sequence[RoundedQuery]") -> list[tuple[int, int]]:
    """Runs of queries of together `GROUP_ROWS` rows at most, or of one query."""
    groups: list[tuple[int, int]] = []
    first = rows = 0
    for number, query in enumerate(queries):
        if number > first and rows + len(query.rows) > GROUP_ROWS:
            groups.append((first, number))
            first, rows = number, 0
        rows += len(query.rows)
    if len(queries):
        groups.append((first, len(queries)))
    return groups


def _cut(items: "Sequence[Item]", size: int) -> "list[Sequence[Item]]":
    return [items[i : i + size] for i in range(0, len(items), size)]


def _span_bounds(
    block: CodedBlock,
    span: "Sequence[_Tile]",
    groups: "Sequence[CodedQueries]",
    workers: "Workers",
) -> "list[torch.Tensor]":
    """Bounds for some tiles and groups, (passages x queries) for each group."""
    start, count = span[0].first, sum(tile.count for tile in span)
    largest = max(tile.count * tile.length for tile in span)
    size = max(passes.work_size(largest, group) for group in groups)
    work = workers.scratch(size, block.one.product_dtype, block.codes.device)
    maxima = [work.new_empty((count, group.codes.shape[1])) for group in groups]
    # Groups inside tiles: a tile's codes stay in the cache, and they are more than a group's.
    for tile in span:
        codes, shape = block.codes[tile.start :], (tile.count, tile.length)
        at = slice(tile.first - start, tile.first - start + tile.count)
        for group, out in zip(groups, maxima, strict=True):
            passes.maxima(block.one, codes, shape, group, work, out[at])
    tokens = block.tokens.of(slice(start, start + count))
    return [
        passes.upper(block.one, out, tokens, group)
        for group, out in zip(groups, maxima, strict=True)
    ]
