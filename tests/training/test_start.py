"""Start weights: encoders from folders of transformers 4 and 5, sizes, random parts; what is trained."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_models import fill, save_tokenizer, vocabulary_size
from torch import Tensor

from m2kr.errors import InputError, M2KRError, MissingError
from m2kr.preflmr import PreFLMR
from m2kr.training.recipe import Recipe, Start
from m2kr.training.start import TEXT_SIZES, build_model, new_config
from m2kr.training.trained_parts import set_trained

GOLDEN = Path(__file__).parents[1] / "golden"
_SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
Rename = Callable[[str], str | None]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers saves a BERT."""
    import transformers as tf

    folder = tmp_path_factory.mktemp("start") / "bert"
    special = ["[unused0]", "[unused1]"]
    sizes = {"vocab_size": vocabulary_size() + len(special), "max_position_embeddings": 40}
    fill(tf.BertModel(tf.BertConfig(**_SIZES, **sizes))).save_pretrained(folder)
    save_tokenizer(folder, 40, special=special)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers saves a whole CLIP."""
    import transformers as tf

    folder = tmp_path_factory.mktemp("start") / "clip"
    text = _SIZES | {"vocab_size": 40, "eos_token_id": 3}
    config = tf.CLIPConfig(
        text_config=text,
        vision_config=_SIZES | {"image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    fill(tf.CLIPModel(config)).save_pretrained(folder)
    return folder


def renamed(folder: Path, to: Path, rename: Rename, more: Mapping[str, Tensor]) -> Path:
    """A copy whose tensors have other names; those without one are left out."""
    to.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (to / path.name).write_bytes(path.read_bytes())
    state = load_file(folder / "model.safetensors")
    kept = {new: tensor for name, tensor in state.items() if (new := rename(name))}
    save_file({**kept, **more}, to / "model.safetensors")
    return to


def test_encoders_are_loaded_and_all_else_is_random(bert: Path, clip: Path, tmp_path: Path) -> None:
    start = Start(vision_weights=str(clip), text_weights=str(bert), seed=3)
    model = build_model(start)
    text, vision = load_file(bert / "model.safetensors"), load_file(clip / "model.safetensors")
    state = model.state_dict()
    for side in ("query", "context"):
        for name, tensor in text.items():
            assert torch.equal(state[f"{side}_text_encoder.bert_model.{name}"], tensor)
    seen = [name for name in vision if name.startswith("vision_model.")]
    assert len(seen) > 20
    for name in seen:
        assert torch.equal(state[f"query_vision_encoder.vision_model.{name}"], vision[name])
    assert model.config.mapping_config is not None
    assert model.config.mapping_config.hidden_size == 16
    assert model.query_tokenizer is not None
    assert model.context_tokenizer is not None
    assert (model.query_tokenizer.maxlen, model.context_tokenizer.maxlen) == (32, 40)
    # The seed makes the rest, whatever was random before; and it is a checkpoint.
    torch.manual_seed(5)
    again, other = build_model(start), build_model(dataclasses.replace(start, seed=4))
    assert all(torch.equal(state[name], again.state_dict()[name]) for name in state)
    assert not torch.equal(
        model.query_text_encoder_linear.weight, other.query_text_encoder_linear.weight
    )
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    model.save_pretrained(tmp_path / "saved")
    loaded = PreFLMR.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(state[name], loaded.state_dict()[name]) for name in state)
    assert [*map(torch.Tensor.tolist, model.buffers())] == [
        *map(torch.Tensor.tolist, loaded.buffers())
    ]
    query = {"texts": ["find: what is peru"], "images": [None]}
    assert torch.allclose(
        torch.as_tensor(model.encode_queries(**query)[0]),
        torch.as_tensor(loaded.encode_queries(**query)[0]),
    )


def _old_bert(name: str) -> str | None:
    """Of a pre-training BERT of long ago, whose layer norms have other names, and no pooler."""
    if name.startswith("pooler"):
        return None
    return "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
        "LayerNorm.bias", "LayerNorm.beta"
    )


@pytest.mark.parametrize("rename", [lambda n: f"bert.{n}", _old_bert])
def test_a_bert_by_any_names(bert: Path, clip: Path, tmp_path: Path, rename: Rename) -> None:
    weights = load_file(bert / "model.safetensors")
    linear = torch.arange(128 * 16.0).reshape(128, 16)
    named = renamed(
        bert, tmp_path / "named", rename, {"cls.bias": torch.zeros(3), "linear.weight": linear}
    )
    model = build_model(Start(text_weights=str(named), vision_weights=str(clip)))
    for name in ("embeddings.word_embeddings.weight", "encoder.layer.1.output.LayerNorm.weight"):
        for side in ("query", "context"):
            loaded = model.get_parameter(f"{side}_text_encoder.bert_model.{name}")
            assert torch.equal(loaded, weights[name])
    assert torch.equal(model.query_text_encoder_linear.weight, linear)
    assert torch.equal(model.context_text_encoder_linear.weight, linear)


def test_a_clip_by_any_names(clip: Path, bert: Path, tmp_path: Path) -> None:
    weights = load_file(clip / "model.safetensors")

    def alone(prefix: str) -> Rename:
        inner = "vision_model."
        return lambda n: prefix + n.removeprefix(inner) if n.startswith(inner) else None

    for number, rename in enumerate((alone(""), alone("vision_model."))):
        folder = renamed(clip, tmp_path / str(number), rename, {})
        config = json.loads((clip / "config.json").read_text(encoding="utf-8"))["vision_config"]
        config["model_type"] = "clip_vision_model"
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        model = build_model(Start(vision_weights=str(folder), text_weights=str(bert)))
        name = "vision_model.encoder.layers.1.mlp.fc1.weight"
        loaded = model.get_parameter(f"query_vision_encoder.vision_model.{name}")
        assert torch.equal(loaded, weights[name])


def test_weights_that_do_not_fit_are_named(bert: Path, clip: Path, tmp_path: Path) -> None:
    one = renamed(
        bert, tmp_path / "one", lambda n: None if n.endswith("layer.1.output.dense.bias") else n, {}
    )
    two = renamed(bert, tmp_path / "two", lambda n: n, {"linear.weight": torch.zeros(96, 16)})
    faults = {
        Start(text_weights=str(one)): r"lack encoder.layer.1.output.dense.bias",
        Start(text_weights=str(two)): r"linear.weight is 96 x 16, not 128 x 16",
        Start(text_weights=str(bert), text="small"): r"small, whose hidden_size is 512.*have 16",
        Start(
            vision_weights=str(clip), vision="vit-l"
        ): r"vit-l, whose hidden_size is 1024.*have 16",
        Start(text_weights=str(clip)): r"start.text_weights: .*model_type is 'clip'",
        Start(vision_weights=str(bert)): r"start.vision_weights: .*model_type is 'bert'",
    }
    for start, why in faults.items():
        with pytest.raises(InputError, match=f"(?s){why}"):
            build_model(start)
    (one / "model.safetensors").rename(one / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"(?s)start.text_weights: .*pickled.*save_pretrained"):
        build_model(Start(text_weights=str(one)))
    for start in (
        Start(checkpoint=str(tmp_path / "none")),
        Start(text_weights=str(tmp_path / "none")),
        Start(vision_weights=str(tmp_path / "none")),
        Start(checkpoint=str(tmp_path / "two")),
    ):
        with pytest.raises(M2KRError, match=r"start\.[a-z_]+: ") as error:
            build_model(start)
        assert isinstance(error.value, MissingError | InputError)


def test_all_sizes_are_configured_without_memory() -> None:
    for vision in ("vit-b", "vit-l", "vit-h", "vit-g"):
        config = new_config(Start(vision=vision, text="base"))
        assert config.transformer_mapping_config_base == "bert-base-uncased"
    sizes = {}
    for text in TEXT_SIZES:
        config = new_config(Start(text=text))  # type: ignore[arg-type]
        assert config.mapping_config is not None
        assert config.mapping_config.hidden_size == config.text_config.hidden_size
        sizes[text] = config.text_config.hidden_size, config.text_config.num_hidden_layers
    assert sizes == {"small": (512, 4), "medium": (512, 8), "base": (768, 12), "large": (1024, 24)}


def test_dropout_of_a_start_is_every_modules() -> None:
    model = build_model(Start(checkpoint=str(GOLDEN / "tiny_preflmr"), dropout=0.0))
    model.train()
    ids = torch.tensor([[2, 5, 7, 3]])
    features = torch.randn(1, model.config.vision_config.hidden_size)
    patches = torch.randn(1, 4, model.config.vision_config.hidden_size)
    one, two = (
        model.query(ids, torch.ones_like(ids), None, features, patch_features=patches)
        for _ in range(2)
    )
    assert torch.equal(one.late_interaction_output, two.late_interaction_output)


def changing(model: PreFLMR) -> set[str]:
    """Modules that hold parameters which are trained."""
    return {name.split(".")[0] for name, each in model.named_parameters() if each.requires_grad}


def test_what_is_trained() -> None:
    model = build_model(Start(checkpoint=str(GOLDEN / "tiny_preflmr")))
    mapping = {
        name for name, _ in model.named_children() if "mapping" in name or "projection" in name
    }
    groups = set_trained(model, Recipe("r", trained=("vision_projection", "mapping")))
    assert changing(model) == mapping
    assert not groups["rest"]
    assert not groups["rest_undecayed"]
    assert all(each.dim() > 1 for each in groups["mapping"])
    assert all(each.dim() == 1 for each in groups["mapping_undecayed"])

    groups = set_trained(model, Recipe("r"))
    names = {name for name, each in model.named_parameters() if each.requires_grad}
    assert sum(map(len, groups.values())) == len(names)
    assert not any("pooler" in name or "vision_encoder" in name for name in names)
    assert {id(p) for group in groups.values() for p in group} == {
        id(p) for p in model.parameters() if p.requires_grad
    }

    set_trained(model, Recipe("r", trained=("vision_encoder",)))
    names = {name for name, each in model.named_parameters() if each.requires_grad}
    assert names
    assert not any("post_layernorm" in name for name in names)

    last = Recipe("r", trained=("text_encoder",), text_layers=1)
    set_trained(model, last)
    names = {name for name, each in model.named_parameters() if each.requires_grad}
    count = model.config.text_config.num_hidden_layers
    assert {name.split("layer.")[1].split(".")[0] for name in names} == {str(count - 1)}
    assert not any("embeddings" in name for name in names)
    with pytest.raises(InputError, match=rf"text_layers is 99.*{count} layers"):
        set_trained(model, dataclasses.replace(last, text_layers=99))


def test_every_trained_parameter_gets_a_gradient() -> None:
    model = build_model(Start(checkpoint=str(GOLDEN / "tiny_preflmr")))
    side = model.config.vision_config.image_size
    for start, trained in (
        (
            Start(),
            ("text_encoder", "text_linear", "vision_projection", "mapping", "vision_encoder"),
        ),
        (Start(text_rows=False), ("text_encoder", "text_linear", "vision_projection", "mapping")),
        (Start(image_rows=False), ("text_encoder", "text_linear")),
    ):
        groups = set_trained(model, Recipe("r", start=start, trained=trained))
        model.zero_grad()
        ids = torch.tensor([[2, 5, 7, 3]])
        pixels = torch.randn(1, 3, side, side) if start.image_rows else None
        query = model.query(
            ids,
            torch.ones_like(ids),
            pixels,
            concat_output_from_vision_encoder=start.image_rows,
            concat_output_from_text_encoder=start.text_rows,
        )
        document = model.doc(ids, torch.ones_like(ids))
        rows = document.late_interaction_output
        assert isinstance(rows, Tensor)
        (query.late_interaction_output[0] @ rows[0].T).sum().backward()
        lacking = [
            name
            for name, each in model.named_parameters()
            if each.requires_grad and each.grad is None
        ]
        assert all(groups.values()) or start.image_rows is False
        assert lacking == []


def test_a_part_that_the_model_lacks_is_an_error() -> None:
    model = build_model(Start(checkpoint=str(GOLDEN / "tiny_flmr")))
    with pytest.raises(InputError, match=r"(?s)trained names mapping.*text_encoder, text_linear"):
        set_trained(model, Recipe("r", trained=("mapping",)))


def test_a_checkpoint_without_image_rows_cannot_train_them() -> None:
    model = build_model(Start(checkpoint=str(GOLDEN / "tiny_preflmr")))
    model.config = dataclasses.replace(model.config, query_concat_output_from_vision_encoder=False)
    recipe = Recipe("r", start=Start(text_rows=False), trained=("mapping",))
    with pytest.raises(InputError, match="queries would have no rows"):
        set_trained(model, recipe)
    with pytest.raises(InputError, match="trained names mapping, which it doesn't use"):
        set_trained(model, Recipe("r", trained=("mapping",)))
