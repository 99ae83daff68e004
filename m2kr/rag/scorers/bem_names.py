"""A BERT classifier's tensors under one set of names and in one layout, whatever wrote the checkpoint.

That set is of PyTorch's BertForSequenceClassification: ``bert.encoder.layer.0.output.dense.weight``. Read
are these, too:

- of Google's first BERT: ``bert/encoder/layer_0/attention/self/query/kernel``, ``output_weights``;
- of TensorFlow's Model Garden: ``transformer/layer_0/self_attention/query/kernel:0``, by variable or by
  attribute (``encoder/_transformer_layers/0/_attention_layer/_query_dense/kernel``);
- of Transformers' TensorFlow and Flax ports: ``…/bert/encoder/layer_._0/…``, ``…/layer/0/…/LayerNorm/scale``.

A tensor called ``kernel`` is (inputs x outputs), where inputs or outputs may be two axes, heads and head
size; one called ``weight`` is (outputs x inputs). The name alone decides this, never the shape.
"""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from m2kr.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

_WORDS = "bert.embeddings.word_embeddings.weight"
_LAYER = "bert.encoder.layer."
_CLASSIFIER = "classifier"
# Whichever of these stands before a layer's number, it is written "layer.".
_NUMBERED = re.compile(
    r"(?:layer_\._|layer_|layers_|layers\.|_transformer_layers\.|layer\.)(?=\d+\.)"
)
_TABLES = {
    "bert.embeddings.word_embeddings": r"(?:embeddings\.)?word_embeddings?|_embedding_layer",
    "bert.embeddings.position_embeddings": (
        r"(?:embeddings\.)?position_embeddings?|_position_embedding_layer"
    ),
    "bert.embeddings.token_type_embeddings": (
        r"(?:embeddings\.)?(?:token_)?type_embeddings?|_type_embedding_layer"
    ),
}
_OF_LAYER = {
    "attention.self.query": r"(?:attention\.self|self_attention)\.query|_attention_layer\._query_dense",
    "attention.self.key": r"(?:attention\.self|self_attention)\.key|_attention_layer\._key_dense",
    "attention.self.value": r"(?:attention\.self|self_attention)\.value|_attention_layer\._value_dense",
    "attention.output.dense": (
        r"attention\.output\.dense|self_attention\.attention_output|_attention_layer\._output_dense"
    ),
    "attention.output.LayerNorm": (
        r"attention\.output\.LayerNorm|self_attention_layer_norm|_attention_layer_norm"
    ),
    "intermediate.dense": r"intermediate\.dense|intermediate|_intermediate_dense",
    "output.dense": r"output\.dense|output|_output_dense",
    "output.LayerNorm": r"output\.LayerNorm|output_layer_norm|_output_layer_norm",
}
_BESIDE = {
    "bert.embeddings.LayerNorm": r"embeddings\.(?:LayerNorm|layer_norm)|_embedding_norm_layer",
    "bert.pooler.dense": r"pooler\.dense|pooler_transform|_pooler_layer",
    _CLASSIFIER: (
        r"(?:(?:sentence_)?classification|classifier|classification_head)"
        r"(?:\.predictions\.transform\.logits|\.logits|\.dense)?|predictions\.transform\.logits|logits"
    ),
}
_LEAVES = {
    "kernel": "kernel",
    "weight": "weight",
    "gamma": "weight",
    "scale": "weight",
    "bias": "bias",
    "beta": "bias",
}
_UNREAD = re.compile(
    # Numbers of positions, and what training keeps beside the weights.
    r"(?:.*\.)?(?:position_ids|global_step|save_counter|iterations|adam_[mv]|adam_[mv]_\d+)"
)


class NamedTensor(NamedTuple):
    """Where a tensor belongs.

    Attributes:
        name: As PyTorch's BertForSequenceClassification has it.
        is_kernel: Whether it is (inputs x outputs).
    """

    name: str
    is_kernel: bool


def bert_name(name: str) -> NamedTensor | None:
    """What a checkpoint's name says; None for what isn't read.

    Raises:
        InputError: No tensor of a BERT classifier is called so.
    """
    dotted = name.removesuffix(":0").removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
    dotted = _NUMBERED.sub("layer.", dotted.replace("layer_._", "layer_").replace("/", "."))
    if _UNREAD.fullmatch(dotted):
        return None
    for target, source in _TABLES.items():
        if re.fullmatch(rf"(?:.*\.)?(?:{source})(?:\.(?:weight|embeddings?|{source}))?", dotted):
            return NamedTensor(f"{target}.weight", False)
    # Google's first classifier multiplies by the transpose of its weights.
    if first := re.fullmatch(r"(?:.*\.)?output_(weight|bias)s?", dotted):
        return NamedTensor(f"{_CLASSIFIER}.{first[1]}", False)
    stem, _, leaf = dotted.rpartition(".")
    if leaf in _LEAVES:
        inside = re.fullmatch(r"(?:.*\.)?layer\.(\d{1,3})\.(.+)", stem)
        targets = _OF_LAYER if inside else _BESIDE
        before = f"{_LAYER}{int(inside[1])}." if inside else ""
        for target, source in targets.items():
            anywhere = "" if inside else r"(?:.*\.)?"
            if re.fullmatch(f"{anywhere}(?:{source})", inside[2] if inside else stem):
                kind = _LEAVES[leaf]
                last = "weight" if kind == "kernel" else kind
                return NamedTensor(f"{before}{target}.{last}", kind == "kernel")
    raise InputError(
        f"the tensor {name!r:.200} has no place in a BERT classifier",
        expected="names of PyTorch's BertForSequenceClassification or of TensorFlow's variables",
    )


