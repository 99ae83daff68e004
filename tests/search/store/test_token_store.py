import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from filelock import SoftFileLease
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr import locks
from m2kr.errors import CheckError, InputError, M2KRError, MissingError, UsageError
from m2kr.search.store.reader import TokenStore, read_ahead
from m2kr.search.store.writer import TokenWriter

DIM = 6


def matrices(rng, count, longest=9):
    return [
        rng.normal(size=(n, DIM)).astype(np.float32) for n in rng.integers(0, longest + 1, count)
    ]


def write(folder, parts, first=0, **options):
    with TokenWriter(folder, dim=DIM, **options) as writer:
        for part in parts:
            writer.append([f"p{first + i}" for i in range(len(part))], part)
            first += len(part)
    return TokenStore.open(folder)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    counts=st.lists(st.integers(0, 7), max_size=4),
    shard_bytes=st.integers(1, 400),
    block=st.integers(2 * DIM, 600),
)
def test_what_was_written_comes_back(tmp_path_factory, seed, counts, shard_bytes, block):
    rng = np.random.default_rng(seed)
    parts = [matrices(rng, count) for count in counts]
    store = write(tmp_path_factory.mktemp("store"), parts, shard_bytes=shard_bytes)
    expected = [m.astype(np.float16) for part in parts for m in part]
    assert len(store) == len(expected)
    assert store.lengths.tolist() == [len(m) for m in expected]
    assert len(store.ids()) == len(expected)
    again = []
    for part in read_ahead(store, block // (2 * store.dim)):
        assert part.first == len(again)
        assert part.tokens.nbytes <= max(block, part.tokens.nbytes if len(part) == 1 else 0)
        again += [
            part.tokens[a:b].copy() for a, b in zip(part.offsets, part.offsets[1:], strict=False)
        ]
    assert [m.tolist() for m in again] == [m.tolist() for m in expected]
    backwards = store.take(range(len(store))[::-1])
    assert [m.tolist() for m in backwards] == [m.tolist() for m in expected[::-1]]
    store.verify()


def test_ids_keep_their_order_over_shards(tmp_path):
    store = write(tmp_path, [matrices(np.random.default_rng(0), 9)], shard_bytes=50)
    assert len(store.shards) > 2
    assert store.ids().to_pylist() == [f"p{i}" for i in range(9)]


def test_masked_tokens_are_left_out(tmp_path):
    store = write(tmp_path, [[np.eye(DIM) * [[1], [0], [1], [0], [0], [1]], np.zeros((3, DIM))]])
    assert store.lengths.tolist() == [3, 0]


def test_appending_goes_on_in_new_shards_and_old_files_stay(tmp_path):
    rng = np.random.default_rng(1)
    one, two = matrices(rng, 5), matrices(rng, 4)
    write(tmp_path, [one], meta={"checkpoint": "abc"})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with TokenWriter(tmp_path, dim=DIM, meta={"checkpoint": "abc"}) as writer:
        assert writer.passages == 5
        writer.append([f"q{i}" for i in range(4)], two)
        store = writer.close()
    assert len(store) == 9
    assert store.meta == {"checkpoint": "abc"}
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert store.take([7])[0].tolist() == two[2].astype(np.float16).tolist()
    assert store.ids().to_pylist()[4:6] == ["p4", "q0"]


def test_a_store_can_be_moved(tmp_path):
    rng = np.random.default_rng(2)
    write(tmp_path / "a", [matrices(rng, 5)])
    shutil.move(tmp_path / "a", tmp_path / "b")
    TokenStore.open(tmp_path / "b").verify()


def test_no_passages_make_an_empty_store(tmp_path):
    store = write(tmp_path, [])
    assert (len(store), store.tokens, list(read_ahead(store, 1))) == (0, 0, [])
    assert store.ids().to_pylist() == []


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros(DIM), "shape"),
        (np.zeros((2, DIM + 1)), "shape"),
        (np.full((1, DIM), np.nan), "NaN"),
        (np.full((1, DIM), 1e6), "too big"),
    ],
)
def test_what_does_not_fit_is_refused_and_its_batch_with_it(tmp_path, matrix, message):
    with TokenWriter(tmp_path, dim=DIM) as writer:
        with pytest.raises(InputError, match=message) as error:
            writer.append(["good", "bad"], [np.ones((1, DIM)), matrix])
        assert error.value.where == "passage bad"
    assert len(TokenStore.open(tmp_path)) == 0


