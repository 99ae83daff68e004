"""Downloads against a server with every fault we know: the exact bytes, or one clear error."""

import gzip
import hashlib
import json
import logging
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.faulty_server import FOREVER, Fault, FaultyServer

from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.fetch import fetch, plan_downloads
from m2kr.building.fetch.folder import sha256_file, sha256_of
from m2kr.building.fetch.http import headers_for
from m2kr.building.fetch.retry import Policy
from m2kr.errors import CheckError, InputError, M2KRError, MissingError, UpstreamError

BODY = random.Random(1).randbytes(300_000)
FAST = Policy(
    attempts=4,
    step=10_000,
    backoff=0.01,
    backoff_cap=0.05,
    retry_after_cap=5,
    connect_timeout=1,
    read_timeout=0.3,
    chunk=4096,
    spare=0,
)


class Meter:
    """A progress that counts."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self.totals: dict[str, int | None] = {}
        self.finished: list[str] = []

    def start(self, name: str, total: int | None, unit: str = "B") -> None:
        assert name not in self.bytes
        self.bytes[name], self.totals[name] = 0, total

    def advance(self, name: str, n: int) -> None:
        self.bytes[name] += n

    def done(self, name: str) -> None:
        self.finished.append(name)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({"/a.bin": BODY}) as server:
        yield server


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def asset(*urls: str, name: str = "x/a.bin", **facts: object) -> Asset:
    return Asset(name, urls, **facts)  # type: ignore[arg-type]


def get(folder: Path, *assets: Asset, policy: Policy = FAST, **options: object) -> bytes:
    """Fetches, and gives the bytes of the first asset."""
    files = fetch(assets, folder, policy=policy, **options)  # type: ignore[arg-type]
    assert set(files) == {a.name for a in assets}
    return files[assets[0].name].read_bytes()


def finished(folder: Path) -> set[str]:
    """What lies in a downloads folder besides the engine's own files."""
    files = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {p.as_posix() for p in files if p.parts[0][0] != "." and p.name != "lock.json"}


def unfinished(folder: Path) -> list[Path]:
    return [p for p in (folder / ".partial").rglob("*") if p.is_file()]


def test_a_file_arrives_whole_and_leaves_nothing_behind(server, tmp_path):
    meter = Meter()
    wanted = asset(server.url("/a.bin"), size=len(BODY), sha256=sha(BODY).upper())
    assert get(tmp_path, wanted, progress=meter) == BODY
    assert finished(tmp_path) == {"x/a.bin"}
    assert unfinished(tmp_path) == []
    assert meter.bytes == {"x/a.bin": len(BODY)} == meter.totals
    assert meter.finished == ["x/a.bin"]
    (request,) = server.requests
    assert request.headers["User-Agent"].startswith("m2kr/")
    assert request.headers["Accept-Encoding"] == "identity"
    assert sha256_of(wanted, tmp_path) == sha(BODY) == sha256_file(tmp_path / "x/a.bin")


def test_a_second_fetch_asks_no_server(server, tmp_path):
    wanted = asset(server.url("/a.bin"))
    assert get(tmp_path, wanted) == get(tmp_path, wanted) == BODY
    assert len(server.requests) == 1


TRANSIENT = {
    "cut": [Fault(truncate=100_000), Fault(truncate=50_000)],
    "cut at once": [Fault(truncate=0), Fault(truncate=1)],
    "cut at the last byte": [Fault(truncate=len(BODY) - 1)],
    "cut, then no ranges": [Fault(truncate=100_000), Fault(ranges=False)],
    "cut, and no validators": [
        Fault(truncate=9_000, headers={"ETag": None, "Last-Modified": None})
    ],
    "cut, and a weak ETag": [
        Fault(truncate=9_000, headers={"ETag": 'W/"1"', "Last-Modified": None})
    ],
    "cut, then 412": [Fault(truncate=9_000), Fault(status=412)],
    "cut, then a wrong 416": [Fault(truncate=9_000), Fault(status=416)],
    "cut while chunked": [Fault(truncate=90_000, chunked=True)],
    "whole, but the end is not told": [Fault(chunked=True, stall_at=len(BODY), stall=1)],
    "a range that starts elsewhere": [
        Fault(truncate=9_000),
        Fault(headers={"Content-Range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}"}),
    ],
    "500, 503": [Fault(status=500), Fault(status=503)],
    "408": [Fault(status=408)],
    "429": [Fault(status=429, headers={"Retry-After": "0"})],
    "429 with nonsense": [Fault(status=429, headers={"Retry-After": "soon"})],
    "stall before the answer": [Fault(delay=1)],
    "stall in the middle": [Fault(stall_at=70_000, stall=1)],
    "slow drip": [Fault(drip=3_000)],
    "chunked": [Fault(chunked=True)],
    "no length": [Fault(unsized=True)],
}


