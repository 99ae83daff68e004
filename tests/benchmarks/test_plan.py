"""``m2kr index plan`` against what a pool then takes, in one run."""

from pathlib import Path

import pytest
from own_process import cost

SCRIPT = Path(__file__).with_name("plan_cost.py")


@pytest.mark.slow
def test_a_plan_comes_true(tmp_path: Path) -> None:
    """Bytes to a twentieth; seconds, which depend on what tokens are like, within a factor of 5."""
    found = cost(SCRIPT, "check", tmp_path, 4_000)
    assert found["centroids"][0] == found["centroids"][1]
    planned, real = found["store"]
    assert abs(planned / real - 1) < 0.001
    planned, real = found["index"]
    assert 1 <= planned / real < 1.05
    for mode in ("exact", "compressed"):
        planned, real = found[mode]
        assert 1 / 5 < planned / real < 5, (mode, planned, real)
