"""Checkpoints of a few kilobytes whose weights are made by numpy, the same on every machine."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_WORDS = """
the a of and is in on to it with which what city capital peru lima paris france animal badger zebra
stripes black white red green fruit metal copper ice river coast small orange fish find
"""
WORDS = _WORDS.split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:?!-'"
_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_VISION = _TEXT | {"image_size": 16, "patch_size": 8}


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="m2kr-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def fill(model: Any) -> Any:
    """Random weights from a counter, so that neither torch nor its version decides them."""
    import torch

    rng = np.random.default_rng(7)
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            if tensor.is_floating_point():
                values = 0.3 * np.asarray(rng.integers(-1000, 1001, tuple(tensor.shape))) / 1000
                scale = "norm" in name.lower() and name.endswith("weight")  # of a LayerNorm
                tensor.copy_(torch.tensor(values + scale))
    return model.eval()


def save_tokenizer(folder: Path, length: int, *, special: Iterable[str] = ()) -> None:
    """A WordPiece tokenizer of some words and all letters."""
    from transformers import BertTokenizerFast

    parts = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *special, *WORDS, *LETTERS]
    parts += [f"##{c}" for c in LETTERS if c.isalnum()]
    vocabulary = {part: place for place, part in enumerate(dict.fromkeys(parts))}
    BertTokenizerFast(vocab=vocabulary, model_max_length=length).save_pretrained(folder)


def vocabulary_size() -> int:
    return 5 + len({*WORDS, *LETTERS, *(f"##{c}" for c in LETTERS if c.isalnum())})


@cache
def dual_encoder(kind: str) -> Path:
    """A folder of CLIP's or SigLIP's shape (``clip``, ``siglip``, ``siglip2``)."""
    import transformers as tf

    folder = _folder() / kind
    text = _TEXT | {"vocab_size": vocabulary_size(), "max_position_embeddings": 12}
    if kind == "clip":
        text |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
        config = tf.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=8)
        model: Any = tf.CLIPModel(config)
        processor: Any = getattr(tf, "CLIPImageProcessorPil", tf.CLIPImageProcessor)(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        )
    elif kind == "siglip":
        text |= {"projection_size": 16}
        model = tf.SiglipModel(tf.SiglipConfig(text_config=text, vision_config=_VISION))
        processor = getattr(tf, "SiglipImageProcessorPil", tf.SiglipImageProcessor)(
            size={"height": 16, "width": 16}
        )
    else:
        text |= {"projection_size": 16}
        vision = _TEXT | {"num_patches": 16, "patch_size": 8}
        model = tf.Siglip2Model(tf.Siglip2Config(text_config=text, vision_config=vision))
        kind_of = getattr(tf, "Siglip2ImageProcessorPil", tf.Siglip2ImageProcessor)
        processor = kind_of(patch_size=8, max_num_patches=16)
    fill(model).save_pretrained(folder)
    save_tokenizer(folder, 12)
    processor.save_pretrained(folder)
    return folder


@cache
def bert(labels: int = 0) -> Path:
    """A folder with a BERT; with ``labels``, a classifier of pairs."""
    import transformers as tf

    folder = _folder() / f"bert{labels}"
    config = tf.BertConfig(
        **_TEXT, vocab_size=vocabulary_size(), max_position_embeddings=40, num_labels=labels or 2
    )
    model = tf.BertForSequenceClassification(config) if labels else tf.BertModel(config)
    fill(model).save_pretrained(folder)
    save_tokenizer(folder, 40)
    return folder


def edited(folder: Path, to: Path, file: str, **values: object) -> Path:
    """A copy with other values in one of its JSON files."""
    shutil.copytree(folder, to)
    known = json.loads((to / file).read_text(encoding="utf-8"))
    (to / file).write_text(json.dumps(known | values), encoding="utf-8")
    return to
