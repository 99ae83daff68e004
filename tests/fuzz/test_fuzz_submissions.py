"""Mutated submissions never surprise, and none lands a wrong score."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from support.own_process import WHOLE

sys.path.append(str(Path(__file__).parent))
from submissions import Ground, parse_one, score_one

PARSED = 100_000 if WHOLE else 10_000
SCORED = 10_000 if WHOLE else 1_000


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground.make(tmp_path_factory.mktemp("fuzz"))


def test_a_few(ground: Ground) -> None:
    for seed in range(40):
        parse_one(ground, seed)
    for seed in range(8):
        score_one(ground, seed)


@pytest.mark.slow
def test_10000_cards_archives_and_run_files(ground: Ground) -> None:
    counts = Counter(parse_one(ground, seed) for seed in range(PARSED))
    print(dict(counts))
    for kind in ("card", "archive", "parquet", "trec"):  # neither side is starved
        assert counts[f"{kind} refused"] > PARSED // 100
        assert counts[f"{kind} accepted"] > PARSED // 200, counts


@pytest.mark.slow
def test_1000_submissions_end_to_end(ground: Ground) -> None:
    counts = Counter(score_one(ground, seed) for seed in range(SCORED))
    print(dict(counts))
    assert SCORED // 20 < counts["accepted"] < SCORED * 9 // 10, counts
