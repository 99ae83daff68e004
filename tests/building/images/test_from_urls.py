"""Images by their addresses: within each host's budget, each at most once, and none from where not."""

import dataclasses
import email.utils
import json
import math
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from servers.faulty_server import FOREVER, Fault, FaultyServer, Request
from servers.image_web import FREE, PHOTO, QUICK, WatchedServer, fetched, photo, quick
from support.hostile_images import picture

from m2kr.building.images.check import TOO_MANY_BYTES
from m2kr.building.images.from_urls import UNSAFE, fetch_urls
from m2kr.building.images.host_queue import FAILED
from m2kr.building.images.hosts import HostRule, wikimedia_addresses
from m2kr.building.images.one_url import BUSY, GONE, NO_ADDRESS, REFUSED, UNREACHED
from m2kr.building.images.outcome import UnavailableImage
from m2kr.building.images.shard_writer import ShardWriter
from m2kr.data.images.decode import EMPTY, NO_IMAGE
from m2kr.data.images.store import ImageStore


def test_images_are_fetched_once_and_can_be_read_in_place(tmp_path):
    files = {f"/{i}.png": photo(i) for i in range(50)}
    with FaultyServer(files) as server:
        wanted = {path[1:]: server.url(path) for path in files}
        done, faults = fetched(tmp_path, wanted)
        assert (done.added, done.there, faults) == (50, 0, {})
        assert done.received == sum(map(len, files.values()))
        again, _ = fetched(tmp_path, wanted)
        assert (again.there, again.received, len(server.requests)) == (50, 0, 50)
        images = ImageStore([tmp_path])
        for path, data in files.items():
            assert images.read(path[1:]) == data


def test_what_can_not_be_had_is_one_fault_each_and_dead_links_are_not_asked_twice(tmp_path):
    page = b"<!DOCTYPE html><title>Not here</title>" + b" " * 5000
    files = {
        "/fine.jpg": PHOTO,
        "/page.jpg": page,
        "/empty.jpg": b"",
        "/tiny.jpg": b"<p>",
        "/large.jpg": PHOTO + bytes(200_000),
        "/sneaky.jpg": PHOTO + bytes(200_000),
        "/drawing.svg": b'<?xml version="1.0"?><svg/>',
    }
    with FaultyServer(files) as server:
        server.fail("/page.jpg", Fault(headers={"Content-Type": "text/html"}), times=FOREVER)
        server.fail("/sneaky.jpg", Fault(chunked=True), times=FOREVER)
        server.fail("/gone.jpg", Fault(status=410), times=FOREVER)
        server.fail("/no.jpg", Fault(status=451), times=FOREVER)
        wanted = {path[1:]: server.url(path) for path in files}
        wanted |= {n: server.url(f"/{n}") for n in ("none.jpg", "gone.jpg", "no.jpg")}
        local = {
            "ftp": "ftp://example.org/a.jpg",
            "file": "file:///etc/passwd",
            "password": "http://me:secret@127.0.0.1/a.jpg",
            "blank": "",
            "half": "http://127.0.0.1/\ud800.jpg",
            "../up.jpg": server.url("/fine.jpg"),
        }
        rules = quick(max_bytes=100_000)
        expected = {
            "page.jpg": NO_IMAGE,
            "empty.jpg": EMPTY,
            "tiny.jpg": NO_IMAGE,
            "large.jpg": TOO_MANY_BYTES,
            "sneaky.jpg": TOO_MANY_BYTES,
            "drawing.svg": NO_IMAGE,
            "none.jpg": GONE,
            "gone.jpg": GONE,
            "no.jpg": REFUSED,
        }
        always = dict.fromkeys(local, NO_ADDRESS) | {"../up.jpg": UNSAFE}
        done, faults = fetched(tmp_path, wanted | local, rules)
        assert {name: fault.rule for name, fault in faults.items()} == expected | always
        assert "web page" in faults["page.jpg"].detail
        assert "text/html" in faults["page.jpg"].detail
        assert {fault.archive for name, fault in faults.items() if name in expected} == {
            "127.0.0.1"
        }
        assert done.added == 1
        asked = len(server.requests)
        assert asked == len(wanted)
        assert done.received < 200_000

        again, known = fetched(tmp_path, wanted | local, rules)
        assert {name: fault.rule for name, fault in known.items()} == expected | always
        assert (again.there, len(server.requests)) == (1, asked)

        server.files["/none.jpg"] = PHOTO
        back, _ = fetched(tmp_path, wanted, quick(max_bytes=100_000, retry_failed=True))
        assert (back.added, len(server.requests)) == (1, asked + len(expected))
        lines = (tmp_path / FAILED).read_text().splitlines()
        assert len(lines) == len(expected)  # none is there twice
        assert {json.loads(line)["rule"] for line in lines} == set(expected.values())


