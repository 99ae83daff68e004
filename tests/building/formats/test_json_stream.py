"""Streaming of one JSON document equals decoding it whole; damage is one clear InputError."""

import io
import itertools
import json
import random
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.building.formats import json_stream
from m2kr.building.formats.json_stream import array_items, object_members
from m2kr.errors import InputError

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.sampled_from('{}[],:"\\ \né😀a/'))
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
LAYOUTS = st.fixed_dictionaries(
    {
        "separators": st.sampled_from([None, (",", ":"), (" , ", " : "), ("\r\n,\t", ":\n")]),
        "indent": st.sampled_from([None, None, 0, 1, "\t"]),
        "ensure_ascii": st.booleans(),
    }
)
ARTICLE = {"title": 'A {brace}, "quote"}, "x', "texts": ["a}", ", ", '"', "\\"], "n": {"m": []}}
SIZES = st.sampled_from([3, 20, 64, 1 << 18])


class Trickle(io.RawIOBase):
    """A stream that can't seek and returns a few bytes at a time."""

    def __init__(self, data: bytes, seed: int = 0) -> None:
        self.data, self.draw = io.BytesIO(data), random.Random(seed)

    def read(self, size: int = -1) -> bytes:
        return self.data.read(min(size, self.draw.randint(1, 9)))


