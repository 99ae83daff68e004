"""Chunks, recomputed layers and frozen layers' results change no gradient; rows are the model's own."""

import dataclasses

import pytest
import torch
from training import tiny_batches

from m2kr.training.batch import FrozenText, TrainingBatch
from m2kr.training.batch_encoder import BatchEncoder, Encoded
from m2kr.training.objective import Objective
from m2kr.training.recipe import Data, Distillation, Recipe, Start


def step(recipe: Recipe, batch: TrainingBatch, **how: object) -> dict[str, torch.Tensor]:
    """Gradients of one step, all parameters together."""
    model = tiny_batches.tiny(recipe)
    encoder = BatchEncoder(model, recipe)
    if how.get("dropout"):
        encoder.train()
    torch.manual_seed(3)
    Objective(recipe).backward(encoder, batch)
    return tiny_batches.gradients(model)


def test_any_chunk_is_the_whole_batch() -> None:
    batch = tiny_batches.batch(5, 2)
    distillation = Distillation("kl", "file")
    wanted = step(tiny_batches.recipe(distillation=distillation), batch)
    for chunk in (1, 2, 3, 5, 9):
        recipe = tiny_batches.recipe(distillation=distillation, chunk=chunk)
        tiny_batches.assert_equal(step(recipe, batch), wanted)


def test_dropout_is_the_same_both_times() -> None:
    """Against chunks whose graphs are all kept."""
    batch = tiny_batches.batch(5, 2)
    recipe = tiny_batches.recipe(chunk=2)
    found = step(recipe, batch, dropout=True)
    after = torch.get_rng_state()
    model = tiny_batches.tiny(recipe)
    encoder = BatchEncoder(model, recipe).train()
    torch.manual_seed(3)
    parts = [encoder(batch.part(n, min(5, n + 2))) for n in (0, 2, 4)]
    assert torch.equal(torch.get_rng_state(), after)

    class Whole(torch.nn.Module):
        def forward(self, batch: TrainingBatch) -> Encoded:
            return Encoded(*(torch.cat(each) for each in zip(*parts, strict=True)))

    Objective(tiny_batches.recipe()).backward(Whole(), batch)
    tiny_batches.assert_equal(found, tiny_batches.gradients(model))
    still = step(recipe, batch)
    assert not torch.equal(
        found["query_text_encoder_linear.weight"], still["query_text_encoder_linear.weight"]
    )


def test_bfloat16_loses_no_gradient_in_chunks() -> None:
    """Autocast keeps cast weights, which must not be those of the pass without a graph."""
    batch, norms = tiny_batches.batch(4, 2), []
    for chunk in (None, 2):
        recipe = tiny_batches.recipe(chunk=chunk)
        model = tiny_batches.tiny(recipe).float()
        with torch.autocast("cpu", torch.bfloat16):
            Objective(recipe).backward(BatchEncoder(model, recipe), batch)
        norms.append({name: float(g.norm()) for name, g in tiny_batches.gradients(model).items()})
    assert norms[0].keys() == norms[1].keys()
    largest = max(norms[0].values())
    for name, each in norms[0].items():
        assert norms[1][name] == pytest.approx(each, rel=0.05, abs=0.01 * largest), name


@pytest.mark.parametrize("chunk", [None, 2])
def test_layers_computed_again_give_the_same_gradients(chunk: int | None) -> None:
    batch, trained = tiny_batches.batch(3, 2), (*tiny_batches.PARTS, "vision_encoder")
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = dataclasses.replace(
        batch, pixel_values=pixels, image_features=None, patch_features=None
    )
    again = [
        step(
            tiny_batches.recipe(trained=trained, chunk=chunk, checkpoint_activations=on),
            batch,
            dropout=True,
        )
        for on in (False, True)
    ]
    tiny_batches.assert_equal(again[1], again[0])


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_text_goes_on_from_any_layer(layer: int) -> None:
    """Same rows, and the same gradients of what comes after."""
    batch = tiny_batches.batch(3, 2)
    recipe = dataclasses.replace(tiny_batches.recipe(), text_layers=2 - layer)
    if layer == 2:
        recipe = tiny_batches.recipe(trained=("text_linear", "mapping"))
    model = tiny_batches.tiny(recipe)
    encoder = BatchEncoder(model, recipe)
    begun = {}
    for side in ("query", "passage"):
        with torch.no_grad():
            hidden = model.query_text_encoder.bert_model(
                input_ids=getattr(batch, f"{side}_ids"),
                attention_mask=getattr(batch, f"{side}_attended"),
                output_hidden_states=True,
            ).hidden_states
        begun[f"{side}_text"] = FrozenText(hidden[layer], layer)
    short = dataclasses.replace(batch, **begun)  # type: ignore[arg-type]
    for found, wanted in zip(encoder(short), encoder(batch), strict=True):
        seen = batch.passage_attended.bool()
        if found.shape[:2] == seen.shape:  # what fillers make is masked, and may differ
            found, wanted = found[seen], wanted[seen]
        assert torch.allclose(found.double(), wanted.double(), rtol=0, atol=1e-12)
    Objective(recipe).backward(encoder, batch)
    wanted_gradients = tiny_batches.gradients(model)
    Objective(recipe).backward(encoder, short.part(0, 3))
    tiny_batches.assert_equal(tiny_batches.gradients(model), wanted_gradients)


def test_rows_that_a_recipe_leaves_out() -> None:
    batch = tiny_batches.batch(3, 2)
    rows = {
        name: BatchEncoder(tiny_batches.tiny(recipe), recipe)(batch).queries
        for name, recipe in {
            "all": tiny_batches.recipe(),
            "image": tiny_batches.recipe(start=Start(text_rows=False), trained=("mapping",)),
            "text": tiny_batches.recipe(start=Start(image_rows=False), trained=("text_linear",)),
            "unmasked": tiny_batches.recipe(data=Data(instructions="unmasked")),
        }.items()
    }
    tokens = batch.query_ids.shape[1]
    assert torch.equal(rows["all"][:, tokens:], rows["image"])
    assert torch.equal(rows["all"][:, :tokens], rows["text"])
    # Tokens 2 and 3 are the instruction, which the colon ends.
    assert rows["all"][:, 2:4].eq(0).all()
    there = batch.query_ids[:, 2:4] != 0
    assert rows["unmasked"][:, 2:4].norm(dim=2)[there].allclose(torch.ones(1).double())
    kept = [0, 1, *range(4, rows["all"].shape[1])]
    assert torch.equal(rows["all"][:, kept], rows["unmasked"][:, kept])


def test_frozen_parts_drop_nothing_and_get_no_gradient() -> None:
    recipe = tiny_batches.recipe(trained=("mapping",), start=Start(text_rows=False))
    model = tiny_batches.tiny(recipe)
    encoder = BatchEncoder(model, recipe).train()
    assert not model.query_text_encoder.bert_model.encoder.layer[0].training
    assert model.transformer_mapping_network.training
    batch = tiny_batches.batch(3, 2)
    documents = [encoder(batch).documents for _ in range(2)]
    assert not documents[0].requires_grad
    assert torch.equal(*documents)
    Objective(recipe).backward(encoder, batch)
    assert {name.partition("_")[0] for name in tiny_batches.gradients(model)} == {"transformer"}