@pytest.mark.parametrize(
    "tail", [b'{"url":"http', b"no JSON\n", b"[]\n", b"\xff\n", b"x" * 200_000]
)
def test_a_torn_or_damaged_file_of_failures_costs_only_its_last_line(tmp_path, tail):
    with FaultyServer() as server:
        wanted = {"a.jpg": server.url("/a.jpg"), "b.jpg": server.url("/b.jpg")}
        fetched(tmp_path, {"a.jpg": wanted["a.jpg"]})
        with (tmp_path / FAILED).open("ab") as file:
            file.write(tail)
        fetched(tmp_path, wanted)
        fetched(tmp_path, wanted)
        assert (len(server.gets("/a.jpg")), len(server.gets("/b.jpg"))) == (1, 1)


def test_what_fails_for_the_time_being_is_tried_again(tmp_path):
    files = {f"/{i}.jpg": PHOTO + bytes(i) for i in range(5)}
    with FaultyServer(files) as server:
        server.fail("/0.jpg", Fault(truncate=300))
        server.fail("/1.jpg", Fault(status=500), Fault(status=408))
        server.fail("/2.jpg", Fault(chunked=True, truncate=300))
        server.fail("/3.jpg", Fault(truncate=300), times=QUICK.attempts)
        server.fail("/4.jpg", Fault(status=204, body=b""))
        wanted = {path[1:]: server.url(path) for path in files}
        rules = quick(strikes=100)
        done, faults = fetched(tmp_path, wanted, rules)
        assert {name: fault.rule for name, fault in faults.items()} == {"3.jpg": UNREACHED}
        assert f"300 of {len(files['/3.jpg']):,} bytes" in faults["3.jpg"].detail
        assert done.added == 4
        assert [len(server.gets(path)) for path in files] == [2, 3, 2, 3, 2]
        assert fetched(tmp_path, wanted, rules)[0].added == 1
        images = ImageStore([tmp_path])
        assert {path: images.read(path[1:]) for path in files} == files


def test_an_image_that_only_drips_is_given_up(tmp_path):
    with FaultyServer({"/a.bmp": picture("BMP", (400, 400))}) as server:
        server.fail("/a.bmp", Fault(drip=1000), times=FOREVER)
        _, faults = fetched(tmp_path, {"a": server.url("/a.bmp")}, quick(seconds=0.05))
        assert (faults["a"].rule, faults["a"].detail) == (UNREACHED, "not whole after 0.05 s")


def test_a_host_is_asked_within_its_budget(tmp_path):
    files = {f"/{i}.png": photo(i) for i in range(16)}
    with WatchedServer(files) as server:
        for path in files:
            server.fail(path, Fault(delay=0.12))
        rules = quick(other=HostRule(connections=2, per_second=20))
        fetched(tmp_path, {path[1:]: server.url(path) for path in files}, rules, jobs=16)
        assert server.most == 2
        times = sorted(server.times)
        # Two at a time, each 0.12 s: 16.7 a second is what connections allow, 20 what the rate does.
        assert times[-1] - times[0] >= 0.8
        gaps = [b - a for a, b in zip(times, times[2:], strict=False)]
        assert min(gaps) > 0.05


def test_requests_keep_their_distance(tmp_path):
    files = {f"/{i}.png": photo(i) for i in range(12)}
    with WatchedServer(files) as server:
        rules = quick(other=HostRule(connections=8, per_second=25))
        fetched(tmp_path, {path[1:]: server.url(path) for path in files}, rules)
        times = sorted(server.times)
        assert times[-1] - times[0] >= 11 / 25 - 0.03


@pytest.mark.parametrize(("form", "status"), [("seconds", 429), ("date", 503)])
def test_a_host_that_asks_to_wait_is_left_alone_and_others_go_on(tmp_path, form, status):
    files = {f"/{i}.png": photo(i) for i in range(20)}
    with WatchedServer(files) as server:
        # A date has whole seconds: two ahead is more than one to wait.
        after = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
        server.fail("/0.png", Fault(status=status, headers={"Retry-After": after}))
        wanted = {f"a{i}": server.url(f"/{i}.png", "localhost") for i in range(8)}
        wanted |= {f"b{i}": server.url(f"/{i}.png") for i in range(8, 20)}
        one = HostRule("localhost", connections=1, per_second=10_000)
        _, faults = fetched(tmp_path, wanted, quick(special=(one,)))
        assert faults == {}
        waited = [
            t for t, host in zip(server.times, server.hosts, strict=True) if host == "localhost"
        ]
        others = [
            t for t, host in zip(server.times, server.hosts, strict=True) if host != "localhost"
        ]
        assert waited[1] - waited[0] >= 0.95
        assert sum(t < waited[1] for t in others) >= 6