@pytest.mark.parametrize("hashed", [True, False], ids=["hash", "no hash"])
@pytest.mark.parametrize("faults", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_a_passing_fault_ends_in_the_exact_bytes(faults, hashed, server, tmp_path):
    server.fail("/a.bin", *faults)
    meter = Meter()
    wanted = asset(server.url("/a.bin"), sha256=sha(BODY) if hashed else None)
    assert get(tmp_path, wanted, progress=meter) == BODY
    assert unfinished(tmp_path) == []
    assert meter.bytes == {"x/a.bin": len(BODY)}


def test_a_cut_download_goes_on_where_it_was(server, tmp_path):
    server.fail("/a.bin", Fault(truncate=100_000), Fault(truncate=50_000))
    get(tmp_path, asset(server.url("/a.bin")))
    assert server.ranges("/a.bin") == [None, "bytes=100000-", "bytes=150000-"]
    assert "If-Range" in server.gets("/a.bin")[1].headers


def test_bytes_that_all_came_are_not_asked_for_again(server, tmp_path):
    server.fail("/a.bin", Fault(chunked=True, stall_at=len(BODY), stall=1))
    assert get(tmp_path, asset(server.url("/a.bin"))) == BODY
    assert server.ranges("/a.bin") == [None, f"bytes={len(BODY)}-"]


@pytest.mark.parametrize("if_range", [True, False], ids=["honest", "range of the new file"])
def test_a_file_that_changes_while_it_is_fetched_is_never_mixed(if_range, server, tmp_path):
    new = random.Random(2).randbytes(len(BODY))
    server.fail("/a.bin", Fault(truncate=100_000))
    server.fail("/a.bin", Fault(body=new, if_range=if_range), times=FOREVER)
    assert get(tmp_path, asset(server.url("/a.bin"))) == new


def test_many_small_steps_are_progress_not_failures(server, tmp_path):
    server.fail("/a.bin", Fault(truncate=20_000), times=14)
    assert get(tmp_path, asset(server.url("/a.bin"))) == BODY
    assert len(server.requests) > FAST.attempts


def test_steps_too_small_are_failures(server, tmp_path):
    server.fail("/a.bin", Fault(truncate=9), times=FOREVER)
    with pytest.raises(UpstreamError, match="ended after 36 of 300,000 bytes"):
        get(tmp_path, asset(server.url("/a.bin")))


def test_steps_that_always_begin_anew_are_given_up(server, tmp_path):
    server.fail("/a.bin", Fault(truncate=20_000, ranges=False), times=FOREVER)
    with pytest.raises(UpstreamError, match="20,000 of 300,000 bytes"):
        get(tmp_path, asset(server.url("/a.bin")))
    assert len(server.requests) <= FAST.attempts + 1


def test_wrong_content_is_fetched_once_more_from_the_first_byte(server, tmp_path):
    server.fail("/a.bin", Fault(body=b"x" * len(BODY)))
    assert get(tmp_path, asset(server.url("/a.bin"), sha256=sha(BODY))) == BODY
    assert server.ranges("/a.bin") == [None, None]


def test_a_resumed_file_that_does_not_fit_together_is_fetched_anew(server, tmp_path):
    plain = {"ETag": None, "Last-Modified": None}
    server.fail("/a.bin", Fault(body=b"x" * len(BODY), truncate=5_000, headers=plain))
    assert get(tmp_path, asset(server.url("/a.bin"), md5=hashlib.md5(BODY).hexdigest())) == BODY
    assert server.ranges("/a.bin") == [None, "bytes=5000-", None]


LASTING = {
    "404": (Fault(status=404), "HTTP 404", 1),
    "410": (Fault(status=410), "HTTP 410", 1),
    "401": (Fault(status=401), "login or an accepted licence", 1),
    "403": (Fault(status=403), "login or an accepted licence", 1),
    "500": (Fault(status=500), "HTTP 500", FAST.attempts),
    "429": (Fault(status=429), "HTTP 429", FAST.attempts),
    "wrong content": (Fault(body=b"x" * len(BODY)), "wrong content: expected sha256", 2),
    "too short": (Fault(body=b"x"), "serves 1 bytes instead of 300,000", 2),
    "too long": (Fault(body=b"x" * 400_000, chunked=True), "more than the expected 300,000", 2),
    "a page": (Fault(status=200, body=b"<html>log in</html>"), "instead of 300,000", 2),
    "empty": (Fault(body=b"", unsized=True), "0 bytes instead of 300,000", 2),
    "stall": (Fault(delay=1), "no answer for 0.3 s", FAST.attempts),
    "stall inside": (Fault(stall_at=9, stall=1), "no data for 0.3 s", FAST.attempts),
    "other scheme": (Fault(redirect="file:///etc/hostname"), "not safe to follow", 1),
    "ftp": (Fault(redirect="ftp://127.0.0.1/a"), "not safe to follow", 1),
    "loop": (Fault(redirect="/a.bin"), "redirects more than 10 times", 11),
    "418": (Fault(status=418), "HTTP 418", 1),
}


@pytest.mark.parametrize(("fault", "reason", "requests"), LASTING.values(), ids=LASTING.keys())
def test_a_lasting_fault_is_one_error_that_says_all(fault, reason, requests, server, tmp_path):
    server.fail("/a.bin", fault, times=FOREVER)
    url = server.url("/a.bin")
    with pytest.raises(UpstreamError) as caught:
        get(tmp_path, asset(url, size=len(BODY), sha256=sha(BODY)))
    text = str(caught.value)
    assert caught.value.exit_code == 4
    for fact in (url, reason, str(tmp_path / "x/a.bin"), sha(BODY), "300,000 bytes"):
        assert fact in text
    assert len(server.requests) == requests
    assert finished(tmp_path) == set()


@pytest.mark.parametrize("fault", [row[0] for row in LASTING.values()], ids=LASTING.keys())
def test_a_mirror_helps_against_every_lasting_fault(fault, server, tmp_path):
    server.files["/b.bin"] = BODY
    server.fail("/a.bin", fault, times=FOREVER)
    wanted = asset(server.url("/a.bin"), server.url("/b.bin"), sha256=sha(BODY), size=len(BODY))
    assert get(tmp_path, wanted) == BODY
    assert len(server.gets("/b.bin")) == 1
    assert finished(tmp_path) == {"x/a.bin"}


def test_a_mirror_goes_on_where_the_first_broke_if_a_hash_decides(server, tmp_path):
    server.files["/b.bin"] = BODY
    server.fail("/a.bin", Fault(truncate=100_000))
    server.fail("/a.bin", Fault(status=404), times=FOREVER)
    wanted = asset(server.url("/a.bin"), server.url("/b.bin"), sha256=sha(BODY))
    assert get(tmp_path, wanted) == BODY
    assert server.ranges("/b.bin") == ["bytes=100000-"]


def test_without_a_hash_a_mirror_begins_at_zero(server, tmp_path):
    server.files["/b.bin"] = BODY[::-1]
    server.fail("/a.bin", Fault(truncate=100_000))
    server.fail("/a.bin", Fault(status=404), times=FOREVER)
    assert get(tmp_path, asset(server.url("/a.bin"), server.url("/b.bin"))) == BODY[::-1]
    assert server.ranges("/b.bin") == [None]


def test_a_page_of_another_size_does_not_cost_what_has_arrived(server, tmp_path):
    server.fail(
        "/a.bin", Fault(truncate=200_000), Fault(status=200, body=b"<html>hotel wifi</html>")
    )
    wanted = asset(server.url("/a.bin"), size=len(BODY), sha256=sha(BODY))
    assert get(tmp_path, wanted) == BODY
    assert server.ranges("/a.bin")[2] == "bytes=200000-"


def test_a_host_that_is_not_there(tmp_path):
    with FaultyServer() as gone:
        url = gone.url("/a.bin")
    with pytest.raises(UpstreamError, match=r"Connection refused \(4 attempts\)"):
        get(tmp_path, asset(url))


@pytest.mark.parametrize("page", [b"\n<!DOCTYPE HTML><p>virus scan", b"<HTML>"])
def test_a_page_instead_of_a_file_nobody_knows_the_hash_of(page, server, tmp_path):
    server.files["/a.bin"] = page
    with pytest.raises(UpstreamError, match="a web page"):
        get(tmp_path, asset(server.url("/a.bin")))
    assert finished(tmp_path) == set()
    assert get(tmp_path, asset(server.url("/a.bin"), name="page.html")) == page


def test_an_empty_file_is_refused_unless_it_has_to_be_empty(server, tmp_path):
    server.files["/a.bin"] = b""
    with pytest.raises(UpstreamError, match="an empty file"):
        get(tmp_path, asset(server.url("/a.bin")))
    assert get(tmp_path, asset(server.url("/a.bin"), size=0)) == b""


@pytest.mark.parametrize("date", [False, True], ids=["seconds", "date"])
def test_retry_after_is_honoured(date, server, tmp_path):
    value = formatdate(time.time() + 2, usegmt=True) if date else "1"
    server.fail("/a.bin", Fault(status=503, headers={"Retry-After": value}))
    start = time.monotonic()
    get(tmp_path, asset(server.url("/a.bin")))
    assert 0.9 < time.monotonic() - start < 4


def test_retry_after_has_a_cap(server, tmp_path):
    server.fail("/a.bin", Fault(status=429, headers={"Retry-After": "86400"}))
    policy = Policy(backoff=0.01, retry_after_cap=0.1, spare=0)
    start = time.monotonic()
    get(tmp_path, asset(server.url("/a.bin")), policy=policy)
    assert time.monotonic() - start < 2


def test_a_file_compressed_for_the_way_is_decoded(server, tmp_path):
    packed = Fault(body=gzip.compress(BODY), headers={"Content-Encoding": "gzip"})
    server.fail("/a.bin", packed)
    server.fail("/a.bin", Fault(truncate=9_000), packed, packed)
    wanted = asset(server.url("/a.bin"), size=len(BODY), sha256=sha(BODY))
    assert get(tmp_path, wanted) == BODY
    assert get(tmp_path / "resumed", wanted) == BODY


def test_a_gz_file_labelled_as_encoded_stays_a_gz_file(server, tmp_path):
    server.files["/a.gz"] = packed = gzip.compress(BODY)
    server.fail("/a.gz", Fault(headers={"Content-Encoding": "x-gzip"}), times=FOREVER)
    assert get(tmp_path, asset(server.url("/a.gz"), name="a.tsv.gz")) == packed


def test_first_seen_hashes_are_locked(server, tmp_path):
    wanted = asset(server.url("/a.bin"))
    get(tmp_path, wanted)
    lock = tmp_path / "lock.json"
    entry = {"url": server.url("/a.bin"), "size": len(BODY), "sha256": sha(BODY)}
    assert json.loads(lock.read_text()) == {"x/a.bin": entry}

    other = tmp_path / "colleague"
    other.mkdir()
    shutil.copy(lock, other / "lock.json")
    server.files["/a.bin"] = changed = BODY[:-1]
    with pytest.raises(UpstreamError) as caught:
        get(other, wanted)
    for fact in (sha(BODY), sha(changed), "delete the entry 'x/a.bin'", str(other / "lock.json")):
        assert fact in str(caught.value)
    assert finished(other) == set()

    (other / "lock.json").write_text("{}")
    assert get(other, wanted) == changed
    assert json.loads((other / "lock.json").read_text())["x/a.bin"]["sha256"] == sha(changed)


def test_published_hashes_need_no_lock(server, tmp_path):
    get(tmp_path, asset(server.url("/a.bin"), sha256=sha(BODY)))
    get(tmp_path, asset(server.url("/a.bin"), name="b", md5=hashlib.md5(BODY).hexdigest()))
    assert not (tmp_path / "lock.json").exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"a": 1}', '{"a": {"size": 1, "sha256": "?"}}', "[" * 9999]
)
def test_a_broken_lock_file_is_named(text, server, tmp_path):
    (tmp_path / "lock.json").write_text(text)
    with pytest.raises(InputError, match=r"lock\.json"):
        get(tmp_path, asset(server.url("/a.bin")))


