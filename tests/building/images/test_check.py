"""Checking images by decoding them: hostile files cost themselves, never the run."""

import io
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.hostile_images import FAULTY, SOUND, picture

from m2kr.building.images import check
from m2kr.building.images.check import (
    CRASHED,
    TOO_MANY_BYTES,
    TOO_SLOW,
    UNREADABLE,
    Checked,
    Decoders,
    ImageLimits,
    verify_images,
)
from m2kr.data.images import decode as rules
from m2kr.data.images.store import ImageStore
from m2kr.errors import InputError, M2KRError

LIMITS = ImageLimits(bytes=3_000_000)


def checked(images: dict[str, bytes], **how) -> dict[str, Checked]:
    return {one.name: one for one in verify_images(images.items(), **how)}


def test_sound_and_faulty_images_as_the_readers_take_them(tmp_path: Path) -> None:
    files = {name: data for name, (data, *_) in (SOUND | FAULTY).items()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    store = ImageStore([tmp_path])
    found = verify_images(files.items(), jobs=2, limits=LIMITS)
    for (name, data), one in zip(files.items(), found, strict=True):
        assert one.name == name
        if name in FAULTY:
            assert (one.rule, one.width) == (FAULTY[name][1], 0), name
            assert one.detail
            if one.rule != TOO_MANY_BYTES:
                with pytest.raises(InputError):
                    store.open(name)
            continue
        assert one.ok, one
        assert (one.width, one.height) == SOUND[name][1:]
        opened = store.open(name)
        assert opened is not None
        assert opened.size == (one.width, one.height)
        assert opened.tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_the_first_frame_is_the_image() -> None:
    for name in ("animated gif", "animated webp", "animated png"):
        image, _ = rules.open_rgb(SOUND[name][0])
        red, *others = image.getpixel((5, 5))  # type: ignore[misc]
        assert red > 250 > 5 > max(others), name


SITE = """
import os, signal, time
from m2kr.data.images import decode as image_decode

real = image_decode.open_rgb
def open_rgb(data, *rest):
    if data.startswith(b"ONCE:"):
        mark = data[5:].decode()
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        data = image_decode_sound
    if data == b"SEGFAULT":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"LEAVE":
        os._exit(3)
    if data == b"SLEEP":
        time.sleep(60)
    if data == b"STOP":
        os.kill(os.getpid(), signal.SIGSTOP)
    if data == b"HUNGRY":
        try:
            bytearray(1 << 30)
        except MemoryError:
            raise image_decode.UndecodableImage(image_decode.OUT_OF_MEMORY, "simulated")
    if data == b"TALK":
        os.write(1, b"noise" * 100); os.write(2, b"noise" * 100_000)
        data = image_decode_sound
    return real(data, *rest)
image_decode.open_rgb = open_rgb
image_decode_sound = %r
"""


@pytest.fixture
def harmful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoder processes in which some contents do what a bug in a decoder does."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SITE % picture())
    monkeypatch.syspath_prepend(tmp_path / "site")


@pytest.mark.usefixtures("harmful")
def test_a_decoder_that_dies_costs_one_image(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(check, "_GRACE", 0.5)
    bad = {b"SEGFAULT": CRASHED, b"LEAVE": CRASHED, b"SLEEP": TOO_SLOW, b"STOP": CRASHED}
    bad[b"HUNGRY"] = rules.OUT_OF_MEMORY
    contents = [picture(), *bad, b"TALK", b"ONCE:" + bytes(tmp_path / "mark"), picture()]
    limits = ImageLimits(seconds=0.5, memory=256 << 20)
    items = [(f"{i}", c) for i, c in enumerate(contents)]
    found = list(verify_images(items, jobs=2, limits=limits))
    assert [(one.name, one.rule) for one in found] == [(n, bad.get(c, "")) for n, c in items]
    told = {one.detail for one in found if one.rule}
    assert any("SIGSEGV" in text for text in told), told
    assert any("exit code 3" in text for text in told), told
    assert "not decoded within 0.5 s" in told


def test_an_image_that_needs_too_much_memory_is_a_fault() -> None:
    large = picture(size=(6_000, 5_000), mode="L")
    small = ImageLimits(memory=64 << 20)
    found = checked({"large": large, "small": picture()}, limits=small, jobs=1)
    assert found["large"].rule == rules.OUT_OF_MEMORY
    assert found["small"].ok
    assert checked({"large": large})["large"].width == 6_000


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_thousands_come_in_order(jobs: int) -> None:
    sound, bad = picture("JPEG"), b"bad"
    items = ((f"{i}", bad if i % 7 == 0 else sound) for i in range(700))
    for i, one in enumerate(verify_images(items, jobs=jobs)):
        assert (one.name, one.ok) == (f"{i}", i % 7 != 0)
    assert i == 699
    assert list(verify_images([], jobs=jobs)) == []


def test_no_more_is_taken_than_is_under_way() -> None:
    taken = itertools.count()
    data = picture("BMP", (1200, 900))  # 3 MB

    def items() -> Iterator[tuple[str, bytes]]:
        for i in range(100):
            next(taken)
            yield f"{i}", data

    found = verify_images(items(), jobs=2)
    next(found)
    time.sleep(0.5)
    assert next(taken) <= 2 * (2 + 2 + 3)
    found.close()
    assert not children()


def children() -> set[str]:
    tasks = Path("/proc/self/task").glob("*/children")
    pids = {pid for task in tasks for pid in task.read_text().split()}
    return {pid for pid in pids if b"images.decoder" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def test_content_may_be_read_late_and_fail() -> None:
    def gone() -> bytes:
        raise FileNotFoundError(2, "No such file", "x.jpg")

    def refused() -> bytes:
        raise InputError("the tar file is cut short", where="a.tar", fix="copy it again")

    items = [("a", picture), ("b", gone), ("c", refused), ("d", picture())]
    found = list(verify_images(items, jobs=1))
    assert [one.rule for one in found] == ["", UNREADABLE, UNREADABLE, ""]
    assert found[2].detail == "a.tar: the tar file is cut short"


def test_an_error_of_the_source_comes_in_its_place_and_leaves_nothing() -> None:
    def items() -> Iterator[tuple[str, bytes]]:
        yield from ((f"{i}", picture()) for i in range(64))
        raise KeyError("a defect")

    seen: list[Checked] = []
    with pytest.raises(KeyError):
        seen.extend(verify_images(items(), jobs=2))
    assert len(seen) == 64
    assert not children()


def test_a_decoder_that_cannot_start_is_one_error(monkeypatch, tmp_path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\necho no such module >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(M2KRError, match="can't be started: no such module"):
        list(verify_images([("a", picture())]))


def test_decoders_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import itertools\n"
        "from m2kr.building.images.check import verify_images\n"
        f"data = {picture()!r}\n"
        "for one in verify_images((str(i), data) for i in itertools.count()):\n"
        "    print(one.name, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        tasks = Path(f"/proc/{run.pid}/task").glob("*/children")
        pids = [int(pid) for task in tasks for pid in task.read_text().split()]
        assert pids
        run.kill()
    deadline = time.monotonic() + 300
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def pool() -> Iterator[Decoders]:
    with Decoders(2, ImageLimits(pixels=1 << 22, seconds=5)) as running:
        yield running


@settings(max_examples=60, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_flipped_bytes_never_harm_the_parent(pool: Decoders, random: Random) -> None:
    images = []
    for name, (content, *_) in SOUND.items():
        raw = bytearray(content)
        for _ in range(random.randint(1, 4)):
            raw[random.randrange(len(raw))] = random.randrange(256)
        cut = len(raw) if random.random() < 0.7 else random.randrange(len(raw))
        images.append((name, bytes(raw[:cut])))
    found = pool.check(images)
    assert [one.name for one in found] == list(SOUND)
    for one in found:
        if one.ok:
            assert one.detail == ""
            assert one.width * one.height > 0
        else:
            assert one.rule and one.detail


def test_many_threads_share_few_processes(pool: Decoders) -> None:
    from concurrent.futures import ThreadPoolExecutor

    items = [[(f"{i}", picture() if i % 2 else b"")] for i in range(200)]
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(pool.check, items))
    assert [(one.name, one.ok) for (one,) in found] == [(f"{i}", i % 2 == 1) for i in range(200)]
