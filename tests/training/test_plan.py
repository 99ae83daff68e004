"""What a training takes: rows, parameters, memory and products against what is counted another way."""

import json
from pathlib import Path

import pytest
from support.tiny_training import SOURCE, make_source, tiny_recipe

from m2kr.errors import MissingError, UsageError
from m2kr.training.measured_steps import Measured, NotMeasured
from m2kr.training.mix import mixed
from m2kr.training.mixture import Mixture, open_splits
from m2kr.training.plan import plan_training, planned_config
from m2kr.training.recipe import Share, Start
from m2kr.training.recipe_file import load_recipe
from m2kr.training.step_cost import memory_bytes, step_flop
from m2kr.training.validation import Validator

NEW = {"start.checkpoint": "null"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_source(root)
    make_source(root, "other")
    return root


def test_the_largest_model_is_planned_without_memory_data_or_network(tmp_path: Path) -> None:
    sizes = NEW | {"start.vision": "vit-g", "start.text": "large"}
    plan = plan_training(load_recipe("stage3", sizes), tmp_path)
    parts = plan.parameters["by_part"]
    assert parts["text_encoder"]["all"] == pytest.approx(2 * 335.1e6, rel=0.001)  # BERT-large's
    assert parts["vision_encoder"] == {"all": pytest.approx(1842.8e6, rel=0.001), "trained": 0}
    assert plan.parameters["all"] == sum(part["all"] for part in parts.values())
    trained = sum(part["trained"] for part in parts.values())
    assert plan.memory["gradients"] == 4 * trained
    assert plan.memory["AdamW"] == 8 * trained
    assert {source.source: source.rows for source in plan.sources}["infoseek"] == 100_000
    assert not any(source.built for source in plan.sources)
    assert sum(source.visits or 0 for source in plan.sources) == pytest.approx(50_000 * 64, abs=9)
    assert isinstance(plan.measured, NotMeasured)
    assert "not built" in plan.measured.why
    assert json.loads(json.dumps(plan.as_dict()))["hours"]["a data-centre GPU"]


def test_parameters_are_the_released_models(tmp_path: Path) -> None:
    plan = plan_training(load_recipe("stage1", {"start.vision": "vit-l"}), tmp_path)
    assert plan.parameters["all"] == pytest.approx(543.2e6, rel=1e-4)  # the model card's
    # The MLP; one layer of BERT with cross-attention and its linear maps.
    mlp = 1024 * 2048 + 2048 + 2048 * 4096 + 4096
    layer = 12 * 768**2 + 4 * 768**2 + (1024 + 1 + 128) * 768
    assert plan.parameters["trained"] == pytest.approx(mlp + layer, rel=3e-3)
    assert any("are not here" in note for note in plan.notes)


def test_a_released_model_that_is_not_here_has_its_sizes() -> None:
    config, _, assumed = planned_config(load_recipe("fine-tuning").start)
    assert config.vision_config.num_hidden_layers == 24
    assert "PreFLMR_ViT-L is not here" in assumed[0]
    config, _, assumed = planned_config(load_recipe("stage3").start)
    assert "sizes of vit-b" in assumed[0]


def test_products_follow_what_is_trained() -> None:
    base = load_recipe("stage3", NEW)
    config, _, _ = planned_config(base.start)
    whole = step_flop(base, config)
    # 85 M parameters a token, twice; five passages of 512 tokens and a query of 32; forth and back.
    text = 64 * 3 * 2 * 85e6 * (5 * 512 + 32)
    assert whole["text encoder"] == pytest.approx(text, rel=0.12)  # attention comes besides
    frozen = step_flop(load_recipe("stage3", NEW | {"trained": "mapping"}), config)
    assert whole["text encoder"] == 3 * frozen["text encoder"]
    half = step_flop(load_recipe("stage3", NEW | {"text_layers": "6"}), config)
    assert half["text encoder"] == 2 * frozen["text encoder"]
    again = step_flop(load_recipe("stage3", NEW | {"steps.checkpoint_activations": "true"}), config)
    assert again["text encoder"] == 4 * frozen["text encoder"]
    keeps = {"trained": "mapping", "data.keep_frozen": "true"}
    kept = step_flop(load_recipe("stage3", NEW | keeps), config)
    assert kept["text encoder"] == kept["vision encoder"] == 0
    assert kept["mapping"] > 0
    texts = step_flop(load_recipe("stage0", NEW), config)
    assert set(texts) == {"text encoder", "MaxSim"}


def test_steps_are_measured_where_all_is_here(data: Path) -> None:
    recipe = tiny_recipe()
    plan = plan_training(recipe, data, device="cpu", seconds=0.2)
    assert [(s.source, s.rows, s.passages, s.visits) for s in plan.sources] == [
        (SOURCE, 48, 48, 36)
    ]
    assert plan.epochs == pytest.approx(36 / 48)
    assert isinstance(plan.measured, Measured)
    assert plan.measured.steps >= 1
    assert plan.measured.batch == 3
    here = plan.hours["this machine, measured"]
    assert here[0] * 3600 == pytest.approx(12 * plan.measured.seconds)
    assert plan.notes == ()


def test_what_is_to_be_set_is_named_with_its_key(data: Path) -> None:
    make_source(data, "held-out", split="valid")
    recipe = load_recipe(
        "stage3-distilled", {"data.sources": "held-out", "data.sources.held-out.split": "valid"}
    )
    notes = plan_training(recipe, data, seconds=0).notes
    for setting in ("start.checkpoint=FOLDER", "negatives.file=FILE", "distillation.file=FILE"):
        assert sum(f"--set {setting}" in note for note in notes) == 1
    offered = "--set validation.sources=held-out or --set validation.every=0"
    assert any(note.endswith(offered) for note in notes)
    with pytest.raises(MissingError) as lacking:
        Validator(recipe, data)
    assert lacking.value.where == "validation.sources"
    assert str(lacking.value.fix).startswith(offered)
    splits = open_splits(tiny_recipe(), data)
    for name in ("negatives", "distillation"):
        values = {"file": "MINED.parquet"} | (
            {"mined": 1} if name == "negatives" else {"kind": "kl"}
        )
        changed = tiny_recipe(**{name: values})
        with pytest.raises(
            MissingError, match=rf"(?s)^{name}\.file: MINED.*placeholder.*m2kr mine"
        ):
            Mixture(changed, splits)


def test_visits_follow_weights(data: Path) -> None:
    shares = Share(SOURCE, weight=3.0), Share("other", weight=1.0)
    plan = plan_training(tiny_recipe(data={"sources": shares}), data, seconds=0)
    assert [source.visits for source in plan.sources] == [27, 9]


def test_a_source_is_mixed_in_with_its_share(data: Path) -> None:
    made = mixed(tiny_recipe(), "other:0.25", data)
    assert made.data.sources == (Share(SOURCE, weight=0.75), Share("other", weight=0.25))
    repeated = tiny_recipe(data={"sources": (Share(SOURCE, take=12), Share("other", repeat=2))})
    make_source(data, "third")
    weights = [share.weight for share in mixed(repeated, "third:0.5", data).data.sources]
    assert weights == pytest.approx([0.5 * 12 / 108, 0.5 * 96 / 108, 0.5])


def test_a_source_that_nobody_knows_is_no_plan(data: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)no source 'evqq'.*did you mean 'evqa'"):
        plan_training(tiny_recipe(data={"sources": (Share("evqq"),)}), data)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_what_torch_keeps(precision: str, dropout: float) -> None:
    import torch

    from m2kr.training.start import build_model
    from m2kr.training.trained_parts import set_trained

    start = Start(checkpoint="embedded", dropout=dropout, image_rows=False)
    recipe = tiny_recipe(
        start=start,
        data={"passage_tokens": 96},
        steps={"batch": 2, "precision": precision},
        trained=("text_encoder", "text_linear"),
    )
    model = build_model(start)
    trained = {id(each) for group in set_trained(model, recipe).values() for each in group}
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}
    half = precision == "bfloat16"

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage)
        return tensor

    ids = torch.randint(1000, 20_000, (4, 96))
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        model.train()
        rows = [
            model.query(ids[:2, :32], torch.ones(2, 32), concat_output_from_vision_encoder=False),
            model.doc(ids, torch.ones(4, 96)),
        ]
    assert rows
    planned = memory_bytes(recipe, model.config, model, trained, on_cpu=True)
    expected = planned["activations"] + (planned["gradients"] // 2 if half else 0)
    counted = sum(each.nbytes() for pointer, each in kept.items() if pointer not in weights)
    words = model.get_parameter("query_text_encoder.bert_model.embeddings.word_embeddings.weight")
    expected -= 2 * words.numel() if half else 0  # which autocast doesn't touch
    assert counted == pytest.approx(expected, rel=0.1)
