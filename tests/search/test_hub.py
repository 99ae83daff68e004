"""Push and pull against a local hub; what is damaged, missing, another's or out of reach is told."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers.faulty_server import Fault
from servers.hub_server import HubServer
from servers.push_server import PushServer

from m2kr.errors import CheckError, InputError, MissingError
from m2kr.search.hub import Contents, contents_of, is_repo, require_facts
from m2kr.search.index.build import build_index
from m2kr.search.index.files import IndexFiles
from m2kr.search.index.settings import BuildSettings, pool_of
from m2kr.search.store.reader import TokenStore
from m2kr.search.store.writer import TokenWriter

DIM, TOKEN, REPO = 8, "hf_thisIsVerySecret", "lab/tokens"
PROGRAM = """
import json, os, sys, typer
from typer.testing import CliRunner
from m2kr.cli.index import SUBCOMMANDS
from m2kr.cli.main import guarded
app = typer.Typer()
for name, (command, _) in SUBCOMMANDS.items():
    app.command(name)(guarded(command))
for line in sys.stdin:
    asked = json.loads(line)
    done = CliRunner().invoke(app, asked["words"], env=asked["env"])
    print(json.dumps([done.exit_code, done.stdout, done.stderr]), flush=True)
"""


def write(folder: Path, *, checkpoint: str = "aa", passages: int = 9, **more: Any) -> Path:
    rng = np.random.default_rng(2)
    meta = {"checkpoint": checkpoint, "pool": "fp1:12"}
    with TokenWriter(folder, dim=DIM, meta=meta, shard_bytes=300, **more) as writer:
        for number in range(writer.passages, passages):
            writer.append([f"p{number}"], [rng.normal(size=(3, DIM))])
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sharing") / "store")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


class Call:
    """``m2kr index ...`` in another process: the hub's client reads its settings at import."""

    def __init__(self, server: HubServer, home: Path, **env: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | server.env(home) | env,
        )

    def __call__(self, *words: object, code: int = 0, token: str = "") -> "dict[str, Any]":
        asked = {"words": [*map(str, words), "--json"], "env": {"HF_TOKEN": token}}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        got, stdout, stderr = json.loads(self._process.stdout.readline())
        assert got == code, f"{stdout}\n{stderr}"
        assert TOKEN not in stdout + stderr
        found: dict[str, Any] = json.loads(stdout)
        return found

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PushServer]:
    with PushServer(tmp_path_factory.mktemp("hub"), token=TOKEN) as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def call(server: PushServer, home: Path) -> Iterator[Call]:
    made = Call(server, home)
    yield made
    made.close()


def test_pushed_grown_replaced_and_pulled(
    server: PushServer, call: Call, store: Path, tmp_path: Path
) -> None:
    told = call("push", store, REPO, "--private", token=TOKEN)
    assert told["commit"] == server.commit
    assert server.created[0]["visibility"] == "private"
    assert server.commits[0]["file"] == sorted(contents(store))
    assert contents(server.root / REPO) == contents(store)

    told = call("pull", REPO, tmp_path / "got", "--expect", "checkpoint=aa")
    assert (told["passages"], told["facts"]["pool"], told["unknown"]) == (9, "fp1:12", [])
    assert contents(tmp_path / "got") == contents(store)
    TokenStore.open(tmp_path / "got").verify()

    # What was pulled can grow, and neither the cache nor the repository notices.
    write(tmp_path / "got", passages=14)
    call("push", tmp_path / "got", REPO, token=TOKEN)
    assert not server.commits[1]["deletedFile"]
    assert call("pull", REPO, tmp_path / "again")["passages"] == 14

    # Another model's store is not pushed over it by mistake.
    other = write(tmp_path / "other", checkpoint="bb", passages=3)
    refused = call("push", other, REPO, code=1, token=TOKEN)
    assert "whose checkpoint is aa" in refused["what"]
    assert len(server.commits) == 2
    call("push", other, REPO, "--replace", token=TOKEN)
    assert "tokens-00001.f16" in server.commits[2]["deletedFile"]
    assert contents(server.root / REPO) == contents(other)

    refused = call("pull", REPO, tmp_path / "third", "--expect", "checkpoint=aa", code=1)
    assert "its checkpoint is bb" in refused["what"]
    assert not (tmp_path / "third").exists()


