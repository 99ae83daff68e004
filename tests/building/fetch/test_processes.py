"""Downloads that are killed, interrupted, raced and short of disk, in processes of their own."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.faulty_server import FOREVER, Fault, FaultyServer

from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.fetch import fetch
from m2kr.building.fetch.retry import Policy
from m2kr.errors import M2KRError

BODY = random.Random(3).randbytes(2_000_000)
SHA = hashlib.sha256(BODY).hexdigest()
# About a second for the whole body.
SLOW = Fault(drip=2_000)

CHILD = textwrap.dedent(
    """
    import json, logging, resource, signal, sys
    from pathlib import Path
    from m2kr.building.fetch.retry import Policy
    from m2kr.building.fetch.fetch import fetch
    from m2kr.building.fetch.assets import Asset
    from m2kr.errors import M2KRError

    # Jobs of a script's background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder, url, most = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    if most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        fetch([Asset("a.bin", (url,))], folder, policy=Policy(backoff=0.01, spare=0))
    except M2KRError as error:
        print(json.dumps(error.as_dict() | {"exit_code": error.exit_code}))
    """
)


def child(
    folder: Path, url: str, most: int = 0, before: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-c", CHILD, str(folder), url, str(most)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({"/a.bin": BODY}) as server:
        yield server


def part(folder: Path) -> Path:
    return folder / ".partial/a.bin.part"


def arrived(folder: Path) -> int:
    return part(folder).stat().st_size if part(folder).exists() else 0


def finish(folder: Path, url: str, **facts: str) -> bytes:
    wanted = Asset("a.bin", (url,), **facts)  # type: ignore[arg-type]
    return fetch([wanted], folder, policy=Policy(backoff=0.01, spare=0))["a.bin"].read_bytes()


@pytest.mark.parametrize("hashed", [True, False], ids=["hash", "no hash"])
def test_a_killed_download_goes_on_where_it_was(hashed, server, tmp_path):
    server.fail("/a.bin", SLOW)
    url = server.url("/a.bin")
    process = child(tmp_path, url)
    wait_for(lambda: arrived(tmp_path) > 300_000)
    process.kill()
    process.communicate()
    assert not (tmp_path / "a.bin").exists()
    had = arrived(tmp_path)
    assert part(tmp_path).read_bytes() == BODY[:had]

    start = time.monotonic()
    assert finish(tmp_path, url, **({"sha256": SHA} if hashed else {})) == BODY
    assert time.monotonic() - start < 5
    assert server.ranges("/a.bin") == [None, f"bytes={had}-"]
    assert not any((tmp_path / ".partial").iterdir())


def test_a_killed_download_of_a_file_that_changed_begins_anew(server, tmp_path):
    server.fail("/a.bin", SLOW)
    process = child(tmp_path, server.url("/a.bin"))
    wait_for(lambda: arrived(tmp_path) > 100_000)
    process.kill()
    process.communicate()
    server.files["/a.bin"] = BODY[::-1]
    assert finish(tmp_path, server.url("/a.bin")) == BODY[::-1]


def test_an_interrupt_ends_it_soon_and_keeps_what_came(server, tmp_path):
    server.fail("/a.bin", SLOW)
    process = child(tmp_path, server.url("/a.bin"))
    wait_for(lambda: arrived(tmp_path) > 100_000)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert time.monotonic() - start < 3
    assert "KeyboardInterrupt" in errors
    assert 0 < arrived(tmp_path) < len(BODY)
    assert not (tmp_path / ".partial/a.bin.lock").exists()
    assert finish(tmp_path, server.url("/a.bin")) == BODY


def test_of_processes_that_want_one_file_one_fetches_it(server, tmp_path):
    server.fail("/a.bin", Fault(drip=1_000))
    processes = [child(tmp_path, server.url("/a.bin")) for _ in range(3)]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(server.gets("/a.bin")) == 1
    assert (tmp_path / "a.bin").read_bytes() == BODY
    waited = [line for text in said for line in text.splitlines() if "waiting for" in line]
    assert len(waited) == 2
    assert all("the download of a.bin held by pid" in line and "on host" in line for line in waited)


def test_a_waiting_process_takes_over_from_a_killed_one(server, tmp_path):
    server.fail("/a.bin", SLOW)
    first = child(tmp_path, server.url("/a.bin"))
    wait_for(lambda: arrived(tmp_path) > 100_000)
    second = child(tmp_path, server.url("/a.bin"))
    time.sleep(0.3)
    first.kill()
    first.communicate()
    _, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert server.ranges("/a.bin")[1].startswith("bytes=")


def test_a_file_that_cannot_be_written_is_one_error_and_resumes(server, tmp_path):
    process = child(tmp_path, server.url("/a.bin"), most=1_000_000)
    output, errors = process.communicate(timeout=300)
    error = json.loads(output)
    assert (error["exit_code"], "File too large" in error["what"]) == (1, True), errors
    assert arrived(tmp_path) == 1_000_000
    assert finish(tmp_path, server.url("/a.bin")) == BODY
    assert server.ranges("/a.bin") == [None, "bytes=1000000-"]


MOUNT = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'


def test_a_full_disk_is_one_error(server, tmp_path):
    """On a file system of 1 MB, in a mount namespace of its own."""
    namespace = ("unshare", "--mount", "--map-root-user")
    try:
        subprocess.run([*namespace, "sh", "-c", MOUNT, str(tmp_path), "true"], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mount namespaces are not allowed here")
    before = (*namespace, "sh", "-c", MOUNT, str(tmp_path))
    output, errors = child(tmp_path, server.url("/a.bin"), before=before).communicate(timeout=300)
    error = json.loads(output)
    assert error["exit_code"] == 1, errors
    assert "the disk is full" in error["what"]
    assert "goes on from what has arrived" in error["fix"]
    assert len(server.gets("/a.bin")) == 1


def test_a_disk_error_stops_the_other_files_too(server, tmp_path):
    """None of them is fetched to its end for nothing."""
    server.fail("/a.bin", SLOW, times=FOREVER)
    (tmp_path / ".partial/b.bin.part").mkdir(parents=True)
    files = [Asset(name, (server.url("/a.bin"),)) for name in ("a.bin", "b.bin")]
    start = time.monotonic()
    with pytest.raises(M2KRError, match="Is a directory"):
        fetch(files, tmp_path, policy=Policy(spare=0))
    assert time.monotonic() - start < 1
    assert not (tmp_path / "a.bin").exists()
