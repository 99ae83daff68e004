"""One of WIT's files against plain gunzip and pyarrow's CSV reader alone, in one run."""

import statistics
from pathlib import Path

import pytest
from support.own_process import WHOLE, cost

STEPS = Path(__file__).with_name("wit_cost.py")
ROWS = 300_000 if WHOLE else 100_000
GB = 10**9


@pytest.mark.slow
def test_wit(tmp_path: Path) -> None:
    made = cost(STEPS, "make", tmp_path, ROWS)
    rounds = [
        (cost(STEPS, "rival", tmp_path, ROWS), cost(STEPS, "ours", tmp_path, ROWS))
        for _ in range(3)
    ]
    speed = statistics.median(rival["seconds"] / ours["seconds"] for rival, ours in rounds)
    rate = made["text"] / statistics.median(ours["seconds"] for _, ours in rounds)
    print(
        f"{speed:.2f} of gunzip and pyarrow.csv, which write nothing; {rate / 1e6:.0f} MB/s of TSV"
    )
    assert all(ours["english"] == -(-ROWS // 7) for _, ours in rounds)
    assert all(ours["peak"] <= GB for _, ours in rounds)
    assert speed >= 0.6
