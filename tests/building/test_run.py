"""The engine from outside: what a build leaves, kills, races, limits, refusals."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Cli
from datasets import DatasetDict, load_dataset
from support.resign import resign
from support.toy_builder import ToyBuilder

import m2kr
from m2kr.building import publish
from m2kr.building.build import build
from m2kr.building.verify import verify
from m2kr.errors import CheckError, InputError, MissingError, UsageError
from m2kr.schema import Column

TOY = Path(__file__).parent.parent / "support" / "toy_builder.py"


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder, with its bytes."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def run_toy(root: Path, rows: int, jobs: int = 1, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(TOY), str(root), str(rows), str(jobs)],
        env=os.environ | env,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr.decode()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    build(ToyBuilder(rows=2_000), root)
    return root


def test_rows_ledger_and_manifest(toy: Path) -> None:
    split = m2kr.load("toy", "val", data=toy)
    assert (split.split, split.edition, len(split.queries)) == ("valid", "rebuilt", 989)
    assert len(split.passages) == 1_979
    assert split.passage("p77")["passage_content"] == "test_ text 77 " * 8
    query = split.query("valid-77")
    assert query["pos_item_contents"] == ["test_ text 77 " * 8]
    assert query["answers"] == ["77"]
    assert query["img_path"] is None
    assert split.qrels[0] == {"question_id": "valid-0", "passage_id": "p0", "relevance": 1}
    ledger = pq.read_table(toy / "rebuilt" / "TOY_ledger.parquet").to_pylist()
    assert {(r["table"], r["rule"]) for r in ledger} == {
        (f"TOY_passages/{pool}_passages", rule)
        for pool in ("train", "test")
        for rule in ("bad row", "blank title")
    }
    assert ledger[0]["row"] == 6
    tables = split.manifest["tables"]
    assert tables["TOY_passages/test_passages"]["ledger"]["dropped"] == {"bad row": 21}
    assert tables["TOY_data/test"]["ledger"]["filtered"] == {"no positive": 11}
    assert split.manifest["fingerprints"]["valid"]["pool"] == split.fingerprints["pool"]
    assert verify(toy / "rebuilt", split.manifest)
    assert not [f for f in verify(toy / "rebuilt", split.manifest) if f.problem]


def test_unknown_ids_splits_editions(toy: Path) -> None:
    split = m2kr.load("TOY", data=toy)
    with pytest.raises(InputError, match="no passage 'p5'"):
        split.passage("p5")
    assert split.passage_rows(["p5", "p6"]).tolist() == [-1, 5]
    with pytest.raises(UsageError, match="one of train, valid, test"):
        m2kr.load("toy", "dev2", data=toy)
    with pytest.raises(MissingError, match="m2kr build toy"):
        m2kr.load("toy", edition="other", data=toy)


def test_hugging_face_loads_the_same_rows_both_ways(toy: Path, tmp_path: Path) -> None:
    folder = toy / "rebuilt"
    for config in ("TOY_data", "TOY_passages", "TOY_qrels"):
        mapped = DatasetDict.load_from_disk(str(folder / config))
        copied = load_dataset(str(folder), config, cache_dir=str(tmp_path))
        assert set(mapped) == set(copied)
        for split in mapped:
            assert mapped[split].features == copied[split].features
            assert mapped[split].to_list() == copied[split].to_list()
    core = [c.name for c in m2kr.schema.QUERY_COLUMNS]
    assert DatasetDict.load_from_disk(str(folder / "TOY_data"))["test"].column_names == core


def test_the_same_build_again_does_nothing_and_force_gives_the_same_bytes(toy: Path) -> None:
    before = tree(toy)
    assert not build(ToyBuilder(rows=2_000), toy).fresh
    assert tree(toy) == before
    assert build(ToyBuilder(rows=2_000), toy, force=True).fresh
    assert tree(toy) == before


@pytest.mark.slow
def test_jobs_and_hash_seed_do_not_change_a_byte(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in ("here", "another", "several")]
    build(ToyBuilder(700), roots[0])
    # This process has another seed: neither pytest nor CI sets one.
    finish(run_toy(roots[1], 700, PYTHONHASHSEED="1"))
    finish(run_toy(roots[2], 700, jobs=3, PYTHONHASHSEED="2"))
    assert tree(roots[0]) == tree(roots[1]) == tree(roots[2])
    assert tree(roots[0])


@pytest.mark.slow
def test_ten_kills_then_the_same_bytes_and_no_orphans(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    started = time.monotonic()
    finish(run_toy(whole, 20_000))
    seconds = time.monotonic() - started
    draw = random.Random(0)
    killed = attempts = 0
    while killed < 10:
        attempts += 1
        assert attempts < 40
        process = run_toy(broken, 20_000, jobs=1 + attempts % 2)
        time.sleep(draw.uniform(0.1, 0.9) * seconds)
        if process.poll() is None:
            killed += 1
            process.send_signal(signal.SIGKILL)
        else:  # it was done: nothing left to kill
            shutil.rmtree(broken)
        process.communicate()
    finish(run_toy(broken, 20_000))
    assert tree(broken) == tree(whole)


@pytest.mark.slow
def test_a_full_disk_mid_shard_loses_nothing(tmp_path: Path) -> None:
    """On a tmpfs in a mount namespace of its own: full, then larger, then the same bytes."""
    disk, straight, saved = tmp_path / "disk", tmp_path / "straight", tmp_path / "saved"
    for folder in (disk, saved):
        folder.mkdir()
    toy = f"{sys.executable} {TOY} {disk}/d 260000 1 0"
    staged = f"{disk}/d/rebuilt/.staging-TOY/TOY_passages/train_passages"
    script = f"""
        mount -t tmpfs -o size=40m none {disk} || exit 77
        {toy} 2> {saved}/error && exit 78
        ls -i {staged} > {saved}/kept
        mount -o remount,size=1g {disk}
        {toy} || exit 79
        ls -i {disk}/d/rebuilt/TOY_passages/train_passages > {saved}/after
        cp -a {disk}/d {saved}/d
    """
    code = subprocess.run(["unshare", "--mount", "sh", "-c", script]).returncode
    if code in (1, 77):
        pytest.skip("this system does not let tests mount a small disk")
    assert code == 0
    error = (saved / "error").read_text()
    assert "the disk is full" in error
    assert "run the same command again" in error
    kept = [line for line in (saved / "kept").read_text().splitlines() if "arrow" in line]
    assert len(kept) == 1, "the whole shard stays and the half-written one is gone"
    assert kept[0] in (saved / "after").read_text().splitlines()
    build(ToyBuilder(260_000), straight)
    assert tree(saved / "d") == tree(straight)


@pytest.mark.slow
def test_two_processes_build_one_source(tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    build(ToyBuilder(5_000), alone)
    both = [run_toy(shared, 5_000), run_toy(shared, 5_000)]
    for process in both:
        finish(process)
    assert tree(shared) == tree(alone)


def test_limit_keeps_positives_and_marks_the_edition_partial(tmp_path: Path) -> None:
    built = build(ToyBuilder(rows=2_000), tmp_path, limit=10)
    split = m2kr.load("toy", "test", data=tmp_path)
    assert built.folder.name == split.edition == "rebuilt-limit10"
    assert len(split.queries) == 10
    assert 10 <= len(split.passages) <= 20
    assert split.passage_rows(q["pos_item_ids"][0] for q in split.queries).min() >= 0
    assert split.manifest["partial"]
    assert "--limit" in split.manifest["comparable"]


def test_a_changed_builder_replaces_the_build(tmp_path: Path) -> None:
    build(ToyBuilder(rows=300), tmp_path)
    old = m2kr.load("toy", data=tmp_path)
    first = old.passage("p7")
    # Another seed is another key; the tables are rebuilt and swapped in.
    assert build(ToyBuilder(rows=300), tmp_path, seed=1).fresh
    assert old.passage("p7") == first
    assert not list((tmp_path / "rebuilt").glob(".*"))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"wrong_positive": True}, ["'nowhere'", "'train-7'", "TOY_data/train", "train_passages"]),
        ({"duplicate": True}, ["'p1' is used twice", "rows 2 and 4", "TOY_passages"]),
    ],
)
def test_broken_judgements_and_ids_are_refused(
    tmp_path: Path, fault: dict, says: list[str]
) -> None:
    with pytest.raises(CheckError) as error:
        build(ToyBuilder(**fault), tmp_path)
    assert all(part in str(error.value) for part in says), str(error.value)
    assert not list(tmp_path.glob("*/*_manifest.json"))


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "downloads"])
def test_an_edition_cannot_leave_the_data_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="edition"):
        build(ToyBuilder(), tmp_path, edition=name or "/")


def test_verify_finds_every_kind_of_damage(tmp_path: Path) -> None:
    build(ToyBuilder(rows=300), tmp_path)
    folder = tmp_path / "rebuilt"
    manifest = resign(folder, "TOY")

    def problems() -> set[tuple[str, str]]:
        return {(f.table, f.check) for f in verify(folder, manifest) if f.problem}

    shard = folder / "TOY_data/test/data-00000.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000] + b"X" + whole[1001:])
    assert problems() == {("TOY_data/test", "files")}
    shard.unlink()
    assert problems() == {("TOY_data/test", "files")}
    shard.write_bytes(whole)
    another = shard.with_name("data-00001.arrow")
    another.write_bytes(whole)
    assert problems() == {("TOY_data/test", "files")}
    another.unlink()
    assert problems() == set()
    # What a defective builder would leave: files that fit their manifest, and say something wrong.
    index = folder / "TOY_passages/test_passages/ids.npy"
    entries = index.read_bytes()
    index.write_bytes(entries[:-12] + b"\0" * 12)
    manifest = resign(folder, "TOY")
    assert problems() == {
        ("TOY_passages/test_passages", "ids"),
        ("TOY_data/valid", "positives"),
        ("TOY_data/test", "positives"),
    }
    index.write_bytes(entries)
    prints = manifest["fingerprints"]
    manifest = resign(
        folder, "TOY", fingerprints=prints | {"test": prints["test"] | {"eval": "fp1:0"}}
    )
    assert problems() == {("TOY_data/test", "fingerprint")}


class Killed(BaseException):
    """Stands for a kill between two renames."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The root of an older build, and the files of a newer one."""
    older, newer = (tmp_path_factory.mktemp(name) for name in ("older", "newer"))
    build(ToyBuilder(rows=40), older)
    build(ToyBuilder(rows=60), newer, seed=1)
    return older, tree(newer)


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("step", range(9))
def test_a_kill_between_any_two_steps_of_publishing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    published: tuple[Path, dict[str, bytes]],
    step: int,
    replacing: bool,
) -> None:
    (older, straight), broken = published, tmp_path / "broken"
    if replacing:
        shutil.copytree(older, broken)
    calls = 0

    def stopping(real):  # type: ignore[no-untyped-def]
        def run(self: Path, *args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == step + 1:
                raise Killed
            return real(self, *args, **kwargs)

        return run

    def publish_until_killed(*args: object) -> None:
        with monkeypatch.context() as patch:
            for name in ("rename", "replace", "unlink", "mkdir"):
                patch.setattr(Path, name, stopping(getattr(Path, name)))
            real(*args)

    real = publish.publish
    monkeypatch.setattr(publish, "publish", publish_until_killed)
    with contextlib.suppress(Killed):
        build(ToyBuilder(rows=60), broken, seed=1)
    monkeypatch.setattr(publish, "publish", real)
    build(ToyBuilder(rows=60), broken, seed=1)
    assert tree(broken) == straight
    split = m2kr.load("toy", data=broken)
    assert not [f for f in verify(split.folder, split.manifest) if f.problem]


def toy_of(**changes: Any) -> ToyBuilder:
    toy = ToyBuilder(rows=50)
    toy.source = replace(ToyBuilder.source, **changes)
    return toy


def test_a_build_is_made_anew_for_a_new_version_and_not_for_new_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build(toy_of(), tmp_path).fresh
    words = {"title": "Another toy", "licence": "CC BY 4.0", "citation": "@misc{toy}"}
    assert not build(toy_of(**words), tmp_path).fresh
    for module in ("m2kr", "m2kr._version", "m2kr.building.manifest"):  # another release of m2kr
        monkeypatch.setattr(f"{module}.__version__", "99.0")
    assert not build(toy_of(), tmp_path).fresh
    newer = build(toy_of(version=2), tmp_path)
    assert newer.fresh
    assert newer.manifest["source"]["version"] == 2
    extra = Column("more", doc="One more column.", nullable=True)
    assert build(toy_of(version=2, query_columns=(extra,)), tmp_path).fresh


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"seed": 1}, False),
        ({"inputs": [{"name": "a.txt", "sha256": "0" * 64}]}, False),
        ({"instructions": {"templates": ["Find: "]}}, False),
    ],
)
def test_builds_from_before_versions_are_kept_if_nothing_else_changed(
    tmp_path: Path, change: dict[str, Any], kept: bool
) -> None:
    path = build(toy_of(), tmp_path).folder / "TOY_manifest.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    now = record["format"]
    del record["source"]["version"], record["files"], record["sha256"]
    record |= {"key": "of the code's hash", "format": "m2kr-manifest-1"}
    path.write_text(json.dumps(record | change), encoding="utf-8")
    with pytest.raises(InputError, match="m2kr verify"):
        m2kr.load("toy", data=tmp_path)
    again = build(toy_of(), tmp_path)
    assert again.fresh is not kept
    assert again.manifest["format"] == now
    assert len(m2kr.load("toy", data=tmp_path).queries) == 24
    path.write_text(json.dumps(record), encoding="utf-8")
    assert build(toy_of(version=2), tmp_path).fresh


@pytest.mark.parametrize("damage", ["", "test/data-00000.arrow", "test/ids.npy"])
def test_verify_signs_a_sound_build_of_an_earlier_m2kr(
    tmp_path: Path, cli: Cli, damage: str
) -> None:
    path = build(toy_of(), tmp_path).folder / "TOY_manifest.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["files"], record["sha256"]
    record |= {"format": "m2kr-manifest-1", "comparable": ""}
    path.write_text(json.dumps(record), encoding="utf-8")
    if damage:
        file = path.parent / "TOY_data" / damage
        file.write_bytes(file.read_bytes()[:-300])
    said = cli("verify", "toy", "--data", tmp_path, code=bool(damage))
    assert ("an earlier m2kr" in said.stdout) is bool(damage)
    if not damage:
        split = m2kr.load("toy", data=tmp_path)
        assert split.queries[0]["question_id"] == "test-0"
        assert split.manifest["comparable"] == "unknown"
        cli("verify", "toy", "--data", tmp_path)
