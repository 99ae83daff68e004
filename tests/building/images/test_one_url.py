"""Whom fetching asks and what it says of itself: contacts, redirects, private addresses."""

import socket

import pytest
from servers.faulty_server import FOREVER, Fault, FaultyServer
from servers.image_web import FREE, PHOTO, QUICK, fetched, photo, quick

from m2kr.building.fetch import addresses
from m2kr.building.images.from_urls import fetch_urls
from m2kr.building.images.host_queue import FAILED
from m2kr.building.images.hosts import HostRule, Rules
from m2kr.building.images.one_url import GONE, PRIVATE, REFUSED
from m2kr.building.images.shard_writer import ShardWriter
from m2kr.errors import UsageError


def test_wikimedia_wants_a_contact_and_gets_it(tmp_path):
    with (
        pytest.raises(UsageError, match="requires a contact") as caught,
        ShardWriter(tmp_path) as store,
    ):
        url = "https://upload.wikimedia.org/wikipedia/commons/a/ab/A.jpg"
        fetch_urls({"a.jpg": url}, store, print)
    assert "--contact" in str(caught.value)
    assert "User-Agent_Policy" in str(caught.value)
    with ShardWriter(tmp_path) as store:  # what is there needs none
        store.add("a.jpg", PHOTO)
        assert fetch_urls({"a.jpg": url}, store, print).there == 1
    with FaultyServer({"/a.jpg": PHOTO}) as server:
        fetched(tmp_path, {"1": server.url("/a.jpg")}, quick(contact="you@example.org"))
        fetched(tmp_path, {"2": server.url("/a.jpg")}, quick())
        named, plain = (request.headers["User-Agent"] for request in server.requests)
        assert named.startswith("m2kr/")
        assert "(you@example.org)" in named
        assert plain.startswith("m2kr/")
        assert "@" not in plain


def test_a_host_that_refuses_the_client_is_left_and_nothing_remembered(tmp_path):
    files = {f"/{i}.png": photo(i) for i in range(30)}
    with FaultyServer(files) as server:
        for path in files:
            server.fail(path, Fault(status=403), times=FOREVER)
        strict = HostRule("127.0.0.1", connections=1, per_second=10_000, contact=True)
        rules = quick(special=(strict,), contact="you@example.org", strikes=4)
        _, faults = fetched(tmp_path, {path[1:]: server.url(path) for path in files}, rules)
        assert len(faults) == 30
        assert len(server.requests) == 4
        assert not (tmp_path / FAILED).exists()


def test_redirects_are_followed_under_the_rules_of_where_they_lead(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    with FaultyServer({"/a.jpg": PHOTO}) as server, FaultyServer({"/b.jpg": PHOTO}) as other:
        monkeypatch.setenv("HF_ENDPOINT", server.url("", "localhost"))
        server.fail("/here", Fault(redirect="/a.jpg"))
        server.fail("/there", Fault(redirect=other.url("/b.jpg")))
        server.fail("/loop", Fault(redirect="/loop"), times=FOREVER)
        server.fail("/file", Fault(redirect="file:///etc/passwd"))
        server.fail("/wiki", Fault(redirect="https://upload.wikimedia.org/wikipedia/x/a/ab/A.jpg"))
        server.fail("/lost", Fault(redirect=server.url("/nothing")))
        names = ("here", "there", "loop", "file", "wiki", "lost")
        wanted = {name: server.url(f"/{name}", "localhost") for name in names}
        done, faults = fetched(tmp_path, wanted)
        assert done.added == 2
        assert {name: fault.rule for name, fault in faults.items()} == {
            "loop": REFUSED,
            "file": REFUSED,
            "wiki": REFUSED,
            "lost": GONE,
        }
        assert "contact" in faults["wiki"].detail
        assert len(server.gets("/loop")) == 1 + QUICK.redirects
        assert server.gets("/here")[0].headers["Authorization"] == "Bearer secret"
        assert "Authorization" not in other.gets("/b.jpg")[0].headers


def test_private_addresses_are_not_asked_nor_redirected_to(tmp_path, monkeypatch):
    rules = Rules(policy=QUICK, other=FREE)
    with FaultyServer({"/a.jpg": PHOTO}) as server:
        port = server.url("").rpartition(":")[2]
        wanted = {
            "number": server.url("/a.jpg"),
            "name": server.url("/a.jpg", "localhost"),
            "decimal": f"http://2130706433:{port}/a.jpg",
            "short": f"http://127.1:{port}/a.jpg",
            "mapped": f"http://[::ffff:127.0.0.1]:{port}/a.jpg",
            "any": f"http://0.0.0.0:{port}/a.jpg",
        }
        _, faults = fetched(tmp_path, wanted, rules)
        assert {fault.rule for fault in faults.values()} == {PRIVATE}
        assert server.requests == []

        # This machine now stands for a public server that redirects into our network.
        public = addresses.is_public
        monkeypatch.setattr(addresses, "is_public", lambda ip: ip == "127.0.0.1" or public(ip))
        for name, host in (("ten", "10.0.0.1"), ("two", "127.0.0.2"), ("link", "169.254.169.254")):
            server.fail(f"/{name}", Fault(redirect=f"http://{host}:{port}/a.jpg"))
        moved = {name: server.url(f"/{name}") for name in ("ten", "two", "link", "a.jpg")}
        done, faults = fetched(tmp_path, moved, rules)
        assert {name: fault.rule for name, fault in faults.items()} == dict.fromkeys(
            ("ten", "two", "link"), PRIVATE
        )
        assert (done.added, len(server.requests)) == (1, 4)
        assert not (tmp_path / FAILED).exists()


def test_a_name_that_leads_elsewhere_after_it_was_judged_gets_no_request(tmp_path, monkeypatch):
    look_up = socket.getaddrinfo
    first = iter([[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 80))]])
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *args, **kw: next(first, None) or look_up(*args, **kw)
    )
    with FaultyServer({"/a.jpg": PHOTO}) as server:
        wanted = {"a.jpg": server.url("/a.jpg", "localhost")}
        _, faults = fetched(tmp_path, wanted, Rules(policy=QUICK))
        assert faults["a.jpg"].rule == PRIVATE
        assert server.requests == []
