"""Edits by hand: each is refused in one line, or the right rows are read."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from support.resign import resign
from support.tiny import CONFIG, edit_json, files_of, problems, rows

import m2kr
from m2kr.errors import InputError, M2KRError

VALUES: dict[str, Any] = {
    "null": None,
    "a huge number": 10**400,
    "a negative number": -1,
    "infinity": float("inf"),
    "text": "x" * 3000,
    "an empty list": [],
    "an empty object": {},
    "a list of lists": [[[1]]],
    "true": True,
}


def _nest(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def edits() -> dict[str, Callable[[Path], object]]:
    """Edits of the edition folder ``tiny`` beside ``other``."""
    found: dict[str, Callable[[Path], object]] = {}
    tables = {"data": f"{CONFIG}_data/test", "pool": f"{CONFIG}_passages/test_passages"}
    tables["qrels"] = f"{CONFIG}_qrels/test"
    shards = {name: f"{table}/data-00000.arrow" for name, table in tables.items()}
    manifest = f"{CONFIG}_manifest.json"
    some = {
        **shards,
        "ids": f"{tables['pool']}/ids.npy",
        "state": f"{tables['data']}/state.json",
        "info": f"{tables['pool']}/dataset_info.json",
        "manifest": manifest,
    }
    for what, file in some.items():
        found[f"{what} deleted"] = lambda e, f=file: (e / f).unlink()
        found[f"{what} renamed"] = lambda e, f=file: (e / f).rename(e / f"{f}.bak")
        found[f"{what} empty"] = lambda e, f=file: (e / f).write_bytes(b"")
        found[f"{what} a folder"] = lambda e, f=file: ((e / f).unlink(), (e / f).mkdir())
        found[f"{what} a pipe"] = lambda e, f=file: ((e / f).unlink(), os.mkfifo(e / f))
        found[f"{what} cut"] = lambda e, f=file: os.truncate(e / f, (e / f).stat().st_size // 2)
        found[f"{what} longer"] = lambda e, f=file: (e / f).write_bytes(
            (e / f).read_bytes() + b"\0" * 9
        )
        found[f"{what} vast"] = lambda e, f=file: os.truncate(e / f, 1 << 40)
        found[f"{what} of another edition"] = lambda e, f=file: shutil.copy(
            e.parent / "other" / f, e / f
        )
        found[f"{what} a link to itself"] = lambda e, f=file: (
            (e / f).unlink(),
            (e / f).symlink_to(e / f),
        )
        found[f"{what} a link to a device"] = lambda e, f=file: (
            (e / f).unlink(),
            (e / f).symlink_to("/dev/zero"),
        )
    for what, value in VALUES.items():
        for key in ("fingerprints", "files", "comparable"):
            found[f"manifest {key} {what}"] = lambda e, k=key, v=value: edit_json(
                e / manifest, lambda r: r.update({k: v})
            )
    for what in ("source", "tables", "splits", "format", "sha256", "partial", "route", "inputs"):
        found[f"manifest without {what}"] = lambda e, k=what: edit_json(
            e / manifest, lambda r: r.pop(k)
        )
    found["manifest a list"] = lambda e: (e / manifest).write_text("[1]", encoding="utf-8")
    found["manifest not UTF-8"] = lambda e: (e / manifest).write_bytes(b'{"format": "\xff"}')
    found["manifest nested"] = lambda e: (e / manifest).write_text("[" * 10**6, encoding="utf-8")
    found["manifest deep value"] = lambda e: edit_json(
        e / manifest, lambda r: r.update(x=_nest(500))
    )
    found["manifest sorted, says the same"] = lambda e: (e / manifest).write_text(
        json.dumps(json.loads((e / manifest).read_text(encoding="utf-8")), sort_keys=True),
        encoding="utf-8",
    )
    for what, table in tables.items():
        found[f"{what} table deleted"] = lambda e, t=table: shutil.rmtree(e / t)
        found[f"{what} table a file"] = lambda e, t=table: (
            shutil.rmtree(e / t),
            (e / t).write_bytes(b"x"),
        )
        found[f"{what} table of another edition"] = lambda e, t=table: (
            shutil.rmtree(e / t),
            shutil.copytree(e.parent / "other" / t, e / t),
        )
        found[f"{what} table a link to another edition"] = lambda e, t=table: (
            shutil.rmtree(e / t),
            (e / t).symlink_to(e.parent / "other" / t),
        )
        found[f"{what} one shard more"] = lambda e, t=table: shutil.copy(
            e / t / "data-00000.arrow", e / t / "data-00001.arrow"
        )
        found[f"{what} table elsewhere, linked"] = lambda e, t=table: (
            shutil.move(e / t, e.parent / "moved" / t),
            (e / t).symlink_to(e.parent / "moved" / t),
        )
    found["all tables and not the manifest of another edition"] = lambda e: [
        shutil.copytree(e.parent / "other" / t, e / t, dirs_exist_ok=True) for t in tables.values()
    ]
    found["manifest of another source"] = lambda e: (e / manifest).rename(e / "OTHER_manifest.json")
    found["a second manifest under another name"] = lambda e: shutil.copy(
        e / manifest, e / "COPY_manifest.json"
    )
    found["an empty manifest beside it"] = lambda e: (e / "_manifest.json").touch()
    return found


EDITS = edits()
HARMLESS = {
    "info of another edition",  # the same bytes
    "manifest sorted, says the same",
    "a second manifest under another name",
    "an empty manifest beside it",
    *(
        f"{table} {what}"
        for table in ("data", "pool", "qrels")
        for what in (
            "one shard more",
            "table elsewhere, linked",
        )
    ),
}


def test_a_hundred_edits_by_hand(built: Path, tmp_path: Path) -> None:
    """Read, and verified, within one second each; other sources in the folder stay as they are."""
    assert len(EDITS) >= 100
    right, other = rows(built), rows(built, "other")[0][0]
    for number, (what, edit) in enumerate(EDITS.items()):
        root = tmp_path / str(number)
        for edition in ("tiny", "other"):
            shutil.copytree(built / edition, root / edition)
        edit(root / "tiny")
        started = time.monotonic()
        try:
            assert rows(root) == right, what
            assert what in HARMLESS, what
        except M2KRError as error:
            assert what not in HARMLESS, (what, error)
            assert error.fix, what
            assert len(str(error).splitlines()) <= 3, what
            assert str(root) in str(error), what
        assert m2kr.load("tiny", edition="other", data=root).queries[0] == other, what
        # Without a manifest there is nothing to verify, and nothing to be read.
        gone = not (root / "tiny" / f"{CONFIG}_manifest.json").exists()
        assert problems(root) or gone or "elsewhere" in what or what in HARMLESS, what
        assert time.monotonic() - started < 2, what


def test_a_card_that_is_gone_is_written_anew(root: Path) -> None:
    card = root / "tiny" / "README.md"
    whole = card.read_bytes()
    card.unlink()
    assert problems(root) == ["README.md: it was gone"]
    assert card.read_bytes() == whole
    card.write_bytes(whole + b"notes of my own")
    assert len(problems(root)) == 1
    assert card.read_bytes() == whole + b"notes of my own"
    copy = root.rename(root.with_name("elsewhere"))
    (copy / "tiny").rename(copy / "renamed")
    (copy / "renamed" / "README.md").write_bytes(whole)
    assert not problems(copy, "renamed")


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user whom permissions stop, where tests are run by root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="permissions of another kind")
@pytest.mark.parametrize(
    "name",
    [f"{CONFIG}_data/test/data-00000.arrow", f"{CONFIG}_data/test", f"{CONFIG}_manifest.json", ""],
)
def test_what_may_not_be_read_is_one_line(built: Path, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        root = Path(shutil.copytree(built, Path(folder) / "root"))
        root.chmod(0o755)
        rows(root)
        path = root / "tiny" / name
        mode = path.stat().st_mode
        path.chmod(0)
        with unprivileged():
            with pytest.raises(M2KRError):
                rows(root)
            assert problems(root) or not name
            assert m2kr.load("tiny", edition="other", data=root).queries
        path.chmod(mode)
        root.chmod(0)
        with unprivileged(), pytest.raises(M2KRError, match="not allowed"):
            rows(root)


def test_blanked_warnings_in_a_manifest_are_found(root: Path, cli: Cli) -> None:
    path = root / "tiny" / f"{CONFIG}_manifest.json"
    edit_json(path, lambda record: record.update(partial=False, comparable=""))
    with pytest.raises(InputError, match="changed after it was written"):
        m2kr.load("tiny", edition="tiny", data=root)
    report = json.loads(cli("verify", "tiny", "--data", root, "--json", code=1).stdout)
    assert [(p["edition"], p["check"]) for p in report["problems"]] == [("tiny", "manifest")]


def test_the_manifest_lists_every_published_file(root: Path) -> None:
    folder = root / "tiny"
    listed = resign(folder, CONFIG)["files"]
    own = {f"{CONFIG}_manifest.json", "README.md", "croissant.json"}
    assert set(listed) == {p.relative_to(folder).as_posix() for p in files_of(folder)} - own
