"""Checkpoints: names and their aliases, shards, strictness, round trips, and no network."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from m2kr.errors import InputError, MissingError, UpstreamError, UsageError
from m2kr.preflmr import PreFLMR
from m2kr.preflmr.model.configuration import BertSettings

NAMES = ("tiny_preflmr", "tiny_flmr", "tiny_separate")
Copy = Callable[[str], Path]
State = dict[str, torch.Tensor]


def weights(folder: Path) -> State:
    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, change: Callable[[State], State]) -> None:
    save_file(change(weights(folder)), folder / "model.safetensors")


def same(model: PreFLMR, folder: Path) -> bool:
    state = model.state_dict()
    wanted = weights(folder)
    return state.keys() == wanted.keys() and all(torch.equal(state[n], wanted[n]) for n in wanted)


def renamed(old: str, new: str) -> Callable[[State], State]:
    return lambda state: {name.replace(old, new, 1): each for name, each in state.items()}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_bear_the_official_names(
    golden: Path, models: dict[str, PreFLMR], name: str
) -> None:
    listed = json.loads((golden / "summary.json").read_text())[name]["keys"]
    assert set(models[name].state_dict()) == set(listed)
    assert same(models[name], golden / name)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_checkpoint_is_the_official_layout(
    golden: Path, models: dict[str, PreFLMR], name: str, tmp_path: Path
) -> None:
    models[name].save_pretrained(tmp_path)
    official = {each.relative_to(golden / name) for each in (golden / name).rglob("*")}
    assert {each.relative_to(tmp_path) for each in tmp_path.rglob("*")} == official
    ours, theirs = weights(tmp_path), weights(golden / name)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    again = PreFLMR.from_pretrained(tmp_path)
    assert again.config == models[name].config
    assert again.image_processor == models[name].image_processor
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value in json.loads((golden / name / "config.json").read_text()).items():
        if isinstance(value, dict):
            known = {k: v for k, v in value.items() if not k.startswith("_")}
            assert known.items() <= config[key].items()
        elif key != "transformers_version":
            assert config[key] == value, key


ALIASES: dict[str, Callable[[State], State]] = {
    "text_model": renamed(".bert_model.", ".text_model."),
    "flat vision": renamed(".vision_model.vision_model.", ".vision_model."),
    "context text": lambda s: renamed("query_text_encoder_linear", "context_text_encoder_linear")(
        renamed("query_text_encoder.", "context_text_encoder.")(s)
    ),
    "context vision": lambda s: renamed("query_vision_encoder", "context_vision_encoder")(
        renamed("query_vision_projection", "context_vision_projection")(s)
    ),
    "both sides": lambda s: (
        s | {n.replace("query_", "context_", 1): t.clone() for n, t in s.items()}
    ),
    "both text names": lambda s: (
        s | {n.replace(".bert_model.", ".text_model."): t.clone() for n, t in s.items()}
    ),
    "old buffers": lambda s: (
        s
        | {
            "query_text_encoder.bert_model.embeddings.position_ids": torch.arange(4),
            "query_vision_encoder.vision_model.vision_model.embeddings.position_ids": torch.arange(
                4
            ),
            "cls.predictions.bias": torch.zeros(3),
        }
    ),
    "all at once": lambda s: renamed(".vision_model.vision_model.", ".vision_model.")(
        renamed(".bert_model.", ".text_model.")(renamed("query_", "context_")(s))
    ),
}


@pytest.mark.parametrize("alias", ALIASES)
def test_every_alias_is_read(golden: Path, copy_of: Copy, alias: str) -> None:
    folder = copy_of("tiny_preflmr")
    rewrite(folder, ALIASES[alias])
    model = PreFLMR.from_pretrained(folder)
    assert same(model, golden / "tiny_preflmr")


def test_one_parameter_stored_twice_must_agree(copy_of: Copy) -> None:
    folder = copy_of("tiny_flmr")
    rewrite(folder, lambda s: s | {"context_text_encoder_linear.weight": torch.zeros(16, 32)})
    with pytest.raises(InputError, match="one parameter, but differ"):
        PreFLMR.from_pretrained(folder)


def test_separate_sides_are_not_aliases(copy_of: Copy) -> None:
    folder = copy_of("tiny_separate")
    rewrite(folder, lambda s: {n: t for n, t in s.items() if not n.startswith("context_text")})
    with pytest.raises(InputError, match="missing: context_text_encoder"):
        PreFLMR.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda s: {n: t for n, t in s.items() if n != "query_text_encoder_linear.weight"},
            "1 missing: query_text_encoder_linear.weight",
        ),
        (lambda s: s | {"extra.weight": torch.zeros(2)}, "1 unexpected: extra.weight"),
        (
            lambda s: s | {"query_text_encoder_linear.weight": torch.zeros(16, 33)},
            "query_text_encoder_linear.weight is 16 × 33, not 16 × 32",
        ),
        (lambda s: s | {"query_text_encoder_linear.weight": torch.zeros(512)}, "is 512, not"),
        (
            lambda s: s | {"query_text_encoder_linear.weight": torch.zeros(16, 32).long()},
            "is I64",
        ),
    ],
)
def test_wrong_tensors_are_named(
    copy_of: Copy, change: Callable[[State], State], says: str
) -> None:
    folder = copy_of("tiny_preflmr")
    rewrite(folder, change)
    with pytest.raises(InputError, match=says) as caught:
        PreFLMR.from_pretrained(folder)
    assert str(folder) in str(caught.value)


def shard(folder: Path, parts: int = 3) -> dict[str, str]:
    """Cuts a checkpoint's weights into shards, as large released ones are."""
    state = weights(folder)
    place = {
        name: f"model-{n % parts + 1:05}-of-{parts:05}.safetensors" for n, name in enumerate(state)
    }
    for file in set(place.values()):
        save_file({n: t for n, t in state.items() if place[n] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return place


def test_shards_are_read(golden: Path, copy_of: Copy) -> None:
    folder = copy_of("tiny_separate")
    shard(folder)
    assert same(PreFLMR.from_pretrained(folder), golden / "tiny_separate")


def test_shards_must_hold_what_the_index_says(copy_of: Copy) -> None:
    folder = copy_of("tiny_flmr")
    place = shard(folder)
    name, file = next(iter(place.items()))
    index = folder / "model.safetensors.index.json"
    other = next(each for each in place.values() if each != file)
    index.write_text(json.dumps({"weight_map": place | {name: other}}))
    with pytest.raises(InputError, match="the shard's tensors are not those"):
        PreFLMR.from_pretrained(folder)
    index.write_text(json.dumps({"weight_map": place}))
    (folder / file).unlink()
    with pytest.raises(MissingError, match="shard that is missing"):
        PreFLMR.from_pretrained(folder)


def test_the_mapping_networks_config_lies_in_the_checkpoint(copy_of: Copy) -> None:
    folder = copy_of("tiny_preflmr")
    shutil.rmtree(folder / "mapping_config")
    with pytest.raises(InputError, match="'mapping_config' is not known"):
        PreFLMR.from_pretrained(folder)


def test_the_mapping_networks_config_is_not_sought_elsewhere(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("tiny_preflmr")
    shutil.move(folder / "mapping_config", tmp_path / "outside")
    config = json.loads((folder / "config.json").read_text())
    for base in ("../outside", str(tmp_path / "outside")):
        config["transformer_mapping_config_base"] = base
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match="is not known"):
            PreFLMR.from_pretrained(folder)


def test_bert_base_is_known_without_a_file(copy_of: Copy) -> None:
    from m2kr.preflmr import PreFLMRConfig, preset

    config = preset("vit-b").config
    assert config.mapping_config == BertSettings()
    assert PreFLMRConfig.from_dict(config.to_dict()) == config


def test_weights_are_converted_to_the_dtype_asked_for(golden: Path, copy_of: Copy) -> None:
    folder = copy_of("tiny_flmr")
    rewrite(folder, lambda state: {name: each.half() for name, each in state.items()})
    model = PreFLMR.from_pretrained(folder)
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    wanted = weights(golden / "tiny_flmr")
    assert all(
        torch.equal(each, wanted[name].half().float()) for name, each in model.state_dict().items()
    )
    low = PreFLMR.from_pretrained(golden / "tiny_flmr", dtype=torch.bfloat16)
    assert low.dtype == torch.bfloat16
    low.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "bfloat16"
    with pytest.raises(UsageError, match="int8"):
        PreFLMR.from_pretrained(folder, dtype=torch.int8)


def test_loaded_models_outlive_their_files(copy_of: Copy, models: dict[str, PreFLMR]) -> None:
    folder = copy_of("tiny_flmr")
    model = PreFLMR.from_pretrained(folder)
    # In place, as a copy over the file would: a mapped tensor would change or crash.
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    wanted = models["tiny_flmr"].state_dict()
    assert all(torch.equal(each, wanted[name]) for name, each in model.state_dict().items())


def test_saving_replaces_whole_files(copy_of: Copy, models: dict[str, PreFLMR]) -> None:
    folder = copy_of("tiny_flmr")
    before = (folder / "model.safetensors").stat().st_ino
    models["tiny_flmr"].save_pretrained(folder)
    assert (folder / "model.safetensors").stat().st_ino != before
    assert not list(folder.glob(".*tmp*"))


def test_tokenizers_must_fit_the_embeddings(copy_of: Copy, golden: Path) -> None:
    folder = copy_of("tiny_flmr")
    shutil.copy(golden / "tiny_preflmr/query_tokenizer/vocab.txt", folder / "query_tokenizer")
    with pytest.raises(InputError, match="3,000 tokens, the text encoder 2,500"):
        PreFLMR.from_pretrained(folder)


def test_a_model_without_tokenizers_is_not_saved(
    models: dict[str, PreFLMR], tmp_path: Path
) -> None:
    bare = PreFLMR(models["tiny_flmr"].config)
    with pytest.raises(MissingError, match="no tokenizers"):
        bare.save_pretrained(tmp_path)


def test_folders_that_are_missing_are_told_from_hub_ids(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such folder"):
        PreFLMR.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(MissingError, match="no such folder"):
        PreFLMR.from_pretrained("./nowhere/at/all")
    with pytest.raises(UsageError, match="revision"):
        PreFLMR.from_pretrained(tmp_path, revision="main")
    with pytest.raises(MissingError, match=r"config\.json"):
        PreFLMR.from_pretrained(tmp_path)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Connections fail as without a network; holds what was asked for."""
    asked: list[object] = []

    def refuse(*args: object, **kwargs: object) -> None:
        asked.append(args)
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


def test_a_local_folder_needs_no_network(golden: Path, no_network: list[object]) -> None:
    model = PreFLMR.from_pretrained(golden / "tiny_preflmr")
    assert same(model, golden / "tiny_preflmr")
    assert no_network == []


def test_a_hub_id_is_read_from_the_hubs_cache(
    golden: Path, tmp_path: Path, no_network: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    sha = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--someone--some_model"
    shutil.copytree(golden / "tiny_flmr", repo / "snapshots" / sha)
    (repo / "refs").mkdir()
    (repo / "refs" / "v1").write_text(sha)
    model = PreFLMR.from_pretrained("someone/some_model", revision="v1")
    assert same(model, golden / "tiny_flmr")
    with pytest.raises(UpstreamError, match="can't be fetched"):
        PreFLMR.from_pretrained("someone/another_model")