@pytest.fixture(params=[7, None], ids=["tiny", "normal"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(json_stream, "_CHUNK", request.param)


def members(data: bytes, **options: Any) -> list[tuple[str, Any]]:
    return list(object_members(io.BytesIO(data), where="kb.json", **options))


def items(data: bytes, **options: Any) -> list[Any]:
    return list(array_items(io.BytesIO(data), where="kb.json", **options))


def drained(parts: Iterator[Any]) -> tuple[list[Any], InputError | None]:
    got: list[Any] = []
    try:
        got.extend(parts)
    except InputError as error:
        return got, error
    return got, None


def sized(size: int, run: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", size)
        return run()


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("separators", [None, (",", ":"), (" , ", "\n:\t")])
def test_every_layout_and_kind(chunk: None, indent: Any, separators: Any) -> None:
    kinds = ["text", "", 7, -1.5, None, True, [], {}, [[1], {"a": [2]}], [ARTICLE] * 2, ARTICLE]
    for value in kinds:
        document = {f"https://x/{i}": value for i in range(4)} | {"é": ARTICLE}
        data = json.dumps(document, indent=indent, separators=separators).encode()
        assert members(data) == list(document.items())
        data = json.dumps(list(document.values()), indent=indent, separators=separators).encode()
        assert items(data) == list(document.values())


def test_mixed_members_and_long_ones(chunk: None) -> None:
    document = {str(i): [ARTICLE, i, str(i) * 400, [{}]][i % 4] for i in range(30)}
    document["long"] = {"text": "ab\\" * 1_000, "list": list(range(100))}
    assert members(json.dumps(document).encode()) == list(document.items())
    assert items(json.dumps(list(document.values())).encode()) == list(document.values())


def test_equal_keys_come_twice(chunk: None) -> None:
    data = b'{"a": {}, "b": 3, "a": {"x": {}, "y": 1}, "a": 1, "a": {"z": 2}, "b": {}}'
    keys = [("a", {}), ("b", 3), ("a", {"x": {}, "y": 1}), ("a", 1), ("a", {"z": 2}), ("b", {})]
    assert members(data) == keys
    assert members(b'{"a": 3, "a": {}, "b": 1}') == [("a", 3), ("a", {}), ("b", 1)]


def test_byte_order_mark_blanks_and_empty(chunk: None) -> None:
    assert members(b'\xef\xbb\xbf \n{ "a" : 1 }\r\n \t') == [("a", 1)]
    assert members(b" {\n} ") == []
    assert items(b"\xef\xbb\xbf[ ]") == []


def test_surrogate_escapes(chunk: None) -> None:
    data = rb'{"\ud83d\ude00": "\ud83d", "b": "\\ud83d \udc00\ud83d\ude00", "c": {"\uD83Dx": 1}}'
    assert members(data) == [
        ("😀", "\ufffd"),
        ("b", "\\ud83d \ufffd😀"),
        ("c", {"\ufffdx": 1}),
    ]


def test_a_list_inside_an_object(chunk: None) -> None:
    document = {
        "info": {"images": [0, {"images": [1]}], "x": '"images": ['},
        "text": 'images": [\\',
        "n": 3,
        "images": [{"id": i, "name": "a, b"} for i in range(50)],
        "annotations": [[1, [2]]] * 30,
    }
    data = json.dumps(document).encode()
    assert items(data, key="images") == document["images"]
    assert items(data, key="annotations") == document["annotations"]
    for key, reason in (("licenses", "no key"), ("info", "no list"), ("n", "no list")):
        with pytest.raises(InputError, match=reason):
            items(data, key=key)
    with pytest.raises(InputError, match="no key"):
        items(b"{}", key="images")
    with pytest.raises(InputError, match="no comma"):
        items(b'{"images": [1, 2]', key="images")
    assert items(b'{"images": [1, 2], damage', key="images") == [1, 2]


def test_in_an_archive(tmp_path: Path) -> None:
    document = {str(i): ARTICLE for i in range(5_000)}
    with zipfile.ZipFile(tmp_path / "kb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("kb.json", json.dumps(document))
    with zipfile.ZipFile(tmp_path / "kb.zip") as archive, archive.open("kb.json") as stream:
        assert dict(object_members(stream, where="kb.zip/kb.json")) == document  # type: ignore[arg-type]
    damaged = bytearray((tmp_path / "kb.zip").read_bytes())
    damaged[len(damaged) // 3] ^= 0xFF
    with zipfile.ZipFile(io.BytesIO(damaged)) as archive, archive.open("kb.json") as stream:
        assert drained(object_members(stream, where="kb.zip"))[1]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "right", "what", "at"),
    [
        (b"", 0, "empty", 0),
        (b" \n", 0, "empty", 2),
        (b"[1]", 0, "this is a JSON list", 0),
        (b"\xff\xfe{", 0, "no JSON object", 0),
        (b"true", 0, "no JSON object", 0),
        (b"{", 0, "cut short", 1),
        (b'{"a": 1', 0, "cut short", 7),
        (b'{"a": 1, "b": {"c": "d', 1, "cut short", 22),
        (b'{"a": 1, "b": {}', 1, "cut short", 16),
        (b'{"a": 1,}', 1, "missing before", 8),
        (b'{"a": 1,, "b": 2}', 1, "missing before", 8),
        (b'{, "b": 2}', 0, "missing before", 1),
        (b'{"a": 1} x', 1, "more after its end", 9),
        (b'{"a": 1}{}', 1, "more after its end", 8),
        (b'{"a": 1]', 1, "bracket", 7),
        (b'{"a": {}, "b": [1}, "c": 3}', 1, "not JSON", 17),
        (b'{"a": 1, "b": Nan}', 1, "not JSON", 14),
        (b'{"a": 1, "b": xNaN, "c": NaNs}', 1, "not JSON", 14),
        (b'{"a": 1, "b": 1e999}', 1, "not JSON", 14),
        (b'{"a": 1, "b": 01, "c": 2}', 1, "not JSON", 14),
        (b'{"a": 1 "b": 2}', 0, "not JSON", 8),
        (b'{"a" 1, "b": 2}', 0, "not JSON", 5),
        (b'{"a": 1, b: 2}', 1, "not JSON", 9),
        (b'{"a": 1, 7: 2}', 1, "not JSON", 9),
        (b'{"a": 1, "b": }', 1, "missing before", 14),
        (b'{"a": 1, "b": "\xff"}', 1, "not UTF-8", 15),
        ('{"a": "é", "b": "é", "c": é}'.encode(), 2, "not JSON", 28),
        (b'{"a": 1, "b": "\x01"}', 1, "not JSON", 15),
        (b'{"a": 1, "b": "\\x"}', 1, "not JSON", 15),
        (b'{"a": ' + b"[" * 2_000 + b"]" * 2_000 + b"}", 0, "depth", None),
        (b'{"a": 1, "b": ' + b"[" * 2_000_000, 1, "depth", None),
        (b'{"a": 1, "b": ' + b'{"a":' * 500_000, 1, "depth", None),
    ],
)
def test_damage(data: bytes, right: int, what: str, at: int | None) -> None:
    got, error = drained(object_members(io.BytesIO(data), where="kb.json"))
    assert error is not None
    assert what in error.what
    assert len(got) == right
    assert error.where is not None
    assert error.where.startswith(f"kb.json, member {right + 1}")
    if at is not None:
        assert error.where.endswith(f"byte offset {at}"), error.where
    assert error.expected
    assert error.fix == "delete it and fetch it again"


def test_damage_far_inside_is_found_where_it_is() -> None:
    pieces = [f'"https://x/{i}": {json.dumps(ARTICLE)}' for i in range(4_000)]
    pieces[3_000] = pieces[3_000].replace('"texts"', '"texts')
    start = len("{" + ", ".join(pieces[:3_000]) + ", ")
    got, error = drained(
        object_members(Trickle(("{" + ", ".join(pieces) + "}").encode()), where="kb")  # type: ignore[arg-type]
    )
    assert got == [(f"https://x/{i}", ARTICLE) for i in range(3_000)]
    assert error is not None
    assert error.where is not None
    assert error.where.startswith('kb, member 3,001 "https://x/3000", byte offset ')
    assert start < int(error.where.split()[-1].replace(",", "")) < start + 200


def test_items_name_their_number() -> None:
    got, error = drained(array_items(io.BytesIO(b"[1, {}, nul]"), where="chat.json"))
    assert got == [1, {}]
    assert "chat.json, item 3, byte offset" in str(error)


def test_read_errors_and_early_end_of_use() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("disk on fire")

    with pytest.raises(InputError, match="disk on fire"):
        next(object_members(Broken(), where="x"))
    endless = io.BytesIO(b"[1, 2" + b", 3" * 1_000_000)
    assert list(itertools.islice(array_items(endless, where="x"), 3)) == [1, 2, 3]
    assert endless.tell() < 1_000_000


@pytest.mark.parametrize("opener", [b'{"a": 1, "b": "', b'{"a": 1, "b": [1, 2, "', b'{"a": 1,  '])
def test_limit(opener: bytes) -> None:
    data = opener + b" " * 30_000_000
    assert members(b'{"a": "12345678"}', limit=20) == [("a", "12345678")]
    tracemalloc.start()
    got, error = drained(object_members(io.BytesIO(data), where="x", limit=300_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got == [("a", 1)]
    assert error is not None
    assert "too large" in error.what
    assert error.expected == "at most 300,000 bytes"
    assert peak < 10_000_000
    for value in ('"123456789"', "{" + " " * 20 + "}", "[1,2,3,4,5,6]"):
        whole = f'{{"a": {{}}, "b": {value}, "c": 1}}'.encode()
        got, error = drained(object_members(io.BytesIO(whole), where="x", limit=15))
        assert got == [("a", {})]
        assert error is not None
        assert "too large" in error.what


@pytest.mark.parametrize(("opener", "key"), [(b"[", None), (b'{"early": [', "late")])
def test_memory_is_bounded(opener: bytes, key: str | None) -> None:
    class Parts(io.RawIOBase):
        left = 60

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            return opener if self.left == 59 else block if self.left > 0 else b""

    block = (json.dumps({"k": "v" * 5_000}) + ", ").encode() * 200
    tracemalloc.start()
    stream: Any = Parts()
    count = 0
    with pytest.raises(InputError, match="cut short"):
        for _ in array_items(stream, where="x", key=key):
            count += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == (0 if key else 58 * 200)
    assert peak < 12_000_000


def test_hostile_documents_stay_linear() -> None:
    """Ends that look right and are not, in every member and within one huge member."""
    nested = ", ".join(f'"{i}": {{"a": {{}}, "b": {{"c": {{}}, "d": 1}}}}' for i in range(20_000))
    one = '"x": [' + ", ".join(['{"a": {}, "b": "}, "}'] * 30_000) + "]"
    texts = '"x": {"t": "' + '}, \\"a\\": {' * 100_000 + '"}'
    for body in (nested, one, texts):
        data = f"{{{body}}}".encode()
        seconds = []
        for run in (lambda d: list(orjson.loads(d).items()), members):
            start = time.process_time()
            result = run(data)
            seconds.append(time.process_time() - start)
        assert result == list(orjson.loads(data).items())
        assert seconds[1] < 40 * seconds[0] + 1, f"{body[:30]}: {seconds}"


def test_decoded_bytes_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """However wrong the guesses are, no more than a few times the document is decoded."""
    work = 0

    def counted(text: bytes) -> Any:
        nonlocal work
        work += len(text)
        return orjson.loads(text)

    class Counting:
        loads = staticmethod(counted)
        JSONDecodeError = orjson.JSONDecodeError

    monkeypatch.setattr(json_stream, "orjson", Counting)
    monkeypatch.setattr(json_stream, "_CHUNK", 4096)
    turns = [{"from": "human", "value": "}, {"}, {"from": "gpt", "value": [{}, {"a": {}}]}]
    for n in (1, 10, 2_000):
        document = {str(i): {"turns": turns * n, "k": {}} for i in range(4_000 // n)}
        for data in (document, list(document.values())):
            work, text = 0, json.dumps(data).encode()
            parts = members(text) if isinstance(data, dict) else items(text)
            assert len(parts) == len(data)
            assert work < 6 * len(text), n


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(), VALUES), max_size=8), LAYOUTS, SIZES, st.booleans())
def test_objects_equal_json(pairs: list, layout: dict, size: int, bom: bool) -> None:
    document = [(f"{i}{key}", value) for i, (key, value) in enumerate(pairs)]
    data = ("\ufeff" * bom + json.dumps(dict(document), **layout)).encode()
    stream: Any = Trickle(data, size)
    assert sized(size, lambda: list(object_members(stream, where="x"))) == document


@settings(max_examples=25, deadline=None)
@given(st.lists(VALUES, max_size=8), VALUES, LAYOUTS, SIZES)
def test_lists_equal_json(values: list, other: Any, layout: dict, size: int) -> None:
    stream: Any = Trickle(json.dumps(values, **layout).encode(), size)
    assert sized(size, lambda: list(array_items(stream, where="x"))) == values
    document = {"before": other, "é": values, "after": other}
    stream = Trickle(json.dumps(document, **layout).encode(), size)
    assert sized(size, lambda: list(array_items(stream, where="x", key="é"))) == values


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=6), LAYOUTS, SIZES, st.data())
def test_every_cut_is_found(document: dict, layout: dict, size: int, data: Any) -> None:
    whole = json.dumps(document, **layout).encode()
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    got, error = sized(size, lambda: drained(object_members(io.BytesIO(cut), where="x")))
    assert error is not None
    assert got == list(document.items())[: len(got)]
    whole = json.dumps(list(document.values()), **layout).encode()
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    got, error = sized(size, lambda: drained(array_items(io.BytesIO(cut), where="x")))
    assert error is not None
    assert got == list(document.values())[: len(got)]


def strict(data: bytes, kind: type) -> Any:
    """What a whole decoding gives, or None for what is no such document."""
    try:
        value = json_stream.orjson.loads(
            json_stream.mended_json(data.removeprefix(b"\xef\xbb\xbf"))
        )
    except ValueError:
        return None
    return value if isinstance(value, kind) else None


SOUP = st.lists(
    st.sampled_from([b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b" ", b'"a":', b"1", b"{}"])
    | st.sampled_from([b'"a": {}, ', b"\xc3\xa9", b"\xff", b"\\ud800", b"null", b"NaN", b"{},{}"]),
    max_size=24,
).map(b"".join)


@settings(max_examples=100, deadline=None)
@given(SOUP | st.binary(max_size=40), st.sampled_from([b"", b"{", b"[", b'{"k":[']), SIZES)
def test_any_bytes_are_right_or_an_input_error(tail: bytes, head: bytes, size: int) -> None:
    data = head + tail
    got, error = sized(size, lambda: drained(object_members(io.BytesIO(data), where="x")))
    assert (error is None) == (strict(data, dict) is not None)
    assert error or dict(got) == strict(data, dict)
    got, error = sized(size, lambda: drained(array_items(io.BytesIO(data), where="x")))
    assert (None if error else got) == strict(data, list)
    sized(size, lambda: drained(array_items(io.BytesIO(data), where="x", key="k")))
    limited = object_members(io.BytesIO(data), where="x", limit=5)
    sized(size, lambda: drained(limited))


@settings(max_examples=25, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5), LAYOUTS, SIZES, st.data())
def test_one_changed_byte(values: list, layout: dict, size: int, data: Any) -> None:
    whole = bytearray(json.dumps({str(i): v for i, v in enumerate(values)}, **layout).encode())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.sampled_from(b'{}[],:"\\ x\xff0'))
    got, error = sized(size, lambda: drained(object_members(io.BytesIO(bytes(whole)), where="x")))
    assert (error is None) == (strict(bytes(whole), dict) is not None)
    assert error or dict(got) == strict(bytes(whole), dict)
