"""Downloads against a server with every fault we know: the exact bytes, or one clear error."""

import gzip
import hashlib
import itertools
import logging
import random
import threading
import time
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.faulty_server import FOREVER, Fault, FaultyServer
from support.downloads import BODY, FAST, Meter, asset, finished, get, sha, unfinished

from m2kr.building.fetch.folder import asset_sha256, sha256_file
from m2kr.building.fetch.http import headers_for
from m2kr.building.fetch.retry import Policy
from m2kr.errors import UpstreamError


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
    assert asset_sha256(wanted, tmp_path) == sha(BODY) == sha256_file(tmp_path / "x/a.bin")


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


def test_whatever_the_cuts_the_bytes_are_exact(server, tmp_path):
    names = map(str, itertools.count())

    @settings(max_examples=60, deadline=None)
    @given(
        body=st.binary(min_size=1, max_size=3000).filter(lambda b: b.lstrip()[:1] != b"<"),
        faults=st.lists(FAULTS | ERRORS, max_size=6),
        chunk=st.integers(1, 4000),
        hashed=st.booleans(),
    )
    def check(body, faults, chunk, hashed):
        policy = Policy(attempts=9, backoff=0, chunk=chunk, read_timeout=2, spare=0)
        name = next(names)
        server.files[f"/{name}"] = body
        server.fail(f"/{name}", *faults)
        required = asset(server.url(f"/{name}"), sha256=sha(body) if hashed else None)
        assert get(tmp_path / name, required, policy=policy) == body

    check()
