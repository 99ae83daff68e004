"""Mutated submissions through the parsers, and end to end; as a program it goes on for a while.

    python submissions.py SECONDS [FIRST SEED]

Whatever is accepted must have the scores that plain loops compute from the very bytes that were accepted, and
whatever is refused is refused by one of our errors.
"""

import logging
import math
import random
import shutil
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "leaderboard" / "hostile"))
sys.path.append(str(Path(__file__).parent))
from hostile_kit import Folder, Row, make_data, plain, ranking, valid_submission
from mutate_submissions import (
    archive_changed,
    card_changed,
    parquet_changed,
    rows_changed,
    submission_changed,
    trec_changed,
)
from support.plain_scores import KNOWN, PlainSplit, ranked, rows_of, value

from m2kr.errors import M2KRError
from m2kr.retrieval.run import Run
from m2kr_leaderboard.card_reader import read_card
from m2kr_leaderboard.problems import SubmissionRefused
from m2kr_leaderboard.recompute import recompute
from m2kr_leaderboard.scored import ScoredSubmission
from m2kr_leaderboard.submission import opened_submission


@dataclass(frozen=True)
class Ground:
    """What mutants are made from.

    Attributes:
        data: A data root with judge files.
        valid: A submission.
        rows: By file of its card the rows of the run.
        splits: By source what the plain loops read.
        work: A folder for the time being.
    """

    data: Path
    valid: Path
    rows: dict[str, list[Row]]
    splits: dict[str, PlainSplit]
    work: Path

    @classmethod
    def make(cls, root: Path) -> "Ground":
        """Writes all of it."""
        valid = valid_submission(root / "valid")
        runs = Folder(valid).card["runs"]
        (root / "work").mkdir()
        return cls(
            make_data(root / "data"),
            valid,
            {run["file"]: ranking(run["source"]) for run in runs},
            {run["source"]: plain(run["source"]) for run in runs},
            root / "work",
        )


def parse_one(ground: Ground, seed: int) -> str:
    """A mutated card, archive or run file through its parser; what became of it."""
    draw = random.Random(f"parser {seed}")
    kind = ("card", "archive", "parquet", "trec")[seed % 4]
    source = draw.choice(list(ground.splits))
    path = ground.work / {"card": "system.yaml", "archive": f"{ground.valid.name}.zip"}.get(
        kind, f"run.{'parquet' if kind == 'parquet' else 'trec.gz'}"
    )
    if kind == "card":
        path.write_bytes(card_changed((ground.valid / "system.yaml").read_bytes(), draw))
    elif kind == "archive":
        path.write_bytes(archive_changed(_files(ground), draw))
    else:
        rows = rows_changed(ranking_of(source), draw)
        path.write_bytes((parquet_changed if kind == "parquet" else trec_changed)(rows, draw))
    try:
        if kind == "card":
            read_card(path)
        elif kind == "archive":
            with opened_submission(path):
                pass
        else:
            Run.load(path)
    except M2KRError as error:
        assert str(error).strip()
        return f"{kind} refused"
    return f"{kind} accepted"


_RANKINGS: dict[str, list[Row]] = {}
_FILES: dict[Path, dict[str, bytes]] = {}


def ranking_of(source: str) -> list[Row]:
    """Some of a run's rows, made once."""
    if source not in _RANKINGS:
        _RANKINGS[source] = ranking(source, depth=8)
    return _RANKINGS[source]


def _files(ground: Ground) -> dict[str, bytes]:
    if ground.valid not in _FILES:
        _FILES[ground.valid] = {
            f"{ground.valid.name}/{p.relative_to(ground.valid).as_posix()}": p.read_bytes()
            for p in sorted(ground.valid.rglob("*"))
            if p.is_file()
        }
    return _FILES[ground.valid]


def score_one(ground: Ground, seed: int) -> str:
    """A mutated submission through the whole door; what became of it."""
    shutil.rmtree(ground.work)
    ground.work.mkdir()
    draw = random.Random(f"whole {seed}")
    path = submission_changed(ground.valid, ground.work, ground.rows, draw)
    try:
        with opened_submission(path) as submission:
            scored = recompute(submission, ground.data)
    except SubmissionRefused as refused:
        assert refused.problems and all(p.check and p.what and p.where for p in refused.problems)
        return "refused: " + min({problem.check for problem in refused.problems})
    require_right(ground, path, scored)
    return "accepted"


def require_right(ground: Ground, path: Path, scored: ScoredSubmission) -> None:
    """The scores are those of plain loops over the bytes."""
    folder = path
    if path.suffix == ".zip":
        folder = ground.work / "unpacked"
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        [folder] = folder.iterdir()
    assert scored.runs
    for run in scored.runs:
        split = ground.splits[run.submitted.source]
        ranking = ranked(rows_of(folder / run.submitted.file), run.submitted.k)
        assert set(ranking) == set(split.right)
        checked = 0
        for metric, facts in run.result.metrics.items():
            if metric.partition("@")[0] not in KNOWN:
                continue
            mean, n = value(metric, split, ranking)
            assert n == facts["n"], (metric, n, facts)
            stated = facts["value"]
            assert stated is not None and math.isclose(mean, stated, abs_tol=1e-9), (
                metric,
                mean,
                facts,
            )
            claim = run.submitted.scores.get(metric, mean)
            assert abs(claim - mean) <= 1e-6 + 1e-12, (metric, claim, mean)
            checked += 1
        assert checked >= 5
        assert not run.verified  # nobody knows these data


def main() -> None:
    seconds, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10**6
    logging.disable()  # of odd runs
    began, counts, faults = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="m2kr-fuzz-") as root:
        ground = Ground.make(Path(root))
        while time.monotonic() - began < seconds:
            seed += 1
            try:
                for _ in range(4):
                    counts[parse_one(ground, seed)] += 1
                    seed += 1
                counts["whole " + score_one(ground, seed)] += 1
            except Exception:  # noqa: BLE001 - each is told, and the next is tried
                faults += 1
                print(f"seed {seed}", file=sys.stderr)
                traceback.print_exc()
                if faults >= 20:
                    break
    whole = sum(n for name, n in counts.items() if name.startswith("whole"))
    for name, n in sorted(counts.items()):
        print(f"{n:9,d}  {name}")
    print(
        f"{sum(counts.values()) - whole:,} at parser level and {whole:,} end to end in "
        f"{time.monotonic() - began:.0f} s; accepted {counts['whole accepted'] / max(1, whole):.1%}; "
        f"{faults} faults"
    )
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
