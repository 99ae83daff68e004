"""A look at upstream's first MB: what is as expected is counted, what isn't is told, nothing is raised."""

import csv
import gzip
import hashlib
import io
import json
import logging
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from conftest import Cli
from faulty_server import FOREVER, LAST_MODIFIED, Fault, FaultyServer, etag_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from m2kr import sources
from m2kr.build.download.fetch import Policy
from m2kr.build.probing.parse import Seen, rows_in
from m2kr.build.probing.probe import HEAD_BYTES, Probed, probe
from m2kr.build.probing.unpack import Drift
from m2kr.build.release.route import ReleaseBuilder
from m2kr.build.spec import Asset, Shape
from m2kr.cli import probes
from m2kr.cli.main import app
from m2kr.errors import UpstreamError, UsageError

FAST = Policy(attempts=2, backoff=0.01, connect_timeout=1, read_timeout=0.2, retry_after_cap=0.02)
RANDOM = random.Random(7)
MB = 1 << 20

TSV = Shape("tsv", ("pid", "text"), member="collection.tsv")
CSV = Shape("csv", ("question", "answer", "evidence"))
TABBED = Shape("csv", ("id", "text", "title"), delimiter="\t")
LINES = Shape("jsonl", ("data_id", "question"))
KB = Shape("json", ("title", "section_texts"), member="kb.json")
COCO = Shape("json", ("question_id", "question"), path="questions")
LIST = Shape("json", ("question_id", "ctxs"))


def words(n: int) -> str:
    """Text that hardly compresses."""
    return RANDOM.randbytes(n).hex()


