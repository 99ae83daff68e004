"""Builds in shards: ``--shard I/N`` and ``m2kr merge`` give the bytes of one process."""

import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Cli
from servers.faulty_server import FaultyServer
from support import killed_build
from support.golden_tables import FIRST, golden, make, tree
from support.upstream_fixture import Served, place_by_hand

from m2kr.building.build import Built
from m2kr.building.request import BuildRequest
from m2kr.building.shards import Shard, ShardBuilt, build_shard, find_shards, merge_shards
from m2kr.errors import CheckError, InputError, MissingError, UsageError


def shard(
    server: FaultyServer,
    root: Path,
    name: str,
    number: int,
    of: int = 3,
    ask: BuildRequest | None = None,
) -> ShardBuilt:
    place_by_hand(root)
    ask = ask or BuildRequest(options=golden(FIRST[name])["options"])
    return build_shard(Served(name, server.url("")), root, Shard(number, of), ask)


def merged(server: FaultyServer, root: Path, name: str, folders: Sequence[Path] = ()) -> Built:
    builder = Served(name, server.url(""))
    found = find_shards(builder.source, root, folders)
    assert found is not None
    return merge_shards(builder, root, found)


@pytest.mark.parametrize("name", ["wit", "iglue", "okvqa", "evqa"])
def test_three_shards_of_one_root_give_the_bytes_of_one_process(
    server: FaultyServer, tmp_path: Path, name: str
) -> None:
    whole = make(server, tmp_path / "whole", name)
    root = tmp_path / "shared"
    built = [shard(server, root, name, number) for number in (2, 3, 1)]
    done = [job for each in built for job in each.done]
    assert len(done) == len(set(done)) > 0
    assert built[0].waits_for and not (root / "rebuilt" / f"{name}.json").exists()
    again = merged(server, root, name)
    assert again.fresh
    assert tree(again.folder) == tree(whole.folder)


@pytest.mark.slow
def test_shards_that_share_nothing_are_gathered(server: FaultyServer, tmp_path: Path) -> None:
    whole = make(server, tmp_path / "whole", "wit")
    roots = [tmp_path / f"node{number}" for number in (1, 2, 3)]
    for number, root in enumerate(roots, 1):
        shard(server, root, "wit", number)
    place_by_hand(tmp_path / "here")
    built = merged(server, tmp_path / "here", "wit", roots)
    assert tree(built.folder) == tree(whole.folder)
    # They are left as they are, and can be merged elsewhere, too.
    assert tree(merged(server, tmp_path / "there", "wit", roots).folder) == tree(whole.folder)


def test_shards_run_again_go_on_with_the_next_stage(server: FaultyServer, tmp_path: Path) -> None:
    whole = make(server, tmp_path / "whole", "wit")
    root = tmp_path / "shared"
    for _ in range(3):
        rounds = [shard(server, root, "wit", number, 2) for number in (1, 2)]
    assert [each.waits_for for each in rounds] == [(), ()]
    assert tree(merged(server, root, "wit").folder) == tree(whole.folder)
    assert not shard(server, root, "wit", 1, 2).fresh


def test_a_missing_shard_is_named_with_its_command(server: FaultyServer, tmp_path: Path) -> None:
    ask = BuildRequest(limit=2, splits=("test",))
    for number in (1, 3):
        shard(server, tmp_path, "wit", number, 3, ask)
    with pytest.raises(MissingError, match=r"1 of 3 shards of wit are missing.*: 2/3") as caught:
        merged(server, tmp_path, "wit")
    assert caught.value.fix == "m2kr build wit --shard 2/3 --limit 2 --split test"
    assert find_shards(Served("evqa", "").source, tmp_path) is None
    with pytest.raises(InputError, match="no shard of evqa in this folder"):
        find_shards(Served("evqa", "").source, tmp_path, [tmp_path / "rebuilt"])


def test_shards_of_different_builds_do_not_mix(server: FaultyServer, tmp_path: Path) -> None:
    shard(server, tmp_path / "a", "wit", 1, 2)
    other = BuildRequest(options={"min_side": "16"})
    with pytest.raises(CheckError, match=r"shard 1/2 of another build is here: .*options"):
        shard(server, tmp_path / "a", "wit", 2, 2, other)
    shard(server, tmp_path / "b", "wit", 2, 2, other)
    with pytest.raises(CheckError, match=r"shard 2/2 is of another build.*options"):
        merged(server, tmp_path / "a", "wit", [tmp_path / "b"])
    shard(server, tmp_path / "c", "wit", 2, 3)
    with pytest.raises(CheckError, match="shares of different sizes"):
        merged(server, tmp_path / "a", "wit", [tmp_path / "c"])


def test_a_damaged_shard_is_told(server: FaultyServer, tmp_path: Path) -> None:
    for number in (1, 2):
        shard(server, tmp_path / f"node{number}", "wit", number, 2)
    part = next((tmp_path / "node2").rglob("*val-00000*.arrow"), None) or next(
        (tmp_path / "node2").rglob(".staging-WIT/parts/*.arrow")
    )
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(CheckError, match="damaged") as caught:
        merged(server, tmp_path / "here", "wit", [tmp_path / "node1", tmp_path / "node2"])
    assert str(part) == caught.value.where


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "1/0", "a/b", "-1/3", "1/3/5", "¹/3"])
def test_what_is_no_share_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="no share of a build"):
        Shard.parse(text)


@pytest.mark.slow
def test_a_killed_shard_goes_on(server: FaultyServer, tmp_path: Path) -> None:
    whole = make(server, tmp_path / "whole", "evqa")
    root = tmp_path / "shared"
    place_by_hand(root)
    shard(server, root, "evqa", 2, 2)
    process = killed_build.start("evqa", server.url(""), root, "train_passages", "1/2")
    table = root / "rebuilt" / ".staging-EVQA" / "EVQA_passages" / "train_passages"
    deadline = time.monotonic() + 300
    while not table.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(MissingError, match="1/2"):
        merged(server, root, "evqa")
    shard(server, root, "evqa", 1, 2)
    assert tree(merged(server, root, "evqa").folder) == tree(whole.folder)


def test_the_command_line(cli: Cli, mini_root: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        done = cli(
            "build", "mini", "--shard", f"{number}/2", "--data", tmp_path / "shared", "--json"
        )
        (told,) = json.loads(done.stdout)["shards"]
        assert (told["source"], told["shard"]) == ("mini", f"{number}/2")
    error = cli("merge", "evqa", "--data", tmp_path / "shared", code=3).stderr
    assert "there is no shard of evqa" in error
    done = cli("merge", "mini", "--data", tmp_path / "shared", "--json")
    (told,) = json.loads(done.stdout)["built"]
    assert told["splits"]["test"]["queries"] == 1_007
    assert tree(mini_root / "mini") == tree(tmp_path / "shared" / "mini")
    assert "m2kr merge wit" in cli("merge", "--help").stdout