def test_a_verified_file_is_not_hashed_again_until_it_changes(server, tmp_path):
    path = tmp_path / "x/a.bin"
    wanted = asset(server.url("/a.bin"), sha256=sha(BODY))
    get(tmp_path, wanted)
    before = path.stat()
    path.write_bytes(b"x" * len(BODY))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert get(tmp_path, wanted) != BODY  # the price of not reading 40 GB
    os.utime(path)
    assert get(tmp_path, wanted) == BODY
    assert len(server.requests) == 2
    path.touch()
    assert get(tmp_path, wanted) == BODY
    assert len(server.requests) == 2


def test_a_file_whose_published_hash_changed_is_fetched_again(server, tmp_path):
    get(tmp_path, asset(server.url("/a.bin"), sha256=sha(BODY)))
    server.files["/a.bin"] = new = BODY[::-1]
    assert get(tmp_path, asset(server.url("/a.bin"), sha256=sha(new))) == new


def test_an_old_file_stays_until_the_new_one_is_right(server, tmp_path):
    get(tmp_path, asset(server.url("/a.bin"), sha256=sha(BODY)))
    server.fail("/a.bin", Fault(truncate=9), times=FOREVER)
    server.fail("/a.bin", Fault(status=404), times=FOREVER)
    with pytest.raises(UpstreamError):
        get(tmp_path, asset(server.url("/a.bin"), sha256=sha(b"new")))
    assert (tmp_path / "x/a.bin").read_bytes() == BODY


