"""Batches: the queries and passages of evaluation, the same on however many ranks and threads."""

import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import m2kr
from m2kr.data.images.store import Missing
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.preflmr import PreFLMR
from m2kr.preflmr.encode.encoder import Encoder
from m2kr.retrievers._queries import query_text
from m2kr.training.batch import TrainingBatch
from m2kr.training.batch_encoder import BatchEncoder
from m2kr.training.loader import Loader
from m2kr.training.mine import mine
from m2kr.training.mixture import Mixture
from m2kr.training.model_inputs import FIXED_INSTRUCTION
from m2kr.training.recipe import Distillation, Negatives, Start, Steps
from tests.support.photo_source import photo_loader, photo_recipe, photo_source


def same(one: TrainingBatch, two: TrainingBatch) -> bool:
    pairs = [(getattr(one, each.name), getattr(two, each.name)) for each in fields(one)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("instructions", ["row", "none"])
def test_rows_are_those_that_evaluation_searches_with(
    root: Path, model: PreFLMR, instructions: str
) -> None:
    recipe = photo_recipe({"instructions": instructions}, steps=Steps(batch=12))
    loader = photo_loader(root, model, recipe)
    split = m2kr.load("pics", "train", data=root)
    encoder = Encoder(model, max_length=recipe.data.passage_tokens)
    batch = next(loader.steps())[0]
    with torch.no_grad():
        made = BatchEncoder(model, recipe).eval()(batch)
    queries = [split[visit.row] for visit in batch.visits]
    assert sorted(row["question_id"] for row in queries) == sorted(f"q{n}" for n in range(12))
    if instructions == "row":
        texts = [row["question"] for row in queries], [row["instruction"] for row in queries]
    else:
        texts = [query_text(row["question"], row["instruction"]) for row in queries], [""] * 12
    expected = encoder.queries(texts[0], [split.image(row) for row in queries], texts[1])
    for rows, wanted in zip(made.queries, expected, strict=True):
        own = rows[rows.norm(dim=1) > 0.5]
        np.testing.assert_allclose(own, wanted, atol=1e-5)
    contents = [split.texts([each.row])[0] for visit in batch.visits for each in visit.passages]
    for rows, mask, wanted in zip(
        made.documents, made.mask, encoder.passages(contents), strict=True
    ):
        np.testing.assert_allclose(rows[mask], wanted, atol=1e-5)


def test_instructions_are_the_rows_own_one_for_all_or_none(root: Path, model: PreFLMR) -> None:
    loaders = {
        kind: photo_loader(root, model, photo_recipe({"instructions": kind}))
        for kind in ("row", "fixed", "none", "unmasked")
    }
    batches = {kind: next(loader.steps())[0] for kind, loader in loaders.items()}
    made = {kind: batch.query_ids for kind, batch in batches.items()}
    assert torch.equal(made["row"], made["unmasked"])
    assert model.query_tokenizer is not None
    begun = model.query_tokenizer.encode(FIXED_INSTRUCTION, add_special_tokens=False)[:5]
    assert (made["fixed"][:, 2:7] == torch.tensor(begun)).all()
    assert not torch.equal(made["row"], made["fixed"])
    # An image alone is asked for by its instruction, whose text is then the question.
    split = m2kr.load("pics", "train", data=root)
    asked = [bool(split[visit.row]["question"]) for visit in batches["row"].visits]
    assert (made["none"] != made["row"]).any(dim=1).tolist() == asked


def test_ranks_part_what_one_process_loads(root: Path, model: PreFLMR) -> None:
    steps = Steps(batch=2, accumulate=2, steps=3)
    alone = list(photo_loader(root, model, photo_recipe(steps=replace(steps, batch=4))).steps())
    ranks = [
        list(photo_loader(root, model, photo_recipe(steps=steps), rank, 2).steps())
        for rank in range(2)
    ]
    assert [len(each) for each in alone] == [2, 2, 2]
    for step in range(3):
        for micro in range(2):
            whole, parts = alone[step][micro], [ranks[rank][step][micro] for rank in range(2)]
            assert whole.visits == parts[0].visits + parts[1].visits
            for name in ("query_ids", "passage_keys", "pixel_values"):
                joined = torch.cat([getattr(each, name) for each in parts])
                assert torch.equal(getattr(whole, name), joined)


def test_batches_are_the_same_from_whatever_step_and_with_however_many_threads(
    root: Path, model: PreFLMR, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = photo_recipe()
    first = list(photo_loader(root, model, recipe).steps())
    monkeypatch.setattr("m2kr.training.loader._WORKERS", 7)
    later = list(photo_loader(root, model, recipe).steps(2))
    assert len(first) == 5 and len(later) == 3
    assert all(same(a[0], b[0]) for a, b in zip(first[2:], later, strict=True))


def test_keys_are_equal_for_the_same_passage_and_tell_which_are_right(
    root: Path, model: PreFLMR
) -> None:
    loader = photo_loader(root, model, photo_recipe(steps=Steps(batch=12, steps=8)))
    by_text: dict[int, set[str]] = {}
    split = m2kr.load("pics", "train", data=root)
    for (batch,) in loader.steps():
        keys = batch.passage_keys.view(12, 3)
        for visit, own, right in zip(batch.visits, keys, batch.positive_keys, strict=True):
            assert own[0] in right and not set(own[1:].tolist()) & set(right.tolist())
            for drawn, key in zip(visit.passages, own.tolist(), strict=True):
                by_text.setdefault(key, set()).add(split.texts([drawn.row])[0].lower())
    assert all(len(texts) == 1 for texts in by_text.values())
    assert len(by_text) == 16  # two of 17 differ in case alone


def test_mined_negatives_come_first_and_a_teacher_scores_them(root: Path, model: PreFLMR) -> None:
    mined = mine("pics", "bm25", split="train", k=16, out=root / "mined.parquet", data=root)
    recipe = photo_recipe(
        negatives=Negatives(uniform=1, mined=1, file=str(mined)),
        distillation=Distillation("kl", str(mined)),
    )
    loader = photo_loader(root, model, recipe)
    origins = set()
    for (batch,) in loader.steps():
        assert batch.teacher_scores is not None and batch.teacher_scores.shape == (4, 3)
        for visit, scores in zip(batch.visits, batch.teacher_scores, strict=True):
            origins.add(tuple(each.origin for each in visit.passages))
            assert visit.passages[1].origin != "mined" or scores[1].isfinite()
    assert ("positive", "mined", "uniform") in origins
    assert origins <= {("positive", "mined", "uniform"), ("positive", "uniform", "uniform")}


def test_a_model_that_reads_no_images_loads_none(root: Path, model: PreFLMR) -> None:
    recipe = photo_recipe(start=Start(image_rows=False), trained=("text_encoder", "text_linear"))
    assert next(photo_loader(root, model, recipe).steps())[0].pixel_values is None


@pytest.mark.parametrize("policy", ["error", "black", "skip"])
def test_missing_images_are_told_before_the_first_step(
    root: Path, model: PreFLMR, tmp_path: Path, policy: Missing
) -> None:
    (tmp_path / "none").mkdir()
    split = m2kr.load("pics", "train", data=root)
    roots = split.manifest | {"image_roots": [str(tmp_path / "none")]}
    away = replace(split, manifest=roots, missing_images=policy)
    recipe = photo_recipe()
    if policy == "error":
        with pytest.raises(MissingError, match=r"pics/train.*0 of 4 images"):
            Loader(recipe, Mixture(recipe, [away]), model)
        return
    batch = next(Loader(recipe, Mixture(recipe, [away]), model).steps())[0]
    assert batch.pixel_values is not None
    assert (batch.pixel_values == batch.pixel_values[:1]).all()  # all black


def test_a_damaged_image_names_source_query_and_path_and_ends_the_threads(
    tmp_path: Path, model: PreFLMR
) -> None:
    photo_source(tmp_path)
    (tmp_path / "photos" / "1.jpg").write_bytes(b"\xff\xd8\xff no photograph")
    loader = photo_loader(tmp_path, model, photo_recipe())
    with pytest.raises(InputError, match=r"pics/train.*query 'q\d+', image '1.jpg'"):
        list(loader.steps())
    batches = photo_loader(tmp_path, model, photo_recipe({"instructions": "none"})).steps()
    batches.close()
    left = [each.name for each in threading.enumerate() if each.name.startswith("m2kr-ahead")]
    assert not left


@pytest.mark.parametrize(
    ("data", "ranks", "words"),
    [({"passage_tokens": 600}, (), "passage_tokens is 600"), ({}, (2, 2), "rank 2 of 2")],
)
def test_what_no_loader_can_do_is_refused(
    root: Path, model: PreFLMR, data: dict[str, int], ranks: tuple[int, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        photo_loader(root, model, photo_recipe(data), *ranks)