def test_other_settings_are_refused(tmp_path):
    write(tmp_path, [], meta={"checkpoint": "abc"})
    for options in ({"dim": DIM, "meta": {"checkpoint": "abd"}}, {"dim": DIM + 1}):
        with pytest.raises(InputError, match="was written with"):
            TokenWriter(tmp_path, **options)


def test_calls_that_make_no_sense_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.2)
    with pytest.raises(MissingError):
        TokenStore.open(tmp_path)
    with TokenWriter(tmp_path, dim=DIM) as writer:
        with pytest.raises(UsageError, match="2 ids came with 1"):
            writer.append(["a", "b"], [np.ones((1, DIM))])
        with pytest.raises(UsageError, match="another process"):
            TokenWriter(tmp_path, dim=DIM)
        writer.append(["a"], [np.ones((2, DIM))])
    with pytest.raises(UsageError, match="closed"):
        writer.append(["a"], [np.ones((1, DIM))])
    store = TokenStore.open(tmp_path)
    with pytest.raises(UsageError, match="passages 0 to 2 of 1"):
        store.read(0, 2)
    with pytest.raises(UsageError, match="don't fit"):
        store.read(0, 1, np.empty((1, DIM), np.float16))


def test_an_error_in_the_writer_leaves_complete_shards_only(tmp_path):
    write(tmp_path, [matrices(np.random.default_rng(3), 3)])
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(RuntimeError), TokenWriter(tmp_path, dim=DIM) as writer:
        writer.append(["x"], [np.ones((2, DIM))])
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == before


ENDLESS = """
import sys
from pathlib import Path
import numpy as np
from m2kr.search.store.writer import TokenWriter

writer = TokenWriter(Path(sys.argv[1]), dim=6, shard_bytes=6000)
number = writer.passages
while True:
    writer.append([f"p{number}"], [np.random.default_rng(number).normal(size=(9, 6))])
    number += 1
    print(number, flush=True)
"""