def placed(folder: Path, data: bytes) -> Path:
    path = folder / "x/a.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("facts", [{"sha256": sha(BODY)}, {"size": len(BODY)}, {}])
def test_a_file_placed_by_hand_is_verified_and_used(facts, server, tmp_path):
    placed(tmp_path, BODY)
    assert get(tmp_path, asset(server.url("/a.bin"), **facts)) == BODY
    assert get(tmp_path, asset(manual="ask the authors", **facts), offline=True) == BODY
    assert server.requests == []


@pytest.mark.parametrize(
    "facts", [{"sha256": sha(BODY)}, {"size": len(BODY)}, {"md5": hashlib.md5(BODY).hexdigest()}]
)
def test_a_wrong_file_placed_by_hand_is_refused_and_kept(facts, server, tmp_path):
    path = placed(tmp_path, b"something else")
    with pytest.raises(CheckError, match="placed by hand is not the right one") as caught:
        get(tmp_path, asset(server.url("/a.bin"), **facts))
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"something else"
    assert server.requests == []


def test_a_file_that_has_to_be_placed_by_hand(server, tmp_path):
    by_hand = asset(manual="sign the form at example.org", name="kvqa.tar")
    with pytest.raises(MissingError) as caught:
        get(tmp_path, asset(server.url("/a.bin")), by_hand)
    assert caught.value.exit_code == 3
    assert "sign the form at example.org" in str(caught.value)
    assert str(tmp_path / "kvqa.tar") in str(caught.value)
    assert server.requests == []  # told before anything is downloaded


