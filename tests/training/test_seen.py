"""Training on mini finds again what it has seen: one seed, 30 steps, a pool of 600 passages.

The whole demonstration, with three seeds, is in `test_train_demo.py`.
"""

from pathlib import Path

import pytest

from m2kr.training.study import run_study
from m2kr.training.study_file import load_study

STUDY = """
name: seen
title: What training on mini finds again of what it has seen
set:
  start.checkpoint: embedded
  data.keep_frozen: true
  data.sources: [{source: mini}]
  negatives.uniform: 0
  trained: [text_linear, vision_projection, mapping]
  optimiser.lr: 2e-3
  optimiser.mapping_lr: 2e-3
  optimiser.schedule: linear
  optimiser.warmup: 5
  steps.batch: 32
  steps.accumulate: 1
  steps.precision: float32
  steps.steps: 30
  validation.sources: [{source: mini, split: valid}]
  validation.every: 0
  saving.every: 0
stages:
  all: {recipe: stage3}
  shuffled: {recipe: stage3, set: {data.shuffle_labels: true}}
arms:
  trained: [all]
  labels shuffled: [shuffled]
evaluations:
  seen: {source: mini, split: seen, passages: "600"}
baselines:
  bm25: {retriever: bm25}
  dense_text: {retriever: dense_text}
  untrained: {}
"""


@pytest.mark.slow
def test_training_beats_texts_alone_and_the_untrained_model_and_shuffled_labels_do_not(
    mini_root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "seen.yaml"
    file.write_text(STUDY, encoding="utf-8")
    outcome = run_study(load_study(str(file), {}), data=mini_root, out=tmp_path / "out")
    (tested,) = outcome.tests
    compared = tested.comparison.by_source["mini/seen"]["hit_rate@5"]
    better_by = {}
    for pair in compared.pairs:
        better_by[pair.a, pair.b] = (pair.difference, pair.p_holm)
        better_by[pair.b, pair.a] = (-pair.difference, pair.p_holm)
    trained = "preflmr trained"
    shuffled = "preflmr labels shuffled"
    for other in ("bm25", "dense_text", "preflmr untrained", shuffled):
        difference, p = better_by[trained, other]
        assert difference > 0.05, other
        assert p < 0.01, other
    # The text encoder arrives trained and finds texts whatever the labels: no more than dense_text does.
    assert better_by[shuffled, "dense_text"][0] < 0.05
    # Queries of an image alone can only be learned from labels: 22 of them.
    on_images = {
        one.system.name: one.results["seen"].groups["task"]["I2T"]["metrics"]["hit_rate@5"]["value"]
        for one in outcome.scored
    }
    assert on_images["labels shuffled"] <= 0.2 < 0.3 <= on_images["trained"]
