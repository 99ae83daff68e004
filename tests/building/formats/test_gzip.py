"""Gzip files: read whole, joined, or told to be damaged; bombs are refused."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import igzip

from m2kr.building.formats.delimited import read_tsv
from m2kr.building.formats.gzip import open_gzip
from m2kr.building.formats.limits import Limits
from m2kr.errors import InputError, MissingError


def test_gzip_files_are_read_whole_or_told_to_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv.gz"
    content = b"".join(b"%d\ttext %d\n" % (i, i * i) for i in range(100_000))
    whole = igzip.compress(content[:500_000]) + igzip.compress(content[500_000:])
    path.write_bytes(whole)
    with open_gzip(path) as file:
        assert file.read(3 << 20) == content
        assert file.read() == b""
    with open_gzip(path) as file:
        assert list(file) == content.splitlines(keepends=True)
    with open_gzip(path) as file:
        blocks = read_tsv(file, ["a", "b"], where="f", on_fault=print, block_bytes=1 << 16)
        assert sum(len(block.batch) for block in blocks) == 100_000
    flipped = bytearray(whole)
    flipped[-6] ^= 1
    for damaged in (whole[:-3], whole[:100_000], whole + b"rubbish", bytes(flipped), whole[:7]):
        path.write_bytes(damaged)
        with open_gzip(path) as file, pytest.raises(InputError, match="damaged or cut") as caught:
            list(read_tsv(file, ["a", "b"], where="f", on_fault=print))
        assert str(path) in str(caught.value)
    for other in (b"", b"\x1f", b"plain"):
        path.write_bytes(other)
        with pytest.raises(InputError, match="no gzip file"):
            open_gzip(path)
    with pytest.raises(MissingError, match="no such file"):
        open_gzip(tmp_path / "gone.gz")
    with pytest.raises(InputError, match="cannot be read"):
        open_gzip(tmp_path)


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(70 << 20)))
    with open_gzip(path) as file, pytest.raises(InputError, match="over 300 times"):
        file.read()
    with open_gzip(path, Limits(ratio=2_000)) as file:
        assert len(file.read()) == 70 << 20


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_gzip_file_is_never_a_traceback(data, tmp_path_factory) -> None:
    packed = bytearray(gzip.compress(b"one\ttwo\n" * 500, mtime=0))
    for _ in range(data.draw(st.integers(1, 5))):
        packed[data.draw(st.integers(2, len(packed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("gz") / "x.gz"
    path.write_bytes(packed[: data.draw(st.integers(0, len(packed)))])
    try:
        with open_gzip(path) as file:
            file.read()
    except InputError as error:
        assert str(path) in str(error)
