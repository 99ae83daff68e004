"""Files that were hashed are not hashed again, unless they may have changed."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.tiny import CONFIG, rows

import m2kr
from m2kr.data import file_checks
from m2kr.errors import CheckError


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed; changes are taken as settled at once."""
    names: list[str] = []
    real = file_checks.hash_file

    def hash_file(path: Path) -> Any:
        names.append("/".join(path.parts[-3:]))
        return real(path)

    monkeypatch.setattr(file_checks, "hash_file", hash_file)
    monkeypatch.setattr(file_checks, "SETTLED_NS", 0)
    return names


def take(names: list[str]) -> list[str]:
    taken = list(names)
    names.clear()
    return taken


def test_only_the_tables_that_are_read_are_hashed_and_only_once(
    root: Path, hashed: list[str]
) -> None:
    load = lambda: m2kr.load("tiny", edition="tiny", data=root)  # noqa: E731
    assert len(load().queries) == 6
    assert {name.rpartition("/")[0] for name in take(hashed)} == {f"{CONFIG}_data/test"}
    rows(root)
    assert take(hashed)
    rows(root)
    assert not take(hashed)
    assert not (root.parent / "user-cache").exists()
    # A folder that was copied with all its times is another one.
    copy = root.parent / "copy"
    shutil.copytree(root, copy)
    rows(copy)
    assert take(hashed)


def test_a_change_that_keeps_size_and_time_is_found(root: Path, hashed: list[str]) -> None:
    rows(root)
    path = root / "tiny" / f"{CONFIG}_data/test/data-00000.arrow"
    facts, data = path.stat(), path.read_bytes()
    with path.open("r+b") as file:
        file.seek(data.index(b"text 3"))
        file.write(b"text 4")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(CheckError, match=r"data-00000\.arrow"):
        rows(root)


def test_a_file_that_was_just_written_gets_no_stamp(root: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(file_checks, "SETTLED_NS", 10**15)
    rows(root)
    assert not list((root / ".cache").glob("checked/*/*.json"))


def test_stamps_of_a_root_that_cannot_be_written_are_the_users(
    root: Path, hashed: list[str]
) -> None:
    shutil.rmtree(root / ".cache", ignore_errors=True)
    (root / ".cache").write_bytes(b"")  # permissions do not stop root, who runs tests
    rows(root)
    assert take(hashed)
    assert list((root.parent / "user-cache").rglob("*.json"))
    rows(root)
    assert not take(hashed)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"a": 1}', b"[" * 10**5, b"{}"])
def test_stamps_that_are_none_cost_a_hash(root: Path, hashed: list[str], content: bytes) -> None:
    right = rows(root)
    for path in root.glob(".cache/checked/*/*.json"):
        path.write_bytes(content)
    take(hashed)
    assert rows(root) == right
    assert take(hashed)
