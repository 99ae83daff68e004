"""The release route over a hub: what is fetched, tokens, the cache, refusals; against a local server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from servers.faulty_server import FOREVER, Fault
from servers.hub_server import HubServer, refused
from support import release_fixture as fixture

import m2kr
from m2kr.building.build import build
from m2kr.building.fetch import hub
from m2kr.building.release.builder import INSTEAD, REPO, REVISION, ReleaseBuilder
from m2kr.errors import CheckError

PROGRAM = Path(sys.executable).with_name("m2kr")
TOKEN = "hf_thisIsVerySecret"
DATA, POOL = (
    "EVQA_data/{}-00000-of-00001.parquet",
    "EVQA_passages/{}_passages-0000{}-of-0000{}.parquet",
)
TEST = [DATA.format("test"), POOL.format("test", 0, 2), POOL.format("test", 1, 2)]
TRAIN = [DATA.format("train"), POOL.format("train", 0, 1)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fixture.write_release(tmp_path_factory.mktemp("release"), sources=("evqa", "okvqa"))


def m2kr_build(
    server: HubServer, home: Path, root: Path, *words: object, code: int = 0, **env: str
) -> "subprocess.CompletedProcess[str]":
    """``m2kr build evqa --route release`` with this server as the hub."""
    options = ("--route", "release", "--any-counts", "--data", root, *words)
    done = subprocess.run(
        [PROGRAM, "build", "evqa", *map(str, options)],
        capture_output=True,
        text=True,
        env=os.environ | server.env(home, **env),
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.slow
def test_splits_one_after_the_other_with_a_token_then_offline(files: Path, tmp_path: Path) -> None:
    root, store, home = tmp_path / "root", tmp_path / "store", tmp_path / "home"
    store.mkdir()
    home.symlink_to(store)  # a cache on another disk
    with HubServer({REPO: files}, commit=REVISION, token=TOKEN) as server:
        done = m2kr_build(server, home, root, "--split", "test", HF_TOKEN=TOKEN)
        assert server.fetched() == TEST
        assert {r.token for r in server.requests if r.headers["Host"].startswith("127.")} == {TOKEN}
        assert {r.token for r in server.requests if r.headers["Host"].startswith("localhost")} == {
            None
        }
        kept = m2kr.load("evqa", "test", data=root)
        assert list(kept.manifest["splits"]) == ["test"]

        more = m2kr_build(server, home, root, "--split", "train", HF_TOKEN=TOKEN)
        assert server.fetched() == sorted([*TEST, *TRAIN])
        manifest = m2kr.load("evqa", "train", data=root).manifest
        assert list(manifest["splits"]) == ["train", "test"]
        assert manifest["fingerprints"]["test"] == kept.manifest["fingerprints"]["test"]
        before = len(server.requests)

        # What is cached needs no network.
        offline = tmp_path / "offline"
        m2kr_build(server, home, offline, "--split", "test", HF_HUB_OFFLINE="1")
        assert len(server.requests) == before
    for path in (p for p in root.rglob("*") if p.is_file()):
        assert TOKEN.encode() not in path.read_bytes(), path
    for run in (done, more):
        assert TOKEN not in run.stdout + run.stderr
    urls = [entry["url"] for entry in manifest["inputs"]]
    assert sorted(urls) == sorted(f"hf://datasets/{REPO}@{REVISION}/{n}" for n in (*TEST, *TRAIN))
    assert manifest["options"]["revision"] == REVISION
    assert str(tmp_path) not in json.dumps(manifest)

    # The client's cache is links into a store: it may also be given as a folder.
    snapshot = next(store.glob("hub/datasets--*/snapshots/*"))
    assert (snapshot / TEST[0]).is_symlink()
    local = build(
        ReleaseBuilder("evqa", snapshot, any_counts=True), tmp_path / "local", splits=["test"]
    )
    assert local.manifest["fingerprints"]["test"] == kept.manifest["fingerprints"]["test"]

    # A file of the cache that is not what the hub said it was.
    path = snapshot / TEST[0]
    hub.check_blob(path, path.resolve().name)
    with pytest.raises(CheckError, match="sha256 is 00") as caught:
        hub.check_blob(path, "00")
    assert f"delete {path.resolve()}" in str(caught.value)


def test_offline_without_a_cache_is_3(files: Path, tmp_path: Path) -> None:
    with HubServer({REPO: files}, commit=REVISION) as server:
        done = m2kr_build(
            server, tmp_path / "home", tmp_path / "root", "--split", "test", "--offline", code=3
        )
        assert not server.requests
    assert "EVQA_data/test-*.parquet" in done.stderr
    assert "run once without --offline" in done.stderr
    assert "--from DIR" in done.stderr


def test_a_gated_release_is_4_and_says_what_to_do(files: Path, tmp_path: Path) -> None:
    with HubServer({REPO: files}, commit=REVISION, token=TOKEN, accepted=False) as server:
        done = m2kr_build(
            server, tmp_path / "home", tmp_path / "root", "--json", code=4, HF_TOKEN=TOKEN
        )
        error = json.loads(done.stdout)
        page = f"{server.endpoint}/datasets/{REPO}"
    assert error["where"] == page
    assert f"accept the terms on {page}" in error["fix"]
    assert "HF_TOKEN" in error["fix"]
    assert "aimagelab/ReT-M2KR" in error["fix"]
    assert TOKEN not in done.stdout + done.stderr


def test_the_manifest_names_the_commit_of_a_branch(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = tmp_path / "0123456789abcdef0123456789abcdef01234567"
    commit.symlink_to(files)
    monkeypatch.setattr(hub, "snapshot", lambda *args, **kwargs: commit)
    builder = ReleaseBuilder("evqa", revision="main", any_counts=True)
    manifest = build(builder, tmp_path / "root", splits=["test"]).manifest
    assert manifest["options"]["revision"] == "main"
    assert {e["url"].split("@")[1].split("/")[0] for e in manifest["inputs"]} == {commit.name}


SNAPSHOTS = """
import json, sys
from m2kr.building.fetch import hub
from m2kr.errors import M2KRError