def test_a_push_that_may_not_or_must_not(
    server: PushServer, call: Call, store: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(store, damaged)
    (damaged / "tokens-00000.f16").write_bytes(bytes((store / "tokens-00000.f16").stat().st_size))
    refused = call("push", store, REPO, code=4, token="hf_another")
    assert refused["fix"] == "set HF_TOKEN to a token that may do this"
    before = len(server.requests)
    assert "tokens-00000" in call("push", damaged, REPO, code=1, token=TOKEN)["where"]
    call("push", store, "no/such/name", code=2, token=TOKEN)
    call("push", tmp_path, REPO, code=3, token=TOKEN)
    assert len(server.requests) == before  # the hub was not even asked


def published(store: Path, folder: Path) -> Path:
    """What a push leaves in a repository."""
    shutil.copytree(store, folder)
    (folder / ".lock").unlink(missing_ok=True)
    (folder / "README.md").write_text("tokens")
    return folder


def test_cut_off_then_offline(
    server: PushServer, call: Call, home: Path, store: Path, tmp_path: Path
) -> None:
    repo = "lab/cut"
    server.datasets[repo] = published(store, tmp_path / "hub")
    server.fail("lengths-00001.npy", Fault(status=403))
    call("pull", repo, tmp_path / "got", code=4)
    assert not (tmp_path / "got").exists()
    call("pull", repo, tmp_path / "got")
    assert contents(tmp_path / "got") == contents(store)
    assert "README.md" not in server.fetched()
    asked = len(server.requests)
    offline = Call(server, home, HF_HUB_OFFLINE="1")
    offline("pull", repo, tmp_path / "offline")
    assert contents(tmp_path / "offline") == contents(store)
    told = offline("pull", "lab/others", tmp_path / "none", code=3)
    offline.close()
    assert "going online is forbidden" in told["what"]
    assert len(server.requests) == asked
    linked = (tmp_path / "offline" / "store.json").stat()
    assert linked.st_ino == (tmp_path / "got" / "store.json").stat().st_ino  # no second copy


def test_what_a_repository_may_hold(
    server: PushServer, call: Call, store: Path, tmp_path: Path
) -> None:
    damaged = published(store, tmp_path / "damaged")
    name = "tokens-00001.f16"
    (damaged / name).write_bytes(bytes((damaged / name).stat().st_size))
    missing = published(store, tmp_path / "missing")
    (missing / name).unlink()
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "train.json").write_text("{}")
    strange = published(store, tmp_path / "strange")
    (strange / "store.json").write_text('{"format": "other"}')
    grown = published(store, tmp_path / "grown")  # its last shard has no record
    max(grown.glob("shard-*.json")).unlink()
    server.datasets |= {
        "a/damaged": damaged, "a/missing": missing, "a/plain": plain, "a/strange": strange, "a/grown": grown
    }  # fmt: skip
    for repo, code, message in (
        ("a/damaged", 1, "not those that were written"),
        ("a/missing", 1, f"not whole: {name}: it has -1 bytes"),
        ("a/plain", 1, "there is no store.json and no index.json"),
        ("a/strange", 1, "it says format 'other'"),
        ("a/grown", 1, "cut off"),
        ("a/nothing", 4, "no such data set"),
    ):
        assert message in call("pull", repo, tmp_path / "got", code=code)["what"]
        assert not (tmp_path / "got").exists()
    assert not list(tmp_path.glob(".got*"))


