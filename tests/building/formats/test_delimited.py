"""Delimited files: the same cells as plain Python reads, every fault at its place, nothing fatal."""

import csv
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from m2kr.building.formats.delimited import BadRecord, RecordBlock, read_csv, read_tsv
from m2kr.errors import InputError

Numbered = list[tuple[int, tuple[str, ...]]]
BLOCK_SIZES = st.sampled_from([1, 7, 30, 200, 100_000])
BOM = b"\xef\xbb\xbf"


class Read:
    """What a reader gave: rows with their numbers, faults, and whether the numbers add up."""

    def __init__(
        self, reader: Callable[..., Iterator[RecordBlock]], data: bytes | BinaryIO, *args, **kw
    ):
        self.faults: list[BadRecord] = []
        self.rows: Numbered = []
        stream = io.BytesIO(data) if isinstance(data, bytes) else data
        self.seen = 0
        for block in reader(stream, *args, where="f", on_fault=self.faults.append, **kw):
            assert block.first == self.seen + 1
            self.seen += block.records
            block.batch.validate(full=True)
            assert all(not c.null_count and c.type == pa.string() for c in block.batch.columns)
            columns = [c.to_pylist() for c in block.batch.columns]
            self.rows += [(block.row(i), row) for i, row in enumerate(zip(*columns, strict=True))]
            assert block.rows().tolist() == [block.row(i) for i in range(len(block.batch))]
        assert len(self.rows) + len(self.faults) == self.seen
        numbers = sorted([row for row, _ in self.rows] + [f.row for f in self.faults])
        assert numbers == list(range(1, self.seen + 1))


