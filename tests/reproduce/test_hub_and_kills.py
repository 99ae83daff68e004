"""`m2kr reproduce` in processes of its own: against a hub in small, killed at each step, with no network."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from servers.hub_server import HubServer

from m2kr.building.release.builder import REPO, REVISION

pytestmark = pytest.mark.slow
GOLDEN = Path(__file__).parent.parent / "golden" / "tiny_preflmr"
MODEL = "LinWeizheDragon/PreFLMR_ViT-L"
COMMAND = (sys.executable, "-m", "m2kr", "reproduce", "paper.yaml")


@pytest.fixture
def hub(home: Path, release: Path) -> Iterator[HubServer]:
    """A hub with the release, okvqa's photographs in a zip, and a tiny checkpoint."""
    photo = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(photo, "JPEG")
    archives = home / "archives" / "OKVQA"
    archives.mkdir(parents=True)
    with zipfile.ZipFile(archives / "val2014.zip", "w") as archive:
        table = pq.read_table(next((release / "OKVQA_data").glob("test-*.parquet")))
        for path in table["img_path"].to_pylist():
            archive.writestr(path, photo.getvalue())
    folders = {REPO: release, "BByrneLab/M2KR_Images": archives.parent, MODEL: GOLDEN}
    with HubServer(folders, commit=REVISION) as server:
        yield server


def paper(home: Path, **values: float) -> None:
    """The figures to be reproduced."""
    target = {
        "retriever": "preflmr",
        "settings": {"checkpoint": MODEL},
        "search": ["official", "exact"],
        "release": {"any_counts": True},
        "figures": [{"where": "Table 1", "values": {"okvqa": values}}],
    }
    (home / "paper.yaml").write_text(yaml.safe_dump(target))


def killed_when(there: Callable[[], bool], env: dict[str, str]) -> None:
    """Starts the command, and kills it as soon as something is there."""
    process = subprocess.Popen(
        COMMAND, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 120
    while process.poll() is None and not there():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_what_was_killed_goes_on_and_a_wrong_figure_differs(home: Path, hub: HubServer) -> None:
    env = os.environ | hub.env(home / "hub")
    paper(home, **{"pseudo_recall@5": 1.5})
    results = home / "results/reproduce/paper"
    for there in (
        lambda: any((home / "data/cache/embeddings").glob("*/key.json")),
        lambda: any(results.glob("okvqa.test.preflmr.official.*.json")),
    ):
        killed_when(there, env)
    assert not (results / "reproduction.json").exists()
    fetched = hub.fetched()
    done = subprocess.run(COMMAND, env=env, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "official search is done" in done.stdout
    assert "differs" in done.stdout
    assert hub.fetched() == fetched, "what was fetched before was fetched again"
    told = json.loads((results / "reproduction.json").read_text())
    ours = told["figures"][0]["ours"]
    assert set(ours) == {"official", "exact"}
    (exact,) = results.glob("okvqa.test.preflmr.[0-9a-f]*.json")
    assert json.loads(exact.read_text())["cost"]["reused"]["rows"]["encode document"] == 7
    # The weights are in the hub's cache and all else is here: right figures need no network.
    paper(home, **{"pseudo_recall@5": ours["official"]})
    offline = env | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(COMMAND, env=offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_plan_loads_no_torch(home: Path) -> None:
    words = ["m2kr", "reproduce", "--suite", "paper-baselines", "--plan"]
    script = f"import sys; sys.argv = {words}; from m2kr.cli.main import main; main(); " + (
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not run: " in done.stdout


def test_without_network_or_images_one_error_says_what_to_do(
    home: Path, hub: HubServer, release: Path
) -> None:
    env = os.environ | hub.env(home / "hub", HF_ENDPOINT="http://127.0.0.1:9")
    paper(home, **{"pseudo_recall@5": 50})
    done = subprocess.run(COMMAND, env=env, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert "checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
    shutil.rmtree(home / "archives" / "OKVQA")  # the hub has no such archive
    env = os.environ | hub.env(home / "hub")
    facts = yaml.safe_load((home / "paper.yaml").read_text())
    (home / "paper.yaml").write_text(
        yaml.safe_dump(facts | {"release": {"from": str(release), "any_counts": True}})
    )
    done = subprocess.run([*COMMAND, "--json"], env=env, capture_output=True, text=True)
    assert done.returncode in (3, 4), done.stderr
    failed = json.loads(done.stdout)["reproductions"][0]["failed"]["okvqa"]
    assert failed["fix"]
    assert "Traceback" not in done.stderr
