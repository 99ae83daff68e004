"""Loading training queries against training with them, and against a plain data loader."""

from pathlib import Path

import pytest
from support.own_process import cost

STEPS = Path(__file__).with_name("training_loader_cost.py")


@pytest.mark.slow
def test_the_loader_keeps_up_with_the_smallest_model(mini_root: Path) -> None:
    """ViT-B and BERT base, forward and backward, one negative a query."""
    spent = cost(STEPS, "compare", mini_root, 80)
    ratio, plain = spent["model"] / spent["ours"], spent["plain"] / spent["ours"]
    print(f"{ratio:.0f} times faster than the model, {plain:.1f} times faster than a plain loader")
    assert ratio >= 3
    assert plain >= 1.2
