"""Golden files of the official search: ours passes, and every kind of difference is found."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from golden.check_search import GoldenFile, check, check_folder, main

from m2kr.errors import InputError
from m2kr.search.index import official

GOLDEN = Path(__file__).parents[2] / "golden" / "search"


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """The smaller file, cut to two queries and one setting."""
    with np.load(GOLDEN / "nbits8_dim64.npz", allow_pickle=False) as file:
        whole = {name: file[name] for name in file.files}
    kept = {n: a for n, a in whole.items() if n[:2] not in ("b_", "c_", "d_")}
    cells = int(kept["a_cells_count"][:2].sum())
    for name in kept:
        if name == "a_cells":
            kept[name] = kept[name][:cells]
        elif name.startswith(("a_", "quer", "pids_", "scores_")) and name != "a_config":
            kept[name] = kept[name][:2]
    return {n: a for n, a in kept.items() if n[-5:] not in ("_k500", "k1100") and "_k50" not in n}


def written(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(folder / "one.npz", **arrays)
    return folder


def failing(folder: Path, arrays: dict[str, np.ndarray]) -> list[str]:
    (done,) = check_folder(written(folder, arrays))
    for stage in done.stages.values():
        assert (stage.first is None) == (stage.failed == 0)
    assert done.ok == (not any(s.failed for s in done.stages.values()))
    return [name for name, stage in done.stages.items() if stage.failed]


@pytest.mark.parametrize("name", ["nbits2_dim32", "nbits8_dim64"])
def test_our_search_codec_and_lists_equal_the_official_ones(name: str) -> None:
    done = check(GoldenFile(GOLDEN / f"{name}.npz"))
    assert {stage: each.first for stage, each in done.stages.items() if each.failed} == {}
    checked = {stage: each.checked for stage, each in done.stages.items()}
    steps = ("cells", "living", "candidates", "stage1", "stage2", "scores", "ranking")
    assert checked == dict.fromkeys(steps, 80) | {
        "sample codes": 1,
        "sample residuals": 1,
        "inverted lists": 1,
        "returned": 100,
    }
    assert done.score_error < 1e-4
    assert done.skipped == 0


def test_the_cut_file_is_whole(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    assert failing(tmp_path, arrays) == []


def flip(name: str, at: tuple[int, ...], by: float = 1) -> Callable[[dict], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        found = arrays[name].copy()
        found[at] = found[at] ^ int(by) if found.dtype.kind in "iu" else found[at] + by
        arrays[name] = found

    return change


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (flip("a_alive_centroids", (1, 0), 0x80), ["living"]),
        (flip("a_candidates", (0, 3), 1), ["candidates"]),
        (flip("a_stage1", (0, 3), 1), ["stage1"]),
        (flip("a_stage2", (1, 7)), ["stage2"]),
        (flip("a_scores", (0, 20), 3e-4), ["scores", "ranking"]),
        (flip("sample_tokens", (0, 0), 0.5), ["sample residuals"]),
        (flip("ivf_pids", (9,)), ["inverted lists"]),
        (flip("pids_k10", (1, 0)), ["returned"]),
    ],
)
def test_each_step_finds_its_own_difference(
    tmp_path: Path,
    arrays: dict[str, np.ndarray],
    change: Callable[[dict], None],
    stages: list[str],
) -> None:
    changed = dict(arrays)
    change(changed)
    found = failing(tmp_path, changed)
    assert set(stages[:1]) <= set(found) <= {*stages, "sample codes", "ranking"}


def test_a_difference_names_setting_query_and_values(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    changed = dict(arrays)
    flip("a_pids", (1, 4))(changed)
    (done,) = check_folder(written(tmp_path, changed))
    wrong = int(changed["a_pids"][1, 4])
    first = done.stages["ranking"].first
    assert first is not None
    assert first.startswith("setting a, query 1")
    assert f"rank 5 is document {arrays['a_pids'][1, 4]}, expected {wrong}" in first


@pytest.mark.parametrize(
    ("rule", "stage"),
    [
        (lambda s: replace(s, ncells=s.ncells + 1), "cells"),
        (lambda s: replace(s, threshold=-9.0), "living"),
        (lambda s: replace(s, head_rows=110), "cells"),
        (lambda s: replace(s, ndocs=s.ndocs - 4), "stage1"),
    ],
)
def test_a_search_by_other_rules_fails(
    tmp_path: Path,
    arrays: dict[str, np.ndarray],
    rule: Callable[[official.OfficialSettings], official.OfficialSettings],
    stage: str,
) -> None:
    def wrong(index, query, settings):
        return official.trace_search(index, query, rule(settings))

    (done,) = check_folder(written(tmp_path, arrays), wrong)
    assert done.stages[stage].failed


def test_results_that_are_not_the_official_codes_are_skipped(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    changed = dict(arrays)
    changed["a_valid"] = np.array([True, False])
    changed["a_stage2"] = changed["a_stage2"].copy()
    changed["a_stage2"][1] = 0
    (done,) = check_folder(written(tmp_path, changed))
    assert done.ok
    assert done.skipped == 1
    assert done.stages["stage2"].checked == 1


def test_a_nan_score_is_a_difference(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    changed = dict(arrays)
    changed["a_scores"] = changed["a_scores"].copy()
    changed["a_scores"][0, 5] = np.nan
    assert "scores" in failing(tmp_path, changed)


@pytest.mark.parametrize("missing", ["codes", "a_stage1", "queries", "a_config"])
def test_a_file_that_lacks_an_array_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], missing: str
) -> None:
    left = {name: array for name, array in arrays.items() if name != missing}
    with pytest.raises(InputError):
        check_folder(written(tmp_path, left))


def test_what_is_no_golden_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no golden file"):
        check_folder(tmp_path)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match="not a golden file"):
        check_folder(tmp_path)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    np.savez(tmp_path / "pickled.npz", codes=np.array([{}], object))
    with pytest.raises(InputError, match="not a golden file"):
        check_folder(tmp_path)


def test_the_command_shows_the_first_difference(
    tmp_path: Path, arrays: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    changed = dict(arrays)
    assert main([str(written(tmp_path, changed)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    flip("a_stage2", (1, 0))(changed)
    assert main([str(written(tmp_path, changed))]) == 1
    shown = capsys.readouterr().out
    assert "setting a, query 1" in shown
    assert "DIFFERS" in shown
    (tmp_path / "one.npz").unlink()
    assert main([str(tmp_path)]) != 0
    assert "no golden file" in capsys.readouterr().err


def swapped(arrays: dict[str, np.ndarray], scale: float, gap: float) -> dict[str, np.ndarray]:
    """Two neighbours exchanged whose scores, of about the scale, differ by the gap's share."""
    changed = {name: array.copy() for name, array in arrays.items()}
    for name in ("a_scores", "a_pids"):
        changed[name][0, [3, 4]] = changed[name][0, [4, 3]]
    changed["a_scores"][0] *= np.float32(scale) / changed["a_scores"][0, 3]
    changed["a_scores"][0, 4] = changed["a_scores"][0, 3] * np.float32(1 - gap)
    return changed


@pytest.mark.parametrize("scale", [0.01, 1, 300])
@pytest.mark.parametrize(("gap", "tie"), [(5e-7, True), (5e-6, False)])
def test_scores_tie_by_their_share(
    tmp_path: Path, arrays: dict[str, np.ndarray], scale: float, gap: float, tie: bool
) -> None:
    assert ("ranking" not in failing(tmp_path, swapped(arrays, scale, gap))) == tie
