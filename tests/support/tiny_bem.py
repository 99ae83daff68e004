"""BEM checkpoints of a few kilobytes, under every set of names that they come in."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Arrays = dict[str, np.ndarray]

HIDDEN, HEADS, WIDE, LAYERS, POSITIONS = 32, 4, 48, 2, 40
_WORDS = ["the", "a", "of", "how", "tall", "is", "this", "plant", "tower", "red", "blue", "fox"]
_WORDS += ["metre", "foot", "what", "colour", "who", "built", "it"]
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;?!'&|-()[]\"/"
VOCABULARY = list(
    dict.fromkeys(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS, *_CHARACTERS]
        + [f"##{c}" for c in _CHARACTERS if c.isalnum()]
        + [f"[unused{n}]" for n in range(60)]
    )
)


def port_tensors(*, types: int = 2, seed: int = 3) -> Arrays:
    """Random weights under the names of PyTorch's BertForSequenceClassification."""
    rng = np.random.default_rng(seed)
    shapes = {
        "bert.embeddings.word_embeddings.weight": (len(VOCABULARY), HIDDEN),
        "bert.embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "bert.embeddings.token_type_embeddings.weight": (types, HIDDEN),
        "bert.pooler.dense.weight": (HIDDEN, HIDDEN),
        "classifier.weight": (2, HIDDEN),
    }
    norms = ["bert.embeddings.LayerNorm"]
    for n in range(LAYERS):
        layer = f"bert.encoder.layer.{n}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{layer}.attention.{part}.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{layer}.intermediate.dense.weight"] = (WIDE, HIDDEN)
        shapes[f"{layer}.output.dense.weight"] = (HIDDEN, WIDE)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    made = {name: rng.normal(0, 0.5, shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        if "embeddings" not in name:
            made[name.replace("weight", "bias")] = rng.normal(0, 0.3, shape[0])
    for name in norms:
        made[f"{name}.weight"] = 1 + rng.normal(0, 0.2, HIDDEN)
        made[f"{name}.bias"] = rng.normal(0, 0.2, HIDDEN)
    return {name: values.astype(np.float32) for name, values in made.items()}


def _is_norm(name: str) -> bool:
    return "LayerNorm" in name


def _kernels(tensors: Arrays, rename: Callable[[str], str], *, axes: bool = False) -> Arrays:
    """As TensorFlow has them: transposed, called kernel; gamma and beta; heads as an axis."""
    made = {}
    for name, values in tensors.items():
        stem, _, leaf = name.rpartition(".")
        if _is_norm(name):
            leaf = {"weight": "gamma", "bias": "beta"}[leaf]
        elif leaf == "weight" and "embeddings" not in name:
            values, leaf = values.T, "kernel"
        if axes and re.search(r"self\.(query|key|value)$", stem):
            values = values.reshape(*values.shape[:-1], HEADS, HIDDEN // HEADS)
        elif axes and stem.endswith("attention.output.dense") and leaf == "kernel":
            values = values.reshape(HEADS, HIDDEN // HEADS, HIDDEN)
        made[rename(f"{stem}.{leaf}")] = np.ascontiguousarray(values)
    return made


def google(tensors: Arrays) -> Arrays:
    """As Google's first BERT names variables."""

    def rename(name: str) -> str:
        if name.startswith("classifier"):
            return {"kernel": "output_weights", "bias": "output_bias"}[name.rpartition(".")[2]]
        name = name.replace("embeddings.weight", "embeddings").replace(".layer.", ".layer_")
        return name.replace(".", "/")

    made = _kernels(tensors, rename)
    made["output_weights"] = np.ascontiguousarray(made["output_weights"].T)
    return made | {"global_step": np.array(7)}


_KERAS = (
    (r"^bert\.encoder\.layer\.", "transformer.layer_"),
    (r"attention\.output\.LayerNorm", "self_attention_layer_norm"),
    (r"attention\.output\.dense", "self_attention.attention_output"),
    (r"attention\.self", "self_attention"),
    (r"output\.LayerNorm", "output_layer_norm"),
    (r"(intermediate|output)\.dense", r"\1"),
    (r"^bert\.embeddings\.LayerNorm", "embeddings.layer_norm"),
    (r"^bert\.embeddings\.word_embeddings\.weight", "word_embeddings.embeddings"),
    (r"^bert\.embeddings\.position_embeddings\.weight", "position_embedding.embeddings"),
    (r"^bert\.embeddings\.token_type_embeddings\.weight", "type_embeddings.embeddings"),
    (r"^bert\.pooler\.dense", "pooler_transform"),
    (r"^classifier", "classification.predictions.transform.logits"),
)


def keras(tensors: Arrays) -> Arrays:
    """As TensorFlow's Model Garden names variables."""

    def rename(name: str) -> str:
        for pattern, new in _KERAS:
            name = re.sub(pattern, new, name)
        return name.replace(".", "/") + ":0"

    return _kernels(tensors, rename, axes=True)


_ATTRIBUTES = (
    (r"^bert\.encoder\.layer\.", "encoder._transformer_layers."),
    (r"attention\.output\.LayerNorm", "_attention_layer_norm"),
    (r"attention\.output\.dense", "_attention_layer._output_dense"),
    (r"attention\.self\.(\w+)", r"_attention_layer._\1_dense"),
    (r"(\d)\.output\.LayerNorm", r"\1._output_layer_norm"),
    (r"(\d)\.(intermediate|output)\.dense", r"\1._\2_dense"),
    (r"^bert\.embeddings\.LayerNorm", "encoder._embedding_norm_layer"),
    (r"^bert\.embeddings\.word_embeddings\.weight", "encoder._embedding_layer.embeddings"),
    (
        r"^bert\.embeddings\.position_embeddings\.weight",
        "encoder._position_embedding_layer.embeddings",
    ),
    (
        r"^bert\.embeddings\.token_type_embeddings\.weight",
        "encoder._type_embedding_layer.embeddings",
    ),
    (r"^bert\.pooler\.dense", "encoder._pooler_layer"),
)


def attributes(tensors: Arrays) -> Arrays:
    """As a TensorFlow checkpoint names the Model Garden's variables by attributes."""

    def rename(name: str) -> str:
        for pattern, new in _ATTRIBUTES:
            name = re.sub(pattern, new, name)
        return name.replace(".", "/") + "/.ATTRIBUTES/VARIABLE_VALUE"

    return _kernels(tensors, rename, axes=True)


def transformers_tensorflow(tensors: Arrays) -> Arrays:
    """As Transformers' TFBertForSequenceClassification names variables."""

    def rename(name: str) -> str:
        name = name.replace(".", "/").replace("encoder/layer/", "encoder/layer_._")
        name = re.sub("(position|token_type)_embeddings/weight", r"\1_embeddings/embeddings", name)
        return f"tf_bert_for_sequence_classification/{name}:0"

    return _kernels(tensors, rename)


def flax(tensors: Arrays) -> Arrays:
    """As Transformers' Flax port names parameters."""

    def rename(name: str) -> str:
        name = name.replace("gamma", "scale").replace("beta", "bias")
        return re.sub(r"embeddings\.weight", "embeddings.embedding", name).replace(".", "/")

    return _kernels(tensors, rename)


NAMINGS: Mapping[str, Callable[[Arrays], Arrays]] = {
    "port": dict,
    "google": google,
    "keras": keras,
    "attributes": attributes,
    "transformers_tensorflow": transformers_tensorflow,
    "flax": flax,
}


def save_bem(
    folder: Path,
    tensors: Arrays | None = None,
    *,
    kind: str = "safetensors",
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a checkpoint's folder: weights, vocab.txt and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = port_tensors() if tensors is None else tensors
    if kind == "safetensors":
        save_file(tensors, folder / "model.safetensors")
    elif kind == "npz":
        np.savez(folder / "bem.npz", **tensors)
    else:
        import torch

        made = {name: torch.from_numpy(values.copy()) for name, values in tensors.items()}
        torch.save(made, folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    if config is None:
        config = {"num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
    if config:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
