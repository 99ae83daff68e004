"""Servers that mean no good, or no network at all: each costs seconds and one clear error."""

import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from servers.faulty_server import FOREVER, Fault, FaultyServer

from m2kr.building.fetch import addresses
from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.fetch import fetch
from m2kr.building.fetch.retry import Policy
from m2kr.errors import UpstreamError

BODY = random.Random(5).randbytes(100_000)
SHA = hashlib.sha256(BODY).hexdigest()
FAST = Policy(
    attempts=2,
    step=10_000,
    backoff=0.01,
    connect_timeout=1,
    read_timeout=1,
    slow_rate=5000,
    slow_seconds=0.4,
    spare=0,
)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({"/a.bin": BODY}) as server:
        yield server


def get(folder: Path, *urls: str, policy: Policy = FAST, name: str = "a.bin", **facts) -> bytes:
    return fetch([Asset(name, urls, **facts)], folder, policy=policy)[name].read_bytes()


SLOW = {
    "sized": Fault(drip=50, drip_seconds=0.05),
    "chunked": Fault(drip=50, drip_seconds=0.05, chunked=True),
    "without a size": Fault(drip=50, drip_seconds=0.05, unsized=True),
}


@pytest.mark.parametrize("fault", SLOW.values(), ids=SLOW.keys())
def test_a_body_that_drips_is_given_up_for_a_mirror(server, tmp_path, fault):
    server.files["/b.bin"] = BODY
    server.fail("/a.bin", fault, times=FOREVER)
    begun = time.monotonic()
    assert get(tmp_path, server.url("/a.bin"), server.url("/b.bin"), sha256=SHA) == BODY
    assert time.monotonic() - begun < 10
    assert len(server.gets("/a.bin")) == FAST.attempts


def test_a_head_that_drips_is_cut(server, tmp_path, monkeypatch):
    monkeypatch.setattr(addresses, "ANSWER_SECONDS", 0.4)
    server.fail("/a.bin", Fault(slow_head=0.05), times=FOREVER)
    begun = time.monotonic()
    with pytest.raises(UpstreamError):
        get(tmp_path, server.url("/a.bin"))
    assert time.monotonic() - begun < 10


def test_a_file_that_takes_for_ever_is_given_up(server, tmp_path):
    server.fail("/a.bin", Fault(drip=100, drip_seconds=0.01), times=FOREVER)
    patient = replace(FAST, longest=0.3, slow_rate=1)
    with pytest.raises(UpstreamError, match="not whole after"):
        get(tmp_path, server.url("/a.bin"), policy=patient)


@pytest.mark.parametrize("fault", [Fault(endless=True), Fault(endless=True, chunked=True)])
@pytest.mark.parametrize("facts", [{}, {"size": len(BODY)}])
def test_a_body_without_an_end_is_cut(server, tmp_path, fault, facts):
    server.fail("/a.bin", fault, times=FOREVER)
    with pytest.raises(UpstreamError, match="more than the expected"):
        get(tmp_path, server.url("/a.bin"), policy=replace(FAST, unsized=1_000_000), **facts)
    assert not list(tmp_path.rglob("*.part"))


def test_a_size_far_from_the_rough_one_is_refused_before_it_comes(server, tmp_path):
    server.fail("/a.bin", Fault(headers={"Content-Length": str(5 << 30)}), times=FOREVER)
    with pytest.raises(UpstreamError, match="instead of about 1,000,000"):
        get(tmp_path, server.url("/a.bin"), about=1_000_000)


def test_a_redirect_to_a_page_to_sign_in_at_says_so(server, tmp_path):
    server.files["/users/sign_in"] = b"<html>"
    server.fail("/a.bin", Fault(redirect="/users/sign_in?to=a.bin"), times=FOREVER)
    server.fail("/users/sign_in", Fault(headers={"Content-Type": "text/html"}), times=FOREVER)
    with pytest.raises(UpstreamError, match="a page to sign in at"):
        get(tmp_path, server.url("/a.bin"), sha256=SHA)
    assert len(server.gets("/a.bin")) == 1


ELSEWHERE = ("10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "[fe80::1]", "100.64.0.1")


@pytest.mark.parametrize("host", ELSEWHERE)
def test_a_redirect_into_a_private_network_is_not_followed(server, tmp_path, host):
    server.fail("/a.bin", Fault(redirect=f"http://{host}/latest/meta-data"), times=FOREVER)
    begun = time.monotonic()
    with pytest.raises(UpstreamError, match="not a public address"):
        get(tmp_path, server.url("/a.bin"))
    assert time.monotonic() - begun < 1


def test_a_public_server_may_not_redirect_to_this_machine(server, tmp_path, monkeypatch):
    kinds = addresses._kinds
    public = SimpleNamespace(url=server.url("/a.bin"))
    monkeypatch.setattr(addresses, "_kinds", lambda u: {"public"} if u == public.url else kinds(u))
    server.fail("/a.bin", Fault(redirect=server.url("/b.bin", "localhost")), times=FOREVER)
    server.files["/b.bin"] = BODY
    with pytest.raises(UpstreamError, match="localhost is not a public address"):
        get(tmp_path, public.url)
    assert server.gets("/b.bin") == []
    monkeypatch.setenv(addresses.ENV, "1")
    assert get(tmp_path, public.url) == BODY


def test_no_network_is_found_out_once_for_all_files(tmp_path):
    with FaultyServer() as gone:
        urls = [gone.url(f"/{n}.bin") for n in range(20)]
    files = [Asset(f"{n}.bin", (url, url + "?mirror")) for n, url in enumerate(urls)]
    files.append(Asset("z.bin", ("http://nothing.invalid/z.bin",)))
    begun = time.monotonic()
    with pytest.raises(UpstreamError) as caught:
        fetch(files, tmp_path, policy=Policy(backoff=0.2, hopeless=0.5, spare=0))
    assert time.monotonic() - begun < 15
    text = str(caught.value)
    assert "no server can be reached for the 21 files" in text and "nothing.invalid" in text
    assert len(text.splitlines()) == 2 and caught.value.exit_code == 4


def test_one_server_that_is_gone_costs_the_others_nothing(server, tmp_path):
    with FaultyServer() as gone:
        lost = [Asset(f"{n}.bin", (gone.url(f"/{n}.bin"),)) for n in range(5)]
    with pytest.raises(UpstreamError, match="5 files failed"):
        fetch([*lost, Asset("a.bin", (server.url("/a.bin"),))], tmp_path, policy=FAST)
    assert (tmp_path / "a.bin").read_bytes() == BODY
