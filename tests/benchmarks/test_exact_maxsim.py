"""Exact MaxSim search against the plain ways in torch, in one run; and its memory."""

from pathlib import Path

import pytest
from support.own_process import WHOLE, cost

STEPS = Path(__file__).with_name("exact_cost.py")
INFO = Path("/proc/cpuinfo")
CPU = INFO.read_text(encoding="utf-8") if INFO.is_file() else ""
MB = 1 << 20


@pytest.mark.slow
def test_exact_maxsim(tmp_path: Path) -> None:
    cost(STEPS, "write", tmp_path, 10_000)
    found = cost(STEPS, "compare", tmp_path, 10_000)
    print(
        f"exact: {found['packed'] / found['exact']:.1f} times cheaper than packed float32, "
        f"{found['padded'] / found['exact']:.1f} times than padded"
    )
    assert found["of packed's best 100"] >= 99
    if found["passes"] == ["float32"]:
        # A processor that multiplies int8 and bf16 no faster, as one with AVX2 alone: seen 1.3 to 1.5
        # and 2.7 to 3.1.
        least = {"packed": 1.0, "padded": 2.0}
    elif "amx_int8" not in CPU:
        # int8 and bf16 by AVX-512 alone: seen 1.9 to 2.8 and 4.4 to 5.6.
        least = {"packed": 1.5, "padded": 3.5}
    else:
        # Wanted: 3 and 10. Seen on a busy machine: 2.8 to 3.7, and 9.9 to 10.8.
        least = {"packed": 2.5, "padded": 8.0}
    for rival, times in least.items():
        assert found["exact"] <= found[rival] / times


@pytest.mark.slow
def test_memory_stays_within_the_budget(tmp_path: Path) -> None:
    passages = 45_000 if WHOLE else 25_000
    cost(STEPS, "write", tmp_path, passages)
    found = cost(STEPS, "budget", tmp_path, passages)
    assert found["read"] >= 9.9 * found["memory"]
    # Over what the imports take; torch's own libraries, read in by the first product, are in it.
    assert found["over"] <= found["memory"] + 240 * MB


@pytest.mark.slow
def test_dense_search_stays_within_the_budget(tmp_path: Path) -> None:
    cost(STEPS, "dense_file", tmp_path, 500_000)
    found = cost(STEPS, "dense_budget", tmp_path, 500_000)
    assert found["over"] <= found["memory"] + 100 * MB
