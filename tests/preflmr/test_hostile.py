"""Hostile and damaged checkpoints: one clear error each, and no code of theirs runs."""

import json
import os
import pickle
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from m2kr.errors import InputError, M2KRError, MissingError
from m2kr.preflmr import PreFLMR, PreFLMRConfig
from m2kr.preflmr.checkpoint.info import describe_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
Copy = Callable[[str], Path]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def refused(folder: Path) -> str:
    """The message; loading and describing must agree that something is wrong."""
    with pytest.raises(M2KRError) as caught:
        PreFLMR.from_pretrained(folder)
    with pytest.raises(M2KRError):
        describe_checkpoint(str(folder))
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "pytorch_model.bin.index.json"]
)
def test_pickled_weights_are_not_read(copy_of: Copy, tmp_path: Path, name: str) -> None:
    folder = copy_of("tiny_flmr")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(InputError, match=f"pickled \\({name}\\)"):
        PreFLMR.from_pretrained(folder)
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_that_claims_to_be_safetensors(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("tiny_flmr")
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    (folder / "model.safetensors").write_bytes(bomb)
    assert "no sound safetensors file" in refused(folder)
    torch.save({"a": torch.zeros(2)}, folder / "model.safetensors")
    assert "no sound safetensors file" in refused(folder)
    assert not (tmp_path / "exploded").exists()


def test_code_in_a_checkpoint_is_not_run(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("tiny_flmr")
    code = f"import pathlib\npathlib.Path({str(tmp_path / 'exploded')!r}).touch()\n"
    for name in ("modeling_flmr", "configuration_flmr", "tokenization_flmr"):
        (folder / f"{name}.py").write_text(code)
    for name in (
        "config.json",
        "query_tokenizer/tokenizer_config.json",
        "preprocessor_config.json",
    ):
        config = json.loads((folder / name).read_text())
        config["auto_map"] = {
            "AutoModel": "modeling_flmr.A",
            "AutoTokenizer": ["tokenization_flmr.B"],
        }
        (folder / name).write_text(json.dumps(config))
    model = PreFLMR.from_pretrained(folder)
    assert not (tmp_path / "exploded").exists()
    model.save_pretrained(tmp_path / "saved")
    for path in (tmp_path / "saved").rglob("*.json"):
        assert "auto_map" not in path.read_text()


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 9_000, -1])
def test_truncated_weights(copy_of: Copy, kept: int) -> None:
    folder = copy_of("tiny_flmr")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert "no sound safetensors file" in refused(folder)


@pytest.mark.parametrize("length", [2**62, 2**31, 10])
def test_headers_of_a_false_length(copy_of: Copy, length: int) -> None:
    folder = copy_of("tiny_flmr")
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    assert "no sound safetensors file" in refused(folder)


@pytest.mark.parametrize("tensors", [0, 100_000])
def test_headers_of_many_megabytes_are_not_parsed(copy_of: Copy, tensors: int) -> None:
    folder = copy_of("tiny_flmr")
    header = {
        f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(tensors)
    }
    text = json.dumps(header).encode()
    text += b" " * ((99 << 20) - len(text))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    started = time.process_time()
    assert "103,809,024 bytes" in refused(folder)
    assert time.process_time() - started < 1  # 90 MB of tensors take a minute


SMALL = (
    "config.json",
    "preprocessor_config.json",
    "mapping_config/config.json",
    "query_tokenizer/tokenizer_config.json",
    "context_tokenizer/vocab.txt",
)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "/no/where", "itself", "a pipe"])
def test_links_to_what_is_no_checkpoint(copy_of: Copy, name: str, target: str) -> None:
    path = copy_of("tiny_preflmr") / name
    path.unlink()
    if target == "a pipe":
        os.mkfifo(path)  # opening it would wait for a writer
    else:
        path.symlink_to(path.name if target == "itself" else target)
    with pytest.raises(M2KRError) as caught:
        PreFLMR.from_pretrained(copied := Path(str(path).removesuffix(name)))
    assert str(copied).rstrip("/") in str(caught.value)


@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "/no/where", "a pipe"])
def test_weights_that_are_links_elsewhere(copy_of: Copy, target: str) -> None:
    folder = copy_of("tiny_flmr")
    path = folder / "model.safetensors"
    path.unlink()
    if target == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(target)
    with pytest.raises(M2KRError, match=r"no weights|no sound safetensors file"):
        PreFLMR.from_pretrained(folder)


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("query_tokenizer", "vocabulary is missing"),
        ("context_tokenizer", "vocabulary is missing"),
        ("query_tokenizer/vocab.txt", "query_tokenizer: .*vocabulary is missing"),
        ("context_tokenizer/vocab.txt", "context_tokenizer: .*vocabulary is missing"),
        ("mapping_config", "'mapping_config' is not known"),
        ("config.json", r"config\.json"),
    ],
)
def test_files_that_are_missing_are_named(copy_of: Copy, gone: str, named: str) -> None:
    path = copy_of("tiny_preflmr") / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(M2KRError, match=named):
        PreFLMR.from_pretrained(Path(str(path).removesuffix(gone)))


