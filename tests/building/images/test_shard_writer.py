"""The image store: readers see it in place, a kill loses nothing whole, and it never eats a user's tar."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.building.images.shard_writer import NameSet, ShardWriter
from m2kr.data.images.store import ImageStore
from m2kr.errors import InputError, M2KRError, UsageError

LONG = "long/" * 40 + "ünï côdé 日本.jpg"


def pictures(count: int, seed: int = 1) -> dict[str, bytes]:
    draw = random.Random(seed)
    names = [f"wit/{i:04d}.jpg" for i in range(count - 1)] + [LONG]
    return {name: draw.randbytes(draw.randrange(3000)) for name in names}


def fill(folder: Path, files: dict[str, bytes], shard_bytes: int = 50_000) -> None:
    with ShardWriter(folder, shard_bytes=shard_bytes) as store:
        for name, data in files.items():
            assert store.add(name, data)


def check(folder: Path, files: dict[str, bytes]) -> None:
    """The store holds just these, and readers get them."""
    with ShardWriter(folder) as store:
        assert len(store) == len(files)
        assert sorted(store.names()) == sorted(files)
        assert all(map(store.has, files))
        assert not store.has("wit/none.jpg")
    images = ImageStore([folder])
    assert {name: images.read(name) for name in files} == files
    assert not images.exists("wit/none.jpg")


def test_what_is_added_can_be_read_in_place(tmp_path):
    files = pictures(100)
    fill(tmp_path, files)
    check(tmp_path, files)
    shards = sorted(tmp_path.glob("*.tar"))
    assert len(shards) > 3
    assert all(shard.stat().st_size <= 50_000 + 1024 for shard in shards)
    # Any other tool can read them, and each is an image root of its own.
    found = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            for info in tar:
                found[info.name] = tar.extractfile(info).read()  # type: ignore[union-attr]
    assert found == files
    assert list(found) == list(files)
    single = ImageStore(shards)
    assert all(single.read(name) == data for name, data in files.items())
    listed = subprocess.run(["tar", "tf", shards[0]], capture_output=True, check=False)
    assert (listed.returncode, listed.stderr) == (0, b"")


def test_equal_additions_give_equal_files_however_often_it_is_opened(tmp_path):
    files = pictures(60)
    fill(tmp_path / "a", files)
    for name, data in files.items():
        fill(tmp_path / "b", {name: data})
    for path in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes(), path


def test_a_name_is_added_once(tmp_path):
    fill(tmp_path, {"a.jpg": b"old"})
    with ShardWriter(tmp_path) as store:
        assert not store.add("a.jpg", b"new")
        assert store.add("b.jpg", b"b")
        assert not store.add("b.jpg", b"new")
    check(tmp_path, {"a.jpg": b"old", "b.jpg": b"b"})


@pytest.mark.parametrize(
    "name", ["", "../a", "/a", "a/../b", "a//b", "./a", "a\\b", "a\nb", "\ud800", "x" * 5000]
)
def test_names_that_no_reader_can_ask_for_are_refused(tmp_path, name):
    with ShardWriter(tmp_path) as store:
        with pytest.raises(InputError, match="no path below an image root"):
            store.add(name, b"x")
        store.add("fine.jpg", b"x")
    check(tmp_path, {"fine.jpg": b"x"})


def test_a_cache_makes_the_common_index_once(tmp_path):
    files = pictures(60)
    fill(tmp_path / "s", files)
    assert ImageStore([tmp_path / "s"], cache=tmp_path / "cache").read(LONG) == files[LONG]
    (kept,) = (tmp_path / "cache").iterdir()
    before = kept.stat().st_mtime_ns
    images = ImageStore([tmp_path / "s"], cache=tmp_path / "cache")
    assert all(images.read(name) == data for name, data in files.items())
    assert kept.stat().st_mtime_ns == before
    assert images.identity() != ImageStore([tmp_path]).identity()


def test_a_stamp_stays_while_other_shards_are_added(tmp_path):
    files = pictures(60)
    fill(tmp_path, files)
    name = next(iter(files))
    stamp = ImageStore([tmp_path]).stamper()
    first, last = stamp(name), max(tmp_path.glob("images-*.tar"))
    assert stamp("gone.jpg") is None
    assert None is not first != stamp(LONG)
    with ShardWriter(tmp_path, shard_bytes=10_000) as store:
        for number in range(4):
            store.add(f"more/{number}.jpg", bytes(6_000))
    assert max(tmp_path.glob("images-*.tar")) > last
    stamp = ImageStore([tmp_path]).stamper()
    assert stamp("more/3.jpg") is not None
    assert stamp(name) == first
    os.utime(min(tmp_path.glob("images-*.tar")))
    assert ImageStore([tmp_path]).stamper()(name) != first


def test_readers_of_a_growing_store_see_what_is_committed(tmp_path):
    files = pictures(30)
    with ShardWriter(tmp_path) as store:
        assert not ImageStore([tmp_path]).exists("wit/0000.jpg")
        for name, data in files.items():
            store.add(name, data)
        assert not ImageStore([tmp_path]).exists("wit/0000.jpg")
        store.commit()
        images = ImageStore([tmp_path])
        store.add("later.jpg", b"later")
        assert all(images.read(name) == data for name, data in files.items())
        assert not images.exists("later.jpg")
    assert ImageStore([tmp_path]).read("later.jpg") == b"later"


CHILD = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    from m2kr.building.images.shard_writer import ShardWriter

    with ShardWriter(Path(sys.argv[1]), shard_bytes=200_000) as store:
        for number in range(10**9):
            name = f"{number:06d}.jpg"
            if not store.has(name):
                store.add(name, name.encode() * (number % 700))
                print(number, flush=True)
    """
)


