"""Retrieval and loss while training."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import m2kr
from m2kr.errors import MissingError, UsageError
from m2kr.preflmr import PreFLMR
from m2kr.training.batch_encoder import BatchEncoder
from m2kr.training.recipe import Share
from m2kr.training.sampled_split import sample
from m2kr.training.trained_parts import set_trained
from m2kr.training.validation import Validator
from tests.support.tiny_training import CHECKPOINT, SOURCE, tiny_recipe

VALID = Share(SOURCE, "train")


@pytest.fixture
def model() -> Iterator[PreFLMR]:
    yield PreFLMR.from_pretrained(CHECKPOINT)


def recipe(**validation: Any) -> Any:
    start = validation.pop("start", {})
    asked = {"sources": (VALID,), "every": 1, "metric": "mrr@7", **validation}
    return tiny_recipe(validation=asked, start=start, data=validation.pop("data", {}))


def state_of(model: PreFLMR) -> list[Any]:
    modes = [part.training for part in model.modules()]
    arrays = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    return [modes, *arrays, random.getstate(), model.config, model.masks]


def test_on_a_whole_split_it_is_the_evaluation_of_the_saved_checkpoint(
    data: Path, model: PreFLMR, tmp_path: Path
) -> None:
    with torch.no_grad():  # weights that no file has
        model.query_text_encoder_linear.weight.mul_(torch.linspace(0.5, 2, 16)[:, None])
    asked = recipe(queries=None, loss_queries=7)
    set_trained(model, asked)
    BatchEncoder(model, asked).train()
    before = state_of(model)
    validator = Validator(asked, data)
    values = validator.validate(model, 5)
    assert state_of(model) == before
    model.save_pretrained(tmp_path / "saved")
    split = m2kr.load(SOURCE, "train", data=data)
    (result,) = m2kr.evaluate(
        split,
        "preflmr",
        settings={"checkpoint": str(tmp_path / "saved")},
        metrics=["mrr@7", "default"],
    )
    for name in ("mrr@7", "hit_rate@1", "hit_rate@5", "hit_rate@10"):
        assert values[name] == values[f"{SOURCE}/train/{name}"] == result.value(name)
    assert 0 < values["hit_rate@10"] < 1
    assert values["step"] == 5
    assert values["loss"] > 0
    assert validator.validate(model, 6) == values | {"step": 6}
    # Rows of passages are kept while what makes them is frozen, and only then.
    with torch.no_grad():
        model.context_text_encoder_linear.weight.mul_(torch.linspace(0.5, 2, 16)[:, None])
    changed = validator.validate(model, 7)
    assert changed != values | {"step": 7}
    assert changed == Validator(asked, data).validate(model, 7)


def test_the_loss_is_of_fixed_visits_whatever_the_seed(data: Path, model: PreFLMR) -> None:
    def loss(seed: int, batch: int, **more: Any) -> float:
        asked = tiny_recipe(
            steps={"seed": seed, "batch": batch},
            validation={"sources": (VALID,), "queries": 3, "loss_queries": 9},
            **more,
        )
        return Validator(asked, data).validate(model, 0)["loss"]

    two = loss(1, 4, negatives={"uniform": 2})
    # Mined negatives and a teacher are of the training split.
    mined = {"uniform": 1, "mined": 1, "file": "of-the-training-split.parquet"}
    assert loss(2, 4, negatives=mined, distillation={"kind": "kl", "file": "teacher.trec"}) == two
    assert loss(1, 9, negatives={"uniform": 2}) != two


def test_samples_are_fixed_and_hold_every_right_passage(data: Path) -> None:
    split = m2kr.load(SOURCE, "train", data=data)
    part = sample(split, np.arange(len(split)), 10, 20)
    again = sample(split, np.arange(len(split)), 10, 20)
    ids = part.passages_view.ids.to_pylist()
    assert (len(part), len(ids), len(set(ids))) == (10, 20, 20)
    assert {p for query in part for p in query["pos_item_ids"]} <= set(ids)
    assert part.queries.to_list() == again.queries.to_list()
    assert part.passages.to_list() == again.passages.to_list()
    assert not set(part.fingerprints.values()) & set(split.fingerprints.values())
    assert len(sample(split, np.arange(48), 10, 3).passages_view) == 10
    whole = sample(split, np.arange(48), None, 48)
    assert whole.fingerprints == split.fingerprints
    (whole_scores,), (sampled,) = (m2kr.evaluate(each, "bm25") for each in (whole, part))
    assert whole_scores.metrics == m2kr.evaluate(split, "bm25")[0].metrics
    assert sampled.counts["passages"] == 20
    assert sampled.value("hit_rate@1") is not None
    shares = (VALID, VALID, Share(SOURCE, "train", tasks=("Q2T",)))
    facts = Validator(recipe(sources=shares, queries=10, passages=20), data).facts()
    assert not any(each["whole_pool"] for each in facts)
    names = [f"{SOURCE}/train,{SOURCE},1", f"{SOURCE}/train,{SOURCE},2", f"{SOURCE}/train,Q2T"]
    assert [each["name"] for each in facts] == names


def test_queries_are_asked_as_in_training(data: Path, model: PreFLMR) -> None:
    def score(**changes: Any) -> float:
        asked = tiny_recipe(
            validation={"sources": (VALID,), "queries": None, "metric": "mrr@10"}, **changes
        )
        return Validator(asked, data).validate(model, 0)["mrr@10"]

    plain = score()
    config = model.config
    for change in (
        {"start": {"text_rows": False}},
        {"start": {"image_rows": False}, "data": {"instructions": "unmasked"}},
    ):
        assert score(**change) != plain
        assert model.config is config


def test_what_is_missing_is_said_when_it_is_opened(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no validation sources"):
        Validator(tiny_recipe(), data)
    with pytest.raises((MissingError, UsageError), match="nowhere"):
        Validator(recipe(sources=(VALID, Share("nowhere", "valid"))), data)
    with pytest.raises(UsageError, match="mrrr"):
        Validator(recipe(metric="mrrr@5"), data)
    m2kr.from_records({"a": "one"}, {"q": "what?"}, name="unjudged", data=tmp_path)
    with pytest.raises(MissingError, match="no judgements"):
        Validator(recipe(sources=(Share("unjudged", "test"),)), tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    rows = [{"id": "q", "img_path": "a.jpg", "positives": ["a"]}]
    m2kr.from_records({"a": "one"}, rows, name="seen", data=tmp_path, images=tmp_path / "photos")
    (tmp_path / "photos" / "a.jpg").unlink()
    with pytest.raises(MissingError, match=r"a\.jpg"):
        Validator(recipe(sources=(Share("seen", "test"),)), tmp_path)


def test_conditions_choose_the_queries_of_retrieval_too(data: Path, model: PreFLMR) -> None:
    some = Share(SOURCE, "train", where=("question_id=q3|q5|q8",))
    validator = Validator(recipe(sources=(some,), queries=None, loss_queries=3), data)
    (facts,) = validator.facts()
    assert facts["queries"] == 3
    assert facts["name"] == f"{SOURCE}/train,question_id=q3|q5|q8"