@pytest.mark.parametrize(
    "base", ["/etc", "../elsewhere", "a\0b", "a" * 5000, "", "mapping_config/.."]
)
def test_the_mapping_networks_config_by_odd_names(copy_of: Copy, base: str) -> None:
    folder = copy_of("tiny_preflmr")
    config = json.loads((folder / "config.json").read_text())
    config["transformer_mapping_config_base"] = base
    (folder / "config.json").write_text(json.dumps(config))
    assert "config.json" in refused(folder)


def test_headers_that_claim_terabytes(copy_of: Copy) -> None:
    folder = copy_of("tiny_flmr")
    shape = [1 << 20, 1 << 22]
    header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 << 42]}}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 64)
    assert "no sound safetensors file" in refused(folder)


@pytest.mark.parametrize(
    "file", ["../tiny_flmr/x.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", ""]
)
def test_shards_elsewhere_are_refused(copy_of: Copy, file: str) -> None:
    folder = copy_of("tiny_flmr")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"query_text_encoder_linear.weight": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "no safetensors file of this folder" in refused(folder)


def test_weights_that_are_missing(copy_of: Copy) -> None:
    folder = copy_of("tiny_flmr")
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingError, match="no weights"):
        PreFLMR.from_pretrained(folder)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("dim", 10**15, "dim is"),
        ("dim", 0, "dim is 0"),
        ("dim", "128", "dim is '128'"),
        ("dim", True, "dim is True"),
        ("dim", 1.5, "dim is 1.5"),
        ("mapping_network_prefix_length", 10**9, "mapping_network_prefix_length"),
        ("transformer_mapping_num_hidden_layers", 10**6, "transformer_mapping_num_hidden_layers"),
        ("initializer_range", -1, "initializer_range"),
        ("mask_punctuation", "yes", "mask_punctuation"),
        ("mask_instruction_token", 7, "mask_instruction_token"),
        ("query_mask_input_ids_skip_list", "abc", "skip_list"),
        ("model_type", "bert", "model_type"),
        ("model_type", None, "model_type"),
        ("model_type", ["flmr"], "model_type"),
        ("text_config", [], "text_config is no JSON object"),
        ("text_config.hidden_size", 10**12, "hidden_size"),
        ("text_config.num_hidden_layers", 129, "num_hidden_layers"),
        ("text_config.num_attention_heads", 7, "no multiple"),
        ("text_config.vocab_size", 2**40, "vocab_size"),
        ("text_config.hidden_act", "__import__('os')", "hidden_act"),
        ("text_config.position_embedding_type", "relative_key", "relative_key"),
        ("text_config.text_encoder_base_model", "BAAI/bge-m3", "bge-m3"),
        ("text_config.layer_norm_eps", None, "layer_norm_eps"),
        ("vision_config.image_size", 10**8, "image_size"),
        ("vision_config.patch_size", 64, "patch_size"),
        ("vision_config.num_channels", 0, "num_channels"),
    ],
)
def test_absurd_configs(copy_of: Copy, key: str, value: object, says: str) -> None:
    folder = copy_of("tiny_flmr")
    config = json.loads((folder / "config.json").read_text())
    section, _, name = key.rpartition(".")
    (config[section] if section else config)[name] = value
    (folder / "config.json").write_text(json.dumps(config))
    message = refused(folder)
    assert says in message
    assert "config.json" in message


@pytest.mark.parametrize("text", ["", "[1]", "{", "nul", "[" * 100_000, '{"dim": NaN}', "\x00"])
def test_configs_that_are_no_json(copy_of: Copy, text: str) -> None:
    folder = copy_of("tiny_flmr")
    (folder / "config.json").write_text(text)
    assert "config.json" in refused(folder)


def test_a_config_of_another_model_does_not_fit_the_weights(copy_of: Copy) -> None:
    folder = copy_of("tiny_flmr")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 20
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="missing: query_text"):
        PreFLMR.from_pretrained(folder)
    assert len(describe_checkpoint(str(folder))["missing_tensors"]) == 18 * 16


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=200)
@given(st.data())
def test_any_config_is_read_or_refused(data: st.DataObject) -> None:
    config = PreFLMRConfig().to_dict()
    section = data.draw(st.sampled_from([None, "text_config", "vision_config"]))
    place = config[section] if section else config
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(values)
    try:
        read = PreFLMRConfig.from_dict(config)
    except InputError:
        return
    assert PreFLMRConfig.from_dict(read.to_dict()) == read


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_weights_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    from m2kr.preflmr.checkpoint import weights

    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "model.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}, path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        found = weights.describe_weights(folder)
        with weights.reader(found) as reader:
            read = {name: reader.tensor(name).clone() for name in found}
    except InputError:
        return
    assert {n: tuple(t.shape) for n, t in read.items()} == {n: i.shape for n, i in found.items()}
    assert read.keys() == load_file(path).keys()