@pytest.mark.slow
def test_kill_9_loses_nothing_whole(tmp_path):
    seen = -1
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            seen = int(line)
            if seen % 150 == 149:
                process.send_signal(signal.SIGKILL)
                break
        rest = process.stdout.read().split()  # what it did until the signal came
        seen = int(rest[-1]) if rest else seen
        process.wait()
    with ShardWriter(tmp_path) as store:
        count = len(store)
        # One more may have been written and not told.
        assert seen + 1 <= count <= seen + 2
    names = [f"{number:06d}.jpg" for number in range(count)]
    check(tmp_path, {name: name.encode() * (int(name[:6]) % 700) for name in names})


def test_every_torn_tail_is_cut_off_and_everything_before_it_kept(tmp_path_factory):
    files = pictures(8)
    base = tmp_path_factory.mktemp("torn")
    fill(base / "first", dict(list(files.items())[:3]))
    committed = (base / "first/images-00000.tar.index.parquet").read_bytes()
    fill(base / "all", files)
    whole = (base / "all/images-00000.tar").read_bytes()
    with tarfile.open(base / "all/images-00000.tar") as tar:
        ends = {info.name: info.offset_data + info.size for info in tar}
    end = max(ends[name] for name in list(files)[:3])

    @settings(max_examples=60, deadline=None)
    @given(st.integers(end, len(whole)), st.booleans())
    def check_cut(cut: int, zeroed: bool) -> None:
        folder = base / "cut"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        # After a power cut the file may be long and the last blocks of it empty.
        rest = bytes(len(whole) - cut) if zeroed else b""
        (folder / "images-00000.tar").write_bytes(whole[: max(cut, end + 511)] + rest)
        (folder / "images-00000.tar.index.parquet").write_bytes(committed)
        kept = {name: data for name, data in files.items() if -(-ends[name] // 512) * 512 <= cut}
        kept |= dict(list(files.items())[:3])
        with ShardWriter(folder) as store:
            found = set(store.names())
        # A member that ends in zeros may be whole although its last blocks never came.
        assert found >= set(kept)
        check(folder, {name: files[name] for name in found})
        fill(folder, {"more.jpg": b"more"})
        check(folder, {name: files[name] for name in found} | {"more.jpg": b"more"})

    check_cut()


def test_opening_reads_the_indexes_and_not_the_images(tmp_path):
    files = pictures(100)
    fill(tmp_path, files)
    first, *_, last = sorted(tmp_path.glob("*.tar"))
    # Contents that nobody reads when the store is opened.
    with first.open("r+b") as file:
        file.write(b"x" * first.stat().st_size)
    with ShardWriter(tmp_path) as store:
        assert len(store) == len(files)
    assert last.exists()


def test_a_lost_index_is_made_again_and_a_foreign_tar_left_alone(tmp_path):
    files = pictures(60)
    fill(tmp_path / "s", files)
    for index in (tmp_path / "s").glob("*.parquet"):
        index.unlink()
    check(tmp_path / "s", files)

    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine/images-00000.tar"
    with tarfile.open(mine, "w") as tar:
        tar.add(__file__, "a.py")
    before = mine.read_bytes()
    with (
        pytest.raises(InputError, match="no shard of an image store"),
        ShardWriter(tmp_path / "mine"),
    ):
        pass
    assert mine.read_bytes() == before
    assert [path.name for path in mine.parent.iterdir()] == ["images-00000.tar"]


def test_damaged_stores_are_one_error(tmp_path):
    fill(tmp_path, pictures(60))
    shard = sorted(tmp_path.glob("*.tar"))[-1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:700])
    with pytest.raises(InputError, match=r"images-\d+\.tar"), ShardWriter(tmp_path):
        pass
    with pytest.raises(InputError, match="shorter than its index says"):
        ImageStore([tmp_path]).exists("a")
    shard.write_bytes(whole)
    index = shard.with_name(shard.name + ".index.parquet")
    index.write_bytes(index.read_bytes()[:-9])
    for use in (
        lambda: ImageStore([tmp_path]).exists("a"),
        lambda: ShardWriter(tmp_path).__enter__(),
    ):
        with pytest.raises(InputError, match="no index of a tar"):
            use()


def test_two_processes_take_turns(tmp_path):
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from m2kr.building.images.shard_writer import ShardWriter
        for number in range(3):
            with ShardWriter(Path(sys.argv[1])) as store:
                for i in range(20):
                    store.add(f"{i}.jpg", b"the same")
                    store.add(f"{sys.argv[2]}/{number}-{i}.jpg", sys.argv[2].encode())
        """
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), who]) for who in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    own = {f"{who}/{n}-{i}.jpg": who.encode() for who in "ab" for n in range(3) for i in range(20)}
    check(tmp_path, own | {f"{i}.jpg": b"the same" for i in range(20)})


def test_a_full_disk_is_one_error_and_costs_one_image(tmp_path):
    code = textwrap.dedent(
        """
        import json, resource, signal, sys
        from pathlib import Path
        from m2kr.building.images.shard_writer import ShardWriter
        from m2kr.errors import M2KRError

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with ShardWriter(Path(sys.argv[1])) as store:
            store.add("a.jpg", b"a" * 9000)
            store.commit()
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
            try:
                store.add("b.jpg", b"b" * 50_000)
            except M2KRError as error:
                print(json.dumps(error.as_dict()))
            store.add("c.jpg", b"c" * 900)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "File too large" in json.loads(done.stdout)["what"]
    check(tmp_path, {"a.jpg": b"a" * 9000, "c.jpg": b"c" * 900})


def test_it_is_used_in_a_with_block_and_says_what_stands_in_its_way(tmp_path):
    with pytest.raises(UsageError, match="with block"):
        ShardWriter(tmp_path).add("a.jpg", b"x")
    (tmp_path / "file").write_text("")
    with pytest.raises(M2KRError, match="file"), ShardWriter(tmp_path / "file"):
        pass


@settings(deadline=None)
@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)), st.text(max_size=3))
def test_a_set_of_names_is_a_set(first, second, other):
    names = NameSet(first)
    for name in second:
        if name not in names:
            names.add(name)
    expected = {*first, *second}
    assert len(NameSet(sorted(expected))) == len(expected)
    for settled in (False, True):
        if settled:
            names.settle()
        assert all(name in names for name in expected)
        assert (other in names) == (other in expected)


@pytest.mark.slow
def test_a_million_images_are_opened_in_seconds_and_little_memory(tmp_path):
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from m2kr.building.images.shard_writer import ShardWriter

        folder = Path(sys.argv[1])
        with ShardWriter(folder) as store:
            for i in range(1_000_000):
                store.add(f"{i:08x}.jpg", b"x" * 20)
        """
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    opened = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from m2kr.building.images.shard_writer import ShardWriter
        from m2kr.evaluation.result import peak_memory

        with ShardWriter(Path(sys.argv[1])) as store:
            assert len(store) == 1_000_000
            assert store.has("0000ffff.jpg") and not store.has("x.jpg")
            print(peak_memory() // 1024)
        """
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", opened, str(tmp_path)], capture_output=True, text=True, check=True
    )
    print(f"opened in {time.monotonic() - start:.1f} s, {int(done.stdout):,} kB")
    assert int(done.stdout) < 500_000
