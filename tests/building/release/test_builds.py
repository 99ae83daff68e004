"""The release built again, otherwise, in part and by several; and what reads it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import DatasetDict, load_dataset
from support import release_fixture as fixture
from support.commands import call
from support.release_fixture import ALL, made, rows_of, tree

import m2kr
from m2kr.errors import UsageError


def test_building_again_does_nothing(files: Path, root: Path) -> None:
    before = tree(root)
    for name in ALL:
        assert not made(name, files, root, any_counts=True).fresh
    assert tree(root) == before


def test_building_again_does_nothing_though_instructions_were_stored(
    files: Path, tmp_path: Path, counted: None
) -> None:
    assert made("kvqa", files, tmp_path).fresh
    before = tree(tmp_path)
    assert not made("kvqa", files, tmp_path).fresh
    assert tree(tmp_path) == before


def test_another_build_of_the_edition_is_refused(files: Path, tmp_path: Path) -> None:
    options = {"any_counts": True, "splits": ["test"]}
    made("evqa", files, tmp_path, **options)
    with pytest.raises(UsageError, match=r"repair=yes.*repair=no") as caught:
        made("evqa", files, tmp_path, **options, repair=False)
    assert "--edition" in str(caught.value)
    assert "--force" in str(caught.value)
    made("evqa", files, tmp_path, **options, repair=False, edition="official")
    assert len(rows_of(tmp_path, "EVQA_passages/test_passages", "official")) == 10
    assert len(rows_of(tmp_path, "EVQA_passages/test_passages")) == 9
    made("evqa", files, tmp_path, **options, repair=False, force=True)
    assert len(rows_of(tmp_path, "EVQA_passages/test_passages")) == 10


def test_jobs_do_not_change_a_byte(files: Path, root: Path, tmp_path: Path) -> None:
    made("okvqa", files, tmp_path, any_counts=True, jobs=2)
    built = {k: v for k, v in tree(tmp_path).items() if "OKVQA" in k}
    assert built == {k: v for k, v in tree(root).items() if "OKVQA" in k}
    assert built


def test_limit_keeps_positives(files: Path, tmp_path: Path) -> None:
    built = made("evqa", files, tmp_path, any_counts=True, limit=2)
    assert built.folder.name == "m2kr-limit2"
    split = m2kr.load("evqa", data=tmp_path)
    assert [q["pos_item_ids"] for q in split.queries] == [
        ["WikiWeb_Grey reed_2"],
        ["WikiWeb_Marsh owl_3"],
    ]
    assert not (tmp_path / "instructions.json").exists()


KILLED = """
import sys, time
from pathlib import Path
from m2kr.building.release import rows as release_rows
from m2kr.building.release.builder import ReleaseBuilder
from m2kr.building.build import build

def slow(*args, **kwargs):
    for item in kept(*args, **kwargs):
        time.sleep(float(sys.argv[3]))
        yield item

kept, release_rows._batches = release_rows._batches, slow
release_rows._BATCH = 1
build(ReleaseBuilder("evqa", Path(sys.argv[1]), any_counts=True), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_kills_then_the_same_bytes(files: Path, root: Path, tmp_path: Path) -> None:
    def start(pause: float) -> "subprocess.Popen[bytes]":
        words = [sys.executable, "-c", KILLED, str(files), str(tmp_path), str(pause)]
        return subprocess.Popen(words, stderr=subprocess.PIPE)

    staging = tmp_path / "m2kr" / ".staging-EVQA" / "tables"
    for done in (1, 4):  # tables that are complete when it is killed
        process = start(0.05)
        deadline = time.monotonic() + 300
        while len(list(staging.glob("*.json"))) < done and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(0)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr.decode()
    whole = {k: v for k, v in tree(root).items() if "EVQA" in k}
    assert {k: v for k, v in tree(tmp_path).items() if "EVQA" in k} == whole


def test_verify_passes_on_all_ten(root: Path) -> None:
    text = call("verify", "--data", root).stdout
    assert all(config in text or name in text for name, config in fixture.CONFIGS.items())


def test_hugging_face_reads_it(root: Path, tmp_path: Path) -> None:
    folder = root / "m2kr"
    for config in ("OKVQA_data", "OKVQA_passages", "OKVQA_qrels"):
        mapped = DatasetDict.load_from_disk(str(folder / config))
        copied = load_dataset(str(folder), config, cache_dir=str(tmp_path))
        assert set(mapped) == set(copied)
        for split in mapped:
            assert mapped[split].features == copied[split].features
            assert mapped[split].to_list() == copied[split].to_list()