for repo, revision in json.loads(sys.argv[1]):
    try:
        folder = hub.snapshot(repo, revision, ["EVQA_data/test-*.parquet"], instead="INSTEAD")
        print(json.dumps(folder.name))
    except M2KRError as error:
        print(json.dumps(error.as_dict() | {"code": error.exit_code, "text": str(error)}))
"""


def test_refusals_and_faults(files: Path, tmp_path: Path) -> None:
    """One process asks for data sets that are each wrong in another way."""
    names = ["login", "refused", "forbidden", "nowhere", "down", "shaky", "cut"]
    datasets = {f"o/{name}": files for name in names if name != "nowhere"}
    asked = [(f"o/{name}", REVISION) for name in names]
    asked += [("o/shaky", "f" * 40), ("o/cut", "main")]
    with HubServer(datasets, commit=REVISION) as server:
        server.fail("o/login/resolve", refused(401, "GatedRepo"), times=FOREVER)
        server.fail("o/refused/resolve", refused(403, "GatedRepo"), times=FOREVER)
        server.fail("o/forbidden/tree", Fault(status=403), times=FOREVER)
        server.fail("o/down/EVQA", Fault(status=500), times=FOREVER)
        server.fail("o/shaky/EVQA", Fault(status=503))
        server.fail("o/cut/EVQA", Fault(truncate=1_000))
        done = subprocess.run(
            [sys.executable, "-c", SNAPSHOTS, json.dumps(asked)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | server.env(tmp_path),
        )
        page = f"{server.endpoint}/datasets/o"
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        found: dict[str, Any] = dict(zip([*names, "revision", "branch"], answers, strict=True))
        gets = [a for a in server.requests if "o/cut/EVQA" in a.path]
    for name in ("login", "refused", "forbidden", "nowhere", "down", "revision"):
        assert found[name]["error"] == "UpstreamError", found[name]
        assert found[name]["code"] == 4
        assert found[name]["where"].startswith(page)
    for name in ("login", "refused"):
        assert "terms were not accepted" in found[name]["what"]
        assert f"accept the terms on {page}/{name} and set HF_TOKEN" in found[name]["fix"]
        assert "INSTEAD" in found[name]["fix"]
    assert "HTTP 403" in found["forbidden"]["what"]
    assert "accept the terms" in found["forbidden"]["fix"]
    assert "no such data set, or it needs a login" in found["nowhere"]["what"]
    assert f"has no revision {'f' * 40}" in found["revision"]["what"]
    assert "--revision main" in found["revision"]["fix"]
    assert "HTTP 500" in found["down"]["what"]
    assert "run the same command again" in found["down"]["fix"]
    assert found["shaky"] == found["cut"] == found["branch"] == REVISION
    assert len(gets) == 2


def test_the_open_copy_is_one_that_can_be_imported() -> None:
    assert "m2kr import NAME --from ret-m2kr" in INSTEAD
    assert hub.dataset_page(REPO).endswith(f"/datasets/{REPO}")