def naive_tsv(data: bytes, columns: int) -> tuple[Numbered, list[int]]:
    """Good rows and numbers of bad ones, by the book."""
    lines = data.removeprefix(BOM).split(b"\n")
    lines = [line.removesuffix(b"\r") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    good, bad = [], []
    for number, line in enumerate(lines, 1):
        cells = line.split(b"\t")
        try:
            if len(cells) != columns or not line:
                raise ValueError
            good.append((number, tuple(cell.decode() for cell in cells)))
        except ValueError:
            bad.append(number)
    return good, bad


def naive_csv(text: str, columns: int, delimiter: str) -> tuple[Numbered, list[int]]:
    """The same by Python's csv; for text whose lone carriage returns are quoted."""
    found = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    while found and not found[-1]:
        found.pop()
    good = [(n, tuple(row)) for n, row in enumerate(found, 1) if len(row) == columns]
    return good, [n for n, row in enumerate(found, 1) if len(row) != columns]


def with_header(columns: int, delimiter: str = ",") -> tuple[list[str], str]:
    names = [f"c{i}" for i in range(columns)]
    return names, delimiter.join(names)


# ---------------------------------------------------------------- unquoted


def test_tsv_is_read_as_it_is() -> None:
    data = '0\tThe "best" of\'em\\t\n1\t\n\tNULL\n3\tNaN é\0\x85\u2028\n4\t"open\n5\t \n6\tlast'
    read = Read(read_tsv, data.encode(), ["pid", "text"])
    assert read.rows == [
        (1, ("0", 'The "best" of\'em\\t')),
        (2, ("1", "")),
        (3, ("", "NULL")),
        (4, ("3", "NaN é\0\x85\u2028")),
        (5, ("4", '"open')),
        (6, ("5", " ")),
        (7, ("6", "last")),
    ]
    assert not read.faults


@pytest.mark.parametrize("block_bytes", [1, 8 << 20])
def test_tsv_faults_are_told_with_their_line_and_left_out(block_bytes: int) -> None:
    lines = [b"0\ta", b"1", b"", b"2\tb\tc", b"3\tx\xffy", b"4\td\re", b"\t\t\t", b"5\tf\r", b""]
    data = BOM + b"\n".join(lines) + b"\n\n"
    read = Read(read_tsv, data, ["pid", "text"], block_bytes=block_bytes)
    assert read.rows == [(1, ("0", "a")), (6, ("4", "d\re")), (8, ("5", "f"))]
    assert read.faults == [
        BadRecord(2, "1 cell instead of 2", "1"),
        BadRecord(3, "a blank line", ""),
        BadRecord(4, "3 cells instead of 2", "2\\tb\\tc"),
        BadRecord(5, "byte 4 of the record is not UTF-8", "3\\tx\\xffy"),
        BadRecord(7, "4 cells instead of 2", "\\t\\t\\t"),
    ]


def test_faults_in_a_big_file_leave_their_neighbours_alone() -> None:
    lines = [b"%d\ttext of %d" % (i, i) for i in range(200_000)]
    bad = [17, 18, 99_999, 150_000, 199_999]
    for i, line in zip(bad, (b"no tab", b"", b"a\xc0\tb", b"a\tb\tc", b"x"), strict=True):
        lines[i] = line
    lines[60_000] = b"a\rb\tc"
    read = Read(read_tsv, b"\n".join(lines), ["pid", "text"], block_bytes=1 << 19)
    assert [fault.row for fault in read.faults] == [i + 1 for i in bad]
    assert len(read.rows) == 200_000 - len(bad)
    assert read.rows[60_000 - 2] == (60_001, ("a\rb", "c"))


def test_a_byte_order_mark_is_no_text_at_the_beginning_only() -> None:
    rows = "".join(f"\ufeff{i}\t\ufeff\n" for i in range(100)).encode()
    read = Read(read_tsv, BOM + rows, ["a", "b"], block_bytes=5)
    assert [row for _, row in read.rows] == [(f"\ufeff{i}", "\ufeff") for i in range(100)]


def test_one_column_may_be_empty_and_a_delimiter_another() -> None:
    assert [r for _, r in Read(read_tsv, b"a\n\nb\n\n", ["x"]).rows] == [
        ("a",),
        ("",),
        ("b",),
        ("",),
    ]
    assert Read(read_tsv, b"1 0\t2 1\n", ["a", "b", "c"], delimiter=" ").rows == [
        (1, ("1", "0\t2", "1"))
    ]
    with pytest.raises(ValueError, match="ASCII"):
        Read(read_tsv, b"", ["a"], delimiter="é")


@pytest.mark.parametrize("data", [b"", BOM, b"\n", b"\n\r\n\n"])
def test_an_empty_tsv_has_no_records(data: bytes) -> None:
    assert Read(read_tsv, data, ["a", "b"]).seen == 0


def test_a_line_without_end_is_one_error_after_the_good_ones() -> None:
    data = b"a\tb\n" * 3 + b"x" * 100_000
    rows: list[int] = []
    with pytest.raises(InputError, match=r"f, record 4: a line that goes on for more than 50,000"):
        for block in read_tsv(
            io.BytesIO(data), ["a", "b"], where="f", on_fault=print, longest=50_000, block_bytes=100
        ):
            rows += [block.row(i) for i in range(len(block.batch))]
    assert rows == [1, 2, 3]


CELLS = st.text(
    st.sampled_from(list("ab\"'\\ ,\0\t\r\n\ufeff\x85é日😀\u2028N/A"))
    | st.characters(codec="utf-8"),
    max_size=12,
)
BAD_LINES = st.sampled_from(
    [b"", b"\r", b"x", b"\t\t", b"\xff\t", b"a\t\xed\xa0", b"\t\xc3", b'"\n"\t', b"\r\r\t\r\r"]
)


@settings(max_examples=120, deadline=None)
@given(data=st.data(), block_bytes=BLOCK_SIZES, end=st.sampled_from([b"\n", b"\r\n"]))
def test_tsv_reads_what_plain_python_reads(data, block_bytes: int, end: bytes) -> None:
    cell = CELLS.map(lambda text: text.replace("\t", "").replace("\n", "").encode())
    good = st.tuples(cell, cell).map(b"\t".join)
    lines = data.draw(st.lists(good | good | BAD_LINES, max_size=30))
    content = end.join(lines) + data.draw(st.sampled_from([b"", end]))
    read = Read(read_tsv, content, ["a", "b"], block_bytes=block_bytes)
    assert (read.rows, [f.row for f in read.faults]) == naive_tsv(content, 2)


# ---------------------------------------------------------------- quoted


def test_csv_is_read_as_rfc_4180_says() -> None:
    data = (
        'id,text\r\n1,"a ""quoted"", cell"\r\n2,"two\r\nlines\n\n"\r\n3,\r\n,""\r\n'
        '5,6" wide\r\n6,"glued"on\r\n7,NULL\r\n8,"\r"\r\n9,"""\0"""'
    )
    read = Read(read_csv, BOM + data.encode(), ["id", "text"])
    assert read.rows == [
        (1, ("1", 'a "quoted", cell')),
        (2, ("2", "two\r\nlines\n\n")),
        (3, ("3", "")),
        (4, ("", "")),
        (5, ("5", '6" wide')),
        (6, ("6", "gluedon")),
        (7, ("7", "NULL")),
        (8, ("8", "\r")),
        (9, ("9", '"\0"')),
    ]
    assert not read.faults


@pytest.mark.parametrize("block_bytes", [1, 8 << 20])
def test_csv_faults_are_told_with_their_record(block_bytes: int) -> None:
    data = b'a,b\n1,"x\ny"\n2\n\n3,"p\nq",r\n4,"\xff\n"\n5,z\rz\n\n\n'
    read = Read(read_csv, data, ["a", "b"], block_bytes=block_bytes)
    assert read.rows == [(1, ("1", "x\ny")), (6, ("5", "z\rz"))]
    assert read.faults == [
        BadRecord(2, "1 cell instead of 2", "2"),
        BadRecord(3, "a blank line", ""),
        BadRecord(4, "3 cells instead of 2", '3,"p\\nq",r'),
        BadRecord(5, "byte 4 of the record is not UTF-8", '4,"\\xff\\n"'),
    ]


def test_csv_of_one_column_tells_an_empty_cell_from_a_blank_line() -> None:
    read = Read(read_csv, b'c0\n""\n\nx\n\n', ["c0"])
    assert read.rows == [(1, ("",)), (3, ("x",))]
    assert read.faults == [BadRecord(2, "a blank line", "")]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "the file is empty"),
        (b"kid;text\n1;2\n", "the header is 'kid;text'"),
        (b"kid,more\n1,2\n", "it has no column 'text'"),
        (b"kid,text,kid\n1,2,3\n", "it has more than one column 'kid'"),
        (b"\nkid,text\n", "the header is ''"),
        (b"\x89PNG\r\n\x1a\n\0", "the header is"),
    ],
)
def test_another_header_is_an_error(data: bytes, text: str) -> None:
    with pytest.raises(InputError) as caught:
        Read(read_csv, data, ["kid", "text"])
    assert text in str(caught.value)
    assert "kid,text" in str(caught.value)


