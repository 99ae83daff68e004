"""A zip on a server: only what is needed is fetched, from 20 GB, over faults, and after a kill."""

import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.faulty_server import FOREVER, Fault, FaultyServer, OnDisk
from support.sparse_zip import SparseZip, make_sparse_zip

from m2kr.building.fetch.retry import Policy
from m2kr.building.images.from_archives import fetch_members
from m2kr.building.images.outcome import UnavailableImage
from m2kr.building.images.remote_archive import RemoteZip
from m2kr.building.images.remote_file import RemoteFile, WholeOnlyError
from m2kr.building.images.shard_writer import ShardWriter
from m2kr.data.images.store import ImageStore
from m2kr.errors import InputError, UpstreamError, UsageError

QUICK = Policy(attempts=3, backoff=0.01, read_timeout=5)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> SparseZip:
    """20 GB in three parts, 100,000 members, some 420 MB on disk."""
    return make_sparse_zip(tmp_path_factory.mktemp("big"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SparseZip:
    """The same in small, where size does not matter: 6 GB, 1,000 members."""
    folder = tmp_path_factory.mktemp("small")
    return make_sparse_zip(folder, members=1000, size=6_000_000_000, filled=100)


@pytest.fixture
def server(big: SparseZip, small: SparseZip) -> Iterator[FaultyServer]:
    with FaultyServer({at(path): OnDisk(path) for path in big.paths + small.paths}) as server:
        yield server


def at(path: Path) -> str:
    """Where a part is on the server."""
    return f"/{path.parent.name}/{path.name}"


def urls(server: FaultyServer, archive: SparseZip) -> list[str]:
    return [server.url(at(path)) for path in archive.paths]


def content(archive: RemoteZip, names: dict[str, bytes] | list[str]) -> dict[str, bytes]:
    """What `fetch` gives; no member may be faulty."""
    got: dict[str, bytes] = {}
    archive.fetch(names, got.__setitem__, lambda fault: pytest.fail(str(fault)))
    return got


def test_500_members_of_20_gb_cost_little_more_than_themselves(big, server, tmp_path):
    assert sum(path.stat().st_size for path in big.paths) > 20_000_000_000
    wanted = dict.fromkeys(big.contents)
    archive = RemoteZip(urls(server, big), tmp_path / "cache", policy=QUICK)
    assert len(archive.open()) == 100_000
    assert content(archive, wanted) == big.contents
    assert server.sent <= 1.05 * big.stored + big.directory
    assert archive.received == server.sent

    # Another process needs no directory, and another member costs itself alone.
    before = server.sent
    again = RemoteZip(urls(server, big), tmp_path / "cache", policy=QUICK)
    assert content(again, ["images/00000003.jpg"])["images/00000003.jpg"].strip(b"\0") == b""
    assert server.sent - before < 23_000
    assert not list((tmp_path / "cache").glob("*.part"))


def test_what_the_store_has_is_not_fetched_again(small, server, tmp_path):
    wanted = {f"wit/{number}.jpg": name for number, name in enumerate(small.contents)}
    wanted |= {"twin.jpg": next(iter(small.contents)), "gone.jpg": "images/no.jpg"}
    faults: list[UnavailableImage] = []
    archive = RemoteZip(urls(server, small), tmp_path / "cache", policy=QUICK)
    with ShardWriter(tmp_path / "store") as store:
        first = fetch_members(archive, wanted, store, faults.append)
        assert (first.there, first.added, first.faults) == (0, len(wanted) - 1, 1)
        before = server.sent
        second = fetch_members(archive, wanted, store, faults.append)
        assert (second.there, second.added, second.faults) == (len(wanted) - 1, 0, 1)
        assert (server.sent, second.received) == (before, 0)
        odd = fetch_members(archive, {"../up.jpg": "images/00000003.jpg"}, store, faults.append)
        assert (odd.added, odd.faults, faults.pop().rule) == (0, 1, "unsafe name")
    assert faults == [UnavailableImage("images.zip", "gone.jpg", "not in the archive")] * 2
    images = ImageStore([tmp_path / "store"])
    for name, member in wanted.items():
        assert name == "gone.jpg" or images.read(name) == small.contents[member]


CHILD = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    from m2kr.building.images.from_archives import fetch_members
    from m2kr.building.images.remote_archive import RemoteZip
    from m2kr.building.images.shard_writer import ShardWriter

    folder, urls, wanted = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    with ShardWriter(folder / "store") as store:
        fetch_members(RemoteZip(urls, folder / "cache"), dict(zip(wanted, wanted)), store, print, jobs=2)
    """
)


def child(folder: Path, addresses: list[str], names: list[str]) -> "subprocess.Popen[bytes]":
    arguments = [str(folder), json.dumps(addresses), json.dumps(names)]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments])


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


@pytest.mark.slow
def test_kill_9_costs_what_was_on_its_way(big, server, tmp_path):
    slow = Fault(delay=0.01)
    for path in big.paths:
        server.fail(at(path), slow, times=FOREVER)
    first = at(big.paths[0])
    # Killed in the directory, among the members, and then no more.
    for reached in (
        lambda: server.sent > big.directory * 2 // 3,
        lambda: len(server.gets(first)) > 100,
    ):
        process = child(tmp_path, urls(server, big), list(big.contents))
        wait_for(reached)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    with ShardWriter(tmp_path / "store") as store:
        assert 0 < len(store) < len(big.contents)
    assert child(tmp_path, urls(server, big), list(big.contents)).wait() == 0
    # Twice at most a piece of the directory and some requests begin again, and its end.
    lost = 2 * ((4 << 20) + 70_000 + 10 * 22_000)
    assert server.sent <= 1.05 * big.stored + big.directory + lost
    images = ImageStore([tmp_path / "store"])
    assert {name: images.read(name) for name in big.contents} == big.contents


def test_a_server_without_ranges_says_what_a_download_costs(big, server, tmp_path):
    for path in big.paths:
        server.fail(at(path), Fault(ranges=False, headers={"Accept-Ranges": None}), times=99)
    archive = RemoteZip(urls(server, big), tmp_path, policy=QUICK)
    with pytest.raises(WholeOnlyError) as caught:
        content(archive, big.contents)
    text = str(caught.value)
    total = sum(path.stat().st_size for path in big.paths)
    assert f"a full download is {total:,} bytes in 3 files" in text
    for path in big.paths:
        assert f"{path.name}  {path.stat().st_size:,} bytes" in text
        assert f"-O '{server.url(at(path))}'" in text
    assert "--images images.zip.001" in text
    # What lay in the buffers between the two.
    assert server.sent < 20_000_000
    assert len(server.requests) == 3
    assert caught.value.exit_code == 4


def test_one_part_without_ranges_counts_the_others_too(big, server, tmp_path):
    server.fail(at(big.paths[1]), Fault(ranges=False, chunked=True, truncate=9), times=9)
    total = sum(path.stat().st_size for path in (big.paths[0], big.paths[2]))
    with pytest.raises(WholeOnlyError, match=f"at least {total:,} bytes in 3 files") as caught:
        content(RemoteZip(urls(server, big), tmp_path, policy=QUICK), big.contents)
    assert f"{big.paths[1].name}  of unknown size" in str(caught.value)


def test_broken_connections_and_busy_servers_are_outlived(small, server, tmp_path):
    for path in small.paths:
        faults = (Fault(truncate=500), Fault(status=503, headers={"Retry-After": "0"}))
        odd = (Fault(ranges=False), Fault(status=429), Fault(truncate=0), Fault(status=500))
        server.fail(at(path), Fault(status=502))
        for _ in range(20):
            server.fail(at(path), Fault(), *faults, Fault(), *odd)
    patient = Policy(attempts=30, backoff=0.001, backoff_cap=0.01)
    archive = RemoteZip(urls(server, small), tmp_path, policy=patient)
    assert content(archive, small.contents) == small.contents


def test_a_server_that_stays_broken_is_one_error(small, server, tmp_path):
    archive = RemoteZip(urls(server, small), tmp_path, policy=QUICK)
    archive.open()
    server.fail(at(small.paths[1]), Fault(status=503), times=FOREVER)
    with pytest.raises(UpstreamError, match=r"HTTP 503 .*\(3 attempts\)") as caught:
        content(archive, small.contents)
    assert "what was fetched is kept" in str(caught.value)


def test_a_file_that_changes_is_an_error(small, server, tmp_path):
    archive = RemoteZip(urls(server, small), tmp_path, policy=QUICK)
    archive.open()
    server.files[at(small.paths[1])] = b"another file"
    with pytest.raises(UpstreamError, match="changed while it was read"):
        content(archive, small.contents)


@pytest.mark.parametrize("honest", [True, False], ids=["If-Range", "no If-Range"])
@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_another_version_is_noticed_by_either_header(small, server, tmp_path, honest, header):
    path = at(small.paths[0])
    others: dict[str, str | None] = {"ETag": None, header: '"other"'}
    none: dict[str, str | None] = {"ETag": None} if header == "Last-Modified" else {}
    server.fail(path, Fault(headers=others if honest else none))
    server.fail(path, Fault(headers=none if honest else others, if_range=honest), times=9)
    file = RemoteFile([server.url(path)], policy=QUICK)
    assert file.size == small.paths[0].stat().st_size
    with pytest.raises(UpstreamError, match="changed while it was read"):
        file.read(5, 10)


def test_a_mirror_takes_over(small, server, tmp_path):
    with FaultyServer(server.files) as mirror:
        both = [list(pair) for pair in zip(urls(server, small), urls(mirror, small), strict=True)]
        archive = RemoteZip(both, tmp_path, policy=QUICK)
        archive.open()
        for path in small.paths:
            server.fail(at(path), Fault(status=404), times=FOREVER)
        assert content(archive, small.contents) == small.contents
        # One of another size is no mirror.
        mirror.files[at(small.paths[0])] = b"x" * 5000
        archive = RemoteZip(both, tmp_path, policy=QUICK)
        with pytest.raises((UpstreamError, InputError)):
            content(archive, small.contents)


def test_redirects_are_followed_once_and_tokens_stay_at_home(small, server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    homes = []
    for path in small.paths:
        home = f"/home/{path.name}"
        # Where it leads is another host to a client.
        server.fail(home, Fault(redirect=server.url(at(path), "localhost")), times=FOREVER)
        homes.append(server.url(home))
    archive = RemoteZip(homes, tmp_path, policy=QUICK)
    some = dict(list(small.contents.items())[::2])
    assert content(archive, some) == some
    for path in small.paths:
        asked, led = server.gets(f"/home/{path.name}"), server.gets(at(path))
        assert {request.headers.get("Authorization") for request in asked} == {"Bearer secret"}
        assert {request.headers.get("Authorization") for request in led} == {None}
        assert len(asked) <= 8 < len(led)  # once, or once a thread
    # The address that it led to expires.
    before = len(server.gets(f"/home/{small.paths[0].name}"))
    server.fail(at(small.paths[0]), Fault(status=403))
    assert content(archive, some) == some
    assert len(server.gets(f"/home/{small.paths[0].name}")) > before


def test_other_files_are_refused_before_more_is_fetched(tmp_path):
    files = {
        "/a.tar.gz": b"\x1f\x8b" + bytes(70_000),
        "/page.zip": b"<html>log in</html>",
        "/a.zip": b"PK\3\4" + bytes(5000),
        "/empty.zip": b"",
    }
    with FaultyServer(files) as server:

        def refused(path: str, kind: type[Exception], match: str) -> None:
            with pytest.raises(kind, match=match):
                RemoteZip([server.url(path)], tmp_path, policy=QUICK).open()

        refused(
            "/a.tar.gz",
            WholeOnlyError,
            "a gzip file can't be read in part; a full download is 70,002",
        )
        refused("/page.zip", InputError, "this is a web page, no zip file")
        refused("/a.zip", InputError, "zip file is damaged: its end record is missing")
        refused("/empty.zip", InputError, "no zip file")
        refused("/none.zip", UpstreamError, "HTTP 404")
        assert server.sent < 10_000
    with pytest.raises(InputError, match="an address of this archive"):
        RemoteZip(["ftp://host/a.zip"], tmp_path)
    with pytest.raises(UsageError, match="with block"):
        ShardWriter(tmp_path / "s").add("a", b"")