def bert_tensors(tensors: "Mapping[str, Tensor]") -> "tuple[dict[str, Tensor], int | None]":
    """A checkpoint's tensors as PyTorch's BertForSequenceClassification has them, in float32.

    Args:
        tensors: By the names in the file.

    Returns:
        The tensors by name, and the number of attention heads where a kernel's axes say it.

    Raises:
        InputError: A name is unknown, two are of one tensor, or a tensor has no numbers or too many axes.
    """
    import torch

    placed: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    heads: dict[int, str] = {}
    for name in sorted(tensors):
        place, tensor = bert_name(name), tensors[name]
        if place is None:
            continue
        if place.name in sources:
            raise InputError(f"{sources[place.name]!r} and {name!r} are both {place.name}")
        sources[place.name] = name
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise InputError(f"the tensor {name!r} is not of finite floating-point numbers")
        shape = tuple(tensor.shape)
        if place.is_kernel and len(shape) == 3:
            joined_last = not place.name.endswith("attention.output.dense.weight")
            heads.setdefault(shape[1] if joined_last else shape[0], name)
            rows = shape[0] if joined_last else shape[0] * shape[1]
            tensor = tensor.reshape(rows, math.prod(shape) // max(rows, 1))
        elif ".attention.self." in place.name and place.name.endswith("bias") and len(shape) == 2:
            heads.setdefault(shape[0], name)
            tensor = tensor.reshape(-1)
        if tensor.dim() != (1 if "LayerNorm" in place.name or place.name.endswith("bias") else 2):
            raise InputError(f"the tensor {name!r} has the shape {shape}")
        tensor = tensor.T if place.is_kernel else tensor
        # Into memory that begins where torch lets it begin: products' last bits depend on that.
        placed[place.name] = torch.empty(tensor.shape, dtype=torch.float32).copy_(tensor)
    if len(heads) > 1:
        (one, first), (two, second) = list(heads.items())[:2]
        raise InputError(f"{first!r} has {one} attention heads and {second!r} {two}")
    _check_shapes(placed, sources)
    return placed, next(iter(heads), None)


def bert_layers(tensors: "Mapping[str, Tensor]") -> int:
    """The number of layers of `bert_tensors`."""
    numbers = [int(name.split(".")[3]) for name in tensors if name.startswith(_LAYER)]
    return max(numbers, default=0) + 1


def bert_shapes(
    layers: int, *, hidden: int, wide: int, words: int, positions: int, types: int
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a BERT classifier of two classes, by name."""
    dense: dict[str, tuple[int, ...]] = {
        "bert.pooler.dense": (hidden, hidden),
        _CLASSIFIER: (2, hidden),
    }
    norms = ["bert.embeddings.LayerNorm"]
    for number in range(layers):
        before = f"{_LAYER}{number}."
        square = ("attention.self.query", "attention.self.key", "attention.self.value")
        dense |= {before + each: (hidden, hidden) for each in (*square, "attention.output.dense")}
        dense |= {
            f"{before}intermediate.dense": (wide, hidden),
            f"{before}output.dense": (hidden, wide),
        }
        norms += [f"{before}attention.output.LayerNorm", f"{before}output.LayerNorm"]
    rows = {"word": words, "position": positions, "token_type": types}
    return (
        {f"bert.embeddings.{kind}_embeddings.weight": (n, hidden) for kind, n in rows.items()}
        | {f"{name}.weight": shape for name, shape in dense.items()}
        | {f"{name}.bias": shape[:1] for name, shape in dense.items()}
        | {f"{name}.{part}": (hidden,) for name in norms for part in ("weight", "bias")}
    )


def _check_shapes(placed: "Mapping[str, Tensor]", sources: Mapping[str, str]) -> None:
    def rows(name: str) -> int:
        return placed[name].shape[0] if name in placed else 0

    hidden = placed[_WORDS].shape[1] if _WORDS in placed else 0
    required = bert_shapes(
        bert_layers(placed),
        hidden=hidden,
        wide=rows(f"{_LAYER}0.intermediate.dense.weight"),
        words=rows(_WORDS),
        positions=rows("bert.embeddings.position_embeddings.weight"),
        types=rows("bert.embeddings.token_type_embeddings.weight"),
    )
    for name, shape in required.items():
        if name not in placed:
            raise InputError(f"the tensor {name} is missing, under whichever name")
        if tuple(placed[name].shape) != shape:
            raise InputError(
                f"the tensor {sources[name]!r} has the shape {tuple(placed[name].shape)} as {name}",
                expected=f"{shape}, as the word embeddings and the other layers have it",
            )
