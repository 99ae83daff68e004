"""The memory of what was computed: bounded, the least used first to go."""

from hypothesis import given
from hypothesis import strategies as st

from m2kr.retrievers._memo import Memo, content_key


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3000)), max_size=60))
def test_it_never_holds_more_than_its_limit(puts: list[tuple[int, int]]) -> None:
    memo = Memo(limit=5000)
    for key, size in puts:
        memo.put(key, ("value", key, size), size)
        assert memo.size <= memo.limit
        assert memo.get(key) == ("value", key, size)
    kept = [key for key in range(10) if memo.get(key) is not None]
    assert (memo.size > 0) == bool(kept)


def test_the_least_recently_used_goes_first() -> None:
    memo = Memo(limit=4200)
    for key in "abc":
        memo.put(key, key, 1000)
    assert memo.get("a") == "a"
    memo.put("d", "d", 1000)
    assert [memo.get(key) for key in "abcd"] == ["a", None, "c", "d"]
    assert memo.hits == 4


def test_a_value_bigger_than_the_limit_is_not_kept() -> None:
    memo = Memo(limit=1000)
    memo.put("small", 1, 10)
    memo.put("big", 2, 2000)
    assert (memo.get("small"), memo.get("big")) == (1, None)


def test_clearing_forgets() -> None:
    memo = Memo()
    memo.put("a", 1, 10)
    memo.clear()
    assert (memo.get("a"), memo.size) == (None, 0)


def test_content_is_told_apart_by_its_parts() -> None:
    assert content_key(b"ab", b"c") != content_key(b"a", b"bc")
    assert content_key(b"a") == content_key(b"a")