def test_a_folder_placed_by_hand(server, tmp_path):
    images = asset(name="images", images=True, manual="unpack the archive")
    (tmp_path / "images").mkdir()
    with pytest.raises(MissingError, match="unpack the archive"):
        fetch([images], tmp_path)
    (tmp_path / "images/1.jpg").write_bytes(b"1")
    assert fetch([images], tmp_path) == {"images": tmp_path / "images"}
    before = sha256_of(images, tmp_path)
    (tmp_path / "images/2.jpg").write_bytes(b"2")
    assert sha256_of(images, tmp_path) != before
    with pytest.raises(CheckError, match="a folder is where a file belongs"):
        fetch([asset(server.url("/a.bin"), name="images")], tmp_path)


def test_offline_uses_what_is_there_and_names_what_is_not(server, tmp_path):
    here, gone = asset(server.url("/a.bin")), asset(server.url("/b.bin"), name="b.bin")
    get(tmp_path, here)
    assert get(tmp_path, here, offline=True) == BODY
    with pytest.raises(MissingError) as caught:
        get(tmp_path, here, gone, offline=True)
    assert str(tmp_path / "b.bin") in str(caught.value)
    assert "a.bin" not in str(caught.value)
    assert len(server.requests) == 1


def test_offline_does_not_trust_a_changed_file(server, tmp_path):
    wanted = asset(server.url("/a.bin"))
    get(tmp_path, wanted)
    (tmp_path / "x/a.bin").write_bytes(b"changed")
    with pytest.raises(MissingError):
        get(tmp_path, wanted, offline=True)


