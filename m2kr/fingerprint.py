"""Fingerprints of the data a score depends on: logical rows, never file bytes.

A part's fingerprint is ``fp1:`` + sha256 over the part's name and the sha256 of each row, rows
sorted by the bytes of their id. A row is its values in order: null is ``00``; a string is ``01``,
its length in bytes (uint64, little-endian) and its UTF-8; a list is ``02``, its count (uint64) and
its items. Hashing rows first keeps memory at 32 bytes a row and lets shards be hashed apart.

Parts: ``queries`` (question_id, instruction, question), ``judgements`` (question_id, sorted
positives, answers), ``pool`` (passage_id, passage_content); ``eval`` is over those three. A query
with a grade other than 1, or with judged passages that the pool lacks, adds to ``judgements`` the
list of its grades and the lists of ids and grades of the latter, all in the order of their ids;
grades are the shortest text that reads back as the same float. A relevance threshold other than 1
is part of the name ``judgements``. Which images queries have is apart from these: ``image_paths`` by
name, in every manifest, and ``images`` by content, in results of retrievers that read them.
Shards, batch sizes, extra columns, routes and the pyarrow version do not enter.
"""

import hashlib
import itertools
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = "fp1:"
Value = bytes | str | None | Sequence["Value"]
_LENGTH = struct.Struct("<Q")


def encode_value(value: Value) -> bytes:
    """The unambiguous bytes of one value (see the module's rule)."""
    if value is None:
        return b"\x00"
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"\x01" + _LENGTH.pack(len(value)) + value
    return b"\x02" + _LENGTH.pack(len(value)) + b"".join(map(encode_value, value))


class Fingerprint:
    """Collects one part's rows in any order; 32 bytes a row plus the ids are held.

    Args:
        part: Name that enters the hash: ``queries``, ``judgements``, ``pool`` or ``images``.
    """

    def __init__(self, part: str) -> None:
        self._part = part
        self._digests = bytearray()
        self._ids: list[pa.Array] = []

    def add(self, ids: Sequence[bytes], values: Iterable[bytes]) -> None:
        """Adds rows: ids as UTF-8, and per row the joined `encode_value` of what follows the id."""
        import pyarrow as pa

        sha256, pack = hashlib.sha256, _LENGTH.pack
        self._digests += b"".join(
            [
                sha256(b"\x01" + pack(len(row_id)) + row_id + rest).digest()
                for row_id, rest in zip(ids, values, strict=True)
            ]
        )
        self._ids.append(pa.array(ids, pa.binary()))

    def add_digests(self, ids: "pa.Array", digests: bytes) -> None:
        """Adds rows that were hashed before: ids (binary) and 32 bytes a row, as `pool_digests` gives."""
        self._digests += digests
        self._ids.append(ids)

    def hexdigest(self) -> str:
        """The fingerprint, ``fp1:`` and 64 hex digits."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        total = hashlib.sha256(b"m2kr-fp1\0" + self._part.encode() + b"\0")
        digests = np.frombuffer(self._digests, dtype=np.uint8).reshape(-1, 32)
        if len(digests):
            # Rows that share an id (the official E-VQA pool has some) are ordered by their digest.
            hashes = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(32), len(digests), [None, pa.py_buffer(self._digests)]
            )
            table = pa.table({"id": pa.chunked_array(self._ids), "hash": hashes})
            order = pc.sort_indices(table, sort_keys=[("id", "ascending"), ("hash", "ascending")])
            rows = order.to_numpy()
            for start in range(0, len(rows), 65536):
                total.update(digests[rows[start : start + 65536]].tobytes())
        return PREFIX + total.hexdigest()


def combine(queries: str, judgements: str, pool: str) -> str:
    """The ``eval`` fingerprint: what a score is a function of, next to the run."""
    text = "\0".join(("m2kr-fp1", "eval", queries, judgements, pool))
    return PREFIX + hashlib.sha256(text.encode()).hexdigest()


def query_parts(
    table: "pa.Table | Iterable[pa.RecordBatch]", threshold: float = 1
) -> tuple[str, str]:
    """The ``queries`` and ``judgements`` fingerprints of a query table, read batch by batch.

    Args:
        table: The table; `m2kr.schema.GRADES` and its neighbours may be absent.
        threshold: Grade from which a passage counts as right.
    """
    import pyarrow as pa

    part = "judgements" if threshold == 1 else f"judgements, right from {float(threshold)!r}"
    texts, judged = Fingerprint("queries"), Fingerprint(part)
    for batch in _batches(table):
        ids = batch.column("question_id").cast(pa.binary()).to_pylist()
        get = {name: batch.column(name).to_pylist() for name in _QUERY_FIELDS}
        pairs = zip(get["instruction"], get["question"], strict=True)
        texts.add(ids, (encode_value(i) + encode_value(q) for i, q in pairs))
        pairs = zip(get["pos_item_ids"], get["answers"], strict=True)
        values = (encode_value(sorted(p)) + encode_value(a) for p, a in pairs)
        judged.add(ids, map(bytes.__add__, values, _grades(batch)))
    return texts.hexdigest(), judged.hexdigest()


def _grades(batch: "pa.RecordBatch") -> "Iterable[bytes]":
    """Per query the bytes of its grades and lost passages; none where all is in the pool and graded 1."""
    names = ("pos_item_ids", "pos_item_grades", "lost_item_ids", "lost_item_grades")
    if not set(names[1:]) & set(batch.schema.names):
        return itertools.repeat(b"", len(batch))
    nothing: list[list[object]] = [[]] * len(batch)
    columns = [batch.column(n).to_pylist() if n in batch.schema.names else nothing for n in names]
    return itertools.starmap(_grade_bytes, zip(*columns, strict=True))


def _grade_bytes(
    ids: list[str], grades: list[float], lost: list[str], lost_grades: list[float]
) -> bytes:
    if not lost and all(grade == 1 for grade in grades):
        return b""
    lost_grades = lost_grades or [1.0] * len(lost)
    right = sorted(zip(ids, grades or [1.0] * len(ids), strict=True))
    gone = sorted(zip(lost, lost_grades, strict=True))
    return b"".join(
        encode_value(value)
        for value in (
            [repr(float(grade)) for _, grade in right],
            [row_id for row_id, _ in gone],
            [repr(float(grade)) for _, grade in gone],
        )
    )


def pool_part(table: "pa.Table | Iterable[pa.RecordBatch]") -> str:
    """The ``pool`` fingerprint of a passage table, read batch by batch."""
    import pyarrow as pa

    part = Fingerprint("pool")
    for batch in _batches(table):
        part.add_digests(batch.column("passage_id").cast(pa.binary()), pool_digests(batch))
    return part.hexdigest()


def pool_digests(batch: "pa.RecordBatch") -> bytes:
    """32 bytes for each row of a passage batch: the sha256 of its id and text by the module's rule."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts: list[pa.Array] = []
    for name in ("passage_id", "passage_content"):
        values = batch.column(name).cast(pa.large_binary())
        parts += [_heads(values), values]
    joined = pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))
    _, offsets, data = joined.buffers()
    if data is None:
        return b""
    view, sha256 = memoryview(data), hashlib.sha256
    ends = memoryview(offsets).cast("q")[joined.offset : joined.offset + len(joined) + 1].tolist()
    return b"".join([sha256(view[a:b]).digest() for a, b in itertools.pairwise(ends)])