def test_after_kill_9_the_last_complete_shard_is_found_and_writing_resumes(tmp_path):
    """Killed at several moments; what is there is always a beginning of what was being written."""
    done = 0
    for lines in (70, 150):
        child = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, tmp_path], stdout=subprocess.PIPE, text=True
        )
        for _ in range(lines):
            last = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        last = max([last, *map(int, child.stdout.read().split())])
        child.wait()
        store = TokenStore.open(tmp_path)
        store.verify()
        # 6,000 bytes are 56 passages: no more than one shard is lost.
        assert done <= len(store) <= last
        assert last - len(store) <= 56
        done = len(store)
    with TokenWriter(tmp_path, dim=DIM) as writer:
        assert writer.passages == done
        writer.append(["end"], [np.ones((1, DIM))])
    store = TokenStore.open(tmp_path)
    assert len(store) == done + 1
    for number in (0, done // 2, done - 1):
        expected = np.random.default_rng(number).normal(size=(9, 6)).astype(np.float16)
        assert store.take([number])[0].tolist() == expected.tolist()
    assert store.ids().to_pylist() == [*(f"p{i}" for i in range(done)), "end"]


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


@settings(max_examples=12, deadline=None)  # each waits for the disk some thirty times
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_what_was_synced_before_an_end_is_kept_and_the_files_are_those_of_one_run(
    data, seed, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("stores")
    every = matrices(np.random.default_rng(seed), 12)
    options = {"shard_bytes": data.draw(st.integers(1, 900)), "sync_seconds": 0.0}
    stop = data.draw(st.integers(0, 12))
    with pytest.raises(RuntimeError), TokenWriter(folder / "cut", dim=DIM, **options) as writer:
        for number in range(stop):
            writer.append([f"p{number}"], [every[number]])
            assert writer.passages == number + 1
        raise RuntimeError
    # What was written after the last sync is there in part, or as nonsense, or not at all.
    tokens = sorted((folder / "cut").glob("tokens-*"))
    tail = data.draw(st.binary(max_size=40))
    if tokens and (folder / "cut" / f"open-{tokens[-1].stem[-5:]}.part").exists():
        with tokens[-1].open("ab") as file:
            file.write(tail)
    with TokenWriter(folder / "cut", dim=DIM, **options) as writer:
        assert writer.passages == stop
        writer.append([f"p{i}" for i in range(stop, 12)], every[stop:])
    write(folder / "whole", [every], **options)
    assert files(folder / "cut") == files(folder / "whole")


@pytest.mark.parametrize("damage", ["tokens", "journal", "settings"])
def test_damage_to_what_was_synced_is_written_again(tmp_path, damage):
    every = matrices(np.random.default_rng(5), 8)
    every[3] = np.ones((4, DIM))
    with pytest.raises(RuntimeError), TokenWriter(tmp_path, dim=DIM, sync_seconds=0.0) as writer:
        writer.append([f"p{i}" for i in range(8)], every)
        raise RuntimeError
    if damage == "settings":
        (tmp_path / "store.json").unlink()
    else:
        path = next(tmp_path.glob("tokens-*" if damage == "tokens" else "open-*"))
        content = bytearray(path.read_bytes())
        place = 2 * DIM * sum(map(len, every[:3])) + 5 if damage == "tokens" else len(content) // 2
        content[place] ^= 1
        path.write_bytes(content)
    meta = {"other": 1} if damage == "settings" else {}
    with TokenWriter(tmp_path, dim=DIM, meta=meta, sync_seconds=0.0) as writer:
        there = writer.passages
        assert there == (3 if damage == "tokens" else 0)
        writer.append([f"p{i}" for i in range(there, 8)], every[there:])
    store = TokenStore.open(tmp_path)
    store.verify()
    expected = [m.astype(np.float16).tolist() for m in every]
    assert [m.tolist() for m in store.take(range(8))] == expected


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    write(folder, [matrices(np.random.default_rng(4), 20)], meta={"a": "b"}, shard_bytes=300)
    return folder


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_found_and_never_read(whole, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flipped") / "store"
    shutil.copytree(whole, folder)
    name = data.draw(st.sampled_from(sorted(p.name for p in folder.iterdir())))
    content = bytearray((folder / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(content)

    def use(store):
        store.verify()

    def read(store):
        for _ in read_ahead(store, 1 << 12):
            pass
        store.ids()

    original = TokenStore.open(whole)
    for action in (use, read):
        try:
            store = TokenStore.open(folder)
            action(store)
        except (CheckError, InputError, MissingError):
            continue
        # Reading doesn't look at the sums that only `verify` compares.
        assert action is read
        assert name.endswith(".json")
        assert store.read(0, len(store)).tolist() == original.read(0, len(original)).tolist()


def test_a_damaged_passage_stops_who_reads_it_and_nobody_else(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "store")
    store = TokenStore.open(tmp_path / "store")
    path = tmp_path / "store" / "tokens-00001.f16"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)
    last = store.shards[0].passages + store.shards[1].passages
    bad = max(i for i in range(last) if store.lengths[i])
    for number in range(len(store)):
        if number != bad:
            store.take([number])
    with pytest.raises(CheckError, match=f"passage {bad} differs"):
        store.take([bad])
    with pytest.raises(CheckError):
        list(read_ahead(store, 1 << 12))
    with pytest.raises(CheckError) as error:
        store.verify()
    assert error.value.where == str(path)


def test_a_file_cut_short_is_noticed_on_opening(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "store")
    path = tmp_path / "store" / "tokens-00000.f16"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CheckError, match="instead of"):
        TokenStore.open(tmp_path / "store")


def test_writing_is_streamed(tmp_path):
    """What was appended is on its way to the disk, not kept until the shard is full."""
    with TokenWriter(tmp_path, dim=DIM) as writer:
        for number in range(20):
            writer.append([str(number)], [np.ones((1000, DIM))])
        assert (tmp_path / "tokens-00000.f16").stat().st_size >= 19 * 1000 * DIM * 2


@pytest.mark.parametrize("sync_seconds", [None, 0.0])
def test_a_writer_that_was_overtaken_leaves_its_successors_files_alone(tmp_path, sync_seconds):
    """As after a process that was stopped for a minute goes on."""
    options = {"dim": DIM, "sync_seconds": sync_seconds}
    first = TokenWriter(tmp_path, **options)
    first.append(["a"], [np.ones((3, DIM))])
    SoftFileLease(tmp_path / ".lock", lease_duration=locks.LEASE_SECONDS).force_break()
    with TokenWriter(tmp_path, **options) as second:
        kept = second.passages
        second.append(["b"], [np.ones((2, DIM))])
        with pytest.raises(M2KRError, match="took over the token store"):
            first.close()
        second.append(["c"], [np.ones((1, DIM))])
    store = TokenStore.open(tmp_path)
    store.verify()
    assert store.ids().to_pylist() == ["a", "b", "c"][1 - kept :]
