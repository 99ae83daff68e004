"""Windows, batches and work done ahead: what may be held, and that nothing gets lost or moved."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.concurrency import ahead, chunks
from m2kr.preflmr.encode.batching import (
    Costs,
    RowBatch,
    TokenRow,
    in_order,
    padded,
    plan_batches,
    windows,
)
from m2kr.preflmr.inputs.image_input import ImageSource

ROWS = st.lists(
    st.tuples(st.integers(3, 512), st.integers(0, 2), st.none() | st.integers(0, 3)), max_size=60
)


def row(length: int, first: int, image: int | None) -> TokenRow:
    ids = np.full(length, 7, np.int64)
    ids[0] = first
    shown = None if image is None else ImageSource(image, lambda: None)
    return TokenRow(ids, np.ones(length, np.int64), shown)


def width(each: TokenRow) -> int:
    return padded(len(each.ids), 512)


@given(ROWS, st.integers(1, 3000))
def test_batches_keep_to_the_budget_and_hold_every_row_once(
    made: list[tuple[int, int, int | None]], budget: int
) -> None:
    window = [row(*each) for each in made]
    costs = Costs(budget, 50, 9)
    batches = list(plan_batches(window, width, costs))
    places = sorted(place for b in batches for same in b.places for place in same)
    assert places == list(range(len(window)))
    assert [b.completes for b in batches] == [0] * (len(batches) - 1) + [len(window)] * bool(window)
    for batch in batches:
        total = costs.of(len(batch.rows), batch.width, len(batch.images))
        assert total <= budget or len(batch.rows) == 1
        assert {width(each) for each in batch.rows} == {batch.width}
        assert len(batch.shown) in (0, len(batch.rows))
        for n, (each, same) in enumerate(zip(batch.rows, batch.places, strict=True)):
            assert {(made[p][0], made[p][1], made[p][2]) for p in same} == {made[same[0]]}
            assert each is window[same[0]]
            if each.image is not None:
                assert batch.images[batch.shown[n]].key == each.image.key


@given(ROWS, st.integers(1, 3000))
def test_results_come_back_in_order(made: list[tuple[int, int, int | None]], budget: int) -> None:
    window = [row(*each) for each in made]
    done = (
        (b, [each.ids for each in b.rows]) for b in plan_batches(window, width, Costs(budget, 1, 0))
    )
    found = list(in_order(done))
    assert len(found) == len(window)
    assert all(np.array_equal(a, b.ids) for a, b in zip(found, window, strict=True))


def test_rows_with_the_same_image_are_neighbours() -> None:
    window = [row(10, n % 3, n % 4) for n in range(12)]
    (batch,) = plan_batches(window, width, Costs(10_000, 1, 0))
    assert [image.key for image in batch.images] == [0, 1, 2, 3]


@given(st.integers(3, 512), st.integers(3, 512))
def test_padding_wastes_little_and_keeps_to_the_longest(tokens: int, longest: int) -> None:
    if tokens <= longest:
        assert tokens <= padded(tokens, longest) <= min(longest, tokens + 31)
        assert padded(tokens, longest) <= max(tokens + 7, tokens * 1.13)


@given(st.lists(st.integers(3, 50), max_size=80), st.integers(1, 300))
def test_windows_are_the_chunks_put_together(lengths: list[int], tokens: int) -> None:
    rows = [row(length, 0, None) for length in lengths]
    made = list(windows(chunks(rows, 4), tokens))
    assert [each for window in made for each in window] == rows
    assert all(sum(len(r.ids) for r in window) < tokens + 200 for window in made)


def test_images_in_memory_end_a_window() -> None:
    heavy = [
        TokenRow(
            np.zeros(3, np.int64), np.ones(3, np.int64), ImageSource(n, lambda: None, held=100)
        )
        for n in range(10)
    ]
    assert [len(each) for each in windows(chunks(heavy, 1), 10_000, held=300)] == [3, 3, 3, 1]


def test_filling_has_the_pad_id_and_no_attention() -> None:
    ids, attended = RowBatch(6, rows=[row(3, 1, None), row(5, 2, None)]).tensors(9)
    assert ids.tolist() == [[1, 7, 7, 9, 9, 9], [2, 7, 7, 7, 7, 9]]
    assert attended.tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]


@given(st.lists(st.integers(1, 5), max_size=40), st.integers(1, 12))
def test_no_more_is_begun_than_there_is_room_for(sizes: list[int], room: int) -> None:
    held: list[int] = []
    with ThreadPoolExecutor(3) as pool:

        def start(size: int) -> object:
            held.append(size)
            assert sum(held) <= room or len(held) == 1
            return pool.submit(lambda: size * 2)

        out = []
        for size, made in ahead(sizes, start, room=room, size=lambda size: size):  # type: ignore[arg-type,return-value]
            held.remove(size)
            out.append((size, made))
    assert out == [(size, size * 2) for size in sizes]


def test_a_failure_comes_at_its_item_and_cancels_what_follows() -> None:
    ran: list[int] = []
    gate = threading.Event()

    def work(n: int) -> int:
        gate.wait(5)
        ran.append(n)
        return 12 // (3 - n)

    with ThreadPoolExecutor(1) as pool:
        out = []
        stream = ahead(range(50), lambda n: pool.submit(work, n), room=20)
        timer = threading.Timer(0.05, gate.set)
        timer.start()
        with pytest.raises(ZeroDivisionError):
            for _, made in stream:
                out.append(made)
    assert out == [4, 6, 12]
    assert max(ran) < 30