def test_what_lies_beside_a_store_stays_where_it_is(
    server: PushServer, call: Call, store: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(store, mine)
    (mine / ".lock").write_text("stale")
    (mine / "notes.txt").write_text("mine")
    call("push", mine, "lab/beside", token=TOKEN)
    there = server.root / "lab/beside"
    assert contents(there) == contents(store)
    (there / "tokens-00000.f16.bak").write_text("x")
    (there / "README.md").write_text("a card")
    (there / "config.json").write_text("{}")
    (there / "data").mkdir()
    (there / "data" / "store.json").write_text("{}")
    bigger = write(tmp_path / "bigger", passages=20)
    call("push", bigger, "lab/beside", token=TOKEN)
    call("push", store, "lab/beside", token=TOKEN)
    gone = sorted(set(contents(bigger)) - set(contents(store)))
    assert sorted(server.commits[-1]["deletedFile"]) == gone != []
    call("pull", "lab/beside", tmp_path / "got")
    assert contents(tmp_path / "got") == contents(store)


def test_what_is_there_stays(server: PushServer, call: Call, store: Path, tmp_path: Path) -> None:
    server.datasets["lab/there"] = published(store, tmp_path / "hub")
    there = tmp_path / "there"
    there.mkdir()  # an empty folder is no one's
    call("pull", "lab/there", there)
    before = {path: path.stat().st_mtime_ns for path in there.iterdir()}
    call("pull", "lab/there", there)  # the same again: only verified
    assert {path: path.stat().st_mtime_ns for path in there.iterdir()} == before
    name = "tokens-00000.f16"
    size = (there / name).stat().st_size
    (there / name).unlink()
    (there / name).write_bytes(bytes(size))
    refused = call("pull", "lab/there", there, code=1)
    assert refused["where"] == str(there / name)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("all of it")
    assert "something else is there" in call("pull", "lab/there", mine, code=1)["what"]
    assert (mine / "thesis.tex").read_text() == "all of it"
    refused = call("pull", "lab/there", tmp_path / "no" / "folder", code=3)
    assert "no such folder" in refused["what"]


def test_an_index_goes_there_and_back(
    server: PushServer, call: Call, store: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    settings = BuildSettings("compressed", 4, 8)
    build_index(pool_of(TokenStore.open(store)), index, settings, shard_passages=4)
    call("push", index, "lab/index", token=TOKEN)
    told = call(
        "pull", "lab/index", tmp_path / "got", "--expect", "nbits=4", "--expect", "kind=index"
    )
    assert (told["facts"]["centroids"], told["passages"]) == (8, 9)
    assert contents(tmp_path / "got") == contents(index)
    IndexFiles.open(tmp_path / "got").verify()
    refused = call("push", store, "lab/index", code=1, token=TOKEN)
    assert refused["what"] == "the repository holds an index"
    call("push", store, "lab/index", "--replace", token=TOKEN)
    assert contents(server.root / "lab/index") == contents(store)
    (index / "residuals-00001.u8").write_bytes(bytes(len(contents(index)["residuals-00001.u8"])))
    refused = call("push", index, "lab/other", code=1, token=TOKEN)
    assert refused["where"].endswith("residuals-00001.u8")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    folder = tmp_path_factory.mktemp("known")
    meta = {"checkpoint": "ab" * 32, "pool": "fp1:1234", "encoder": {"max_length": 512}}
    with TokenWriter(folder, dim=16, meta=meta) as writer:
        writer.append(["a"], [np.ones((2, 16))])
    return contents_of(folder)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"checkpoint": "cd" * 32}, "its checkpoint is abab"),
        ({"checkpoint": "ab" * 32, "pool": "fp1:9", "dim": 3}, "its pool fingerprint is fp1:1234"),
        ({"pool": "fp1:1234", "dtype": "bfloat16"}, "its dtype is float16"),
        ({"dim": 128}, "its dim is 16"),
        ({"dim": "16", "eval": "fp1:5"}, "doesn't say its eval fingerprint"),
        ({"encoder.max_length": 256}, "its encoder.max_length is 512"),
    ],
)
def test_another_models_or_pools_is_refused(
    known: Contents, expected: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckError, match=message):
        require_facts(known.facts(), expected)


def test_the_right_ones_pass(known: Contents) -> None:
    facts = known.facts()
    assert facts["encoder.max_length"] == 512
    require_facts(facts, facts)
    require_facts(facts, {name: str(value) for name, value in facts.items()})


def test_a_folder_that_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no token store and no index"):
        contents_of(tmp_path)
    TokenWriter(tmp_path / "empty", dim=DIM).close()
    with pytest.raises(InputError, match="no complete shard"):
        contents_of(tmp_path / "empty")


@pytest.mark.parametrize("text", ["a/b", "my-name/okvqa.index", "A1/x_2"])
def test_repositories(text: str) -> None:
    assert is_repo(text)


@pytest.mark.parametrize("text", ["a", "a/b/c", "../b", "a/..", "/b", "a/", "a/b\n", "a b/c", ""])
def test_no_repositories(text: str) -> None:
    assert not is_repo(text)
