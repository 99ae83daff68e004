"""Ten sources are recomputed in a minute on two cores and 2 GB, each run read and hashed once."""

from pathlib import Path

import pytest
from support.own_process import WHOLE, cost

STEPS = Path(__file__).with_name("recompute_cost.py")
GB = 10**9


@pytest.mark.slow
def test_ten_sources_500_deep(tmp_path: Path) -> None:
    queries = 5_120 if WHOLE else 512
    cost(STEPS, "make", tmp_path, queries)
    parquet, trec = (cost(STEPS, step, tmp_path, queries) for step in ("parquet", "trec"))
    for done in (parquet, trec):
        assert (done["read"], done["hashed"], done["kept"]) == (10, 10, 0)
        assert done["peak"] <= 2 * GB
    assert parquet["hit_rate"] == trec["hit_rate"]
    assert all(0.05 < rate < 0.3 for rate in parquet["hit_rate"])