@pytest.mark.parametrize("header", [b"a,b", b"a,b\n", b"a,b\r\n", b'\xef\xbb\xbf"a",b\n\n\n'])
def test_a_header_alone_is_no_record(header: bytes) -> None:
    assert Read(read_csv, header, ["a", "b"]).seen == 0


@pytest.mark.parametrize(
    ("block_bytes", "longest", "text"),
    [
        (10, 1 << 20, "has no closing quote"),
        (8 << 20, 1 << 20, "has no closing quote"),
        (10, 1_000, "goes on for more than 1,000"),
    ],
)
def test_a_quote_that_is_never_closed_is_one_error(
    block_bytes: int, longest: int, text: str
) -> None:
    data = b"a,b\n1,2\n3,4\n" + b'5,"' + b"x,y\n" * 50_000
    read: list[int] = []
    with pytest.raises(InputError, match=f"f, record 3: .*{text}"):
        for block in read_csv(
            io.BytesIO(data),
            ["a", "b"],
            where="f",
            on_fault=print,
            longest=longest,
            block_bytes=block_bytes,
        ):
            read += [block.row(i) for i in range(len(block.batch))]
    assert read == [1, 2]


def test_a_long_cell_is_read() -> None:
    cell = 'né "x",\n' * 1_000_000
    text = "a,b\n1,2\n3," + '"' + cell.replace('"', '""') + '"\n5,6\n'
    rows = [row for _, row in Read(read_csv, text.encode(), ["a", "b"], block_bytes=1 << 20).rows]
    assert rows == [("1", "2"), ("3", cell), ("5", "6")]


def written(rows: Sequence[Sequence[str]], delimiter: str, quoting: int, end: str) -> str:
    out = io.StringIO(newline="")
    for row in rows:
        # Before Python 3.13 a bare CR goes out unquoted; before an LF it would end the record.
        bare = any("\r" in cell for cell in row)
        quotes = csv.QUOTE_ALL if bare else quoting
        csv.writer(out, delimiter=delimiter, quoting=quotes, lineterminator=end).writerow(row)
    return out.getvalue()


@settings(max_examples=120, deadline=None)
@given(data=st.data(), rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=8))
def test_columns_are_read_by_name_whatever_their_order(data, rows: list[tuple[str, ...]]) -> None:
    own = ["id", "text", "title"]
    more = data.draw(st.lists(st.sampled_from(["", "score", "text_2", "é"]), max_size=2))
    order = data.draw(st.permutations([*own, *more]))
    wide = [[row[own.index(n)] if n in own else "z" for n in order] for row in rows]
    text = data.draw(st.sampled_from(["", "\ufeff"])) + written(
        [[data.draw(st.sampled_from(["", " "])) + name for name in order], *wide],
        *("\t", data.draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])), "\n"),
    )
    read = Read(*(read_csv, text.encode(), own), delimiter="\t", block_bytes=data.draw(BLOCK_SIZES))
    assert read.rows == list(enumerate(rows, 1))
    assert not read.faults


def test_a_record_is_as_wide_as_the_header() -> None:
    read = Read(read_csv, b"more,b,a\n1,2,3\n4,5\n\xff,6,7\n8,9,10,11\n", ["a", "b"])
    assert read.rows == [(1, ("3", "2"))]
    assert [fault.row for fault in read.faults] == [2, 3, 4]
    assert "2 cells instead of 3" in read.faults[0].problem


