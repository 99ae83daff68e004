"""What all hostile submissions are made from."""

import sys
import tempfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from hostile_kit import Place, make_data, valid_submission


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Not to be written to."""
    root = tmp_path_factory.mktemp("hostile")
    return Place(make_data(root / "data"), valid_submission(root))


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder, home and the system's folder for temporary files, all of one's own and empty."""
    for name in ("cwd", "tmp", "home"):
        (tmp_path / "own" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "own" / "cwd")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "own" / "tmp"))
    monkeypatch.setenv("HOME", str(tmp_path / "own" / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "own" / "tmp"))
    return tmp_path / "own"
