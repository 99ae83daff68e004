"""Broken and hostile submissions, through the door that a stranger's come through."""

import json
import os
import subprocess
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import hostile_archives  # noqa: F401 - they fill CASES
import hostile_cards  # noqa: F401
import hostile_runs  # noqa: F401
import pytest
from hostile_kit import (
    CASES,
    NAME,
    RIGHT,
    Case,
    Folder,
    Place,
    copy_of,
    few,
    listing,
    params,
    plain,
)
from support.command_line import PROGRAM
from support.plain_scores import KNOWN, ranked, rows_of, value
from typer.testing import CliRunner

from m2kr.cli.main import app
from m2kr_leaderboard.card_reader import read_card
from m2kr_leaderboard.pack import pack
from m2kr_leaderboard.recompute import recompute
from m2kr_leaderboard.submission import open_submission, opened_submission
from m2kr_leaderboard.system_card import card_as_yaml

# What may take memory or time beyond its size.
BOMBS = [
    name
    for name in CASES
    if any(word in name for word in ("bomb", "10_gigabytes", "million ", "billion"))
]
SECONDS = 10 if os.environ.get("CI") else 2
MEMORY = 400 << 20  # beyond what checking a valid one takes


def spoiled(place: Place, tmp_path: Path, case: Case) -> Folder:
    """The case's submission, in a folder of its own."""
    folder = copy_of(place.valid, tmp_path / "given")
    case.spoil(folder)
    return folder


def require_refusal(case: Case, code: int, output: str) -> None:
    """One of the case's checks is named, and what to do."""
    if case.checks == (RIGHT,) and code == 0:
        return
    assert code == 1, output[:2000]
    assert "Traceback" not in output
    named = any(f"[{check}]" in output for check in case.checks)
    assert named or case.checks == (RIGHT,), output[:2000]
    assert "try:" in output, output[:2000]
    for text in case.says:
        assert text in output, output[:2000]
    # Nothing of a submitter's steers the terminal or turns the reading direction.
    assert not {c for c in output if c < " " and c != "\n"}
    assert not {c for c in output if c in "\x7f\x85\u200b\u202e\u2066\u2028\ufeff"}
    assert len(output) < 50_000


@pytest.mark.parametrize("case", params(CASES))
def test_it_is_refused_by_name_and_nothing_is_written(
    case: Case, place: Place, alone: Path, tmp_path: Path
) -> None:
    folder = spoiled(place, tmp_path, case)
    before = listing(tmp_path)
    began = time.process_time()
    done = CliRunner().invoke(
        app, ["submit", "check", str(folder.submitted), "--data", str(place.data)]
    )
    seconds = time.process_time() - began
    require_refusal(case, done.exit_code, done.output)
    assert seconds < SECONDS
    assert listing(tmp_path) == before
    assert not [*Path("/tmp").glob("m2kr-evil*"), *Path("/tmp").glob("m2kr-pwned*")]


@pytest.mark.slow
@pytest.mark.parametrize("case", few(CASES))
def test_ci_and_the_site_refuse_it_too(
    case: Case, place: Place, alone: Path, tmp_path: Path
) -> None:
    folder = spoiled(place, tmp_path, case)
    before = listing(tmp_path)
    for command in (("validate",), ("build", "--out", str(tmp_path / "site"))):
        words = ["leaderboard", *command, str(folder.submitted), "--data", str(place.data)]
        done = CliRunner().invoke(app, words)
        require_refusal(case, done.exit_code, done.output)
    assert listing(tmp_path) == before or case.checks == (RIGHT,)


@pytest.mark.parametrize(
    "title",
    [
        "A syst\u0435m to spoil",  # a Cyrillic е
        "\u0391 system to spoil",
        "\u0430 SYST\u0415M  to spoil",
    ],
)
def test_a_title_that_is_like_anothers_is_refused(
    title: str, place: Place, alone: Path, tmp_path: Path
) -> None:
    folder = copy_of(place.valid, tmp_path)
    other = Folder(folder.path.rename(folder.path.with_name("other")))
    other.set("name", "other")
    other.set("title", title)
    words = ["leaderboard", "validate", str(place.valid), str(other.path), "--data"]
    done = CliRunner().invoke(app, [*words, str(place.data)])
    assert done.exit_code == 1
    assert "[own-title]" in done.output and "letters that look alike" in done.output


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="memory of a child is not told here")
def test_bombs_take_little_memory(place: Place, alone: Path, tmp_path: Path) -> None:
    def peak(path: Path) -> tuple[int, int, str]:
        words = [str(PROGRAM), "submit", "check", str(path), "--data", str(place.data)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert child.stdout is not None
        output = child.stdout.read().decode()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        child.stdout.close()
        return child.returncode, usage.ru_maxrss << 10, output

    code, usual, output = peak(place.valid)
    assert code == 0, output
    assert len(BOMBS) >= 12
    for number, name in enumerate(BOMBS):
        case = CASES[name]
        folder = spoiled(place, tmp_path / str(number), case)
        code, memory, output = peak(folder.submitted)
        require_refusal(case, code, output)
        print(f"{memory - usual >> 20:5d} MiB more  {name}")
        assert memory < usual + MEMORY, name
    assert not [*(alone / "tmp").iterdir()]


def test_the_valid_one_is_taken_as_folder_and_packed(
    place: Place, alone: Path, tmp_path: Path
) -> None:
    packed = tmp_path / f"{NAME}.zip"
    done = CliRunner().invoke(app, ["submit", "pack", str(place.valid), "--out", str(packed)])
    assert done.exit_code == 0, done.output
    again = tmp_path / "again.zip"
    assert pack(place.valid, again).read_bytes() == packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:  # everybody's program reads it
        assert archive.testzip() is None
        assert archive.read(f"{NAME}/system.yaml") == (place.valid / "system.yaml").read_bytes()
    with opened_submission(packed) as unpacked:
        assert unpacked.sha256 == open_submission(place.valid).sha256
    before = listing(tmp_path)
    for path in (place.valid, packed):
        words = ["submit", "check", str(path), "--data", str(place.data), "--json"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)
    assert listing(tmp_path) == before


def test_a_card_that_is_written_is_read_as_it_was(place: Place, tmp_path: Path) -> None:
    card = read_card(place.valid / "system.yaml")
    odd = replace(
        card,
        title='Ünïcode "quoted" \\ # - : {x} 日本',
        version="1.10",
        parameters=None,
        training_data=(),
        note="",
        links={},
        runs=tuple(replace(run, scores={"mrr@10": 1e-7}, cost={}) for run in card.runs),
    )
    for one in (card, odd):
        (tmp_path / "system.yaml").write_text(card_as_yaml(one), encoding="utf-8")
        assert read_card(tmp_path / "system.yaml") == one


def test_the_harness_scores_as_plain_loops_do(place: Place) -> None:
    with opened_submission(place.valid) as submission:
        scored = recompute(submission, place.data)
    for run in scored.runs:
        rows = rows_of(place.valid / run.submitted.file)
        split, ranking = plain(run.submitted.source), ranked(rows, run.submitted.k)
        names = [m for m in run.result.metrics if m.partition("@")[0] in KNOWN]
        assert len(names) > 10
        for name in names:
            mean, n = value(name, split, ranking)
            assert run.result.metrics[name]["value"] == pytest.approx(mean, abs=1e-12)
            assert run.result.metrics[name]["n"] == n
