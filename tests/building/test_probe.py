"""A look at upstream's first MB: what is as expected is counted, what isn't is told."""

import csv
import gzip
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from servers.faulty_server import FOREVER, Fault, FaultyServer
from typer.testing import CliRunner

from m2kr.building import registry
from m2kr.building.content import HEAD_BYTES, rows_in
from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.fetch.retry import Policy
from m2kr.building.probe import Probed, probe_asset
from m2kr.cli.build import show_probes
from m2kr.cli.main import app
from m2kr.errors import InputError, UpstreamError, UsageError

FAST = Policy(connect_timeout=1, read_timeout=0.2)
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
    "e/kb_piped.zip": (zipped({"kb.json": kb(33)}, pipe=True), KB, 33),
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
    return probe_asset(asset, FAST)


@pytest.mark.parametrize("name", GOOD)
def test_what_is_as_expected_is_counted(files: FaultyServer, name: str) -> None:
    data, shape, rows = GOOD[name]
    found = one(Asset(name, (files.url(f"/{name}"),), size=len(data), shape=shape))
    assert (found.status, found.problem, found.size) == ("ok", "", len(data))
    assert files.ranges(f"/{name}") == [f"bytes=0-{HEAD_BYTES - 1}"]
    if shape is None:
        assert found.rows is None
    elif rows is None:
        assert found.rows is not None and found.rows > 1000
    else:
        assert found.rows == rows


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
        assert rows_in(data[:cut], name, shape, whole=cut >= len(data))


@pytest.mark.parametrize(
    ("data", "name", "shape", "says"),
    [
        (tsv(3, 3), "c.tsv", TSV, "row 1: 3 cells instead of 2"),
        (tar({"collection.tsv": tsv(4, 1)}), "c.tar.gz", TSV, "row 1: 1 cell instead of 2"),
        (b"1\tab\xffc\n", "c.tsv", TSV, "not UTF-8"),
        (table(9, CSV.names[:2]), "t.csv", CSV, "it has no column 'evidence'"),
        (gzip.compress(table(9), mtime=0), "t.tsv.gz", TABBED, "the header is"),
        (lines(2, ("data_id", "q")), "v.jsonl", LINES, "a record without question"),
        (b"<Error><Code>AccessDenied</Code></Error>", "v.jsonl", LINES, "row 1: no JSON"),
        (zipped({"kb.json": kb(9, keys=("title", "texts"))}), "k.zip", KB, "section_texts"),
        (zipped({"kb.json": b'{"u": {}, nonsense}'}), "k.zip", KB, "JSON"),
        (zipped({"q.json": coco(9, "items")}), "q.json.zip", COCO, "no key 'questions'"),
        (b'{"questions": {}}', "q.json", COCO, "the value of 'questions' is no list"),
        (b"<html>", "q.json", LIST, "no JSON object or list"),
        (tsv(100), "c.tar.gz", TSV, "it is not packed"),
        (gzip.compress(lines(10), mtime=0), "v.jsonl", LINES, "it is a gzip file"),
        (zipped({"v.jsonl": lines(10)}), "v.jsonl", LINES, "it is a zip archive"),
        (gzip.compress(lines(9), mtime=0)[:20] + b"m" * 99, "v.jsonl.gz", LINES, "it is damaged"),
    ],
)
def test_drift_is_told(data: bytes, name: str, shape: Shape, says: str) -> None:
    with pytest.raises(InputError) as caught:
        rows_in(data, name, shape, whole=True)
    assert says in caught.value.what
    assert caught.value.expected


def test_single_faulty_rows_are_left_out() -> None:
    rows = [f"{i}\tquery {i}\n" for i in range(20)]
    text = "".join([*rows[:10], "no cells\n", *rows[10:]]).encode()
    assert rows_in(text, "a.tsv", Shape("tsv", ("qid", "text")), whole=True) == 20
    text = b'{"a": 1}\n' * 3 + b'{"b": 1}\nnothing\n' + b'{"a": 1}\n' * 3
    assert rows_in(text, "a.jsonl", Shape("jsonl", ("a",)), whole=True) == 6


def test_a_member_behind_the_first_mb_is_no_drift() -> None:
    far = {"images.bin": RANDOM.randbytes(2 * MB), "collection.tsv": tsv(9)}
    for data, name in ((tar(far), "c.tar.gz"), (tar(far, "w:"), "c.tar"), (zipped(far), "c.zip")):
        assert rows_in(data[:MB], name, TSV, whole=False) is None


def test_much_text_without_a_line_is_drift(server: FaultyServer) -> None:
    server.files["/a.jsonl"] = b"x" * 3 * MB
    found = one(asked(server))
    assert (found.status, found.rows) == ("drift", None)
    assert "no rows" in found.problem
    assert rows_in(b"x" * 4000, "v.jsonl", LINES, whole=False) is None


def test_bombs_are_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2kr.building.content.UNPACKED", 2 * MB)
    bomb, shape = b"1\t2\n" * 2 * MB, Shape("tsv", ("a", "b"))
    packed = (gzip.compress(bomb, 1, mtime=0), "c.tsv.gz"), (zipped({"c.tsv": bomb}), "c.zip")
    for data, name in packed:
        assert rows_in(data, name, shape, whole=True) == 2 * MB // 4


