"""`m2kr study train-demo` on the whole of mini: what the four stages learn, three times. An hour."""

import os
from pathlib import Path
from statistics import fmean

import pytest

from m2kr.training.study import run_study
from m2kr.training.study_file import load_study


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("M2KR_WHOLE"), reason="M2KR_WHOLE=1 trains 21 stages, for an hour"
)
def test_the_four_stages_find_again_what_they_have_seen(mini_root: Path, tmp_path: Path) -> None:
    outcome = run_study(
        load_study("train-demo", {"seed": "0,1,2"}), data=mini_root, out=tmp_path / "out"
    )
    on_seen = [tested for tested in outcome.tests if tested.evaluation == "seen"]
    assert len(on_seen) == 3
    for tested in on_seen:
        compared = tested.comparison.by_source["mini/seen"]["hit_rate@5"]
        trained = "preflmr four stages"
        for pair in compared.pairs:
            if trained in (pair.a, pair.b):
                other = pair.b if pair.a == trained else pair.a
                sign = 1 if pair.a == trained else -1
                if other in ("bm25", "dense_text", "preflmr untrained"):
                    assert sign * pair.difference > 0, (tested.repeat, other)
                    assert pair.p_holm < 0.01, (tested.repeat, other)
    # Nothing was there to be learned of shuffled labels. Texts are found without any, by the text encoder
    # that arrives trained, so that image-only queries tell: 22, two of them .09.
    on_images = {
        name: [
            one.results["seen"].groups["task"]["I2T"]["metrics"]["hit_rate@5"]["value"]
            for one in outcome.scored
            if one.system.name == name and one.system.last
        ]
        for name in ("labels shuffled", "untrained")
    }
    assert len(on_images["labels shuffled"]) == 3
    assert fmean(on_images["labels shuffled"]) <= fmean(on_images["untrained"]) + 0.1
