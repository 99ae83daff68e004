"""Released models in code: parameter counts, names and one checkpoint of ViT-L's full size."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from m2kr.errors import UsageError
from m2kr.preflmr import PreFLMR, preset
from m2kr.preflmr.checkpoint import load
from m2kr.preflmr.checkpoint.info import describe_checkpoint


@pytest.mark.parametrize(
    ("name", "millions", "rows"),
    [
        ("vit-b", 326.7, 32 + 32 + 49),
        ("vit-l", 543.2, 32 + 32 + 256),
        ("vit-g", 2084.6, 32 + 32 + 256),
        ("flmr", 207.0, 512 + 32),
    ],
)
def test_released_sizes(name: str, millions: float, rows: int) -> None:
    chosen = preset(name)
    model = load.empty(PreFLMR, chosen.config)
    assert all(each.is_meta for each in model.parameters())
    assert sum(each.numel() for each in model.parameters()) / 1e6 == pytest.approx(
        millions, abs=0.05
    )
    assert chosen.query_maxlen + chosen.config.vision_rows == rows
    assert chosen.weights is not None


def test_vit_h_has_no_weights() -> None:
    assert preset("vit-h").weights is None
    assert describe_checkpoint("vit-h")["weights"] == "no released weights"


def test_presets_are_found_by_their_hub_names() -> None:
    assert preset("PreFLMR_ViT-L") is preset("vit-l")
    with pytest.raises(UsageError, match="vit-b"):
        preset("vit-xl")


def official_names(text: int, vision: int) -> set[str]:
    """The tensors of a released PreFLMR, written out as paper and code list them."""
    names = {f"query_vision_projection.model.{n}.{k}" for n in (0, 2) for k in ("weight", "bias")}
    for side in ("query", "context"):
        bert = f"{side}_text_encoder.bert_model"
        names.add(f"{side}_text_encoder_linear.weight")
        for part in ("word", "position", "token_type"):
            names.add(f"{bert}.embeddings.{part}_embeddings.weight")
        names |= {f"{bert}.{n}" for n in both("embeddings.LayerNorm", "pooler.dense")}
        for n in range(text):
            names |= {f"{bert}.encoder.layer.{n}.{each}" for each in block("attention")}
    clip = "query_vision_encoder.vision_model.vision_model"
    for each in ("class_embedding", "patch_embedding.weight", "position_embedding.weight"):
        names.add(f"{clip}.embeddings.{each}")
    names |= {f"{clip}.{n}" for n in both("pre_layrnorm", "post_layernorm")}
    parts = both(
        *(f"self_attn.{each}_proj" for each in ("k", "v", "q", "out")),
        *("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"),
    )
    names |= {f"{clip}.encoder.layers.{n}.{each}" for n in range(vision) for each in parts}
    mapping = "transformer_mapping"
    names |= {f"{mapping}_network.layer.0.{n}" for n in block("attention", "crossattention")}
    return names | {f"{mapping}_{n}" for n in both("input_linear", "output_linear")}


def both(*modules: str) -> set[str]:
    return {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


def block(*attentions: str) -> set[str]:
    inner = [f"self.{each}" for each in ("query", "key", "value")]
    modules = [f"{a}.{each}" for a in attentions for each in (*inner, "output.dense")]
    modules += [f"{a}.output.LayerNorm" for a in attentions]
    return both(*modules, "intermediate.dense", "output.dense", "output.LayerNorm")


@pytest.mark.parametrize(("name", "vision"), [("vit-b", 12), ("vit-l", 24), ("vit-g", 48)])
def test_tensor_names_are_the_official_ones(name: str, vision: int) -> None:
    model = load.empty(PreFLMR, preset(name).config)
    assert set(model.state_dict()) == official_names(12, vision)


@pytest.mark.slow
def test_a_checkpoint_of_vit_ls_size_round_trips(golden: Path, tmp_path: Path) -> None:
    """Every tensor of ViT-L, in half precision (1.1 GB), under names of transformers 5 and aliases."""
    config = preset("vit-l").config
    shapes = {n: t.shape for n, t in load.empty(PreFLMR, config).state_dict().items()}
    draw = torch.Generator().manual_seed(1)
    state = {n: torch.empty(s).normal_(std=0.02, generator=draw).half() for n, s in shapes.items()}
    source = tmp_path / "source"
    source.mkdir()
    for folder in ("query_tokenizer", "context_tokenizer"):
        (source / folder).symlink_to(golden / "tiny_preflmr" / folder)
    (source / "config.json").write_text(json.dumps(config.to_dict()))
    aliases = ((".bert_model.", ".text_model."), (".vision_model.vision_model.", ".vision_model."))
    renamed = {}
    for name, tensor in state.items():
        for old, new in aliases:
            name = name.replace(old, new)
        renamed[name.replace("query_vision", "context_vision")] = tensor
    save_file(renamed, source / "model.safetensors")
    told = describe_checkpoint(str(source))
    assert told["complete"]
    assert told["parameters"] == sum(t.numel() for t in state.values())
    model = PreFLMR.from_pretrained(source, dtype=torch.float16)
    model.save_pretrained(tmp_path / "again")
    again = PreFLMR.from_pretrained(tmp_path / "again", dtype=torch.float16).state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
