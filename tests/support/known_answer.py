"""A task whose answer is known: passages tell the signs of a fixed linear map of an image's colours.

Four random colours are painted as the quarters of a tiny image. The map takes these twelve numbers to six,
and the passage that is right says of each whether it is above 0. So there are 64 passages, each right as
often, and more images than anybody has seen.
"""

import io
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import m2kr

SIGNS = 6
PASSAGES = 2**SIGNS
_LETTERS = "abcdef"
_CLEAR = 0.4  # standard deviations of the map's numbers from 0: closer ones are left out
_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]", ".", ":"]
_VOCABULARY += ["find", "it", *(f"{letter}{side}" for letter in _LETTERS for side in "xy")]


def known_task(root: Path, train: int, test: int) -> None:
    """Two built sources, ``taught`` (train) and ``held`` (test), with so many images of each passage."""
    rng = np.random.default_rng(0)
    linear = np.linalg.qr(rng.standard_normal((12, 12)))[0][:SIGNS]
    colours = rng.integers(0, 256, (40_000, 12))
    values = (colours / 127.5 - 1) @ linear.T
    clear = (abs(values) > _CLEAR * values.std()).all(axis=1)
    images: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
    for colour, signs in zip(colours[clear], values[clear] > 0, strict=True):
        words = (f"{c}{'xy'[sign]}" for c, sign in zip(_LETTERS, signs.astype(int), strict=True))
        images[" ".join(words)].append(colour)
    assert len(images) == PASSAGES
    assert min(map(len, images.values())) >= train + test
    passages = {text.replace(" ", "-"): f"it {text}" for text in sorted(images)}
    root.mkdir(parents=True, exist_ok=True)
    for name, split, shown in (
        ("taught", "train", slice(train)),
        ("held", "test", slice(train, train + test)),
    ):
        queries = []
        archive = root / f"{name}.zip"
        with zipfile.ZipFile(archive, "w") as pictures:
            for text in sorted(images):
                for colour in images[text][shown]:
                    n = len(queries)
                    pictures.writestr(f"{n}.png", _png(colour))
                    positives = [text.replace(" ", "-")]
                    queries.append(
                        {"id": f"{name}-{n}", "image": f"{n}.png", "positives": positives}
                    )
        m2kr.from_records(
            passages,
            queries,
            name=name,
            split=split,
            images=archive,
            instruction="find :",
            data=root,
        )


def _png(colour: NDArray[np.int64]) -> bytes:
    small = Image.fromarray(colour.reshape(2, 2, 3).astype(np.uint8))
    file = io.BytesIO()
    small.resize((8, 8), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def known_model(folder: Path) -> Path:
    """A checkpoint of random weights that fits the task: its frozen vision encoder gives random features."""
    import torch

    from m2kr.preflmr import PreFLMR
    from m2kr.preflmr.inputs.image_processing import ImageProcessor
    from m2kr.preflmr.inputs.tokenization import ContextTokenizer, QueryTokenizer
    from m2kr.preflmr.model.configuration import (
        BertSettings,
        PreFLMRConfig,
        TextSettings,
        VisionSettings,
    )

    folder.mkdir(parents=True, exist_ok=True)
    vocab = folder / "vocab.txt"
    vocab.write_text("".join(f"{word}\n" for word in _VOCABULARY), encoding="utf-8")
    queries = QueryTokenizer.from_vocab(vocab, query_maxlen=8)
    contexts = ContextTokenizer.from_vocab(vocab, doc_maxlen=16)
    bert: dict[str, Any] = {
        "vocab_size": len(_VOCABULARY),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    config = PreFLMRConfig(
        text_config=TextSettings(max_position_embeddings=16, **bert),
        vision_config=VisionSettings(
            hidden_size=128,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=8,
            patch_size=8,
        ),
        dim=32,
        mapping_network_prefix_length=8,
        use_transformer_mapping_network=True,
        transformer_mapping_config_base="mapping_config",
        transformer_mapping_num_hidden_layers=1,
        mask_instruction_token=":",
        mapping_config=BertSettings(**bert),
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PreFLMR(config, queries, contexts, ImageProcessor.of_size(8))
    model.save_pretrained(folder)
    return folder
