"""The table writer: whole shards, resume, and refusal of what does not fit the schema."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.building.table import TableWriter
from m2kr.errors import InputError
from m2kr.schema import Column, arrow_schema

COLUMNS = (Column("id"), Column("tags", "list<string>"), Column("n", "int64", nullable=True))


def writer(folder: Path) -> TableWriter:
    return TableWriter(folder, COLUMNS, table="T", shard_rows=20, batch_rows=5)


def rows(n: int) -> list[dict]:
    return [{"id": f"r{i}", "tags": ["x"] * (i % 3), "n": i if i % 2 else None} for i in range(n)]


def read(folder: Path) -> list[dict]:
    out: list[dict] = []
    for shard in sorted(folder.glob("data-*.arrow")):
        out += pa.ipc.open_stream(shard.read_bytes()).read_all().to_pylist()
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 65), st.lists(st.integers(1, 17), min_size=1, max_size=30))
def test_bytes_do_not_depend_on_how_rows_arrive(
    tmp_path_factory: pytest.TempPathFactory, n: int, cuts: list[int]
) -> None:
    whole, pieces = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("pieces")
    one = writer(whole)
    one.write_rows(rows(n))
    one.close()
    other, start = writer(pieces), 0
    while start < n:
        size = cuts[start % len(cuts)]
        batch = pa.RecordBatch.from_pylist(rows(n)[start : start + size], arrow_schema(COLUMNS))
        other.write_batch(batch)
        start += size
    other.close()
    assert read(whole) == rows(n)
    assert contents(whole) == contents(pieces)


@pytest.mark.parametrize("stop", [0, 3, 19, 20, 21, 45, 60])
def test_resumes_with_the_same_bytes(tmp_path: Path, stop: int) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    full = writer(straight)
    full.write_rows(rows(63))
    full.close()
    first = writer(broken)  # never closed: its process died
    first.write_rows(rows(stop))
    kept = {p.name: p.stat().st_mtime_ns for p in broken.glob("*.arrow")}
    second = writer(broken)
    second.write_rows(rows(63))
    second.close()
    assert contents(broken) == contents(straight)
    assert all((broken / name).stat().st_mtime_ns == time for name, time in kept.items())
    assert len(kept) == stop // 20


def test_resuming_holds_none_of_the_rows_that_are_there(tmp_path: Path) -> None:
    first = writer(tmp_path)
    first.write_rows(rows(400))
    first.close()
    second = writer(tmp_path)
    before = pa.total_allocated_bytes()
    for batch in second.to_batches(rows(400)):
        second.write_batch(batch)
        del batch
    assert pa.total_allocated_bytes() - before <= 4_096
    assert second.rows == 400


def test_an_empty_table_is_still_a_table(tmp_path: Path) -> None:
    empty = writer(tmp_path)
    assert [p.name for p in empty.close()] == ["data-00000.arrow"]
    assert read(tmp_path) == []


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"id": 7}, ["T, row 3", "'id'", "7", "expected: string"]),
        ({"id": None}, ["T, row 3", "'id' is null"]),
        ({"id": "a", "tags": "x"}, ["T, row 3", "'tags'", "list<string>"]),
        ({"id": "a", "m": 1}, ["T, row 3", "unknown column 'm'", "one of id, tags, n"]),
        ({"id": "\ud800"}, ["T, row 3", "'id'"]),
        ({"id": "a", "n": 2**70}, ["T, row 3", "'n'", "int64 or null"]),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, row: dict, says: list[str]) -> None:
    with pytest.raises(InputError) as error:
        writer(tmp_path).write_rows([*rows(2), row])
    assert all(part in str(error.value) for part in says), str(error.value)
    assert not list(tmp_path.glob("data-*.arrow"))


def test_columns_left_out_take_their_default(tmp_path: Path) -> None:
    one = writer(tmp_path)
    one.write_rows([{"id": "a"}])
    one.close()
    assert read(tmp_path) == [{"id": "a", "tags": [], "n": None}]


def test_a_batch_of_another_schema_is_refused(tmp_path: Path) -> None:
    batch = pa.record_batch({"id": ["a"]})
    with pytest.raises(InputError, match="a batch has the columns"):
        writer(tmp_path).write_batch(batch)
