r"""Halves of surrogate pairs, which no UTF-8 can hold, become U+FFFD wherever text comes from outside.

A JSON escape can name half a pair (``"\ud83d"``), and some programs write one as three bytes
(``ED A0 BD``). Both are mended before a text is parsed or stored, so that neither loses a row. Two
halves that belong together are one character, however they are written. In JSON, ``NaN`` and
``Infinity``, which Python writes although JSON has no such numbers, become ``null``.
"""

import re
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import pyarrow as pa

_ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(rb"\\(?:u(?i:d[89ab]..\\ud[c-f]..)|(u(?i:d[89a-f][0-9a-f]{2}))|.)", re.S)
_NO_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*+"|(-?\b(?:NaN|Infinity)\b)', re.S)
_RAW_HALVES = re.compile(rb"(?:\xed[\xa0-\xbf][\x80-\xbf])+")
_HALVES = re.compile("[\ud800-\udfff]+")


def mended_bytes(text: bytes) -> bytes:
    """Text whose UTF-8 holds halves of pairs, mended; all else as it is."""
    if b"\xed" not in text:  # as nearly always
        return text
    return _RAW_HALVES.sub(lambda m: _joined(m[0].decode("utf-8", "surrogatepass")).encode(), text)


def mended_text(text: str) -> str:
    """A string without halves of pairs."""
    if text.isascii():
        return text
    return _HALVES.sub(lambda m: _joined(m[0]), text)


def mended_json(text: bytes) -> bytes:
    """A JSON text, or a piece of one that begins outside a string, without halves and ``NaN``."""
    if b"NaN" in text or b"Infinity" in text:
        text = _NO_NUMBER.sub(lambda m: b"null" if m[1] else m[0], text)
    if _ESCAPED_HALF.search(text):
        text = _ESCAPE.sub(lambda m: b"\\ufffd" if m[1] else m[0], text)
    return mended_bytes(text)


def loads(text: bytes) -> Any:
    """The value of a JSON text, as orjson reads it, halves of pairs as U+FFFD, ``NaN`` as null.

    Raises:
        orjson.JSONDecodeError: it is no JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        mended = mended_json(text)
        if mended == text:
            raise
    return orjson.loads(mended)


def mended_array(array: "pa.Array") -> "pa.Array":
    """An Arrow array in valid UTF-8; what Parquet files hold isn't looked at when they are read.

    Raises:
        pa.ArrowInvalid: it holds other bytes that are no UTF-8, or is damaged.
    """
    import pyarrow as pa

    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        mended = _of_mended(array)
        mended.validate(full=True)
        return mended
    return array


def _of_mended(array: "pa.Array") -> "pa.Array":
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        return pa.DictionaryArray.from_arrays(array.indices, mended_array(array.dictionary))
    if pa.types.is_list(array.type):
        offsets = pa.array(array.offsets.to_numpy(), pa.int32())
        mask = pa.array(array.is_null().to_numpy(zero_copy_only=False))
        return pa.ListArray.from_arrays(offsets, mended_array(array.values), mask=mask)
    large = pa.types.is_large_string(array.type)
    if not large and not pa.types.is_string(array.type):
        return array
    raw = array.cast(pa.large_binary() if large else pa.binary())
    raw.validate(full=True)  # its bytes are where it says
    texts = [None if text is None else mended_bytes(text) for text in raw.to_pylist()]
    return pa.array(texts, raw.type).cast(array.type)


def _joined(halves: str) -> str:
    return halves.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
