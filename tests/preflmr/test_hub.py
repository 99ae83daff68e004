"""Checkpoints by hub id: fetched once, by revision, nothing that could run; then offline."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.faulty_server import FOREVER, Fault
from servers.hub_server import HubServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/a_model"
Call = Callable[..., str]

_LOAD = """
import sys
import torch
from m2kr.preflmr import PreFLMR, QueryTokenizer
from m2kr.preflmr.checkpoint.info import describe_checkpoint
local = PreFLMR.from_pretrained(sys.argv[1])
for revision in (None, "main", sys.argv[3]):
    model = PreFLMR.from_pretrained(sys.argv[2], revision=revision)
    assert model.config == local.config, "mapping_config/ did not come along"
    assert model.image_processor == local.image_processor
    for name, tensor in local.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert describe_checkpoint(sys.argv[2], revision=revision)["complete"]
    assert QueryTokenizer.from_pretrained(sys.argv[2], revision=revision).maxlen == 32
print(describe_checkpoint(sys.argv[2])["checkpoint"])
"""
# Without torch, for speed.
_FETCH = """
import sys
from m2kr.errors import M2KRError
from m2kr.preflmr.inputs.files import local_folder
try:
    print(local_folder(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
except M2KRError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def hub(golden: Path, tmp_path: Path) -> Iterator[HubServer]:
    """A hub with one model, beside whose weights lie code and pickles."""
    folder = Path(shutil.copytree(golden / "tiny_preflmr", tmp_path / "model"))
    (folder / "modeling_flmr.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    with HubServer({REPO: folder}, commit=COMMIT) as server:
        yield server


@pytest.fixture
def call(hub: HubServer, tmp_path: Path) -> Call:
    """Runs a script in a process that asks this hub: clients read their variables once."""

    def run(script: str, *args: object) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, args)],
            env=os.environ | hub.env(tmp_path / "home"),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_a_hub_id_is_fetched_once_and_equals_the_folder(
    hub: HubServer, call: Call, golden: Path
) -> None:
    folder = Path(call(_LOAD, golden / "tiny_preflmr", REPO, COMMIT))
    assert folder.name == COMMIT
    # Snapshots are links to files outside them, which is no reason to refuse these.
    assert not (folder / "mapping_config" / "config.json").resolve().is_relative_to(folder)
    given, taken = (
        {each.relative_to(root).as_posix() for each in root.rglob("*.*") if each.is_file()}
        for root in (golden / "tiny_preflmr", folder)
    )
    assert taken == given  # neither code nor pickles
    asked = [each.path for each in hub.requests if each.method == "GET" and "/cdn/" in each.path]
    assert len(asked) == len(set(asked))


def test_what_was_fetched_is_found_without_the_hub(hub: HubServer, call: Call) -> None:
    folder = call(_FETCH, REPO, COMMIT)
    hub.fail("/", Fault(status=404), times=FOREVER)
    assert call(_FETCH, REPO, COMMIT) == folder
    assert "config.json" in {each.name for each in Path(folder).iterdir()}


def test_repositories_and_revisions_that_are_missing(call: Call) -> None:
    told = call(_FETCH, "someone/another")
    assert told.startswith("MissingError someone/another")
    told = call(_FETCH, REPO, "v9")
    assert told.startswith("MissingError someone/a_model@v9")


def test_a_download_that_breaks_off_is_upstreams_fault(hub: HubServer, call: Call) -> None:
    hub.fail("model.safetensors", Fault(method="GET", status=403))
    assert call(_FETCH, REPO).startswith(f"UpstreamError {REPO}: the checkpoint can't be fetched")
    assert (Path(call(_FETCH, REPO)) / "model.safetensors").is_file()
