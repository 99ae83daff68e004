"""Locks between real processes: waiting, releasing, taking over from the dead."""

import json
import logging
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from filelock import SoftFileLease
from filelock._soft._exclusive import _recovery

from m2kr import locks
from m2kr.errors import M2KRError
from m2kr.locks import Busy, hold, take

CHILD = textwrap.dedent(
    """
    import logging, sys, time
    from pathlib import Path
    from m2kr.locks import hold

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with hold(Path(sys.argv[1]), "the shed"):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
    print("released", flush=True)
    """
)


def child(path: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that holds a lock for some seconds."""
    command = [sys.executable, "-c", CHILD, str(path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_lock_leaves_nothing_behind(tmp_path):
    path = tmp_path / "new" / "x.lock"
    with hold(path, "the shed"):
        assert path.exists()
    assert list(path.parent.iterdir()) == []


def test_a_lock_is_released_by_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "x.lock", "the shed"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_one_waits_says_so_once_and_goes_on(tmp_path, caplog):
    caplog.set_level(logging.INFO, "m2kr")
    path = tmp_path / "x.lock"
    other = child(path, 1.5)
    assert says(other) == "held"
    start = time.monotonic()
    with hold(path, "the shed") as held:
        assert 0.5 < time.monotonic() - start < 4
        held.check()
    assert other.wait() == 0
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert messages[0].startswith(f"waiting for the shed held by pid {other.pid} on host ")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_owner_is_taken_over_at_once(tmp_path):
    path = tmp_path / "x.lock"
    other = child(path, 600)
    assert says(other) == "held"
    other.kill()
    other.wait()
    assert path.exists()
    start = time.monotonic()
    with hold(path, "the shed"):
        assert time.monotonic() - start < 2
    assert list(tmp_path.iterdir()) == []


def test_a_waiting_process_takes_over_when_the_owner_is_killed(tmp_path):
    path = tmp_path / "x.lock"
    owner = child(path, 600)
    assert says(owner) == "held"
    waiter = child(path, 0)
    assert says(waiter).startswith(f"waiting for the shed held by pid {owner.pid}")
    owner.kill()
    owner.wait()
    start = time.monotonic()
    assert says(waiter) == "held"
    assert time.monotonic() - start < 2
    assert waiter.wait() == 0


def test_an_owner_on_another_host_is_waited_out(tmp_path, monkeypatch):
    """Such as a container that was killed and started again under another name."""
    monkeypatch.setattr(locks, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.5)
    path = tmp_path / "x.lock"
    path.write_text("filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=aa\nduration=2.0\n")
    start = time.monotonic()
    with hold(path, "the shed"):
        assert 1.5 < time.monotonic() - start < 5


def test_a_marker_whose_owner_died_before_it_signed_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "UNWRITTEN_SECONDS", 1.0)
    path = tmp_path / "x.lock"
    path.touch()
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with hold(path, "the shed") as held:
            inside.append(1)
            most.append(len(inside))
            held.check()
            inside.pop()

    start = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1, 1, 1, 1]
    assert time.monotonic() - start >= 1.0
    assert list(tmp_path.iterdir()) == []


def test_an_owner_that_signs_late_keeps_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "UNWRITTEN_SECONDS", 2.0)
    path = tmp_path / "x.lock"
    path.touch()
    record = (
        f"filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=aa\nduration={locks.LEASE_SECONDS}\n"
    )
    threading.Timer(0.5, path.write_text, [record]).start()
    ends = time.monotonic() + 3.0
    with (
        pytest.raises(TimeoutError),
        hold(path, "the shed", cancelled=lambda: time.monotonic() > ends),
    ):
        pass
    assert path.read_text() == record


def test_an_owner_that_signs_too_late_finds_out(tmp_path, monkeypatch):
    """It stood still between making the marker and writing into it, and was overtaken."""
    monkeypatch.setattr(locks, "UNWRITTEN_SECONDS", 0.5)
    path = tmp_path / "x.lock"
    write = SoftFileLease._write_lock_info
    late = threading.Event()

    def stand_still(lease: SoftFileLease, marker: int) -> None:
        if threading.current_thread() is sleeper:
            late.wait()
        write(lease, marker)

    monkeypatch.setattr(SoftFileLease, "_write_lock_info", stand_still)
    raised: list[M2KRError] = []

    def sleep() -> None:
        with hold(path, "the shed") as held:
            try:
                held.check()
            except M2KRError as error:
                raised.append(error)

    sleeper = threading.Thread(target=sleep, daemon=True)
    sleeper.start()
    while not path.exists():
        time.sleep(0.01)
    with hold(path, "the shed") as held:
        late.set()
        sleeper.join()
        held.check()
    assert "took over the shed" in str(raised[0])
    assert list(tmp_path.iterdir()) == []


def test_without_waiting_only_an_owner_that_lives_is_an_error(tmp_path, monkeypatch):
    """A job that was killed on another node, and started again here, must not fail for ever."""
    monkeypatch.setattr(locks, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.5)
    path = tmp_path / "x.lock"
    path.write_text("filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=aa\nduration=2.0\n")
    with hold(path, "the shed", wait=False) as held:
        held.check()
        start = time.monotonic()
        with pytest.raises(Busy, match=r"writing to the shed: pid \d+ on host .*") as caught:
            take(path, "the shed", wait=False)
        assert time.monotonic() - start < 4  # the lease twice
        assert caught.value.where == str(path)
        held.check()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_owner_is_taken_over_where_names_cannot_be_exchanged(tmp_path, monkeypatch):
    """As over NFS, where filelock leaves every marker alone."""
    monkeypatch.setattr(_recovery, "exchange_names", lambda *_: False)
    monkeypatch.setattr(locks, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.3)
    path = tmp_path / "x.lock"
    path.write_text("filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=aa\nduration=1.5\n")
    for wait in (True, False):
        with hold(path, "the shed", wait=wait) as held:
            held.check()
    assert list(tmp_path.iterdir()) == []


def test_an_owner_that_was_overtaken_finds_out(tmp_path):
    path = tmp_path / "x.lock"
    with hold(path, "the shed") as held:
        held.check()
        SoftFileLease(path, lease_duration=locks.LEASE_SECONDS).force_break()
        with hold(path, "the shed"), pytest.raises(M2KRError, match="took over the shed"):
            held.check()


def test_threads_exclude_each_other_without_a_word(tmp_path, caplog):
    caplog.set_level(logging.INFO, "m2kr")
    counter = tmp_path / "count"
    counter.write_text("0")

    def work() -> None:
        for _ in range(3):
            with hold(tmp_path / "x.lock", "the count"):
                counter.write_text(str(int(counter.read_text()) + 1))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text() == "6"
    assert caplog.records == []


def test_a_wait_can_be_called_off(tmp_path):
    path = tmp_path / "x.lock"
    with hold(path, "the shed"):
        give_up = threading.Event()
        threading.Timer(0.3, give_up.set).start()
        raised: list[BaseException] = []

        def wait() -> None:
            try:
                with hold(path, "the shed", cancelled=give_up.is_set):
                    pass
            except TimeoutError as error:
                raised.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(5)
        assert len(raised) == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(M2KRError, match="cannot lock the shed") as caught,
        hold(tmp_path / "file" / "x.lock", "the shed"),
    ):
        pass
    assert str(tmp_path / "file") in json.dumps(caught.value.as_dict())


def test_a_lock_of_another_kind_is_explained(tmp_path):
    path = tmp_path / "x.lock"
    with (
        SoftFileLease(path, lease_duration=77.0),
        pytest.raises(M2KRError, match="another version"),
    ):

        def wait() -> None:
            with hold(path, "the shed"):
                pass

        wait()
