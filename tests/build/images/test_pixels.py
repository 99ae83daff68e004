"""WIT's pixel files: wanted rows become images under their md5, and bad rows cost themselves alone."""

import base64
import functools
import gzip
import io
import itertools
import random
import tarfile
from pathlib import Path

import pytest
from faulty_server import Fault, FaultyServer
from hostile_images import picture
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.build.download.job import Policy
from m2kr.build.images import pixels as module
from m2kr.build.images.members import Fetched
from m2kr.build.images.pixels import (
    DAMAGED,
    NO_BASE64,
    NO_ROW,
    PARTS,
    TOO_LONG,
    pixels,
    take_pixels,
)
from m2kr.build.images.runs import Fault as Told
from m2kr.build.images.store import Store
from m2kr.build.images.web import md5_name
from m2kr.data.image_decode import EMPTY, NO_IMAGE
from m2kr.data.images import ImageStore
from m2kr.errors import InputError, MissingError, UpstreamError

QUICK = Policy(attempts=2, backoff=0.01, read_timeout=5)
U = "https://upload.wikimedia.org/wikipedia/commons/a/ab"


@functools.cache
def photo(number: int) -> bytes:
    return picture("JPEG" if number % 2 else "PNG", (number + 1, 20))


def row(url: str, data: bytes) -> bytes:
    return f"{url}\t{base64.b64encode(data).decode()}\thttp://commons/x\n".encode()


def rows(first: int, end: int) -> bytes:
    return b"".join(row(f"{U}/{i}.jpg", photo(i)) for i in range(first, end))


def names(first: int, end: int) -> dict[str, bytes]:
    return {md5_name(f"{U}/{i}.jpg"): photo(i) for i in range(first, end)}


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1))
    return path


def taken(
    folder: Path, sources: list, wanted: dict[str, bytes]
) -> tuple[Fetched, list[Told], set[str]]:
    """What `take_pixels` returns, the faults, and what readers find of the wanted images."""
    faults: list[Told] = []
    with Store(folder) as store:
        done = take_pixels(sources, wanted, store, faults.append, policy=QUICK)
        have = set(store.names())
    assert done.faults == len(faults)
    assert have <= set(wanted)
    images = ImageStore([folder])
    for name in have:
        assert images.read(name) == wanted[name]
    assert done.there + done.added == len(have)
    return done, faults, have


def test_wanted_images_of_files_folders_and_tars_are_taken_once(tmp_path):
    write(tmp_path / "a/image_pixels/part-00000.csv.gz", rows(0, 10))
    write(tmp_path / "a/image_pixels/part-00001.csv.gz", rows(10, 20) + rows(0, 3))
    write(tmp_path / "a/resnet_embeddings/part-00000.csv.gz", b"http://x\t1,2,3\n")
    single = write(tmp_path / "b.csv.gz", rows(20, 30))
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        tar.add(write(tmp_path / "x", rows(30, 40)), "image_data_train/image_pixels/p.csv.gz")
        tar.add(write(tmp_path / "y", b"no"), "image_data_train/resnet_embeddings/p.csv.gz")
    sources = [tmp_path / "a", single, str(tmp_path / "c.tar")]
    wanted = names(5, 35)
    done, faults, have = taken(tmp_path / "s", sources, wanted)
    assert (done.there, done.added, faults, have) == (0, 30, [], set(wanted))
    again, _, _ = taken(tmp_path / "s", sources, wanted | names(35, 38))
    assert (again.there, again.added) == (30, 3)


def test_a_file_on_a_server_is_read_and_not_kept_and_cuts_are_mended(tmp_path):
    draw = random.Random(1)
    others = b"".join(row(f"{U}/o{i}", draw.randbytes(90_000)) for i in range(100))
    packed = gzip.compress(others + rows(0, 5), 1)
    with FaultyServer({"/part-00000.csv.gz": packed}) as server:
        server.fail("/part-00000.csv.gz", Fault(truncate=100), Fault(truncate=2_000_000))
        wanted = names(0, 5)
        done, faults, have = taken(tmp_path / "s", [server.url("/part-00000.csv.gz")], wanted)
        assert (done.added, faults, have) == (5, [], set(wanted))
        assert len(packed) < done.received < len(packed) + 3_000_000
        with pytest.raises(UpstreamError):
            taken(tmp_path / "s", [server.url("/none.csv.gz")], names(0, 6))
    assert [path.suffix for path in (tmp_path / "s").glob("*.gz")] == []


def test_reading_ends_where_all_images_are_there(tmp_path):
    first = write(tmp_path / "1.csv.gz", rows(0, 4) + b"no row\n" * 10)
    second = tmp_path / "2.csv.gz"
    second.write_bytes(b"not even gzip")
    done, faults, _ = taken(tmp_path / "s", [first, second], names(1, 3))
    assert (done.added, faults) == (2, [])
    # Nothing is read, then, nor asked for.
    assert taken(tmp_path / "s", [tmp_path / "none"], names(1, 3))[0].there == 2


