"""Checkpoints in the official layout, read strictly and written so that the official code reads them.

A folder holds ``config.json``, ``model.safetensors`` (or shards and their index),
``query_tokenizer/``, ``context_tokenizer/`` and, unless CLIP's settings at the model's size will do,
``preprocessor_config.json``; where the mapping network is no known BERT, a folder with its config.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from m2kr import atomic
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.preflmr.checkpoint import state_dict, weights
from m2kr.preflmr.inputs.files import local_folder
from m2kr.preflmr.inputs.image_processing import ImageProcessor
from m2kr.preflmr.inputs.tokenization import ContextTokenizer, QueryTokenizer
from m2kr.preflmr.model.configuration import KNOWN_BERTS, PreFLMRConfig
from m2kr.preflmr.model.encoders import materialise_buffers

if TYPE_CHECKING:
    from m2kr.preflmr.model.modeling import PreFLMRModel

    Model = TypeVar("Model", bound=PreFLMRModel)

_MAPPING_FOLDER = "mapping_config"


def load_model(
    cls: "type[Model]",
    checkpoint: str | Path,
    *,
    revision: str | None = None,
    query_tokenizer: QueryTokenizer | None = None,
    context_tokenizer: ContextTokenizer | None = None,
    image_processor: ImageProcessor | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attention: str = "sdpa",
) -> "Model":
    """A model with a checkpoint's weights, in evaluation mode.

    Nothing but JSON, vocabularies and safetensors is read, and a local folder is read without any
    network. Every parameter must be in the file, and nothing else: see `m2kr.preflmr.checkpoint.state_dict`.

    Args:
        cls: `PreFLMR` or a subclass.
        checkpoint: A folder or a hub id.
        revision: Commit, tag or branch of a hub id.
        query_tokenizer: In place of the checkpoint's.
        context_tokenizer: In place of the checkpoint's.
        image_processor: In place of the checkpoint's.
        dtype: Type of the parameters, whatever the file has.
        device: Where they go.
        attention: ``"sdpa"`` or ``"eager"``.

    Raises:
        InputError: A file is malformed, or tensors are missing, unexpected or misshapen.
        MissingError: The folder, or a file that it must hold, is not there.
    """
    if not dtype.is_floating_point:
        raise UsageError(f"parameters can't be {dtype}", expected="a floating-point dtype")
    folder = local_folder(checkpoint, revision)
    config = PreFLMRConfig.from_folder(folder)
    found = weights.describe_weights(folder)
    model = empty(
        cls,
        config,
        query_tokenizer or QueryTokenizer.from_pretrained(folder),
        context_tokenizer or ContextTokenizer.from_pretrained(folder),
        image_processor or ImageProcessor.from_pretrained(folder, config.vision_config.image_size),
        attention=attention,
    )
    check_vocabulary(model, str(folder))
    matched = match(model, found)
    matched.require(str(folder))
    state = {}
    with weights.reader(found) as reader:
        for name, sources in matched.sources.items():
            tensor = reader.tensor(sources[0])
            for other in sources[1:]:
                if not torch.equal(tensor, reader.tensor(other)):
                    raise InputError(
                        f"{sources[0]} and {other} are one parameter, but differ", where=str(folder)
                    )
            # A copy: the model must outlive the file that the tensor is mapped from.
            state[name] = tensor.to(device=device, dtype=dtype, copy=True)
    model.load_state_dict(state, strict=True, assign=True)
    materialise_buffers(model, torch.device(device))
    return model.eval()


def empty(
    cls: "type[Model]",
    config: PreFLMRConfig,
    query_tokenizer: QueryTokenizer | None = None,
    context_tokenizer: ContextTokenizer | None = None,
    image_processor: ImageProcessor | None = None,
    *,
    attention: str = "sdpa",
) -> "Model":
    """A model on the ``meta`` device: all shapes, no memory."""
    with torch.device("meta"):
        return cls(config, query_tokenizer, context_tokenizer, image_processor, attention=attention)


def match(model: "PreFLMRModel", found: dict[str, weights.TensorInfo]) -> state_dict.Match:
    """A checkpoint's tensors against a model's parameters."""
    wanted = {name: tuple(each.shape) for name, each in model.state_dict().items()}
    return state_dict.match({n: each.shape for n, each in found.items()}, wanted, model.config)


def check_vocabulary(model: "PreFLMRModel", where: str) -> None:
    """Raises an `InputError` if a tokenizer has ids that the text encoder has no embedding for."""
    rows = model.config.text_config.vocab_size
    for tokenizer in (model.query_tokenizer, model.context_tokenizer):
        if tokenizer is not None and tokenizer.vocab_size > rows:
            raise InputError(
                f"{tokenizer.FOLDER} has {tokenizer.vocab_size:,} tokens, the text encoder {rows:,}",
                where=where,
            )


def save_model(
    model: "PreFLMRModel",
    folder: str | Path,
    *,
    query_tokenizer: QueryTokenizer | None = None,
    context_tokenizer: ContextTokenizer | None = None,
) -> None:
    """Writes a checkpoint in the official layout with the official tensor names.

    Shared parameters are written once, under their ``query_`` names, as the official code does.
    Each file is written aside and renamed, the weights last.

    Args:
        model: Any model that is not on the ``meta`` device.
        folder: Made if absent; files of a former checkpoint are replaced.
        query_tokenizer: In place of the model's own.
        context_tokenizer: In place of the model's own.

    Raises:
        MissingError: The model was made without tokenizers and none is given.
    """
    folder = Path(folder)
    query_tokenizer = query_tokenizer or model.query_tokenizer
    context_tokenizer = context_tokenizer or model.context_tokenizer
    if query_tokenizer is None or context_tokenizer is None:
        raise MissingError(
            "the model has no tokenizers to be saved with",
            fix="save_pretrained(folder, query_tokenizer=…, context_tokenizer=…)",
        )
    folder.mkdir(parents=True, exist_ok=True)
    query_tokenizer.save_pretrained(folder / QueryTokenizer.FOLDER)
    context_tokenizer.save_pretrained(folder / ContextTokenizer.FOLDER)
    size = model.config.vision_config.image_size
    (model.image_processor or ImageProcessor.of_size(size)).save_pretrained(folder)
    config = _save_mapping(model.config, folder)
    dtype = str(model.dtype).removeprefix("torch.")
    atomic.write_json(folder / "config.json", config.to_dict() | {"torch_dtype": dtype})
    _save_weights(model, folder / weights.SINGLE)


def _save_mapping(config: PreFLMRConfig, folder: Path) -> PreFLMRConfig:
    """Writes the mapping network's config unless its name is known; gives the config to write."""
    mapping, base = config.mapping_config, config.transformer_mapping_config_base
    if mapping is None or (base is not None and KNOWN_BERTS.get(base) == mapping):
        return config
    (folder / _MAPPING_FOLDER).mkdir(exist_ok=True)
    atomic.write_json(
        folder / _MAPPING_FOLDER / "config.json",
        dataclasses.asdict(mapping) | {"model_type": "bert", "position_embedding_type": "absolute"},
    )
    return dataclasses.replace(config, transformer_mapping_config_base=_MAPPING_FOLDER)


def _save_weights(model: "PreFLMRModel", path: Path) -> None:
    from safetensors.torch import save_file

    state = {name: each.detach().contiguous() for name, each in model.state_dict().items()}
    if any(each.is_meta for each in state.values()):
        raise UsageError("the model is on the meta device and has no weights to save")
    with atomic.writing(path) as aside:
        save_file(state, aside, metadata={"format": "pt"})