def test_a_host_that_wants_too_long_a_pause_is_left_for_the_next_run(tmp_path):
    files = {f"/{i}.png": photo(i) for i in range(40)}
    with FaultyServer(files) as server:
        server.fail("/0.png", Fault(status=429, headers={"Retry-After": "3600"}))
        wanted = {f"a{i}": server.url(f"/{i}.png") for i in range(40)}
        one = HostRule(connections=1, per_second=10_000)
        done, faults = fetched(tmp_path, wanted, quick(other=one))
        assert {fault.rule for fault in faults.values()} == {BUSY}
        assert "asks to wait for 3,600 s" in faults["a39"].detail
        assert (done.added, len(server.requests)) == (0, 1)
        assert fetched(tmp_path, wanted, quick(other=one))[0].added == 40


def test_a_host_that_only_refuses_is_given_up_and_asked_again_next_time(tmp_path):
    files = {f"/{i}.png": photo(i) for i in range(60)}
    with FaultyServer(files) as server:
        for path in files:
            server.fail(path, Fault(status=429), times=1)
        one = HostRule(connections=1, per_second=10_000)
        rules = quick(other=one, strikes=3, policy=QUICK)
        wanted = {path[1:]: server.url(path) for path in files}
        server.fail("/0.png", Fault(status=429), times=5)
        done, faults = fetched(tmp_path, wanted, rules)
        assert {fault.rule for fault in faults.values()} == {BUSY}
        assert (done.added, done.faults, len(server.requests)) == (0, 60, 3)
        assert not (tmp_path / FAILED).exists()


def test_one_bad_image_is_tried_to_the_end_and_its_host_is_not_blamed(tmp_path):
    with FaultyServer({"/bad.jpg": PHOTO, "/good.jpg": PHOTO}) as server:
        server.fail("/bad.jpg", Fault(status=500), times=FOREVER)
        server.fail("/good.jpg", Fault(truncate=99))
        wanted = {name: server.url(f"/{name}") for name in ("bad.jpg", "good.jpg")}
        _, faults = fetched(tmp_path, wanted, quick(strikes=3))
        assert {name: fault.detail for name, fault in faults.items()} == {
            "bad.jpg": "HTTP 500 Internal Server Error"
        }
        assert len(server.gets("/bad.jpg")) == QUICK.attempts


def test_a_dead_host_costs_some_attempts_and_not_some_for_each_image(tmp_path):
    with FaultyServer({"/a.jpg": PHOTO}) as server:
        pass  # nobody listens there now
    with FaultyServer({"/a.jpg": PHOTO}) as alive:
        wanted = {f"{i}.jpg": server.url(f"/{i}.jpg", "localhost") for i in range(500)}
        wanted["a.jpg"] = alive.url("/a.jpg")
        start = time.monotonic()
        done, faults = fetched(
            tmp_path, wanted, quick(special=(dataclasses.replace(FREE, domain="localhost"),))
        )
        assert time.monotonic() - start < 60
        assert (done.added, len(faults)) == (1, 500)
        assert {fault.rule for fault in faults.values()} == {UNREACHED}
        assert not (tmp_path / FAILED).exists()


def test_names_that_do_not_exist_or_are_none_are_faults(tmp_path):
    wanted = {
        "a": "http://no-such-host.invalid/a.jpg",
        "b": f"http://{'x' * 70}.example/b.jpg",
        "c": "http://-.-/c.jpg",
        "d": "http://[::1/d.jpg",
        "e": "http://127.0.0.1:99999/e.jpg",
    }
    _, faults = fetched(tmp_path, wanted)
    assert set(faults) == set(wanted)
    assert {fault.rule for fault in faults.values()} <= {UNREACHED, NO_ADDRESS}
    assert all(fault.detail for fault in faults.values())


class HeldServer(FaultyServer):
    """Answers ``localhost`` only after it was asked so often by its other name."""

    def __init__(self, files: dict[str, bytes], others: int) -> None:
        super().__init__(files)
        self.left = others
        self.gate = threading.Event()
        self.in_time: list[bool] = []
        self._count = threading.Lock()

    def take(self, request: Request) -> Fault:
        if request.headers["Host"].startswith("localhost"):
            self.in_time.append(self.gate.wait(60))
        else:
            with self._count:
                self.left -= 1
            if not self.left:
                self.gate.set()
        return super().take(request)


