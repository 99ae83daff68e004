"""The model from outside: inputs that mean the same give the same, and wrong ones are refused."""

import dataclasses
import logging
from typing import Any

import pytest
import torch

from m2kr.errors import InputError, UsageError
from m2kr.preflmr import PreFLMR, PreFLMRConfig
from m2kr.preflmr.model.configuration import BertSettings
from m2kr.preflmr.model.mapping import TransformerMapping

NAMES = ("tiny_preflmr", "tiny_flmr", "tiny_separate")
Models = dict[str, PreFLMR]
Inputs = dict[str, dict[str, torch.Tensor]]


def rows(output: Any) -> torch.Tensor:
    found = output.late_interaction_output
    assert isinstance(found, torch.Tensor)
    return found


def query(model: PreFLMR, arrays: dict[str, torch.Tensor], **more: Any) -> torch.Tensor:
    with torch.no_grad():
        return rows(model.query(arrays["q_input_ids"], arrays["q_attention_mask"], **more))


@pytest.mark.parametrize("name", NAMES)
def test_features_stand_for_pixels(models: Models, inputs: Inputs, name: str) -> None:
    model, arrays = models[name], inputs[name]
    pixels = arrays["pixel_values"]
    with torch.no_grad():
        features = model.vision(pixels)
    assert torch.equal(
        query(model, arrays, pixel_values=pixels), query(model, arrays, **features._asdict())
    )


def test_features_of_several_images_stand_for_pixels(models: Models, inputs: Inputs) -> None:
    model, arrays = models["tiny_flmr"], inputs["tiny_flmr"]
    pixels = arrays["pixel_values_rois"]
    with torch.no_grad():
        features = model.vision(pixels)
    assert features.image_features.shape == (*pixels.shape[:2], 24)
    assert features.patch_features.shape == (*pixels.shape[:2], 4, 24)
    with_features = query(model, arrays, image_features=features.image_features)
    assert torch.equal(query(model, arrays, pixel_values=pixels), with_features)


