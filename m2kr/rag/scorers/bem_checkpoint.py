"""Reading a BEM checkpoint: a local folder with weights, a vocabulary and perhaps its sizes."""

import hashlib
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.errors import InputError, MissingError
from m2kr.preflmr.inputs import local_files, wordpiece
from m2kr.rag.scorers.bem_names import bert_layers, bert_shapes, bert_tensors

if TYPE_CHECKING:
    from torch import Tensor

_HEAD_SIZE = 64
# The first kind that the folder has is read.
_KINDS = ((".safetensors",), (".npz",), (".bin", ".pt", ".pth"))
_BESIDE = {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
_GET = (
    "hf download kortukov/answer-equivalence-bem --local-dir bem, or write the variables of "
    "TensorFlow Hub's google/answer_equivalence/bem/1 to bem/bem.npz and put vocab.txt beside them"
)


@dataclass(frozen=True, slots=True)
class BemCheckpoint:
    """What `Bem` is made of.

    Attributes:
        tensors: By the names of PyTorch's BertForSequenceClassification, in float32.
        layers: How many the encoder has.
        heads: Attention heads of a layer.
        epsilon: Of every layer norm.
        activation: As config.json names it.
        tokens: The vocabulary in the order of ids.
        tokenizer_config: Keys of tokenizer_config.json.
    """

    tensors: "Mapping[str, Tensor]"
    layers: int
    heads: int
    epsilon: float
    activation: str
    tokens: tuple[str, ...]
    tokenizer_config: Mapping[str, Any]

    def sha256(self) -> str:
        """The digest of weights and vocabulary: the same under all names and in all file formats."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.numpy().astype("<f4", copy=False).tobytes())
        digest.update("\n".join(self.tokens).encode())
        return digest.hexdigest()


def read_bem_checkpoint(folder: Path) -> BemCheckpoint:
    """The checkpoint in a local folder.

    Args:
        folder: Holds the weights (``*.safetensors``, ``*.npz``, or PyTorch's ``*.bin``, of which only
            tensors are read), vocab.txt or tokenizer.json, and, optionally, config.json (or
            bert_config.json) and tokenizer_config.json.

    Raises:
        InputError: A file is damaged, or a tensor is unknown, missing or of another shape.
        MissingError: The folder, the weights or the vocabulary are missing.
    """
    if not folder.is_dir():
        raise MissingError(
            "there is no such folder with a BEM checkpoint", where=str(folder), fix=_GET
        )
    paths = _weight_files(folder)
    config, config_path = _config(folder)
    try:
        tensors, heads = bert_tensors(_read(paths))
        _check_config(tensors, config, config_path)
        heads = _heads(tensors, heads, config)
    except InputError as error:
        raise InputError(
            error.what, where=error.where or str(paths[0]), expected=error.expected, fix=error.fix
        ) from None
    tokenizer_config = folder / "tokenizer_config.json"
    vocabulary = wordpiece.folder_vocab(folder)
    words = len(tensors["bert.embeddings.word_embeddings.weight"])
    if len(vocabulary) > words:
        raise InputError(
            f"the vocabulary has {len(vocabulary):,} tokens, the word embeddings have {words:,} rows",
            where=str(folder),
        )
    epsilon = config.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, (int, float)) or not 0 < epsilon < 1:
        raise InputError(f"layer_norm_eps is {epsilon!r:.80}", where=str(config_path))
    return BemCheckpoint(
        tensors,
        bert_layers(tensors),
        heads,
        float(epsilon),
        str(config.get("hidden_act", "gelu")),
        tuple(vocabulary),
        local_files.read_object(tokenizer_config) if local_files.present(tokenizer_config) else {},
    )


def _weight_files(folder: Path) -> list[Path]:
    for endings in _KINDS:
        paths = sorted(
            path
            for path in folder.iterdir()
            if path.suffix in endings and path.name not in _BESIDE and path.is_file()
        )
        shards = [path for path in paths if "-of-" in path.stem]
        if len(paths) > 1 and shards != paths:
            raise InputError(
                f"which of {', '.join(path.name for path in paths)} holds BEM's weights?",
                where=str(folder),
                expected="one file, or the shards of one",
            )
        if paths:
            return paths
    raise MissingError("there are no weights of BEM in this folder", where=str(folder), fix=_GET)


def _read(paths: Iterable[Path]) -> "dict[str, Tensor]":
    """The tensors of all files by the names that they have there."""
    together: dict[str, Tensor] = {}
    for path in paths:
        tensors = _read_file(path)
        if twice := sorted(together.keys() & tensors.keys()):
            raise InputError(f"the tensor {twice[0]!r} is in two files", where=str(path))
        together |= tensors
    return together


def _read_file(path: Path) -> "dict[str, Tensor]":
    import numpy as np
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            tensors: Any = load_file(path)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                # A copy: torch warns of arrays that can't be written to.
                tensors = {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (
        *(SafetensorError, OSError, ValueError, TypeError, RuntimeError, EOFError, KeyError),
        *(zipfile.BadZipFile, pickle.UnpicklingError),
    ) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"the file is no sound file of tensors: {reason:.300}",
            where=str(path),
            expected="safetensors, NumPy's npz, or PyTorch's state dict",
        ) from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in tensors.items()
    ):
        raise InputError("the file holds no tensors by name", where=str(path))
    return tensors


def _config(folder: Path) -> tuple[dict[str, Any], Path]:
    for name in ("config.json", "bert_config.json"):
        if local_files.present(folder / name):
            return local_files.read_object(folder / name), folder / name
    return {}, folder / "config.json"


def _check_config(tensors: "Mapping[str, Tensor]", config: Mapping[str, Any], path: Path) -> None:
    """Whether sizes that config.json gives are the tensors'."""
    if config.get("position_embedding_type", "absolute") != "absolute":
        kind = config["position_embedding_type"]
        raise InputError(f"position_embedding_type is {kind!r:.80}", where=str(path))
    embeddings = {
        kind: tensors[f"bert.embeddings.{kind}_embeddings.weight"].shape
        for kind in ("word", "position", "token_type")
    }
    sizes = {
        "num_hidden_layers": bert_layers(tensors),
        "hidden_size": embeddings["word"][1],
        "intermediate_size": len(tensors["bert.encoder.layer.0.intermediate.dense.bias"]),
        "vocab_size": embeddings["word"][0],
        "max_position_embeddings": embeddings["position"][0],
        "type_vocab_size": embeddings["token_type"][0],
    }
    given = {key: config.get(key, size) for key, size in sizes.items()}
    for key, value in given.items():
        if type(value) is not int or value < 1:
            raise InputError(f"{key} is {value!r:.80}", where=str(path), expected=str(sizes[key]))
    keys = ("hidden", "wide", "words", "positions", "types")
    layers, *rest = given.values()
    for name, shape in bert_shapes(min(layers, 1000), **dict(zip(keys, rest, strict=True))).items():
        if name not in tensors:
            raise InputError(f"the tensor {name} is missing: {path.name} names {layers} layers")
        if tuple(tensors[name].shape) != shape:
            raise InputError(
                f"the tensor {name} has the shape {tuple(tensors[name].shape)}",
                expected=f"{shape} by {path.name}",
            )
    if layers != sizes["num_hidden_layers"]:
        raise InputError(
            f"there are tensors of {sizes['num_hidden_layers']} layers, such as "
            f"bert.encoder.layer.{layers}.output.dense.weight; {path.name} names {layers}"
        )


def _heads(tensors: "Mapping[str, Tensor]", axes: int | None, config: Mapping[str, Any]) -> int:
    """Attention heads: by the kernels' axes, by config.json, or else heads of 64 as every BERT's."""
    hidden = tensors["bert.embeddings.word_embeddings.weight"].shape[1]
    named = config.get("num_attention_heads")
    if named is not None and axes is not None and named != axes:
        raise InputError(f"config.json has {named!r:.80} attention heads, the kernels have {axes}")
    heads = named if named is not None else axes
    if heads is None and hidden % _HEAD_SIZE == 0:
        heads = hidden // _HEAD_SIZE
    if type(heads) is not int or heads < 1 or hidden % heads:
        raise InputError(
            f"{hidden} dimensions, and "
            + ("no number of heads" if heads is None else f"{heads!r:.80} attention heads"),
            expected="num_attention_heads in config.json",
        )
    return heads