def test_slow_hosts_hold_up_none_but_themselves(tmp_path):
    files = {f"/{i}.png": photo(i) for i in range(150)}
    with HeldServer(files, others=140) as server:
        # The slow host's come first, and are as many as could fill all connections.
        wanted = {f"a{i}": server.url(f"/{i}.png", "localhost") for i in range(10)}
        wanted |= {f"b{i}": server.url(f"/{i}.png") for i in range(10, 150)}
        slow = HostRule("localhost", connections=2, per_second=10_000)
        patient = dataclasses.replace(QUICK, read_timeout=90)
        _, faults = fetched(tmp_path, wanted, quick(special=(slow,), policy=patient), jobs=4)
        assert faults == {}
        assert server.in_time == [True] * 10


def test_the_original_is_taken_where_there_is_no_thumbnail(tmp_path):
    def thumb(name: str) -> str:
        return f"/wikipedia/commons/thumb/a/ab/{name}/330px-{name}"

    small, large = picture("PNG", (10, 10)), picture("PNG", (400, 400))
    files = {f"/wikipedia/commons/a/ab/{name}": small for name in ("a.png", "b.png", "c.png")}
    files |= {thumb("c.png"): large}
    with FaultyServer(files) as server:
        server.fail(thumb("a.png"), Fault(status=400), times=FOREVER)
        server.fail(thumb("b.png"), Fault(status=500), times=FOREVER)
        wiki = dataclasses.replace(FREE, domain="127.0.0.1", addresses=wikimedia_addresses)
        wanted = {
            name: server.url(f"/wikipedia/commons/a/ab/{name}")
            for name in ("a.png", "b.png", "c.png", "d.png")
        }
        rules = quick(special=(wiki,), thumb_width=300, strikes=100)
        _, faults = fetched(tmp_path, wanted, rules)
        assert {name: fault.rule for name, fault in faults.items()} == {"d.png": GONE}
        images = ImageStore([tmp_path])
        found = [images.read(name) for name in ("a.png", "b.png", "c.png")]
        assert found == [small, small, large]
        assert len(server.gets(thumb("b.png"))) == QUICK.attempts
        assert len(server.gets("/wikipedia/commons/a/ab/c.png")) == 0
        asked = len(server.requests)
        fetched(tmp_path, wanted, rules)
        assert len(server.requests) == asked


CHILD = textwrap.dedent(
    """
    import json, math, signal, sys
    from pathlib import Path
    # Jobs of a script's background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from m2kr.building.images.hosts import HostRule, Rules
    from m2kr.building.images.shard_writer import ShardWriter
    from m2kr.building.images.from_urls import fetch_urls

    rules = Rules(private=True, other=HostRule(connections=3, per_second=200))
    with ShardWriter(Path(sys.argv[1])) as store:
        fetch_urls(json.loads(sys.argv[2]), store, print, rules=rules)
    """
)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_kill_loses_nothing_that_was_committed(tmp_path, sent):
    files = {f"/{i}.png": photo(i) for i in range(100)}
    with FaultyServer(files) as server:
        wanted = {path[1:]: server.url(path) for path in files}
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), json.dumps(wanted)],
            stderr=subprocess.PIPE,
        )
        while len(server.requests) < 40 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(sent)
        _, told = process.communicate()
        assert process.returncode != 0
        assert sent == signal.SIGKILL or b"KeyboardInterrupt" in told
        with ShardWriter(tmp_path) as store:
            kept = set(store.names())
        assert len(kept) >= 25  # all but those that were under way
        before = len(server.requests)
        done, faults = fetched(tmp_path, wanted)
        assert (done.there, done.added, faults) == (len(kept), 100 - len(kept), {})
        again = {request.path[1:] for request in server.requests[before:]}
        assert again == set(wanted) - kept
        images = ImageStore([tmp_path])
        assert all(images.read(path[1:]) == data for path, data in files.items())


def test_addresses_are_taken_as_they_are_needed(tmp_path):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield f"{taken}.png", server.url("/a.png")

    class Enough(Exception):
        pass

    # There is always something to ask for: nobody needs to look for more.
    endlessly = HostRule(connections=8, per_second=math.inf)

    def stop(fault: UnavailableImage) -> None:
        raise Enough

    with FaultyServer({"/a.png": photo(1)}) as server:
        server.fail("/a.png", *[Fault()] * 300, Fault(status=404))
        with pytest.raises(Enough), ShardWriter(tmp_path) as store:
            fetch_urls(endless(), store, stop, rules=quick(other=endlessly), jobs=4)
        assert taken <= 300 + 2 * 256
    with ShardWriter(tmp_path) as store:
        assert len(store) >= 290  # what came before the caller gave up is kept
