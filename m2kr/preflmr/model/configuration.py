"""What a checkpoint's config.json says, checked: keys, defaults and limits of the official classes."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from m2kr.errors import InputError, MissingError
from m2kr.preflmr.inputs import local_files

if TYPE_CHECKING:
    from collections.abc import Mapping

BERT_BASE = "bert-base-uncased"

#: Bounds of every whole number in a config, so that a hostile file can't ask for terabytes or hours.
_LIMITS = {
    "attention_heads": 1024,
    "dim": 8192,
    "doc_maxlen": 65_536,
    "hidden_layers": 128,
    "hidden_size": 32_768,
    "image_size": 8192,
    "intermediate_size": 262_144,
    "max_position_embeddings": 131_072,
    "num_channels": 64,
    "patch_size": 8192,
    "prefix_length": 8192,
    "projection_dim": 65_536,
    "cross_attention_length": 131_072,
    "query_maxlen": 131_072,
    "type_vocab_size": 65_536,
    "vocab_size": 4_194_304,
    "pad_token_id": 4_194_304,
}
_MAY_BE_ZERO = ("projection_dim", "pad_token_id", "transformer_mapping_num_hidden_layers")
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "tanh")


def _check_fields(settings: Any) -> None:
    """Types and bounds of every field of a settings dataclass.

    Raises:
        InputError: It names the field, its value and what may stand there.
    """
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        kind = each.type
        if kind is int or (kind == int | None and value is not None):
            bound = max(
                (len(key), limit) for key, limit in _LIMITS.items() if each.name.endswith(key)
            )[1]
            least = 0 if each.name in _MAY_BE_ZERO else 1
            if type(value) is not int or not least <= value <= bound:
                raise InputError(
                    f"{each.name} is {value!r:.80}",
                    expected=f"a whole number from {least} to {bound:,}",
                )
        elif kind is float:
            if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
                raise InputError(f"{each.name} is {value!r:.80}", expected="a number, 0 or more")
        elif kind is bool and type(value) is not bool:
            raise InputError(f"{each.name} is {value!r:.80}", expected="true or false")
        elif kind is str and not isinstance(value, str):
            raise InputError(f"{each.name} is {value!r:.80}", expected="a string")
        elif kind == str | None and not isinstance(value, str | None):
            raise InputError(f"{each.name} is {value!r:.80}", expected="a string or null")
        if each.name == "hidden_act" and value not in _ACTIVATIONS:
            raise InputError(f"hidden_act is {value!r:.80}", expected=", ".join(_ACTIVATIONS))


def _check_divides(part: int, whole: int, whole_name: str, part_name: str) -> None:
    """Raises an `InputError` if ``whole`` is no multiple of ``part``."""
    if whole % part:
        raise InputError(f"{whole_name} {whole} is no multiple of {part_name} {part}")


@dataclass(frozen=True, slots=True)
class BertSettings:
    """Sizes of a BERT: the keys of its config.json that change what it computes."""

    vocab_size: int = 30_522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        _check_fields(self)
        _check_divides(
            self.num_attention_heads, self.hidden_size, "hidden_size", "num_attention_heads"
        )


@dataclass(frozen=True, slots=True)
class TextSettings(BertSettings):
    """``text_config``: a BERT and how its queries are cut.

    Attributes:
        projection_dim: Width of an extra projection of the pooled output; 0 means that there is none.
            Late interaction never uses it.
        text_encoder_base_model: Decides the tokenizer; only BERT's is known here.
        query_maxlen: Tokens of a query where the tokenizer's own setting is absent.
    """

    projection_dim: int = 0
    text_encoder_base_model: str = BERT_BASE
    query_maxlen: int = 32


@dataclass(frozen=True, slots=True)
class VisionSettings:
    """``vision_config``: a CLIP vision transformer. ``projection_dim`` is carried, never used."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_factor: float = 1.0

    def __post_init__(self) -> None:
        _check_fields(self)
        _check_divides(
            self.num_attention_heads, self.hidden_size, "hidden_size", "num_attention_heads"
        )
        if self.patch_size > self.image_size:
            raise InputError(
                f"patch_size {self.patch_size} is larger than image_size {self.image_size}"
            )
        if self.num_hidden_layers < 1:
            raise InputError("a vision encoder needs at least one layer")

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return int((self.image_size // self.patch_size) ** 2)


#: The BERT configs that ``transformer_mapping_config_base`` may name; nothing is fetched for them.
KNOWN_BERTS = {
    BERT_BASE: BertSettings(),
    "google-bert/bert-base-uncased": BertSettings(),
    "bert-large-uncased": BertSettings(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
}


@dataclass(frozen=True, slots=True)
class PreFLMRConfig:
    """Everything that fixes a PreFLMR or FLMR model, with the official keys and defaults.

    FLMR is a PreFLMR without the transformer mapping network and instruction mask, with one text
    encoder for both sides.

    Attributes:
        mapping_config: The BERT config that ``transformer_mapping_config_base`` stands for; its number
            of layers gives way to ``transformer_mapping_num_hidden_layers``. ``None`` where there is
            no mapping network.
        query_mask_input_ids_skip_list: Token ids whose query rows are zero and that the mapping
            network does not see.
    """

    text_config: TextSettings = field(default_factory=TextSettings)
    vision_config: VisionSettings = field(default_factory=VisionSettings)
    dim: int = 128
    mapping_network_prefix_length: int = 32
    use_vision_encoder: bool = True
    initializer_range: float = 0.02
    separate_query_and_context_text_encoder: bool = False
    separate_query_and_context_vision_encoder: bool = False
    query_concat_output_from_vision_encoder: bool = True
    query_concat_output_from_text_encoder: bool = True
    context_concat_output_from_vision_encoder: bool = False
    context_concat_output_from_text_encoder: bool = True
    use_transformer_mapping_network: bool = False
    transformer_mapping_config_base: str | None = None
    transformer_mapping_num_hidden_layers: int | None = None
    transformer_mapping_cross_attention_length: int = 32
    mask_punctuation: bool = True
    mask_instruction_token: str | None = None
    query_mask_input_ids_skip_list: tuple[int, ...] = ()
    vision_model_version: str = "openai/clip-vit-base-patch32"
    load_cpu_extension: bool = False
    mapping_config: BertSettings | None = None

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.text_config.text_encoder_base_model != BERT_BASE:
            raise InputError(
                f"text encoder {self.text_config.text_encoder_base_model!r} is not supported",
                expected=f"text_encoder_base_model {BERT_BASE!r}",
            )
        if (self.dim * self.mapping_network_prefix_length) < 2:
            raise InputError("dim times mapping_network_prefix_length must be 2 or more")
        if not self.has_mapping:
            return
        base = self.transformer_mapping_config_base
        if self.mapping_config is None and base in KNOWN_BERTS:
            object.__setattr__(self, "mapping_config", KNOWN_BERTS[base])
        if self.mapping_config is None:
            raise InputError(
                f"the mapping network's config {base!r:.80} is not known",
                expected=f"a folder inside the checkpoint, or one of {', '.join(KNOWN_BERTS)}",
            )
        if self.mapping_config.hidden_size != self.text_config.hidden_size:
            raise InputError(
                f"the mapping network is {self.mapping_config.hidden_size} wide, the text encoder "
                f"that it attends to {self.text_config.hidden_size}"
            )

    @property
    def has_mapping(self) -> bool:
        """Whether patches enter the query, through the transformer mapping network.

        It does not need a vision encoder: features may be given in place of pixels. (The official
        code has no such models: without vision encoder it builds no mapping network either.)
        """
        return self.use_transformer_mapping_network

    @property
    def mapping_layers(self) -> int:
        """Layers of the transformer mapping network."""
        if not self.has_mapping or self.mapping_config is None:
            return 0
        layers = self.transformer_mapping_num_hidden_layers
        return self.mapping_config.num_hidden_layers if layers is None else layers

    @property
    def vision_rows(self) -> int:
        """Query rows that one image gives."""
        patches = self.vision_config.patches if self.has_mapping else 0
        return self.mapping_network_prefix_length + patches

    @classmethod
    def from_dict(cls, data: "Mapping[str, Any]", *, mapping: BertSettings | None = None) -> Self:
        """A config from the keys of a config.json.

        Args:
            data: The decoded file. Keys that no computation here depends on are ignored.
            mapping: What ``transformer_mapping_config_base`` stands for, where it is a folder.

        Raises:
            InputError: A value has a wrong type, is out of bounds or contradicts another.
        """
        kept = dict(data)
        for key, kind in (("text_config", TextSettings), ("vision_config", VisionSettings)):
            value = kept.get(key)
            kept[key] = kind(**_known(kind, {} if value is None else value, key))
        position = (data.get("text_config") or {}).get("position_embedding_type", "absolute")
        if position != "absolute":
            raise InputError(f"position_embedding_type {position!r} is not supported")
        skip = kept.get("query_mask_input_ids_skip_list") or ()
        if not isinstance(skip, list | tuple) or not all(type(x) is int for x in skip):
            raise InputError("query_mask_input_ids_skip_list is no list of token ids")
        kept["query_mask_input_ids_skip_list"] = tuple(skip)
        kept.pop("mapping_config", None)
        return cls(**_known(cls, kept, "the config"), mapping_config=mapping)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """The config of a checkpoint folder, its mapping network's included.

        Raises:
            InputError: config.json is no valid config; the message names the file.
            MissingError: There is no config.json.
        """
        path = folder / "config.json"
        data = local_files.read_object(path)
        try:
            if data.get("model_type", "flmr") != "flmr":
                raise InputError(
                    f"model_type is {data['model_type']!r}",
                    expected="an FLMR or PreFLMR checkpoint",
                )
            base = data.get("transformer_mapping_config_base")
            mapping = None
            if data.get("use_transformer_mapping_network") and isinstance(base, str):
                mapping = _mapping_in(folder, base)
            return cls.from_dict(data, mapping=mapping)
        except InputError as error:
            raise InputError(
                error.what, where=error.where or str(path), expected=error.expected, fix=error.fix
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """The keys of an official config.json."""
        data = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if each.name != "mapping_config"
        }
        data["text_config"] = dataclasses.asdict(self.text_config) | {
            "model_type": "flmr_text_model",
            "position_embedding_type": "absolute",
        }
        data["vision_config"] = dataclasses.asdict(self.vision_config) | {
            "model_type": "flmr_vision_model"
        }
        data["query_mask_input_ids_skip_list"] = list(self.query_mask_input_ids_skip_list)
        return data | {
            "architectures": ["FLMRModelForRetrieval"],
            "model_type": "flmr",
            "torch_dtype": "float32",
        }


def _mapping_in(folder: Path, base: str) -> BertSettings | None:
    """The config in a folder of the checkpoint, or None where the name stands for a known BERT."""
    path = folder / base / "config.json"
    # By name, not by where links lead: a hub's snapshot is made of links to files outside it.
    if Path(base).is_absolute() or ".." in Path(base).parts or "\0" in base:
        return None
    try:
        data = local_files.read_object(path)
    except MissingError:
        return None
    return BertSettings(**_known(BertSettings, data, str(path)))


def _known(kind: type, data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise InputError(f"{where} is no JSON object")
    names = {each.name for each in dataclasses.fields(kind)} - {"mapping_config"}
    return {key: value for key, value in data.items() if key in names}