@pytest.mark.parametrize(
    ("fault", "facts", "status", "problem"),
    [
        (Fault(status=404), {}, "drift", "gone (HTTP 404)"),
        (Fault(status=410), {}, "drift", "gone (HTTP 410)"),
        (Fault(status=403), {}, "gated", "HTTP 403: needs a login or an accepted licence"),
        (Fault(status=401), {"gate": "sign the form"}, "gated", "HTTP 401: sign the form"),
        (Fault(status=500), {}, "unreachable", "HTTP 500 Internal Server Error"),
        (Fault(stall_at=0, stall=2), {}, "unreachable", "no data for 0.2 s"),
        (Fault(truncate=99), {}, "unreachable", "the connection ended after 99 of"),
        (Fault(redirect="ftp://x/"), {}, "unreachable", "redirects to an address that is not safe"),
        (Fault(body=b""), {}, "drift", "an empty file"),
        (Fault(body=b"\n\n"), {}, "drift", "no rows"),
        (Fault(body=b"\n<!DOCTYPE html><title>Sign in</title>"), {}, "drift", "no JSON"),
        (Fault(headers={"Content-Range": "bytes 5-9/99"}), {}, "unreachable", "another range"),
        (Fault(), {"size": 5}, "drift", "bytes instead of 5"),
        (Fault(chunked=True, ranges=False), {"size": 5}, "drift", "bytes instead of 5"),
    ],
)
def test_every_fault_has_its_status(
    server: FaultyServer, fault: Fault, facts: dict[str, object], status: str, problem: str
) -> None:
    server.fail("/a.jsonl", fault, times=FOREVER)
    found = one(asked(server, **facts))
    assert found.status == status
    assert problem in found.problem


def test_redirects_and_servers_without_ranges(server: FaultyServer) -> None:
    server.files["/big.jsonl"] = BIG_LINES
    asset = asked(server, urls=(server.url("/big.jsonl"),))
    server.fail("/big.jsonl", Fault(ranges=False))
    expected = BIG_LINES[:HEAD_BYTES].count(b"\n")
    assert one(asset) == Probed("x/a.jsonl", "ok", len(BIG_LINES), expected)
    server.fail("/big.jsonl", Fault(ranges=False, chunked=True))
    assert one(asset) == Probed("x/a.jsonl", "ok", None, expected)
    server.fail("/a.jsonl", Fault(redirect=server.url("/big.jsonl", "localhost")))
    assert one(asked(server)).rows == expected


def test_a_slow_server_is_parsed_as_far_as_it_came(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2kr.building.probe.SECONDS", 0.05)
    server.files["/a.jsonl"] = BIG_LINES
    server.fail("/a.jsonl", Fault(drip=2000))
    found = one(asked(server))
    assert found.status == "ok"
    assert found.rows is not None and 0 < found.rows < BIG_LINES[:HEAD_BYTES].count(b"\n")


def test_mirrors_in_order(server: FaultyServer) -> None:
    server.files |= {"/b": lines(7), "/c": lines(8, ("other",))}
    urls = [server.url(path) for path in ("/gone", "/b", "/a.jsonl")]
    assert one(asked(server, urls=tuple(urls))).rows == 7
    assert not server.gets("/a.jsonl")
    server.fail("/a.jsonl", Fault(status=500))
    found = one(asked(server, urls=(server.url("/c"), urls[2])))
    assert found.status == "drift"
    assert "without data_id, question" in found.problem and "HTTP 500" in found.problem


def test_what_needs_no_network(server: FaultyServer) -> None:
    assert one(asked(server, urls=(), manual="place it here")).status == "local"
    inside = ("package:m2kr_builders/mini/photos.zip",)
    assert one(asked(server, urls=inside)).status == "local"
    assert not server.requests


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
    except InputError as error:
        assert error.what and error.expected


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


def builder(name: str, *assets: Asset) -> Any:
    """As much of a builder as a probe looks at."""
    source = replace(registry.builder("mini").source, name=name)
    return SimpleNamespace(source=source, assets=lambda options: assets)


def test_a_file_of_several_sources_is_asked_for_once(
    server: FaultyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    shared, own = asked(server), asked(server, "x/b.jsonl", urls=())
    show_probes([builder("one", shared, own), builder("two", shared)], {}, None, json=False)
    said = capsys.readouterr().out
    assert len(server.requests) == 1
    assert "one, two" in said and "1 of 1 files upstream are as expected" in said


def test_drift_ends_with_code_4(server: FaultyServer, capsys: pytest.CaptureFixture[str]) -> None:
    good, gone = asked(server), asked(server, "x/gone.jsonl", urls=(server.url("/gone"),))
    for json_mode in (False, True):
        with pytest.raises(typer.Exit) as left:
            show_probes([builder("one", good, gone)], {}, None, json=json_mode)
        assert left.value.exit_code == UpstreamError.exit_code == 4
        said = capsys.readouterr().out
        if json_mode:
            printed = json.loads(said)
            assert printed["ok"] is False
            assert [file["status"] for file in printed["files"]] == ["ok", "drift"]
            assert printed["files"][0]["rows"] == 40
        else:
            assert "1 of 2 files upstream are as expected" in said and "gone (HTTP 404)" in said


def test_options_are_checked(server: FaultyServer) -> None:
    with pytest.raises(UsageError, match="no option 'pool'"):
        show_probes([builder("one", asked(server))], {"pool": "full"}, None, json=False)


def test_the_command(tmp_path: Path) -> None:
    def run(*args: str) -> str:
        done = CliRunner().invoke(app, ["build", *args, "--probe", "--data", str(tmp_path)])
        assert done.exit_code == 0
        return done.stdout

    assert json.loads(run("okvqa", "--route", "release", "--json"))["ok"] is True
    assert "local" in run("mini")
    assert not list(tmp_path.iterdir())