@pytest.mark.parametrize("name", NAMES)
def test_forward_takes_features_of_both_sides(models: Models, inputs: Inputs, name: str) -> None:
    model, arrays = models[name], inputs[name]
    n = len(arrays["q_input_ids"])
    share = {
        "query_input_ids": arrays["q_input_ids"][:2],
        "query_attention_mask": arrays["q_attention_mask"][:2],
        "context_input_ids": arrays["d_input_ids"][:4],
        "context_attention_mask": arrays["d_attention_mask"][:4],
        "context_concat_output_from_vision_encoder": True,
    }
    assert n >= 2
    pixels, context = arrays["pixel_values"][:2], arrays["d_pixel_values"]
    with torch.no_grad():
        plain = model(**share, query_pixel_values=pixels, context_pixel_values=context)
        seen, read = model.vision(pixels), model.vision(context, side="context")
        other = model(
            **share,
            query_image_features=seen.image_features,
            query_patch_features=seen.patch_features,
            context_image_features=read.image_features,
        )
    for a, b in zip(plain, other, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_documents_do_not_depend_on_padding(models: Models, name: str) -> None:
    model = models[name]
    assert model.context_tokenizer is not None
    texts = ["a short one", "a rather long text, with: punctuation! " * 3, ""]
    with torch.no_grad():
        full = model.doc(**model.context_tokenizer(texts))
        own = [model.doc(**model.context_tokenizer([t], padding="longest")) for t in texts]
    assert full.context_mask is not None
    for number, each in enumerate(own):
        width = rows(each).shape[1]
        assert each.context_mask is not None
        assert torch.equal(full.context_mask[number, :width], each.context_mask[0])
        assert not full.context_mask[number, width:].any()
        assert (rows(full)[number, :width] - rows(each)[0]).abs().max() <= 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_queries_do_not_depend_on_their_batch(models: Models, inputs: Inputs, name: str) -> None:
    model, arrays = models[name], inputs[name]
    together = query(model, arrays, pixel_values=arrays["pixel_values"])
    for n in range(len(together)):
        single = {key: arrays[key][n : n + 1] for key in ("q_input_ids", "q_attention_mask")}
        alone = query(model, single, pixel_values=arrays["pixel_values"][n : n + 1])
        assert (together[n] - alone[0]).abs().max() <= 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_unit_or_zero(models: Models, inputs: Inputs, name: str) -> None:
    model, arrays = models[name], inputs[name]
    found = query(model, arrays, pixel_values=arrays["pixel_values"])
    assert found.shape[1] == arrays["q_input_ids"].shape[1] + model.config.vision_rows
    norms = found.norm(dim=-1)
    assert ((norms - 1).abs() < 1e-5).logical_or(norms == 0).all()
    text = model.masks.query(arrays["q_input_ids"])
    assert torch.equal(norms[:, : text.shape[1]] > 0, text)


def test_a_text_hidden_whole_gives_no_nan() -> None:
    torch.manual_seed(0)
    settings = BertSettings(hidden_size=16, num_attention_heads=2)
    patches, text = torch.randn(1, 3, 16), torch.randn(1, 4, 16)
    none = torch.zeros(1, 4, dtype=torch.bool)
    with torch.no_grad():
        found = [
            TransformerMapping(settings, 1, attention).eval().apply(constant)(patches, text, none)
            for attention in ("sdpa", "eager")
        ]
    assert torch.isfinite(found[0]).all()
    assert (found[0] - found[1]).abs().max() <= 1e-6


def constant(module: torch.nn.Module) -> None:
    """Weights that depend on nothing but their shapes."""
    if isinstance(module, torch.nn.Linear):
        module.weight.data = torch.linspace(-0.3, 0.3, module.weight.numel()).view_as(module.weight)
        module.bias.data.fill_(0.1)


@pytest.mark.parametrize("name", NAMES)
def test_eager_attention_is_the_same(
    models: Models, inputs: Inputs, name: str, golden: Any
) -> None:
    eager = PreFLMR.from_pretrained(golden / name, attention="eager")
    arrays = inputs[name]
    pixels = arrays["pixel_values"]
    ours = query(models[name], arrays, pixel_values=pixels)
    assert (query(eager, arrays, pixel_values=pixels) - ours).abs().max() <= 2e-6


def test_the_mapping_network_looks_both_ways() -> None:
    # Without positions and causality, patches in another order come out in that order.
    torch.manual_seed(0)
    network = TransformerMapping(BertSettings(hidden_size=16, num_attention_heads=2), 2).eval()
    patches, text = torch.randn(2, 7, 16), torch.randn(2, 5, 16)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    with torch.no_grad():
        plain, moved = network(patches, text), network(patches[:, order], text)
    assert (plain[:, order] - moved).abs().max() <= 1e-5
    assert (plain - moved).abs().max() > 0.1


def test_hidden_text_does_not_reach_the_mapping_network() -> None:
    torch.manual_seed(0)
    network = TransformerMapping(BertSettings(hidden_size=16, num_attention_heads=2), 1).eval()
    patches, text = torch.randn(1, 3, 16), torch.randn(1, 4, 16)
    seen = torch.tensor([[True, False, True, True]])
    other = text.clone()
    other[:, 1] += 5
    with torch.no_grad():
        hidden = network(patches, text, seen) - network(patches, other, seen)
        shown = network(patches, text) - network(patches, other)
    assert hidden.abs().max() <= 1e-6 < 1e-3 < shown.abs().max()


def test_shared_sides_are_one_module(models: Models) -> None:
    shared, separate = models["tiny_preflmr"], models["tiny_separate"]
    assert shared.context_text_encoder is shared.query_text_encoder
    assert shared.context_vision_projection is shared.query_vision_projection
    assert separate.context_text_encoder is not separate.query_text_encoder
    assert not any(name.startswith("context_") for name in shared.state_dict())


def test_documents_without_their_empty_rows(models: Models, inputs: Inputs) -> None:
    model, arrays = models["tiny_preflmr"], inputs["tiny_preflmr"]
    tokens = (arrays["d_input_ids"], arrays["d_attention_mask"])
    with torch.no_grad():
        full = model.doc(*tokens)
        listed = model.doc(*tokens, keep_dims=False, return_mask=False)
    assert listed.context_mask is None
    assert full.context_mask is not None
    for row, kept, each in zip(
        rows(full), full.context_mask, listed.late_interaction_output, strict=True
    ):
        assert torch.equal(row[kept[:, 0]], each)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_runs(
    golden: Any, inputs: Inputs, models: Models, dtype: torch.dtype
) -> None:
    arrays = inputs["tiny_preflmr"]
    low = PreFLMR.from_pretrained(golden / "tiny_preflmr", dtype=dtype)
    found = query(low, arrays, pixel_values=arrays["pixel_values"])
    assert found.dtype == dtype
    wanted = query(models["tiny_preflmr"], arrays, pixel_values=arrays["pixel_values"])
    kept = wanted.norm(dim=-1) > 0
    assert ((found.float() * wanted).sum(-1)[kept] > 0.98).all()
    assert not found[~kept].any()


def test_unmasked_instructions_are_told_once(golden: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = PreFLMR.from_pretrained(golden / "tiny_preflmr")
    assert model.query_tokenizer is not None
    tokens = model.query_tokenizer(["no end of instruction", "with one : here"])
    with caplog.at_level(logging.WARNING), torch.no_grad():
        for _ in range(2):
            model.query(**tokens, concat_output_from_vision_encoder=False)
    assert caplog.text.count("1 of 2 queries") == 1


def test_training_reaches_every_used_parameter(golden: Any, inputs: Inputs) -> None:
    model = PreFLMR.from_pretrained(golden / "tiny_separate").train()
    arrays = inputs["tiny_separate"]
    output = model(
        arrays["q_input_ids"],
        arrays["q_attention_mask"],
        arrays["pixel_values"],
        context_input_ids=arrays["d_input_ids"][:6],
        context_attention_mask=arrays["d_attention_mask"][:6],
    )
    assert output.loss is output.in_batch_negative_loss
    output.loss.backward()
    without = {name for name, each in model.named_parameters() if each.grad is None}
    unused = ("pooler", "post_layernorm", "context_vision_encoder", "context_vision_projection")
    assert all(any(part in name for part in unused) for name in without)


def test_models_of_random_weights_are_reproducible() -> None:
    config = PreFLMRConfig.from_dict(
        {
            "text_config": {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
            | {"intermediate_size": 8, "vocab_size": 2000, "projection_dim": 4},
            "vision_config": {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
            | {"intermediate_size": 8, "image_size": 16, "patch_size": 8},
            "dim": 4,
            "mapping_network_prefix_length": 2,
        }
    )
    made = []
    for _ in range(2):
        torch.manual_seed(5)
        made.append(PreFLMR(config).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(made[0].values(), made[1].values(), strict=True))
    assert "query_text_encoder.encode_proj.weight" in made[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_without_vision_encoder_takes_features(
    models: Models, inputs: Inputs, name: str
) -> None:
    whole, arrays = models[name], inputs[name]
    config = dataclasses.replace(whole.config, use_vision_encoder=False)
    bare = PreFLMR(config, whole.query_tokenizer, whole.context_tokenizer).eval()
    state = whole.state_dict()
    bare.load_state_dict({each: state[each] for each in bare.state_dict()})
    with torch.no_grad():
        features = whole.vision(arrays["pixel_values"])._asdict()
    assert torch.equal(query(bare, arrays, **features), query(whole, arrays, **features))
    with pytest.raises(UsageError, match="no vision encoder"):
        query(bare, arrays, pixel_values=arrays["pixel_values"])


def test_what_does_not_fit_is_refused(models: Models, inputs: Inputs) -> None:
    model, arrays = models["tiny_preflmr"], inputs["tiny_preflmr"]
    pixels = arrays["pixel_values"]
    with torch.no_grad():
        features = model.vision(pixels)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("vision part is asked for", {}),
        ("pixel_values have the shape", {"pixel_values": pixels[..., :16]}),
        ("both pixel_values and image", {"pixel_values": pixels, **features._asdict()}),
        ("needs patch_features", {"image_features": features.image_features}),
        ("image_features have the shape", {"image_features": torch.zeros(5, 7)}),
        ("one image a query", {"pixel_values": torch.stack([pixels, pixels], dim=1)}),
        ("one image a query", {"pixel_values": pixels[:2]}),
        (
            "for text and vision alike",
            {"pixel_values": pixels, "concat_output_from_text_encoder": [True] * 5},
        ),
        (
            "4 switches for 5 samples",
            {
                "pixel_values": pixels,
                "concat_output_from_text_encoder": [True] * 4,
                "concat_output_from_vision_encoder": [True] * 4,
            },
        ),
        (
            "neither text nor vision",
            {"concat_output_from_text_encoder": False, "concat_output_from_vision_encoder": False},
        ),
    ]
    for says, more in cases:
        with pytest.raises((InputError, UsageError), match=says):
            query(model, arrays, **more)
    with pytest.raises(InputError, match="needs the query's text"):
        model.query(pixel_values=pixels, concat_output_from_text_encoder=False)
    with pytest.raises(InputError, match="text part is asked for"):
        model.doc()
    with pytest.raises(UsageError, match="queries only"):
        model.doc(concat_output_from_text_encoder=[True])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="attention is 'flash'"):
        PreFLMR(model.config, attention="flash")
    with pytest.raises(InputError, match="600 tokens"):
        model.doc(torch.ones(1, 600, dtype=torch.long), torch.ones(1, 600, dtype=torch.long))


def test_documents_must_fit_the_negatives(models: Models, inputs: Inputs) -> None:
    model, arrays = models["tiny_flmr"], inputs["tiny_flmr"]
    with pytest.raises(InputError, match="num_negative_examples is 2"):
        model(
            arrays["q_input_ids"],
            arrays["q_attention_mask"],
            arrays["pixel_values"],
            context_input_ids=arrays["d_input_ids"],
            context_attention_mask=arrays["d_attention_mask"],
            num_negative_examples=2,
        )


def test_the_loss_is_that_of_the_negatives_asked_for(models: Models, inputs: Inputs) -> None:
    model, arrays = models["tiny_flmr"], inputs["tiny_flmr"]
    tokens = {
        "query_input_ids": arrays["q_input_ids"],
        "query_attention_mask": arrays["q_attention_mask"],
        "query_pixel_values": arrays["pixel_values"],
        "context_input_ids": arrays["d_input_ids"],
        "context_attention_mask": arrays["d_attention_mask"],
        "num_negative_examples": 3,
    }
    with torch.no_grad():
        whole, own = model(**tokens), model(**tokens, use_in_batch_negatives=False)
    assert torch.equal(whole.scores, own.scores)
    assert own.in_batch_negative_loss is None
    assert torch.allclose(own.loss, -own.scores.log_softmax(1)[:, 0].mean())
    assert whole.loss > own.loss  # more documents compete
