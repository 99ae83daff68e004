"""The id index: every id is found, strangers are not, duplicates are reported."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.data import lookup


def chunked(ids: list[str], size: int = 7) -> pa.ChunkedArray:
    chunks = [pa.array(ids[i : i + size], pa.string()) for i in range(0, len(ids), size)]
    return pa.chunked_array(chunks, pa.string())


@settings(deadline=None)
@given(ids=st.lists(st.text(), unique=True, max_size=60), strangers=st.lists(st.text(), max_size=9))
def test_every_id_is_found_where_it_is(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], strangers: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("index")
    column = chunked(ids)
    assert lookup.write_index(folder, column.chunks) == []
    index = lookup.IdIndex(folder / lookup.INDEX, ids.__getitem__)
    assert index.rows(ids).tolist() == list(range(len(ids)))
    for stranger in set(strangers) - set(ids):
        assert index.row(stranger) == -1


def test_large_index_and_low_and_high_hashes(tmp_path: Path) -> None:
    ids = [f"doc-{i}" for i in range(200_000)]
    column = chunked(ids, 10_000)
    lookup.write_index(tmp_path, column.chunks)
    index = lookup.IdIndex(tmp_path / lookup.INDEX, ids.__getitem__)
    by_hash = sorted(range(len(ids)), key=lambda i: lookup.id_hash(ids[i]))
    probe = by_hash[:50] + by_hash[-50:] + list(range(0, len(ids), 997))
    assert index.rows(ids[i] for i in probe).tolist() == probe
    assert index.row("doc-200000") == -1


def test_equal_hashes_do_not_confuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"p{i}" for i in range(300)]
    entries = np.zeros(len(ids), [("hash", "<u8"), ("row", "<u4")])
    entries["row"] = range(len(ids))
    np.save(tmp_path / lookup.INDEX, entries)
    monkeypatch.setattr(lookup, "id_hash", lambda _: 0)
    index = lookup.IdIndex(tmp_path / lookup.INDEX, ids.__getitem__)
    assert index.rows(["p0", "p299", "p150", "q"]).tolist() == [0, 299, 150, -1]


def test_duplicates_are_named_with_their_rows(tmp_path: Path) -> None:
    column = chunked(["a", "b", "c", "b", "d", "a"])
    found = lookup.duplicates(lookup.write_index(tmp_path, column.chunks), column)
    assert sorted(found) == [("a", 0, 5), ("b", 1, 3)]


@given(
    values=st.lists(st.text(), min_size=1, max_size=40),
    picks=st.lists(st.integers(0, 10**6), max_size=30),
)
def test_values_are_taken(values: list[str], picks: list[int]) -> None:
    rows = [p % len(values) for p in picks]
    assert lookup.values_at(chunked(values, 3), rows) == [values[r] for r in rows]
