"""BEM: the same scores from every naming and file format, in whatever order, or one clear error."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bem import (
    HEADS,
    HIDDEN,
    LAYERS,
    NAMINGS,
    POSITIONS,
    VOCABULARY,
    keras,
    port_tensors,
    save_bem,
)

from m2kr.errors import InputError, M2KRError, MissingError, UsageError
from m2kr.rag.scorers.bem import Bem

TRIPLES = [
    ("red", "blue", "what colour is this fox?"),
    ("30 metre", "a foot", "how tall is this tower?"),
    ("the plant", "plant", "what is it"),
    ("Émile Zola", "emile zola", "who built it?"),
    ("", "x", ""),
    ("漢字 und «mehr»", "unknown", "who?"),
]


def naive(tensors: dict[str, np.ndarray], ids: list[int], segments: list[int]) -> float:
    """BERT and its classifier by the book, in float64."""
    t = {name: values.astype(np.float64) for name, values in tensors.items()}

    def norm(x: Any, name: str) -> Any:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * t[f"{name}.weight"] + t[f"{name}.bias"]

    def dense(x: Any, name: str) -> Any:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    from scipy.special import erf, softmax

    x = t["bert.embeddings.word_embeddings.weight"][ids]
    x = x + t["bert.embeddings.position_embeddings.weight"][range(len(ids))]
    x = norm(
        x + t["bert.embeddings.token_type_embeddings.weight"][segments], "bert.embeddings.LayerNorm"
    )
    size = HIDDEN // HEADS
    for n in range(LAYERS):
        layer = f"bert.encoder.layer.{n}"
        q, k, v = (dense(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
        heads = [slice(h * size, (h + 1) * size) for h in range(HEADS)]
        seen = [softmax(q[:, h] @ k[:, h].T / size**0.5, axis=-1) @ v[:, h] for h in heads]
        attended = dense(np.concatenate(seen, -1), f"{layer}.attention.output.dense")
        x = norm(x + attended, f"{layer}.attention.output.LayerNorm")
        wide = dense(x, f"{layer}.intermediate.dense")
        wide = wide * 0.5 * (1 + erf(wide / 2**0.5))
        x = norm(x + dense(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return float(softmax(dense(np.tanh(dense(x[0], "bert.pooler.dense")), "classifier"))[1])


def ids_of(text: str) -> list[int]:
    return [VOCABULARY.index(token) for token in text.split()]


@pytest.mark.parametrize("kind", ["safetensors", "npz", "bin"])
@pytest.mark.parametrize("naming", NAMINGS)
def test_all_namings_and_formats_score_alike(naming: str, kind: str, tmp_path: Path) -> None:
    plain = Bem.open(save_bem(tmp_path / "plain"))
    other = Bem.open(save_bem(tmp_path / "other", NAMINGS[naming](port_tensors()), kind=kind))
    for triple in TRIPLES:
        assert other.probability(*triple) == plain.probability(*triple)
    assert other.facts()["sha256"] == plain.facts()["sha256"]


def test_the_digest_tells_checkpoints_and_vocabularies_apart(tmp_path: Path) -> None:
    first = Bem.open(save_bem(tmp_path / "a")).facts()
    second = Bem.open(save_bem(tmp_path / "b", port_tensors(seed=4))).facts()
    folder = save_bem(tmp_path / "c")
    lines = [*VOCABULARY[:-1], "other"]
    (folder / "vocab.txt").write_text("\n".join(lines), encoding="utf-8")
    third = Bem.open(folder).facts()
    assert len({facts["sha256"] for facts in (first, second, third)}) == 3
    assert json.loads(json.dumps(first)) == first


@pytest.mark.parametrize(("types", "numbers"), [(2, (0, 1, 1)), (3, (0, 1, 2)), (5, (0, 1, 2))])
def test_the_input_is_candidate_reference_question(
    types: int, numbers: tuple[int, ...], tmp_path: Path
) -> None:
    tensors = port_tensors(types=types)
    bem = Bem.open(save_bem(tmp_path, tensors))
    ids = ids_of("[CLS] red fox [SEP] blue [SEP] what colour is it ? [SEP]")
    segments = [numbers[0]] * 4 + [numbers[1]] * 2 + [numbers[2]] * 6
    expected = naive(tensors, ids, segments)
    assert bem.probability("Red  fox", "blue", "What colour is it?") == pytest.approx(
        expected, abs=1e-6
    )
    swapped = [bem.probability("blue", "red fox", "what colour is it?")]
    swapped.append(bem.probability("what colour is it?", "blue", "red fox"))
    assert all(abs(score - expected) > 1e-4 for score in swapped)


def test_a_third_segment_of_a_checkpoint_with_two_adds_nothing(tmp_path: Path) -> None:
    tensors = port_tensors(types=2)
    bem = Bem.open(save_bem(tmp_path, tensors), segments="0,1,2")
    name = "bert.embeddings.token_type_embeddings.weight"
    tensors[name] = np.concatenate([tensors[name], np.zeros((1, HIDDEN))])
    ids = ids_of("[CLS] red [SEP] blue [SEP] who [SEP]")
    expected = naive(tensors, ids, [0] * 3 + [1] * 2 + [2] * 2)
    assert bem.probability("red", "blue", "who") == pytest.approx(expected, abs=1e-6)
    assert bem.facts()["segments"] == "0,1,2"
    other = Bem.open(tmp_path)
    assert other.facts()["segments"] == "0,1,1"
    assert abs(other.probability("red", "blue", "who") - expected) > 1e-4


def test_scores_depend_on_no_order(tmp_path: Path) -> None:
    folder = save_bem(tmp_path)
    triples = [(a, b, c) for a, b, c in TRIPLES for a, b in ((a, b), (b, a), (a * 3, b))]
    alone = {triple: Bem.open(folder).probability(*triple) for triple in triples}
    for seed in range(4):
        bem = Bem.open(folder)
        random.Random(seed).shuffle(triples)
        for triple in triples * 2:
            assert bem.probability(*triple) == alone[triple]


def test_special_tokens_in_a_text_are_text(tmp_path: Path) -> None:
    tensors = port_tensors()
    bem = Bem.open(save_bem(tmp_path, tensors))
    ids = ids_of("[CLS] red [ s ##e ##p ] blue [SEP] fox [SEP] who [SEP]")
    segments = [0] * (len(ids) - 4) + [1] * 4
    score = bem.probability("red [SEP] blue", "fox", "who")
    assert score == pytest.approx(naive(tensors, ids, segments), abs=1e-6)


def test_long_inputs_lose_the_ends_of_the_longest_part(tmp_path: Path) -> None:
    tensors = port_tensors()
    bem = Bem.open(save_bem(tmp_path, tensors))
    long = bem.compare("red " * 100, "blue fox", "what is this ?")
    room = POSITIONS - 4 - 2 - 4
    ids = ids_of(f"[CLS] {'red ' * room} [SEP] blue fox [SEP] what is this ? [SEP]")
    assert len(ids) == POSITIONS
    segments = [0] * (room + 2) + [1] * 8
    assert long.probability == pytest.approx(naive(tensors, ids, segments), abs=1e-6)
    assert long.cut_tokens == 100 - room
    assert bem.compare("red", "blue", "who").cut_tokens == 0
    # 36 tokens for three parts of 100: 12 of each.
    each = bem.compare("red " * 100, "blue " * 100, "fox " * 100)
    ids = ids_of(f"[CLS] {'red ' * 12} [SEP] {'blue ' * 12} [SEP] {'fox ' * 12} [SEP]")
    assert each.probability == pytest.approx(naive(tensors, ids, [0] * 14 + [1] * 26), abs=1e-6)
    assert each.cut_tokens == 300 - 36


def test_heads_come_from_the_kernels_where_no_config_names_them(tmp_path: Path) -> None:
    named = Bem.open(save_bem(tmp_path / "named"))
    axes = Bem.open(save_bem(tmp_path / "axes", keras(port_tensors()), config={}))
    assert axes.probability(*TRIPLES[0]) == named.probability(*TRIPLES[0])
    with pytest.raises(InputError, match="no number of heads"):
        Bem.open(save_bem(tmp_path / "none", config={}))
    config = {"num_attention_heads": 2}
    with pytest.raises(InputError, match=r"2 attention heads, the kernels have 4"):
        Bem.open(save_bem(tmp_path / "two", keras(port_tensors()), config=config))


def test_the_activation_is_the_checkpoints_or_the_settings(tmp_path: Path) -> None:
    folder = save_bem(tmp_path / "erf")
    erf, tanh = Bem.open(folder), Bem.open(folder, activation="gelu_new")
    apart = abs(erf.probability(*TRIPLES[0]) - tanh.probability(*TRIPLES[0]))
    assert 0 < apart < 1e-2
    config = {"num_attention_heads": HEADS, "hidden_act": "gelu_new"}
    named = Bem.open(save_bem(tmp_path / "tanh", config=config))
    assert named.probability(*TRIPLES[0]) == tanh.probability(*TRIPLES[0])
    with pytest.raises(UsageError, match="activation of BEM is 'relu'"):
        Bem.open(folder, activation="relu")
    with pytest.raises(UsageError, match=r"bem\.segments is '0,0,0'"):
        Bem.open(folder, segments="0,0,0")


def test_a_vocabulary_in_tokenizer_json_is_read(tmp_path: Path) -> None:
    plain = Bem.open(save_bem(tmp_path / "plain"))
    folder = save_bem(tmp_path / "json")
    (folder / "vocab.txt").unlink()
    model = {"type": "WordPiece", "vocab": {token: n for n, token in enumerate(VOCABULARY)}}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    other = Bem.open(folder)
    assert [other.probability(*t) for t in TRIPLES] == [plain.probability(*t) for t in TRIPLES]
    assert other.facts()["sha256"] == plain.facts()["sha256"]


def _without(name: str) -> dict[str, np.ndarray]:
    return {key: values for key, values in port_tensors().items() if key != name}


def _changed(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    return port_tensors() | {name: values}


QUERY = "bert.encoder.layer.1.attention.self.query.weight"
FAULTS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "missing": (_without(QUERY), f"the tensor {QUERY} is missing"),
    "no classifier": (_without("classifier.weight"), "the tensor classifier.weight is missing"),
    "no words": (
        _without("bert.embeddings.word_embeddings.weight"),
        "the tensor bert.embeddings.word_embeddings.weight is missing",
    ),
    "unknown": (
        port_tensors() | {"cls.predictions.bias": np.zeros(3, np.float32)},
        "the tensor 'cls.predictions.bias' has no place",
    ),
    "unknown in a layer": (
        port_tensors() | {"bert.encoder.layer.0.adapter.weight": np.zeros(3, np.float32)},
        "the tensor 'bert.encoder.layer.0.adapter.weight' has no place",
    ),
    "another shape": (
        _changed(QUERY, np.zeros((HIDDEN, 8), np.float32)),
        rf"the tensor '{QUERY}' has the shape \(32, 8\)",
    ),
    "three classes": (
        _changed("classifier.weight", np.zeros((3, HIDDEN), np.float32)),
        r"the tensor 'classifier\.weight' has the shape \(3, 32\)",
    ),
    "another rank": (
        _changed("classifier.bias", np.zeros((2, 1), np.float32)),
        r"the tensor 'classifier\.bias' has the shape \(2, 1\)",
    ),
    "whole numbers": (
        _changed(QUERY, np.zeros((HIDDEN, HIDDEN), np.int32)),
        f"the tensor '{QUERY}' is not of finite floating-point numbers",
    ),
    "not a number": (
        _changed(QUERY, np.full((HIDDEN, HIDDEN), np.nan, np.float32)),
        f"the tensor '{QUERY}' is not of finite floating-point numbers",
    ),
    "twice": (
        port_tensors() | {"classifier/kernel:0": np.zeros((HIDDEN, 2), np.float32)},
        r"'classifier\.weight' and 'classifier/kernel:0' are both classifier\.weight",
    ),
    "a layer too many": (
        port_tensors()
        | {f"bert.encoder.layer.{LAYERS}.output.dense.bias": np.zeros(32, np.float32)},
        r"the tensor bert\.encoder\.layer\.2\.\S+ is missing",
    ),
    "no segments": (
        _changed("bert.embeddings.token_type_embeddings.weight", np.zeros((1, HIDDEN), np.float32)),
        r"token_type_embeddings\.weight has 1 rows",
    ),
    "kernels that disagree": (
        keras(port_tensors())
        | {
            "transformer/layer_1/self_attention/key/kernel:0": np.zeros(
                (HIDDEN, 8, HIDDEN // 8), np.float32
            )
        },
        "attention heads and",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tensor_that_does_not_fit_is_named(fault: str, tmp_path: Path) -> None:
    tensors, message = FAULTS[fault]
    with pytest.raises(InputError, match=message):
        Bem.open(save_bem(tmp_path, tensors))


def _vocabulary(folder: Path, text: str) -> None:
    (folder / "vocab.txt").write_text(text, encoding="utf-8")


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    def broken(message: str, kind: type[M2KRError] = InputError) -> None:
        with pytest.raises(kind, match=message):
            Bem.open(folder)

    folder = tmp_path / "nowhere"
    broken("no such folder", MissingError)
    folder.mkdir()
    broken("no weights of BEM", MissingError)
    save_bem(folder)
    _vocabulary(folder, "\n".join([*VOCABULARY, "more"]))
    broken(f"the vocabulary has {len(VOCABULARY) + 1} tokens")
    _vocabulary(folder, "\n".join(VOCABULARY).replace("[SEP]", "sep"))
    broken(r"lacks \[SEP\]")
    (folder / "vocab.txt").unlink()
    broken("vocabulary is missing", MissingError)
    save_bem(folder, config={"num_attention_heads": HEADS, "num_hidden_layers": 3})
    broken(r"bert\.encoder\.layer\.2\.\S+ is missing: config\.json names 3 layers")
    save_bem(folder, config={"num_attention_heads": HEADS, "num_hidden_layers": 1})
    broken(r"tensors of 2 layers.*config\.json names 1")
    save_bem(folder, config={"num_attention_heads": HEADS, "hidden_size": 64})
    broken(r"bert\.embeddings\.word_embeddings\.weight has the shape")
    save_bem(folder, config={"num_attention_heads": 5})
    broken("5 attention heads")
    save_bem(
        folder, config={"num_attention_heads": HEADS, "position_embedding_type": "relative_key"}
    )
    broken("position_embedding_type is 'relative_key'")
    save_bem(folder)
    (folder / "second.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    broken(r"which of model\.safetensors, second\.safetensors")
    (folder / "second.safetensors").unlink()
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    broken("no sound file of tensors")
    (folder / "model.safetensors").unlink()
    for name in ("bem.npz", "model.pt"):
        (folder / name).write_bytes(b"not weights")
        broken("no sound file of tensors")
        (folder / name).unlink()
    np.savez(folder / "bem.npz", **{"classifier/kernel": np.array([{}], dtype=object)})
    broken("no sound file of tensors")


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    folder = save_bem(tmp_path / "bem")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"classifier.weight": Evil()}, 2))
    with pytest.raises(InputError, match="no sound file of tensors"):
        Bem.open(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("types", [2, 3])
def test_scores_are_those_of_transformers(types: int, tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tensors = port_tensors(types=types)
    bem = Bem.open(save_bem(tmp_path, tensors))
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=tensors["bert.encoder.layer.0.intermediate.dense.bias"].shape[0],
        max_position_embeddings=POSITIONS,
        type_vocab_size=types,
        num_labels=2,
    )
    model = BertForSequenceClassification(config).eval()
    state = {name: torch.from_numpy(values) for name, values in tensors.items()}
    assert not model.load_state_dict(state, strict=False).missing_keys
    ids = ids_of("[CLS] red fox [SEP] blue [SEP] what colour is it ? [SEP]")
    segments = [0] * 4 + [1] * 2 + [types - 1] * 6
    pad = POSITIONS - len(ids)
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor([ids + [0] * pad]),
            token_type_ids=torch.tensor([segments + [0] * pad]),
            attention_mask=torch.tensor([[1] * len(ids) + [0] * pad]),
        ).logits
    expected = float(logits.softmax(-1)[0, 1])
    score = bem.probability("red fox", "blue", "what colour is it?")
    assert score == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_a_folder_that_transformers_wrote_scores_as_its_published_example(tmp_path: Path) -> None:
    """Tokenizer and all, as the model card of kortukov/answer-equivalence-bem reads it."""
    import torch
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertForSequenceClassification,
        BertTokenizerFast,
    )

    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=48,
        max_position_embeddings=64,
        num_labels=2,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    vocabulary = {token: n for n, token in enumerate(VOCABULARY)}
    BertTokenizerFast(vocab=vocabulary, model_max_length=64).save_pretrained(tmp_path)
    bem, tokenizer = Bem.open(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    scores = []
    for candidate, reference, question in TRIPLES:
        inputs = tokenizer(
            text=f"[CLS] {candidate} [SEP]",
            text_pair=f"{reference} [SEP] {question} [SEP]",
            add_special_tokens=False,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            expected = float(model(**inputs).logits.softmax(-1)[0, 1])
        scores.append(bem.probability(candidate, reference, question))
        assert scores[-1] == pytest.approx(expected, abs=1e-6)
    assert max(scores) - min(scores) > 0.01


def test_the_names_of_real_checkpoints_have_their_places() -> None:
    from m2kr.rag.scorers.bem_names import bert_name

    names = {
        "bert/encoder/layer_11/attention/output/dense/kernel": "layer.11.attention.output.dense",
        "bert_classifier/bert_encoder/transformer/layer_3/output/kernel:0": "layer.3.output.dense",
        "transformer/layer_0/self_attention/value/kernel:0": "layer.0.attention.self.value",
        "tf_bert/encoder/layer_._7/intermediate/dense/kernel:0": "layer.7.intermediate.dense",
    }
    for name, place in names.items():
        assert bert_name(name) == (f"bert.encoder.{place}.weight", True)
    assert bert_name("bert/encoder/layer_0/output/dense/kernel/adam_m") is None
    assert bert_name("bert.embeddings.position_ids") is None
    for name in (
        "",
        "kernel",
        "layer_0",
        "bert/encoder/layer_x/output/dense/kernel",
        "lstm/kernel",
    ):
        with pytest.raises(InputError, match=re.escape(repr(name))):
            bert_name(name)


def test_the_scorer_imports_no_torch_before_a_checkpoint_is_opened() -> None:
    code = (
        "import sys; import m2kr.rag.scorers.evqa, m2kr.rag.scorers.bem;"
        "sys.exit(bool({'torch', 'transformers', 'tensorflow', 'safetensors'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
