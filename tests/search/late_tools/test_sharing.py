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
from hub_server import HubServer
from push_server import PushServer

from m2kr.errors import CheckError
from m2kr.search.late.sharing.hub import is_repo, upload_of
from m2kr.search.late.sharing.manifest import describe
from m2kr.search.late.sharing.pack import pack
from m2kr.search.late.store import TokenStore
from m2kr.search.late.store_writer import TokenWriter

DIM, TOKEN, REPO = 8, "hf_thisIsVerySecret", "lab/tokens"
PROGRAM = """
import json, os, sys, typer
from typer.testing import CliRunner
from m2kr.cli.index_tools import SUBCOMMANDS
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
    left_out = {".lock", "pack.json"}
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in left_out}


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
    assert server.commits[0]["file"] == sorted([*contents(store), "pack.json"])
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
    before = len(server.asked)
    assert "tokens-00000" in call("push", damaged, REPO, code=1, token=TOKEN)["where"]
    call("push", store, "no/such/name", code=2, token=TOKEN)
    call("push", tmp_path, REPO, code=3, token=TOKEN)
    assert len(server.asked) == before  # the hub was not even asked


def published(store: Path, folder: Path) -> Path:
    """What a push leaves in a repository."""
    shutil.copytree(store, folder)
    (folder / "pack.json").write_bytes(describe(store).to_bytes())
    (folder / "README.md").write_text("tokens")
    return folder


def test_cut_off_then_offline(
    server: PushServer, call: Call, home: Path, store: Path, tmp_path: Path
) -> None:
    repo = "lab/cut"
    server.datasets[repo] = published(store, tmp_path / "hub")
    server.fail("lengths-00001.npy", status=403, times=1)
    call("pull", repo, tmp_path / "got", code=4)
    assert not (tmp_path / "got").exists()
    call("pull", repo, tmp_path / "got")
    assert contents(tmp_path / "got") == contents(store)
    assert "README.md" not in server.fetched()
    asked = len(server.asked)
    offline = Call(server, home, HF_HUB_OFFLINE="1")
    offline("pull", repo, tmp_path / "offline")
    assert contents(tmp_path / "offline") == contents(store)
    told = offline("pull", "lab/others", tmp_path / "none", code=3)
    offline.close()
    assert "going online is forbidden" in told["what"]
    assert len(server.asked) == asked
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
    evil = published(store, tmp_path / "evil")
    told = json.loads((evil / "pack.json").read_text())
    told["files"][0]["name"] = "../evil.json"
    (evil / "pack.json").write_text(json.dumps(told))
    server.datasets |= {
        "a/damaged": damaged, "a/missing": missing, "a/plain": plain, "a/evil": evil
    }  # fmt: skip
    for repo, code, message in (
        ("a/damaged", 1, "not those that were written"),
        ("a/missing", 1, f"{name} is missing"),
        ("a/plain", 1, "there is no pack.json"),
        ("a/evil", 1, "names a file"),
        ("a/nothing", 4, "no such data set"),
    ):
        assert message in call("pull", repo, tmp_path / "got", code=code)["what"]
        assert not (tmp_path / "got").exists()
    assert not list(tmp_path.glob(".got*"))


def test_pull_takes_packs_too(server: PushServer, call: Call, store: Path, tmp_path: Path) -> None:
    pack(store, tmp_path / "a.tar")
    before = len(server.asked)
    assert call("pull", tmp_path / "a.tar", tmp_path / "got")["passages"] == 9
    call("pull", tmp_path / "a.tar", tmp_path / "b", "--revision", "main", code=2)
    call("pull", tmp_path / "none.tar", tmp_path / "b", code=3)
    assert len(server.asked) == before
    assert contents(tmp_path / "got") == contents(store)


def test_what_an_upload_writes_and_deletes(store: Path, tmp_path: Path) -> None:
    ours, bigger = describe(store), describe(write(tmp_path / "bigger", passages=20))
    assert upload_of(ours, None).delete == ()
    assert upload_of(bigger, ours).delete == ()
    gone = {f.name for f in bigger.files} - {f.name for f in ours.files}
    assert set(upload_of(ours, bigger).delete) == gone != set()
    other = describe(write(tmp_path / "other", checkpoint="bb"))
    with pytest.raises(CheckError, match="whose checkpoint is bb"):
        upload_of(ours, other)
    assert upload_of(ours, other, replace=True).add == upload_of(ours, None).add


@pytest.mark.parametrize("text", ["a/b", "my-name/okvqa.index", "A1/x_2"])
def test_repositories(text: str) -> None:
    assert is_repo(text)


@pytest.mark.parametrize("text", ["a", "a/b/c", "../b", "a/..", "/b", "a/", "a/b\n", "a b/c", ""])
def test_no_repositories(text: str) -> None:
    assert not is_repo(text)
