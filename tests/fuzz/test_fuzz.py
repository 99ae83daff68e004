"""Every parser against its seeds, random bytes and a coverage-guided fuzzer."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.own_process import WHOLE

sys.path.insert(0, str(Path(__file__).parent))
from targets import SEEDS, TARGETS, one

FUZZ = Path(__file__).with_name("fuzz.py")
SECONDS = 60 if WHOLE else 5


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_their_cuts(name: str) -> None:
    for seed in SEEDS[name]:
        for end in range(0, len(seed) + 1, max(1, len(seed) // 40)):
            one(name, seed[:end])


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_bytes_and_mutations(name: str, data: st.DataObject) -> None:
    random = data.draw(st.binary(max_size=300))
    one(name, random)
    if SEEDS[name]:
        seed = data.draw(st.sampled_from(SEEDS[name]))
        at = data.draw(st.integers(0, len(seed)))
        one(name, seed[:at] + random[:20] + seed[at + data.draw(st.integers(0, 8)) :])


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_coverage_guided(name: str) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris has no build for this platform")
    done = subprocess.run(
        [sys.executable, str(FUZZ), name, str(SECONDS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    tried = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    assert tried and int(tried[1]) > 50, done.stderr[-2000:]
    print(f"{name}: {tried[1]} inputs in {SECONDS} s")