def _heads(values: "pa.Array") -> "pa.Array":
    """What precedes each string in a row's bytes: ``01`` and its length."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    heads = np.zeros(len(values), np.dtype([("mark", "u1"), ("length", "<u8")]))
    heads["mark"] = 1
    heads["length"] = pc.binary_length(values).to_numpy(zero_copy_only=False)
    offsets = np.arange(0, heads.nbytes + 1, heads.itemsize, dtype=np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(heads)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(values), buffers)


def image_paths_part(table: "pa.Table | Iterable[pa.RecordBatch]") -> str:
    """The ``image_paths`` fingerprint of a query table: which image each query has, by its path.

    The ending of a path is left out: one image is a .jpg here and a .JPEG there.
    """
    import pyarrow as pa

    part = Fingerprint("image_paths")
    for batch in _batches(table):
        ids = batch.column("question_id").cast(pa.binary()).to_pylist()
        paths = batch.column("img_path").to_pylist()
        part.add(ids, (encode_value(None if path is None else _stem(path)) for path in paths))
    return part.hexdigest()


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def images_part(hashes: Iterable[tuple[str, str | None]]) -> str:
    """The ``images`` fingerprint: per query id the sha256 of its image file, or null for none.

    In place of the hash of an image that is missing stands what was done about it.
    """
    part = Fingerprint("images")
    for query_id, digest in hashes:
        part.add([query_id.encode()], [encode_value(digest)])
    return part.hexdigest()


_QUERY_FIELDS = ("instruction", "question", "pos_item_ids", "answers")


def _batches(table: "pa.Table | Iterable[pa.RecordBatch]") -> "Iterable[pa.RecordBatch]":
    import pyarrow as pa

    return table.to_batches() if isinstance(table, pa.Table) else table
