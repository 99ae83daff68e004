"""A built source to be damaged: each test has a copy."""

import random
import shutil
from pathlib import Path

import pytest
from support.tiny import tiny

from m2kr.building.images.shard_writer import ShardWriter


@pytest.fixture(autouse=True)
def _no_stamps_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture(scope="package")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with two editions of ``tiny`` and a store of images; tests work on copies."""
    root = tmp_path_factory.mktemp("built")
    tiny(root)
    tiny(root, "other text", "other")
    with ShardWriter(root / "images" / "tiny") as store:
        for i in range(10):
            store.add(f"b/{i}.jpg", random.Random(i).randbytes(300))
        store.add("long/" * 40 + "ü.jpg", b"x" * 100)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built``. The photos of the manifest stay where they are."""
    ignored = shutil.ignore_patterns(".cache")
    return Path(shutil.copytree(built, tmp_path / "root", symlinks=True, ignore=ignored))
