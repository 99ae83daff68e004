"""Data that the leaderboard knows: a build gives them, and what is merely like them is not ranked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.commands import call
from support.mini_submission import MINI, mini_submission, ranked_run, scored_on_mini
from support.toys import ToySplit, toy_split

import m2kr
from m2kr.evaluation.judge_file import JudgeFile
from m2kr.export.judge import write_judge_file
from m2kr.retrieval.run import Run
from m2kr_leaderboard.boards import make_boards
from m2kr_leaderboard.known_data import DataBuild, judge_contents, load_known_data
from m2kr_leaderboard.problems import SubmissionRefused
from m2kr_leaderboard.recompute import recompute
from m2kr_leaderboard.scored import ScoredSubmission
from m2kr_leaderboard.scoring import as_entries

EMBEDDED = [known for known in load_known_data() if known.embedded]


@pytest.fixture(scope="module")
def audited(mini_root: Path) -> dict[str, dict]:
    """By split what the audit says of mini."""
    done = call("audit", "mini", "--data", mini_root, "--json")
    return dict(json.loads(done.stdout)["splits"])


@pytest.mark.parametrize("known", EMBEDDED, ids=lambda known: known.label)
def test_an_entry_of_mini_is_what_a_build_gives(
    known, mini_root: Path, audited: dict[str, dict], tmp_path: Path
) -> None:
    split = m2kr.load(known.source, known.split, data=mini_root)
    assert split.edition == known.edition
    assert {"eval": known.eval, **known.parts}.items() <= split.fingerprints.items()
    sizes = {"queries": len(split.queries), "passages": len(split.passages)}
    assert known.counts == sizes
    out = tmp_path / "x.judge.parquet"
    call(
        *("export", known.source, "--split", known.split, "--format", "judge"),
        *("--data", mini_root, "--out", out),
    )
    assert judge_contents(JudgeFile.load(out)) == known.judge["contents"]
    below = {name: most for name, most in audited[known.split]["ceilings"].items() if most < 1}
    assert known.ceilings == below


def like_mini(**changes: object) -> ToySplit:
    """A small split that says it is mini's."""
    split = toy_split()
    for name, value in {"source": "mini", "edition": "mini", **changes}.items():
        setattr(split, name, value)
    return split


def scored_on(split: ToySplit, folder: Path) -> ScoredSubmission:
    """A run on a split whose judge file lies below the data root."""
    (folder / "data" / "deeper").mkdir(parents=True)
    write_judge_file(split, folder / "data" / "deeper" / "x.judge.parquet")
    ids = split.passages_view.ids.to_pylist()
    rows = dict(zip(ids, (4.0, 3.0, 2.0, 1.0), strict=True))
    run = Run.from_dict(dict.fromkeys(split.queries_view.ids.to_pylist(), rows))
    facts = {"source": split.source, "split": split.split, "edition": split.edition, "k": 4}
    handed = mini_submission(folder, run, fingerprint=split.fingerprints["eval"], **facts)
    return recompute(handed, folder / "data")


@pytest.mark.parametrize("source", ["mini", "toy"])
def test_unverified_data_are_scored_and_not_ranked(source: str, tmp_path: Path) -> None:
    unknown = scored_on(like_mini(source=source), tmp_path / "unknown")
    assert not unknown.runs[0].verified
    known = scored_on_mini(tmp_path / "known", ranked_run())
    boards = {board.verified: board for board in make_boards(as_entries([unknown, known]))}
    assert boards[True].key == "mini.test" and boards[True].rows[0].ranks["hit_rate@5"] == (1, 1)
    assert boards[False].key.startswith(f"{source}.test") and boards[False].key != "mini.test"
    assert boards[False].rows[0].ranks == {}
    assert boards[False].rows[0].entry.scored.result.value("hit_rate@1") is not None


BUILDS = {
    "": (False, "nobody has reported a build"),
    "ann": (False, "ann alone has reported a build"),
    "ann ann": (False, "ann alone has reported a build"),
    "ann bob": (True, "ann and bob built the same data"),
    "ann bob other:eve": (False, "eve built others"),
}


@pytest.mark.parametrize("builders", BUILDS)
def test_data_are_verified_by_two_builds_that_agree(builders: str) -> None:
    builds = [name.rpartition(":") for name in builders.split()]
    known = replace(
        MINI,
        embedded=False,
        builds=tuple(
            DataBuild(who, "2026-12-01", "0.1.0", "sources", other or MINI.eval)
            for other, _, who in builds
        ),
    )
    verified, why = BUILDS[builders]
    assert known.verified == verified and why in known.why


def test_a_fingerprint_that_is_near_but_not_equal_is_refused(tmp_path: Path) -> None:
    last = "0" if MINI.eval[-1] != "0" else "1"
    near = MINI.eval[:-1] + last
    parts = MINI.parts | {"pool": f"{MINI.parts['pool'][:-1]}x"}
    run = ranked_run().named("tried", fingerprints={"eval": near, **parts})
    handed = mini_submission(tmp_path, run, fingerprint=near)
    with pytest.raises(SubmissionRefused) as refused:
        recompute(handed, tmp_path / "no data")
    [problem] = refused.value.problems
    assert problem.check == "known-fingerprint" and near in problem.what
    assert problem.expected == f"known is {MINI.label} with {MINI.eval}; pool differ"


def test_the_fingerprint_of_other_known_data_is_refused(tmp_path: Path) -> None:
    other = next(known for known in EMBEDDED if known.split != MINI.split)
    handed = mini_submission(tmp_path, ranked_run(), fingerprint=other.eval)
    with pytest.raises(SubmissionRefused) as refused:
        recompute(handed, tmp_path / "no data")
    [problem] = refused.value.problems
    assert problem.check == "known-fingerprint" and other.label in problem.what
