"""The release's files: counts, revisions, damage and choices that are refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import release_fixture as fixture
from support.commands import call
from support.release_fixture import made

import m2kr
from m2kr import parquet
from m2kr.building.release.routes import builder_for
from m2kr.errors import CheckError, InputError, MissingError, UsageError


def test_other_counts_than_the_releases_are_refused(files: Path, tmp_path: Path) -> None:
    options = ("--route", "release", "--from", files, "--data", tmp_path)
    error = call("build", "evqa", *options, code=1).stderr
    assert "EVQA_data/test: 5 rows, expected 3,750" in error
    assert "EVQA_passages/test_passages: 10 rows, expected 51,472" in error
    assert "--any-counts" in error
    assert not list(tmp_path.rglob("*.arrow"))


def test_counts_are_those_before_repeated_passages_go(
    files: Path, tmp_path: Path, counted: None
) -> None:
    built = made("evqa", files, tmp_path)
    assert built.manifest["splits"]["test"]["passages"] == 9
    assert built.manifest["count_warnings"] == []
    assert built.manifest["comparable"] == ""
    assert built.manifest["options"]["counts"] == "checked"


def test_unchecked_counts_make_a_build_incomparable(root: Path) -> None:
    manifest = m2kr.load("evqa", data=root).manifest
    assert "row counts were not checked" in manifest["comparable"]
    assert "test_passages: 9 rows built, 51,472 expected" in manifest["count_warnings"]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder to damage."""
    return fixture.write_release(tmp_path / "old", sources=("oven", "evqa"))


def test_files_without_instructions_are_refused(old: Path, tmp_path: Path) -> None:
    fixture.without_instruction(old, "oven")
    with pytest.raises(CheckError, match=r"no column 'instruction'.*June 2024") as caught:
        made("oven", old, tmp_path, any_counts=True)
    assert "OVEN_data/train-00000-of-00001.parquet" in str(caught.value.where)
    assert caught.value.fix


def test_ovens_old_splits_are_refused(old: Path, tmp_path: Path, counted: None) -> None:
    made("oven", old, tmp_path)
    fixture.old_oven(old)
    with pytest.raises(CheckError, match="June 2024") as caught:
        made("oven", old, tmp_path / "other")
    assert "OVEN_data/valid: 3 rows, expected 6" in str(caught.value)
    assert "OVEN_data/test: 8 rows, expected 5" in str(caught.value)
    assert "OVEN_data/train" not in str(caught.value)


def test_a_missing_shard_is_named(old: Path, tmp_path: Path) -> None:
    lost = fixture.lose_shard(old, "EVQA_passages/test_passages", 1)
    with pytest.raises(MissingError, match="1 of 2 shards are missing") as caught:
        made("evqa", old, tmp_path, any_counts=True)
    assert caught.value.where == str(lost)
    made("evqa", old, tmp_path, any_counts=True, splits=["valid"])


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"OKVQA_data/train-\*\.parquet"):
        made("okvqa", tmp_path / "nowhere", tmp_path)


def test_a_truncated_file_is_one_clear_error(old: Path, tmp_path: Path) -> None:
    path = fixture.truncate(old, "EVQA_data/test")
    options = ("--route", "release", "--from", old, "--data", tmp_path, "--any-counts")
    error = call("build", "evqa", *options, code=1).stderr
    assert error.count("error: ") == 1
    assert "Traceback" not in error
    assert str(path) in error
    assert f"delete {path}" in error


def test_damage_inside_a_file_is_found_when_it_is_read(old: Path, tmp_path: Path) -> None:
    path = fixture.damage(old, "EVQA_data/test")
    with pytest.raises(InputError, match=f"{path}, row 1 or after: the file can't be read"):
        made("evqa", old, tmp_path, any_counts=True, splits=["test"])
    assert not list((tmp_path / "m2kr").glob("EVQA*"))


def test_shards_of_other_columns_are_refused(old: Path, tmp_path: Path) -> None:
    path = old / "EVQA_passages" / "test_passages-00001-of-00002.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["language"]), path)
    with pytest.raises(InputError, match="test_passages-00001-of-00002"):
        made("evqa", old, tmp_path, any_counts=True)


def test_a_file_that_unpacks_to_far_more_is_refused(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old / "EVQA_passages" / "train_passages-00000-of-00001.parquet"
    rows = {"language": ["en"], "passage_id": ["p"], "passage_content": ["x" * 3_000_000]}
    pq.write_table(pa.table(rows), path, use_dictionary=False, compression="zstd")
    monkeypatch.setattr(parquet, "_FREE_BYTES", 1_000_000)
    with pytest.raises(InputError, match=r"unpack to 3,000,") as caught:
        made("evqa", old, tmp_path, any_counts=True)
    assert str(path) in str(caught.value.where)


def test_choices_that_do_not_go_together_are_refused(files: Path) -> None:
    with pytest.raises(UsageError, match="does not hold mini"):
        builder_for("mini", route="release", folder=files)
    with pytest.raises(UsageError, match="speak of the release") as caught:
        builder_for("evqa", folder=files)
    assert "--route release" in str(caught.value)
    with pytest.raises(UsageError, match="leave --route out"):
        builder_for("evqa", route="release", align=True)