@settings(max_examples=120, deadline=None)
@given(
    data=st.data(),
    columns=st.integers(1, 3),
    delimiter=st.sampled_from([",", "\t"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    end=st.sampled_from(["\n", "\r\n"]),
    block_bytes=BLOCK_SIZES,
)
def test_csv_brings_back_what_was_written(
    data, columns: int, delimiter: str, quoting: int, end: str, block_bytes: int
) -> None:
    row = st.lists(CELLS, min_size=columns, max_size=columns)
    odd = st.lists(CELLS, min_size=1, max_size=4).filter(lambda cells: len(cells) != columns)
    rows = data.draw(st.lists(row | row | odd, max_size=20))
    names, header = with_header(columns, delimiter)
    text = header + end + written(rows, delimiter, quoting, end)
    text = text.removesuffix(end) if data.draw(st.booleans()) else text
    read = Read(read_csv, text.encode(), names, delimiter=delimiter, block_bytes=block_bytes)
    assert read.rows == [(n, tuple(r)) for n, r in enumerate(rows, 1) if len(r) == columns]
    assert [f.row for f in read.faults] == [n for n, r in enumerate(rows, 1) if len(r) != columns]


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(st.sampled_from('"",\n\nab\0é'), max_size=60),
    columns=st.integers(1, 3),
    block_bytes=BLOCK_SIZES,
)
@example('"a""b"c"d,"\n"",e\n', 2, 1)
@example('a,"b"""\n"', 2, 7)
def test_sloppy_quotes_are_read_as_python_reads_them(
    text: str, columns: int, block_bytes: int
) -> None:
    names, header = with_header(columns)
    try:
        read = Read(read_csv, f"{header}\n{text}".encode(), names, block_bytes=block_bytes)
    except InputError as error:
        assert "closing quote" in str(error)
        closed = list(csv.reader(io.StringIO(text + '"\n"', newline="")))
        assert closed  # Python takes the rest of the file for the cell
    else:
        assert (read.rows, [f.row for f in read.faults]) == naive_csv(text, columns, ",")


# ---------------------------------------------------------------- hostile bytes, streams, threads


@settings(max_examples=120, deadline=None)
@given(
    data=st.binary(max_size=200)
    | st.lists(st.sampled_from([b"\t", b"\n", b"\r", b'"', b",", BOM, b"\xff", b"\0", b"a"])).map(
        b"".join
    ),
    block_bytes=BLOCK_SIZES,
)
def test_any_bytes_are_records_faults_or_one_error(data: bytes, block_bytes: int) -> None:
    read = Read(read_tsv, data, ["a", "b"], block_bytes=block_bytes)
    assert (read.rows, [f.row for f in read.faults]) == naive_tsv(data, 2)
    names, header = with_header(2)
    content = header.encode() + b"\n" + data
    outcomes = []
    for size in (block_bytes, 1 << 20):
        try:
            read = Read(read_csv, content, names, block_bytes=size)
            outcomes.append((read.rows, read.faults))
        except InputError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


class Breaking(io.RawIOBase):
    """A stream that fails at its end."""

    def __init__(self, data: bytes, error: Exception) -> None:
        self._inner = io.BytesIO(data)
        self._error = error

    def read(self, size: int = -1) -> bytes:
        data = self._inner.read(min(size, 1_000))
        if not data:
            raise self._error
        return data


@pytest.mark.parametrize("reader", [read_tsv, read_csv])
def test_an_error_of_the_stream_comes_after_all_there_is(reader) -> None:
    error = InputError("damaged", where="archive")
    data = b"a\tb\n" + b"".join(b"%d\tx\n" % i for i in range(5_000)) + b"half a li"
    rows = 0
    with pytest.raises(InputError) as caught:
        for block in reader(
            Breaking(data, error), ["a", "b"], where="f", on_fault=print, delimiter="\t"
        ):
            rows += len(block.batch)
    assert caught.value is error
    assert rows == (5_001 if reader is read_tsv else 5_000)


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("m2kr-ahead")]


def test_threads_end_with_the_iterator_whatever_ends_it() -> None:
    data = b"a\tb\n" * 100_000

    def failing(fault: BadRecord) -> None:
        raise InputError("enough")

    blocks = read_tsv(io.BytesIO(data), ["a", "b"], where="f", on_fault=print, block_bytes=100)
    next(blocks)
    assert threads()
    blocks.close()
    assert not threads()
    with pytest.raises(InputError, match="enough"):
        list(read_tsv(io.BytesIO(b"x\n" + data), ["a", "b"], where="f", on_fault=failing))
    assert not threads()
    for _ in read_tsv(io.BytesIO(data), ["a", "b"], where="f", on_fault=print, block_bytes=100):
        break
    assert not threads()
