"""The systems that m2kr brings along, and the way of somebody who adds one."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from m2kr_leaderboard.reproduced import is_reproduced, reproduced_runs
from m2kr_leaderboard.scoring import packaged_submissions, score_all
from m2kr_leaderboard.submission import open_submission

M2KR = Path(sys.executable).parent / "m2kr"
MOST_BYTES = 4 << 20  # of all in git


def test_their_form_holds_and_they_are_small() -> None:
    folders = packaged_submissions()
    assert len(folders) >= 8
    kinds = {open_submission(folder).card.kind for folder in folders}
    assert kinds == {"single-stage", "re-rank", "fusion"}
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES
    for folder in folders:
        assert "m2kr eval mini -r" in (folder / "README.md").read_text(encoding="utf-8")


def test_no_upper_bound_stands_among_systems() -> None:
    assert not [folder for folder in packaged_submissions() if "oracle" in folder.name]


def test_what_was_reproduced_is_a_run_that_was_handed_in() -> None:
    runs = {
        (card.name, card.version, run.source, run.split, run.run_sha256): (card, run)
        for card in (open_submission(folder).card for folder in packaged_submissions())
        for run in card.runs
    }
    assert reproduced_runs()
    for one in reproduced_runs():
        key = (one.system, one.version, one.source, one.split, one.run_sha256)
        assert key in runs, f"{one.system} was handed in anew: run it again, or take the row away"
        assert is_reproduced(*runs[key])
        assert one.command.startswith("m2kr eval ")


@pytest.mark.slow
def test_their_scores_hold() -> None:
    assert len(score_all(packaged_submissions())) == len(packaged_submissions())


def _m2kr(words: str, folder: Path) -> str:
    done = subprocess.run(
        [str(M2KR), *words.split()], cwd=folder, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, f"m2kr {words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_five_commands_lead_a_newcomer_to_the_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2KR_DATA", str(tmp_path / "data"))
    (tmp_path / "my_retriever.py").write_text(
        "import numpy as np\n"
        "from m2kr import EncoderRetriever\n\n\n"
        "class Letters(EncoderRetriever):\n"
        "    similarity = 'cosine'\n\n"
        "    def encode_document(self, batch):\n"
        "        letters = 'abcdefghijklmnopqrstuvwxyz'\n"
        "        return np.array([[t.lower().count(c) for c in letters] for t in batch.texts])\n\n"
        "    encode_query = encode_document\n"
    )
    _m2kr("build mini", tmp_path)
    evaluated = json.loads(_m2kr("eval mini -r my_retriever.py:Letters --json", tmp_path))
    said = (
        "--set authors=Ada --set contact=ada@example.org --set licence=MIT --set training_data=none"
    )
    (result,) = (tmp_path / "results").glob("*.json")
    _m2kr(f"submit init results/{result.name} --out letters {said} --set title=Letters", tmp_path)
    _m2kr("submit check letters", tmp_path)
    _m2kr("leaderboard build letters --out site", tmp_path)

    score = json.loads(result.read_text(encoding="utf-8"))["metrics"]["hit_rate@5"]["value"]
    assert repr(score) in json.dumps(evaluated)
    with (tmp_path / "site/data/results.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["system"]: row for row in csv.DictReader(file)}
    assert float(rows["letters"]["hit_rate@5"]) == pytest.approx(score, abs=1e-12)
    assert rows["letters"]["status"] == "recomputed"
    assert len(rows) == 1 + len(packaged_submissions())
    for page in ("index.html", "boards/mini.test.html"):
        text = (tmp_path / "site" / page).read_text(encoding="utf-8")
        row = re.search(
            r"<tr[^>]*>\s*<th[^>]*><a href=\"[^\"]*systems/letters\.html.*?</tr>", text, re.S
        )
        assert row is not None, page
        assert f"{score:.3f}"[1:] in row[0] or f"{100 * score:.1f}" in row[0]
    assert (tmp_path / "site/systems/letters.html").is_file()