def test_a_disk_too_small_is_told_before_the_first_byte(server, tmp_path):
    with pytest.raises(M2KRError, match="not enough disk space: 1,000,000,000,000,000,000 bytes"):
        get(tmp_path, asset(server.url("/a.bin"), size=10**18))
    assert server.requests == []


def test_space_to_spare_is_left(server, tmp_path):
    policy = Policy(spare=10**18)
    with pytest.raises(M2KRError, match="not enough disk space"):
        get(tmp_path, asset(server.url("/a.bin"), size=len(BODY)), policy=policy)


@pytest.mark.parametrize(
    "name",
    ["/etc/x", "../x", "a/../../x", "a//b", "", ".", "a/.partial/b", ".verified/a", "a\\b", "C:/x",
     "lock.json", "a\nb", "a/"],
)  # fmt: skip
def test_names_stay_in_the_folder(name, server, tmp_path):
    with pytest.raises(InputError, match="can't be named"):
        get(tmp_path / "downloads", asset(server.url("/a.bin"), name=name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/a", "/a", "", "https://", "https://u:hunter2@host/a", "s3://b/k",
     "package:", "package:mod", "package:mod/../../x", "http://[::1/a", "http://host:99999/a"],
)  # fmt: skip
def test_other_addresses_are_refused_without_being_shown(url, tmp_path):
    with pytest.raises(InputError, match="can't be used") as caught:
        get(tmp_path, asset(url))
    assert "hunter2" not in str(caught.value)


def test_one_name_is_one_file(server, tmp_path):
    one = asset(server.url("/a.bin"), licence="MIT")
    assert get(tmp_path, one, asset(server.url("/a.bin"), images=True)) == BODY
    assert len(server.requests) == 1
    with pytest.raises(InputError, match="two different files"):
        get(tmp_path, one, asset(server.url("/b.bin")))


def test_files_come_at_once_and_one_failure_spoils_no_other(server, tmp_path):
    server.files |= {f"/{n}": bytes([n]) * 1000 for n in range(8)}
    for n in range(8):
        server.fail(f"/{n}", Fault(delay=0.25))
    many = [asset(server.url(f"/{n}"), name=f"{n}") for n in range(8)]
    start = time.monotonic()
    assert list(fetch(many, tmp_path / "a", jobs=8, policy=FAST)) == list("01234567")
    assert time.monotonic() - start < 1.9  # 2 if one by one

    broken = [asset(server.url(f"/no{n}"), name=f"no{n}") for n in range(2)]
    with pytest.raises(UpstreamError) as caught:
        fetch([broken[0], *many, broken[1]], tmp_path / "b", jobs=2, policy=FAST)
    assert "2 files failed" in str(caught.value)
    assert all(a.urls[0] in str(caught.value) for a in broken)
    assert finished(tmp_path / "b") == set("01234567")


def test_a_file_in_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "site" / "toyfiles"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "data/a.bin").write_bytes(BODY)
    monkeypatch.syspath_prepend(tmp_path / "site")
    wanted = asset("package:toyfiles/data/a.bin", sha256=sha(BODY))
    assert get(tmp_path / "d", wanted, offline=True) == BODY
    with pytest.raises(MissingError, match="wrong content"):
        get(tmp_path / "e", asset("package:toyfiles/data/a.bin", sha256=sha(b"")))
    with pytest.raises(MissingError, match="no such file"):
        get(tmp_path / "f", asset("package:toyfiles/data/b.bin"))
    absent = asset("package:no_such_package/a", manual="pip install no-such-package")
    with pytest.raises(MissingError, match="pip install no-such-package"):
        get(tmp_path / "g", absent)


