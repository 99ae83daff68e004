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
        f"{found['padded'] / found['exact']:.1f} times than padded; "
        f"one query alone {found['alone'] / found['exact']:.2f} times its share of a batch"
    )
    assert found["of packed's best 100"] >= 99
    if found["peak"]:
        print(f"{found['exact'] / found['peak']:.2f} times what the kernel takes in the cache")
        # Seen: 6.3 to 7.6 with AVX-512, 3.4 to 3.7 with AVX-VNNI, 2.3 with AVX2 alone.
        times = {"avx512-vnni": 4.5, "avx-vnni": 2.5, "avx2": 1.8}.get(found["kernel"], 1.5)
        least = {"packed": times, "padded": 2 * times}
        assert found["alone"] <= 1.6 * found["exact"]  # seen: 1.2 to 1.3
        assert found["ten"] <= 1.5 * found["peak"]  # seen: 1.05 to 1.1
    elif found["passes"] == ["float32"]:
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
@pytest.mark.parametrize("passages", [1_000, 10_000, *([100_000] if WHOLE else [])])
def test_cost_by_rows_and_passages(passages: int, tmp_path: Path) -> None:
    cost(STEPS, "write", tmp_path, passages)
    found = cost(STEPS, "shapes", tmp_path, passages)
    assert found["32 rows"]["batch"] < found["100 rows"]["batch"] < found["320 rows"]["batch"]


@pytest.mark.slow
def test_memory_stays_within_the_budget(tmp_path: Path) -> None:
    passages = 45_000 if WHOLE else 25_000
    cost(STEPS, "write", tmp_path, passages)
    found = cost(STEPS, "budget", tmp_path, passages)
    # Codes, half as big as the store, and tokens of chosen passages.
    assert found["read"] >= 5 * found["memory"]
    # Over what the imports take; torch's own libraries, read in by the first product, are in it.
    assert found["over"] <= found["memory"] + 240 * MB


@pytest.mark.slow
def test_dense_search_stays_within_the_budget(tmp_path: Path) -> None:
    cost(STEPS, "dense_file", tmp_path, 500_000)
    found = cost(STEPS, "dense_budget", tmp_path, 500_000)
    assert found["over"] <= found["memory"] + 100 * MB