def tar(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Pipe(io.RawIOBase):
    """A stream that can't go back: zipfile then writes sizes behind the members."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, block: object) -> int:
        self.data += bytes(block)  # type: ignore[call-overload]
        return len(bytes(block))  # type: ignore[call-overload]


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, *, pipe: bool = False):
    out = Pipe() if pipe else io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:  # type: ignore[arg-type]
        for name, data in members.items():
            archive.writestr(name, data)
    return bytes(out.data) if isinstance(out, Pipe) else out.getvalue()


def tsv(rows: int, cells: int = 2, size: int = 20) -> bytes:
    return b"".join(
        "\t".join([str(i), *(words(size) for _ in range(cells - 1))]).encode() + b"\n"
        for i in range(rows)
    )


def table(rows: int, header: tuple[str, ...] = CSV.names, delimiter: str = ",", size: int = 20):
    out = io.StringIO()
    write = csv.writer(out, delimiter=delimiter, lineterminator="\n").writerow
    write(header)
    for i in range(rows):
        write([str(i), f'said "{words(size)}",\n{i}\n\n', *(words(3) for _ in header[2:])])
    return out.getvalue().encode()


def lines(rows: int, keys: tuple[str, ...] = LINES.names, size: int = 20) -> bytes:
    return b"".join(
        json.dumps(dict.fromkeys(keys, words(size))).encode() + b"\n" for _ in range(rows)
    )


def kb(rows: int, size: int = 40, keys: tuple[str, ...] = KB.names) -> bytes:
    entry = {f"https://en.wikipedia.org/{i}": dict.fromkeys(keys, words(size)) for i in range(rows)}
    return json.dumps(entry).encode()


def coco(rows: int, path: str = "questions", keys: tuple[str, ...] = COCO.names, size: int = 9):
    info = {"version": "1.0", "licences": [{"id": 1}]}
    records = [dict.fromkeys(keys, words(size)) for _ in range(rows)]
    return json.dumps({"info": info, path: records, "data_type": "mscoco"}).encode()


BIG_CSV = table(9000, size=40)
BIG_LINES = lines(9000, size=40)
BIG_KB = kb(9000)
BIG_TSV = tsv(40_000)
NOTES = b"questions"

# name: the file's content, its shape, the rows in it (None: more than fit in the first MB)
GOOD: dict[str, tuple[bytes, Shape | None, int | None]] = {
    "m/collection.tar.gz": (tar({"q.tsv": tsv(9), "collection.tsv": BIG_TSV}), TSV, None),
    "m/small.tar.gz": (tar({"./collection.tsv": tsv(50), "q.tsv": tsv(9, 3)}), TSV, 50),
    "m/plain.tar": (tar({"d/q.tsv": tsv(9), "collection.tsv": tsv(70)}, "w:"), TSV, 70),
    "e/train.csv": (BIG_CSV, CSV, None),
    "e/val.csv": (b"\xef\xbb\xbf" + table(30), CSV, 30),
    "w/psgs.tsv.gz": (gzip.compress(table(12_000, TABBED.names, "\t"), 1), TABBED, None),
    "i/train.jsonl": (BIG_LINES, LINES, None),
    "i/val.jsonl": (lines(12)[:-1], LINES, 12),
    "m/train.jsonl.gz": (gzip.compress(lines(100)) + gzip.compress(lines(11)), LINES, 111),
    "e/kb.zip": (zipped({"kb.json": BIG_KB}), KB, None),
    "e/kb_piped.zip": (zipped({"a.txt": NOTES, "kb.json": kb(33)}, pipe=True), KB, 33),
    "e/kb_stored.zip": (zipped({"d/": b"", "kb.json": BIG_KB}, zipfile.ZIP_STORED), KB, None),
    "o/questions.json.zip": (zipped({"README": NOTES, "q.json": coco(700)}), COCO, 700),
    "e/inat.json.tar.gz": (tar({"q.json": coco(30_000)}), COCO, None),
    "o/labels.json": (json.dumps([dict.fromkeys(LIST.names, 1)] * 5).encode(), LIST, 5),
    "k/images.tar": (tar({"a.jpg": b"\xff" * 3 * MB}, "w:"), None, None),
    "x/unnamed": (gzip.compress(lines(17)), LINES, 17),
}


@pytest.fixture(scope="module")
def files() -> Iterator[FaultyServer]:
    with FaultyServer({f"/{name}": data for name, (data, _, _) in GOOD.items()}) as server:
        yield server


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({"/a.jsonl": lines(40)}) as server:
        yield server


def asked(server: FaultyServer, name: str = "x/a.jsonl", **facts: object) -> Asset:
    settings = {"urls": (server.url("/a.jsonl"),), "shape": LINES} | facts
    return Asset(name, **settings)  # type: ignore[arg-type]


def one(asset: Asset) -> Probed:
    (found,) = probe([asset], policy=FAST)
    return found


def drift(data: bytes, name: str, shape: Shape | None, *, whole: bool = True) -> str:
    with pytest.raises(Drift) as caught:
        rows_in(data, name, shape, whole=whole)
    return str(caught.value)


def test_what_is_as_expected_is_counted(files: FaultyServer) -> None:
    assets = [
        Asset(name, (files.url(f"/{name}"),), size=len(data), shape=shape)
        for name, (data, shape, _) in GOOD.items()
    ]
    told: list[str] = []
    found = probe(assets, policy=FAST, done=lambda each: told.append(each.name))
    assert [f.name for f in found] == list(GOOD)
    assert sorted(told) == sorted(GOOD)
    for each, (data, shape, rows) in zip(found, GOOD.values(), strict=True):
        assert (each.status, each.problem) == ("ok", ""), each
        assert (each.size, each.etag) == (len(data), etag_of(data))
        assert each.last_modified == LAST_MODIFIED
        assert files.ranges(f"/{each.name}") == [f"bytes=0-{HEAD_BYTES - 1}"]
        if shape is None:
            assert each.rows is None
        elif rows is None:
            assert each.rows is not None and each.rows > 1000, each
        else:
            assert each.rows == rows, each


@pytest.mark.parametrize(
    ("data", "name", "shape"),
    [
        (BIG_CSV, "a.csv", CSV),
        (BIG_LINES, "a.jsonl", LINES),
        (BIG_KB, "a.json", KB),
        (BIG_TSV, "a.tsv", TSV),
        (coco(3000), "a.json", COCO),
        (coco(40), "a.json", COCO),  # the cut is at its end, or behind it
    ],
    ids=["csv", "jsonl", "object", "tsv", "list", "short list"],
)
def test_a_cut_anywhere_is_no_fault(data: bytes, name: str, shape: Shape) -> None:
    for cut in [*range(2000, 2060, 3), 100_000, 100_001]:
        seen = rows_in(data[:cut], name, shape, whole=cut >= len(data))
        assert seen is not None and seen.rows > 0


def test_a_list_cut_off_behind_its_end() -> None:
    data = coco(8)
    end = data.index(b"]", data.index(b'"questions"')) + 1
    for at in range(end - 3, len(data)):
        assert rows_in(data[:at], "a.json", COCO, whole=False) in {Seen(8), Seen(7)}
    assert "comma or bracket" in drift(data[:end], "a.json", COCO)
    assert "?" in drift(data[:end] + b" " + b"?" * 20, "a.json", COCO, whole=False)


@pytest.mark.parametrize(
    ("data", "name", "shape", "says"),
    [
        (
            tar({"collection.tsv": tsv(4) + b"5\n" + tsv(4)}),
            "c.tar.gz",
            TSV,
            "row 5: 1 cell instead of 2; expected lines of 2 cells (pid, text), separated by tabs; "
            "seen '5'",
        ),
        (tsv(3, 3), "c.tsv", TSV, "row 1: 3 cells instead of 2"),
        (b"1\tab\xffc\n", "c.tsv", TSV, "not UTF-8"),
        (
            table(9, CSV.names[:2]),
            "t.csv",
            CSV,
            "it has no column 'evidence'; expected the col",
        ),
        (table(9, ("question", "answers", "evidence")), "t.csv", CSV, "answers"),
        (table(3) + b"a,b\n" + table(3), "t.csv", CSV, "row 4: 2 cells instead of 3"),
        (table(3) + b'a,b,"c', "t.csv", CSV, "record 4: a quoted cell of this record has no clos"),
        (table(0), "t.csv", CSV, "no rows; expected a header with the columns question"),
        (gzip.compress(table(9), mtime=0), "t.tsv.gz", TABBED, "the header is"),
        (
            lines(3) + lines(1, ("data_id", "q")),
            "v.jsonl",
            LINES,
            "row 4: no key 'question'; expec",
        ),
        (lines(1, ("data_id", "q")), "v.jsonl", LINES, "seen the keys 'data_id', 'q'"),
        (lines(2) + b"[]\n", "v.jsonl", LINES, "row 3: a JSON list, no object"),
        (b"<Error><Code>AccessDenied</Code></Error>", "v.jsonl", LINES, "row 1: no JSON"),
        (b"\n\n", "v.jsonl", LINES, "no rows"),
        (zipped({"kb.json": kb(9, keys=("title", "texts"))}), "k.zip", KB, "'section_texts'"),
        (zipped({"kb.json": b'{"u": [1]}'}), "k.zip", KB, "record 1: no object"),
        (
            zipped({"kb2.json": kb(9)}),
            "k.zip",
            KB,
            "no 'kb.json' in this archive; seen the members",
        ),
        (zipped({"kb.json": b'{"u": {}, nonsense}'}), "k.zip", KB, "JSON"),
        (zipped({"kb.json": b"{}"}), "k.zip", KB, "no rows"),
        (zipped({"kb.json": kb(9)}, zipfile.ZIP_BZIP2), "k.zip", KB, "method 12"),
        (zipped({}), "k.zip", KB, "seen the members none"),
        (zipped({"../kb.json": kb(9)}), "k.zip", KB, "unsafe name"),
        (zipped({"q.json": coco(9, "items")}), "q.json.zip", COCO, "no key 'questions'"),
        (zipped({"q.json": coco(9, keys=("id", "question"))}), "q.zip", COCO, "'question_id'"),
        (b'{"questions": {}}', "q.json", COCO, "the value of 'questions' is no list"),
        (b"12", "q.json", COCO, "it begins with '12'; expected JSON objects"),
        (b"12", "q.json", LIST, "it begins with '12'; expected JSON objects"),
        (b"", "q.json", LIST, "no rows"),
        (tar({"other.tsv": tsv(4)}), "c.tar.gz", TSV, "no 'collection.tsv' in this archive; seen"),
        (gzip.compress(tsv(4000), mtime=0), "c.tar.gz", TSV, "no tar archive in this gzip file"),
        (tsv(100), "c.tar.gz", TSV, "no archive: it begins with"),
        (lines(10), "v.jsonl.gz", LINES, "no gzip file: it begins with '{"),
        (gzip.compress(lines(10), mtime=0), "v.jsonl", LINES, "a gzip file; expected plain text"),
        (zipped({"v.jsonl": lines(10)}), "v.jsonl", LINES, "a zip archive; expected plain text"),
        (
            gzip.compress(lines(10), mtime=0)[:-20],
            "v.jsonl.gz",
            LINES,
            "the gzip data end too early",
        ),
        (gzip.compress(lines(10), mtime=0) + b"more", "v.jsonl.gz", LINES, "gzip data are damaged"),
        (b"GIF89a" * 200, "images.zip", None, "no archive: it begins with 'GIF89aGIF"),
    ],
)
def test_drift_is_told(data: bytes, name: str, shape: Shape | None, says: str) -> None:
    assert says in drift(data, name, shape)


def test_a_big_first_record_is_no_drift_for_json_alone() -> None:
    big = words(MB)
    seen = rows_in(json.dumps({"u": {"title": big}}).encode()[:MB], "k.json", KB, whole=False)
    assert seen == Seen(0, "no record ends in the bytes read")
    text = json.dumps({"info": big, "questions": []}).encode()[:MB]
    assert rows_in(text, "q.json", COCO, whole=False) == Seen(
        0, "no record of the list 'questions' ends in the bytes read"
    )
    line = json.dumps({"data_id": big, "question": ""}).encode()[:MB]
    assert "no row ends in 1,048,576 bytes" in drift(line, "v.jsonl", LINES, whole=False)
    assert rows_in(line[:4000], "v.jsonl", LINES, whole=False) == Seen(
        0, "no row ends in the bytes read"
    )
    for text in (
        b'{"u": nonsense, "v": "',
        b'{"u": {}, "v": [nonsense "',
        b'{"u": {"t" nonsense "',
    ):
        assert "JSON" in drift(text + big.encode(), "k.json", Shape("json", ()), whole=False)


@pytest.mark.parametrize("data", [kb(4000), coco(6000)], ids=["object", "list"])
def test_damage_in_a_cut_document_is_drift(data: bytes) -> None:
    shape = KB if data.startswith(b'{"https') else COCO
    for at in range(60_000, 90_000, 1999):
        for wrong in (b'"', b"\xff"):
            damaged = data[:at] + wrong + data[at + 1 :]
            if damaged != data:
                assert drift(damaged[:200_000], "a.json", shape, whole=False)


def test_a_member_behind_the_first_mb_is_no_drift() -> None:
    note = "the member 'collection.tsv' does not begin in the bytes read"
    far = {"images.bin": RANDOM.randbytes(2 * MB), "collection.tsv": tsv(9)}
    assert rows_in(tar(far)[:MB], "c.tar.gz", TSV, whole=False) == Seen(0, note)
    assert rows_in(tar(far, "w:")[:MB], "c.tar", TSV, whole=False) == Seen(0, note)
    for pipe in (False, True):
        archive = zipped(far, pipe=pipe)
        assert rows_in(archive[:MB], "c.zip", TSV, whole=False) == Seen(0, note)
        for cut in (2, 10, 33, 35):
            assert rows_in(archive[:cut], "c.zip", TSV, whole=False) == Seen(0, note)
    assert "no 'collection.tsv'" in drift(zipped({"a": b"a"}), "c.zip", TSV, whole=False)


def test_bombs_are_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2kr.build.probing.unpack.INFLATED", 3 * MB)
    monkeypatch.setattr("m2kr.build.probing.parse.PARSED", 2 * MB)
    bomb, shape = b"1\t2\n" * 2 * MB, Shape("tsv", ("a", "b"))
    for data, name in (
        (gzip.compress(bomb, 1, mtime=0), "c.tsv.gz"),
        (zipped({"c.tsv": bomb}), "c.zip"),
        (tar({"c.tsv": bomb}), "c.tgz"),
    ):
        assert len(data) < 100_000
        assert rows_in(data, name, shape, whole=True) == Seen(2 * MB // 4)


@pytest.mark.parametrize(
    ("fault", "facts", "status", "problem"),
    [
        (Fault(status=404), {}, "drift", "gone (HTTP 404)"),
        (Fault(status=410), {}, "drift", "gone (HTTP 410)"),
        (Fault(status=403), {}, "gated", "HTTP 403: needs a login or an accepted licence"),
        (Fault(status=401), {"gate": "sign the form"}, "gated", "HTTP 401: sign the form"),
        (Fault(status=500), {}, "unreachable", "HTTP 500 Internal Server Error (2 attempts)"),
        (Fault(status=400), {}, "unreachable", "HTTP 400 Bad Request"),
        (Fault(stall_at=0, stall=2), {}, "unreachable", "no data for 0.2 s (2 attempts)"),
        (Fault(delay=2), {}, "unreachable", "no answer for 0.2 s (2 attempts)"),
        (Fault(truncate=99), {}, "unreachable", "the connection ended after 99 of"),
        (Fault(redirect="ftp://x/"), {}, "unreachable", "redirects to an address that is not safe"),
        (Fault(body=b""), {}, "drift", "an empty file"),
        (
            Fault(body=b"\n<!DOCTYPE html><title>Sign\n in</title>"),
            {},
            "drift",
            "a web page instead of the file: 'Sign in'",
        ),
        (
            Fault(body=b"<form>", headers={"Content-Type": "text/html; charset=utf-8"}),
            {},
            "drift",
            "a web page instead of the file: '<form>'",
        ),
        (Fault(headers={"Content-Range": "bytes 5-9/99"}), {}, "unreachable", "another range"),
        (Fault(), {"size": 5}, "drift", "bytes instead of 5"),
        (Fault(chunked=True, ranges=False), {"size": 5}, "drift", "bytes instead of 5"),
        (Fault(), {"md5": "0" * 32}, "drift", "another content than that of the published md5"),
        (Fault(), {"sha256": "0" * 64}, "drift", "another content than that of the published sha"),
        (Fault(), {"urls": ("https://u:p@x/a",)}, "unreachable", "no address that is opened"),
    ],
)
def test_every_fault_has_its_status(
    server: FaultyServer, fault: Fault, facts: dict[str, object], status: str, problem: str
) -> None:
    server.fail("/a.jsonl", fault, times=FOREVER)
    found = one(asked(server, **facts))
    assert (found.status, found.fine) == (status, False)
    assert problem in found.problem


def test_a_second_attempt_redirects_and_servers_without_ranges(server: FaultyServer) -> None:
    big = lines(20_000, size=40)
    server.files["/big.jsonl"] = big
    rows = big[:HEAD_BYTES].count(b"\n")
    asset = asked(server, urls=(server.url("/big.jsonl"),), size=len(big))
    server.fail("/big.jsonl", Fault(status=503, headers={"Retry-After": "9"}), Fault(truncate=5000))
    assert one(asset).status == "unreachable"
    server.fail("/big.jsonl", Fault(truncate=5000), Fault(ranges=False))
    assert (one(asset).status, one(asset).rows) == ("ok", rows)
    server.fail("/big.jsonl", Fault(ranges=False, chunked=True))
    found = one(asset)
    assert (found.status, found.size, found.rows) == ("ok", None, rows)
    server.fail("/a.jsonl", Fault(redirect=server.url("/big.jsonl", "localhost")))
    assert one(asked(server, size=len(big))).rows == rows


def test_small_files_without_a_length_are_whole(server: FaultyServer) -> None:
    data = server.files["/a.jsonl"]
    for fault in (Fault(chunked=True, ranges=False), Fault(unsized=True, ranges=False)):
        server.fail("/a.jsonl", fault)
        assert (one(asked(server)).size, one(asked(server)).rows) == (len(data), 40)
    packed = gzip.compress(data)
    encoded = Fault(body=packed, ranges=False, headers={"Content-Encoding": "gzip"})
    server.fail("/a.jsonl", encoded)
    assert one(asked(server, sha256=hashlib.sha256(data).hexdigest())).rows == 40


def test_a_slow_server_is_parsed_as_far_as_it_came(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2kr.build.probing.probe.SECONDS", 0.05)
    server.files["/a.jsonl"] = BIG_LINES
    server.fail("/a.jsonl", Fault(drip=2000))
    found = one(asked(server))
    assert found.status == "ok"
    assert found.rows is not None and 0 < found.rows < BIG_LINES[:HEAD_BYTES].count(b"\n")


def test_mirrors_in_order(server: FaultyServer) -> None:
    server.files |= {"/b": lines(7), "/c": lines(8, ("other",))}
    urls = [server.url(path) for path in ("/gone", "/b", "/a.jsonl")]
    found = one(asked(server, urls=tuple(urls)))
    assert (found.status, found.url, found.rows) == ("ok", urls[1], 7)
    assert found.problem == f"not from {urls[0]}: gone (HTTP 404)"
    server.fail("/b", Fault(status=500), times=2)
    found = one(asked(server, urls=(urls[1], server.url("/c"))))
    assert (found.status, found.url) == ("drift", server.url("/c"))
    assert "no key" in found.problem and "HTTP 500" in found.problem
    assert not server.gets("/a.jsonl")


def test_what_needs_no_network(server: FaultyServer) -> None:
    by_hand = asked(server, urls=(), manual="place it here")
    inside = asked(server, urls=("package:m2kr_builders/mini/photos.zip",))
    both = asked(server, urls=("package:a/b", server.url("/a.jsonl")))
    found = probe([by_hand, inside, both], policy=FAST)
    assert [f.status for f in found] == ["manual", "package", "ok"]
    assert found[0].problem == "place it here" and found[0].fine and found[1].fine
    assert len(server.requests) == 1
    assert probe([]) == []


def test_the_hubs_token_goes_to_the_hub_alone(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    server.fail("/hub", Fault(redirect=server.url("/a.jsonl", "localhost")))
    assert one(asked(server, urls=(server.url("/hub"),))).status == "ok"
    assert server.gets("/hub")[0].headers["Authorization"] == "Bearer secret"
    assert "Authorization" not in server.gets("/a.jsonl")[0].headers


NAMES = ["a.tar.gz", "a.zip", "a.jsonl.gz", "a.csv", "a.jsonl", "a.json", "a.tar", "a"]
SHAPES = [TSV, CSV, TABBED, LINES, KB, COCO, LIST, None]
SAMPLES = [
    tar({"collection.tsv": tsv(9)}, "w:"),
    tar({"q.json": coco(9)}),
    zipped({"kb.json": kb(3)}),
]
SAMPLES += [zipped({"a": b"a", "q.json": coco(5)}, pipe=True), gzip.compress(lines(9)), table(9)]
SAMPLES += [coco(9), kb(9), lines(9)]


def looks(data: bytes, name: str, shape: Shape | None, whole: bool) -> None:
    try:
        rows_in(data, name, shape, whole=whole)
    except Drift as error:
        assert str(error)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(NAMES), st.sampled_from(SHAPES), st.booleans())
@example(b"\x1f\x8b", "a.tar.gz", TSV, False)
@example(b"PK\x03\x04" + b"\xff" * 26, "a.zip", KB, False)
def test_random_bytes_raise_nothing_else(
    data: bytes, name: str, shape: Shape | None, whole: bool
) -> None:
    looks(data, name, shape, whole)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    st.integers(0, 10**6),
    st.sampled_from(NAMES),
    st.sampled_from(SHAPES),
    st.booleans(),
)
def test_damaged_files_raise_nothing_else(
    data: bytes,
    changes: list[tuple[int, int]],
    cut: int,
    name: str,
    shape: Shape | None,
    whole: bool,
) -> None:
    damaged = bytearray(data)
    for at, byte in changes:
        damaged[at % len(damaged)] = byte
    looks(bytes(damaged[: cut % (len(damaged) + 1)]), name, shape, whole)


# The command.


def builder(name: str, *assets: Asset) -> SimpleNamespace:
    """As much of a builder as a probe looks at."""
    spec = sources.builder("mini").SOURCE
    source = sources.Source(
        **{
            field: getattr(spec, field)
            for field in ("config", "title", "task", "pools", "headline", "licence")
        },
        name=name,
    )
    return SimpleNamespace(SOURCE=source, assets=lambda options: assets)


Show = Callable[..., int]


@pytest.fixture
def show(tmp_path: Path) -> Show:
    """Probes, and gives the exit code."""

    def run(*builders: object, json: bool = False, edition: str | None = None, **given: str) -> int:
        try:
            probes.show(builders, tmp_path / "data", given, edition, json=json, policy=FAST)
        except typer.Exit as leave:
            return leave.exit_code
        return 0

    return run


def test_all_as_expected(
    server: FaultyServer, show: Show, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared, own = asked(server), asked(server, "x/b.jsonl", urls=(), manual="by [hand]")
    assert show(builder("one", shared, own), builder("two", shared), builder("none", own)) == 0
    said = capsys.readouterr().out
    assert len(server.requests) == 1
    assert "1 of 1 files are as expected" in said and "by [hand]" in said
    kept = json.loads((tmp_path / "data/probes.json").read_bytes())
    facts = {"rows": 40, "size": len(server.files["/a.jsonl"])}
    assert set(kept) == {"one", "two"}
    assert kept["one"]["assets"] == {"x/a.jsonl": facts}
    assert probes.read(tmp_path / "data") == kept
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["probes.json"]


def test_drift_ends_with_code_4_and_is_not_kept(
    server: FaultyServer, show: Show, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, gone = asked(server), asked(server, "x/gone.jsonl", urls=(server.url("/gone"),))
    assert show(builder("one", good), builder("two", good, gone)) == UpstreamError.exit_code == 4
    said = capsys.readouterr().out
    assert "1 of 2 files are as expected, 1 drift" in said
    assert "gone (HTTP 404)" in said and "please report" in said
    assert set(probes.read(tmp_path / "data")) == {"one"}
    server.fail("/a.jsonl", Fault(status=500), times=2)
    assert show(builder("one", good)) == 4
    assert "1 unreachable" in capsys.readouterr().out


def test_json_is_one_object(
    server: FaultyServer, show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = asked(server, size=1)
    assert show(builder("one", wrong), ReleaseBuilder("okvqa"), json=True) == 4
    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"] is False
    by_name = {each["source"]: each for each in printed["sources"]}
    assert by_name["one"]["files"][0]["status"] == "drift"
    assert by_name["one"]["files"][0]["rows"] == 40
    assert "counts" in by_name["okvqa"]["skipped"]


def test_the_release_route_is_skipped(show: Show, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(ReleaseBuilder("okvqa")) == 0
    said = capsys.readouterr().out
    assert "okvqa: not probed: the release route" in said and "no file to ask for" in said


def test_options_are_checked(server: FaultyServer, show: Show) -> None:
    with pytest.raises(UsageError, match="no option 'pool'"):
        show(builder("one", asked(server)), pool="full")


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"date": "soon"}}', "{", "\x00"])
def test_a_damaged_memory_is_passed_over(
    server: FaultyServer, show: Show, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "data/probes.json"
    path.parent.mkdir()
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert probes.read(tmp_path / "data") == {}
    assert "damaged" in caplog.text
    assert show(builder("one", asked(server))) == 0
    assert set(probes.read(tmp_path / "data")) == {"one"}


def test_a_data_root_that_takes_nothing(
    server: FaultyServer, show: Show, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").write_text("a file")
    assert show(builder("one", asked(server))) == 0
    assert "can't be kept" in caplog.text


def test_list_tells_when(cli: Cli, tmp_path: Path) -> None:
    entry = {"date": "2031-02-03", "assets": {}}
    (tmp_path / "probes.json").write_text(json.dumps({"okvqa": entry}))
    (tmp_path / "probes.json").with_suffix(".txt").write_text("not a source")
    listed = json.loads(cli("list", "--json", "--data", tmp_path).stdout)["sources"]
    parsed = {each["source"]: each["parsed_on_real_bytes"] for each in listed}
    assert (parsed["okvqa"], parsed["msmarco"], parsed["mini"]) == ("2031-02-03", "never", None)
    table = CliRunner().invoke(app, ["list", "--data", str(tmp_path)]).stdout
    assert "parsed on real bytes" in table and "2031-02-03" in table and "never" in table


def test_the_command(tmp_path: Path) -> None:
    def run(*args: str) -> str:
        done = CliRunner().invoke(app, ["build", *args, "--probe", "--data", str(tmp_path)])
        assert done.exit_code == 0
        return done.stdout

    assert json.loads(run("okvqa", "--route", "release", "--json"))["ok"] is True
    said = run("mini")
    assert "in a package" in said and "no file to ask for" in said
    assert not list(tmp_path.iterdir())


def test_a_stray_faulty_row_is_a_remark_and_many_are_drift() -> None:
    shape = Shape("tsv", ("qid", "text"))
    rows = [f"{i}\tquery {i}\n" for i in range(1_000)]
    stray = [*rows[:500], "no cells\n", *rows[500:]]
    seen = rows_in("".join(stray).encode(), "a.tsv", shape, whole=True)
    assert seen is not None
    assert seen.rows == 1_001
    assert "1 of 1,001 rows are faulty, first row 501" in seen.note
    with pytest.raises(Drift, match="row 1: 1 cell"):
        rows_in("".join(["no cells\n"] * 20 + rows).encode(), "a.tsv", shape, whole=True)
    lines = b'{"a": 1}\n' * 300 + b'{"b": 1}\n' + b'{"a": 1}\n' * 300
    seen = rows_in(lines, "a.jsonl", Shape("jsonl", ("a",)), whole=True)
    assert seen is not None
    assert "no key 'a'" in seen.note