def test_bad_rows_cost_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LINE", 50_000)
    bad = {
        "empty": b"",
        "page": b"<html>no</html>",
        "svg": b'<?xml version="1.0"?><svg/>',
        "long": photo(1) + bytes(90_000),
        "longest": photo(1) + bytes(3_000_000),
    }
    content = [
        b"image_url\tb64_bytes\tmetadata_url\n",
        *(row(f"{U}/{name}", data) for name, data in bad.items()),
        f"{U}/letters\t%%%%\tx\n".encode(),
        f"{U}/padding\tAAA\tx\n".encode(),
        f"{U}/inside\tAA=A\tx\n".encode(),
        f"{U}/nothing\n".encode(),
        b"\xff\xfe\tAAAA\tx\n",
        b"http://\xff\tAAAA\tx\n",
        b"\n\r\n",
        b"no address at all\n",
        row(f'"{U}/quoted"', photo(3)).replace(b"\n", b"\r\n"),
        row(f"{U}/ünï", photo(4)),
        row(f"{U}/last", photo(5)).rstrip(b"\n"),
    ]
    path = write(tmp_path / "p.csv.gz", b"".join(content))
    good = {"quoted": photo(3), "ünï": photo(4), "last": photo(5)}
    asked = (*bad, "letters", "padding", "inside", "nothing", "never")
    wanted = {md5_name(f"{U}/{name}"): b"" for name in asked}
    wanted |= {md5_name(f"{U}/{name}"): data for name, data in good.items()}
    done, faults, have = taken(tmp_path / "s", [path], wanted)
    assert (done.added, len(have)) == (3, 3)
    told = {fault.name: fault.rule for fault in faults}
    assert len(told) == len(faults)
    images = {"empty": EMPTY, "page": NO_IMAGE, "svg": NO_IMAGE}
    images |= dict.fromkeys(("letters", "padding", "inside"), NO_BASE64)
    expected = {md5_name(f"{U}/{name}"): rule for name, rule in images.items()}
    expected |= {"row 5": TOO_LONG, "row 6": TOO_LONG}
    expected |= dict.fromkeys(("row 10", "row 11", "row 12", "row 15"), NO_ROW)
    assert told == expected
    assert {fault.archive for fault in faults} == {"p.csv.gz"}


def test_rows_that_nobody_asks_for_are_not_even_decoded(tmp_path):
    path = write(tmp_path / "p.csv.gz", f"{U}/x\t%%%%\tx\n".encode() + rows(0, 1))
    assert taken(tmp_path / "s", [path], names(0, 1))[1] == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "plain", "empty", "trailing"])
def test_a_damaged_file_costs_what_is_behind_the_damage(tmp_path, damage):
    draw = random.Random(2)
    others = b"".join(row(f"{U}/o{i}", draw.randbytes(300_000)) for i in range(10))
    whole = gzip.compress(rows(0, 3) + others + rows(3, 4), 1)
    flipped = bytearray(whole)
    flipped[-len(whole) // 3] ^= 0xFF
    contents = {
        "cut": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "plain": rows(0, 4),
        "empty": b"",
        "trailing": gzip.compress(rows(0, 3) + others, 1) + b"more, and no gzip",
    }
    path = tmp_path / "1.csv.gz"
    path.write_bytes(contents[damage])
    good = write(tmp_path / "2.csv.gz", rows(5, 8))
    wanted = names(0, 8)
    done, faults, have = taken(tmp_path / "s", [path, good], wanted)
    assert [(fault.name, fault.rule) for fault in faults] == [("1.csv.gz", DAMAGED)]
    before = set() if damage in {"plain", "empty"} else set(names(0, 3))
    assert have - set(names(3, 4)) == before | set(names(5, 8))
    assert done.added == len(have)


def test_sources_that_are_none_are_one_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "no.tar", "w") as tar:
        tar.add(__file__, "a.py")
    for source in (tmp_path / "empty", tmp_path / "no.tar"):
        with pytest.raises(InputError, match="no image_pixels files"):
            taken(tmp_path / "s", [source], names(0, 1))
    with pytest.raises(InputError, match="can't be used"):
        taken(tmp_path / "s", ["ftp://example.org/a.csv.gz"], names(0, 1))
    with pytest.raises(MissingError):
        taken(tmp_path / "s", [tmp_path / "none.csv.gz"], names(0, 1))


def test_the_open_parts_are_two_hundred():
    assert len(set(PARTS)) == 200
    assert PARTS[0].endswith(
        "/image_pixels/part-00000-04b253b8-db8c-4d14-a23f-3433a86841b4-c000.csv.gz"
    )
    assert "part-00199-" in PARTS[-1]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_header_says_where_the_columns_are(order):
    names = (b"image_url", b"b64_bytes", b"metadata_url")
    rows = [row(f"{U}/{i}.jpg", photo(i)).rstrip(b"\n").split(b"\t")[:3] for i in range(3)]
    content = b"".join(
        b"\t".join(cells[place] for place in order) + b"\n" for cells in (names, *rows)
    )
    wanted = {md5_name(f"{U}/{i}.jpg"): photo(i) for i in range(3)}
    faults: list[Told] = []
    found = dict(pixels(io.BytesIO(content), "p", wanted.__contains__, faults.append))
    assert found == wanted
    assert not faults


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(0, 9).map(lambda i: row(f"{U}/{i}.jpg", photo(i))),
            st.binary(max_size=60),
            st.builds(
                lambda url, cell: f"{U}/{url}\t{cell}\tx\n".encode(),
                st.integers(0, 9),
                st.text('ABab01+/= "%', max_size=12),
            ),
        ),
        max_size=12,
    )
)
def test_every_row_is_an_image_a_fault_or_not_asked_for(pieces):
    content = b"".join(pieces)
    faults: list[Told] = []
    wanted = {md5_name(f"{U}/{i}.jpg"): photo(i) for i in range(10)}
    found = list(pixels(io.BytesIO(content), "p", wanted.__contains__, faults.append))
    assert all(wanted[name] == data for name, data in found)
    lines = [line for line in content.split(b"\n") if line.strip(b"\r")]
    assert len(found) + len(faults) <= len(lines)
    whole = sum(
        line + b"\n" in {row(f"{U}/{i}.jpg", photo(i)) for i in range(10)} for line in lines
    )
    assert len(found) >= whole