def test_a_token_goes_to_the_hub_alone_and_into_no_log(server, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    netrc = tmp_path / "netrc"
    netrc.write_text(
        "machine localhost login me password hunter2\ndefault login me password hunter2\n"
    )
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    there = server.url("/a.bin?signature=s3cret", host="localhost")
    server.fail("/hub.bin", Fault(redirect=there), times=FOREVER)
    server.fail("/a.bin", Fault(truncate=9), Fault(status=500), Fault(stall_at=99, stall=1))
    assert get(tmp_path / "d", asset(server.url("/hub.bin"))) == BODY
    assert {r.headers.get("Authorization") for r in server.gets("/hub.bin")} == {"Bearer hf_secret"}
    assert {r.headers.get("Authorization") for r in server.gets("/a.bin")} == {None}

    server.fail("/a.bin", Fault(status=403), times=FOREVER)
    with pytest.raises(UpstreamError) as caught:
        get(tmp_path / "e", asset(server.url("/hub.bin")))
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("m2kr")]
    assert any("HTTP 500" in line for line in ours)
    assert "hf_secret" not in caplog.text + str(caught.value)
    assert "s3cret" not in "\n".join(ours) + str(caught.value)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://huggingface.co/datasets/x", True),
        ("https://HuggingFace.co:443/datasets/x", True),
        ("http://huggingface.co/datasets/x", False),
        ("https://huggingface.co.evil.org/x", False),
        ("https://evil.org/huggingface.co", False),
        ("https://cdn-lfs.huggingface.co/x", False),
        ("https://huggingface.co:8443/x", False),
    ],
)
def test_where_a_token_is_sent(url, sent, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("HF_TOKEN", "t")
    assert ("Authorization" in headers_for(url)) is sent


def test_the_plan_says_what_would_happen(server, tmp_path):
    (tmp_path / "here.bin").write_bytes(b"12345")
    server.fail("/a.bin", Fault(truncate=9_000))
    server.fail("/a.bin", Fault(status=404), times=FOREVER)
    with pytest.raises(UpstreamError):
        get(tmp_path, asset(server.url("/a.bin"), size=len(BODY), name="part.bin"))
    asked = len(server.requests)
    items = plan_downloads(
        [
            asset(server.url("/x"), name="here.bin", licence="MIT"),
            asset(server.url("/a.bin"), name="part.bin"),
            asset(server.url("/c.bin"), name="missing.bin", size=7),
            asset(name="hand.bin"),
        ],
        tmp_path,
    )
    assert [(i.name, i.size, i.have, i.state) for i in items] == [
        ("here.bin", 5, 5, "present"),
        ("part.bin", len(BODY), 9_000, "partial"),
        ("missing.bin", 7, 0, "missing"),
        ("hand.bin", None, 0, "manual"),
    ]
    assert (items[0].licence, items[0].url, items[3].url) == ("MIT", server.url("/x"), None)
    assert len(server.requests) == asked


def test_a_file_under_its_name_is_always_whole(server, tmp_path):
    server.fail("/a.bin", Fault(drip=2_000, truncate=200_000), Fault(drip=2_000))
    seen, over = set(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            path = tmp_path / "x/a.bin"
            seen.add(path.stat().st_size if path.exists() else None)

    watcher = threading.Thread(target=watch)
    watcher.start()
    get(tmp_path, asset(server.url("/a.bin")))
    time.sleep(0.05)
    over.set()
    watcher.join()
    assert seen == {None, len(BODY)}


FAULTS = st.builds(
    Fault,
    truncate=st.none() | st.integers(0, 3000),
    ranges=st.booleans(),
    chunked=st.booleans(),
    unsized=st.just(False),
    drip=st.none() | st.integers(100, 3000),
)
ERRORS = st.sampled_from([Fault(status=500), Fault(status=429)])


@settings(max_examples=60, deadline=None)
@given(
    body=st.binary(min_size=1, max_size=3000).filter(lambda b: b.lstrip()[:1] != b"<"),
    faults=st.lists(FAULTS | ERRORS, max_size=6),
    chunk=st.integers(1, 4000),
    hashed=st.booleans(),
)
def test_whatever_the_cuts_the_bytes_are_exact(body, faults, chunk, hashed):
    policy = Policy(attempts=9, backoff=0, chunk=chunk, read_timeout=2, spare=0)
    with FaultyServer({"/a": body}) as server, tempfile.TemporaryDirectory() as folder:
        server.fail("/a", *faults)
        wanted = asset(server.url("/a"), sha256=sha(body) if hashed else None)
        assert get(Path(folder), wanted, policy=policy) == body
