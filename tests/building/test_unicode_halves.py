"""Half surrogate pairs: U+FFFD in every text that is read, whatever brings it, and no row lost."""

import io
import json
import math
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import m2kr
from m2kr.building.formats.delimited import BadRecord, read_csv, read_tsv
from m2kr.building.formats.json_stream import array_items, object_members, read_json_lines
from m2kr.building.userdata.importer import import_files
from m2kr.unicode_halves import loads, mended_array, mended_bytes, mended_json, mended_text

# Halves of either kind, alone or together, beside what looks like them: Hangul, backslashes, escapes.
TEXTS = st.text(
    st.sampled_from('\ud83d\ud800\ude00\udfff\ud7ff\ue000\ufffd😀é퓿a\\u"d8'), max_size=12
)


def right(text: str) -> str:
    """Pairs joined, other halves replaced; by another way than the code's."""
    joined = json.loads(json.dumps(text))
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in joined)


def escaped(value: Any) -> bytes:
    return json.dumps(value).encode()


def raw(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def refuse(fault: BadRecord) -> None:
    raise AssertionError(fault)


@given(TEXTS)
@example("\ud83d\ud83d\ude00")
@example("\ude00\ud83d")
@example("\\ud83d")
def test_halves_of_any_place_and_form(text: str) -> None:
    assert mended_text(text) == right(text)
    assert mended_bytes(text.encode("utf-8", "surrogatepass")).decode() == right(text)
    for written in (escaped(text), raw(text)):
        assert loads(written) == right(text)
        assert json.loads(mended_json(written)) == right(text)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), st.booleans())
def test_no_reader_loses_a_row(pairs: list[tuple[str, str]], plain: bool) -> None:
    written = raw if plain else escaped
    rows = [{"a": a, "b": [b, {"c": b}]} for a, b in pairs]
    expected = [{"a": right(a), "b": [right(b), {"c": right(b)}]} for a, b in pairs]
    lines = b"\n".join(map(written, rows))
    assert [row for _, row in read_json_lines(io.BytesIO(lines), on_fault=refuse)] == expected
    assert list(array_items(io.BytesIO(written(rows)), where="x")) == expected
    inside = written({"other": "\ud800", "rows": rows})
    assert list(array_items(io.BytesIO(inside), where="x", key="rows")) == expected
    members = object_members(io.BytesIO(written(dict(pairs))), where="x")
    assert list(members) == [(right(a), right(b)) for a, b in dict(pairs).items()]


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_cells_of_tables(texts: list[str]) -> None:
    cells = [f"x{t}" for t in texts]
    tsv = "".join(f"{i}\t{c}\n" for i, c in enumerate(cells)).encode("utf-8", "surrogatepass")
    csv = "a,b\n" + "".join(
        '{},"{}"\n'.format(i, c.replace('"', '""')) for i, c in enumerate(cells)
    )
    for blocks in (
        read_tsv(io.BytesIO(tsv), ("a", "b"), where="x", on_fault=refuse),
        read_csv(
            io.BytesIO(csv.encode("utf-8", "surrogatepass")), ("a", "b"), where="x", on_fault=refuse
        ),
    ):
        found = [cell for block in blocks for cell in block.batch.column("b").to_pylist()]
        assert found == [right(c) for c in cells]


@pytest.mark.parametrize(
    "text", [b'"\xff"', b'"\xed\xa0"', rb'"\ud83d', rb'["\ud83d",]', b"\xed\xa0\xbd", b"{"]
)
def test_other_damage_stays_damage(text: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        loads(text)


VALUES = st.recursive(
    st.none() | st.floats() | st.sampled_from(["NaN", '"NaN', "-Infinity\\", ",NaN,", "\ud83d"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("Na\\", max_size=3), inner),
    max_leaves=8,
)


def without_nan(value: Any) -> Any:
    """The value with None for what is no JSON number; halves of pairs as they come to be read."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return right(value) if isinstance(value, str) else value


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_numbers_that_json_lacks_are_null(values: list[Any]) -> None:
    expected = [without_nan(value) for value in values]
    lines = b"\n".join(escaped({"a": value}) for value in values)
    read = read_json_lines(io.BytesIO(lines), on_fault=refuse)
    assert [row["a"] for _, row in read] == expected
    assert list(array_items(io.BytesIO(escaped(values)), where="x")) == expected
    document = escaped({str(i): value for i, value in enumerate(values)})
    assert [v for _, v in object_members(io.BytesIO(document), where="x")] == expected


def test_own_data_of_every_form(tmp_path: Path) -> None:
    half, mended = "a \ud83d b", "a \ufffd b"
    passages = [{"id": "p\ud83d1", "text": half}, {"id": "p2", "text": "two"}]
    queries = [{"id": "q1", "text": half, "positives": ["p\ud83d1"], "answers": [half]}]
    lines = tmp_path / "p.jsonl", tmp_path / "q.jsonl"
    for path, rows in zip(lines, (passages, queries), strict=True):
        path.write_bytes(b"\n".join(map(escaped, rows)))
    csv = tmp_path / "p.csv"
    cells = "".join(f'"{row["id"]}","{row["text"]}"\n' for row in passages)
    csv.write_bytes(("id,text\n" + cells).encode("utf-8", "surrogatepass"))
    parquet = tmp_path / "p.parquet"
    columns = {
        key: pa.array([r[key].encode("utf-8", "surrogatepass") for r in passages], pa.binary())
        for key in ("id", "text")
    }
    pq.write_table(
        pa.table({k: v.cast(pa.string(), safe=False) for k, v in columns.items()}), parquet
    )
    splits = [m2kr.from_records(passages, queries, data=tmp_path, name="records")]
    for name, path in (("lines", lines[0]), ("csv", csv), ("parquet", parquet)):
        import_files(name, path, lines[1], data=tmp_path)
        splits.append(m2kr.load(name, data=tmp_path))
    for split in splits:
        assert split.passages["passage_id"][:] == ["p\ufffd1", "p2"]
        assert split.passages["passage_content"][:] == [mended, "two"]
        query = split.query("q1")
        assert (query["question"], query["answers"]) == (mended, [mended])
        assert query["pos_item_ids"] == ["p\ufffd1"]


TYPES = st.sampled_from([pa.string(), pa.large_string(), pa.list_(pa.string())])


@given(st.lists(st.none() | TEXTS, max_size=6), TYPES, st.integers(0, 3), st.booleans())
def test_arrow_arrays(texts: list[str | None], kind: pa.DataType, start: int, coded: bool) -> None:
    raw = [None if t is None else t.encode("utf-8", "surrogatepass") for t in texts]
    expected: list[Any] = [None if t is None else right(t) for t in texts]
    if pa.types.is_list(kind):
        inner = pa.array([[x, x] if x is not None else None for x in raw], pa.list_(pa.binary()))
        strings = inner.values.cast(pa.string(), safe=False)
        mask = pa.array([x is None for x in raw], pa.bool_())
        array = pa.ListArray.from_arrays(inner.offsets, strings, mask=mask)
        expected = [None if x is None else [x, x] for x in expected]
    else:
        binary = pa.large_binary() if kind == pa.large_string() else pa.binary()
        array = pa.array(raw, binary).cast(kind, safe=False)
        if coded:
            array = array.dictionary_encode()
    assert mended_array(array.slice(start)).to_pylist() == expected[start:]


def test_damaged_arrays_are_not_read() -> None:
    offsets = pa.py_buffer(b"\0\0\0\0\xff\xff\xff\x7f\3\0\0\0")
    wild = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"\xed\xa0\xbd"))
    with pytest.raises(pa.ArrowInvalid):
        mended_array(wild)
