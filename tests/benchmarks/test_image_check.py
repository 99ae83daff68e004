"""Checking images by decoding them, against a pool that does nothing but decode, in one run."""

from pathlib import Path

import pytest
from support.own_process import WHOLE, cost

STEPS = Path(__file__).with_name("image_cost.py")
MB = 10**6


@pytest.mark.slow
def test_image_check() -> None:
    images = 10_000 if WHOLE else 3_000
    checked = cost(STEPS, "check", Path("-"), images)
    print(
        f"{images:,} images of {checked['bytes_each'] / 1000:.0f} kB by {checked['jobs']} processes: "
        f"{checked['speed']:.2f} of a pool that only decodes, {images / checked['ours']:.0f} a second"
    )
    # 0.9 is the aim, met by 0.91 to 0.95 on two free cores; where others use them, too, the process
    # that feeds the pool costs more: 0.83 was seen.
    assert checked["speed"] >= 0.75
    assert checked["peak"] <= 600 * MB
