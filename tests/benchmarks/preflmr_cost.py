"""What encoding with PreFLMR costs, against a plain driver, in one process, turn by turn.

    python preflmr_cost.py STEP FOLDER ROWS

Prints one JSON object of seconds. Steps: ``passages`` (a model of BERT-base's widths, four of its twelve
layers unless M2KR_WHOLE is set: what isn't layers weighs more then; MS MARCO's lengths),
``images`` (queries with a JPEG each, and a model too small to count).

The plain driver does what the official evaluation script does: every passage padded to 512 tokens,
batch after batch; images opened and processed one by one in a `datasets` map, pixel values kept as
lists of floats, and made tensors batch by batch.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from m2kr.preflmr import ContextTokenizer, PreFLMR, PreFLMRConfig, QueryTokenizer
from m2kr.preflmr.encode.batching import RowBatch, padded
from m2kr.preflmr.encode.encoder import Encoder
from m2kr.preflmr.inputs.image_processing import ImageProcessor
from m2kr.preflmr.model.configuration import TextSettings, VisionSettings

REPEATS = 3
SYLLABLES = ("ta", "ri", "mo", "len", "sa", "ku", "per", "no", "vi", "dra")


def vocabulary(folder: Path) -> Path:
    """A vocabulary of BERT's size: one word in five splits in two."""
    special = ["[PAD]", *(f"[unused{n}]" for n in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [f"w{n}" for n in range(30_522 - len(special) - len(SYLLABLES))]
    path = folder / "vocab.txt"
    path.write_text("".join(f"{t}\n" for t in [*special, *words, *(f"##{s}" for s in SYLLABLES)]))
    return path


def passages(rows: int) -> list[str]:
    """MS MARCO's lengths: median about 70 tokens, from 20 to over 200."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.gamma(5.5, 11.7, rows).astype(int), 15, 300)
    ends = ["", "", "", "", "ta"]
    return [
        " ".join(f"w{n}{ends[n % 5]}" for n in rng.integers(0, 30_000, length))
        for length in lengths
    ]


def model_of(folder: Path, text: TextSettings, vision: VisionSettings) -> PreFLMR:
    torch.manual_seed(0)
    vocab = vocabulary(folder)
    tokenizers = QueryTokenizer.from_vocab(vocab), ContextTokenizer.from_vocab(vocab)
    config = PreFLMRConfig(text_config=text, vision_config=vision)
    return PreFLMR(config, *tokenizers, ImageProcessor.of_size(vision.image_size)).eval()


def timed(**ways: Callable[[], object]) -> dict[str, list[float]]:
    """Medians of wall and processor seconds of several ways, which take turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: [statistics.median(column) for column in zip(*times, strict=True)]
        for name, times in found.items()
    }


def plain_passages(model: PreFLMR, texts: list[str], *, half: bool = True) -> list[np.ndarray]:
    assert model.context_tokenizer is not None
    found: list[np.ndarray] = []
    for start in range(0, len(texts), 8):
        tokens = model.context_tokenizer(texts[start : start + 8], max_length=512)
        with torch.no_grad():
            rows = model.doc(**tokens, keep_dims=False).late_interaction_output
        found += [(each.half() if half else each).numpy() for each in rows]
    return found


class Recorder:
    """The shapes of an encoder's batches."""

    def __init__(self, encoder: Encoder) -> None:
        self.batches: list[RowBatch] = []
        compute = encoder._passages.compute

        def noting(model: PreFLMR, batch: RowBatch) -> list[np.ndarray]:
            self.batches.append(batch)
            return compute(model, batch)

        encoder._passages.compute = noting


def bare_bert(model: PreFLMR, batches: list[RowBatch]) -> None:
    """BERT alone on token ids that are ready, a batch on each core."""

    def forward(batch: RowBatch) -> None:
        ids, attended = batch.tensors(0)
        with torch.inference_mode():
            model.context_text_encoder(ids, attended)

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(forward, batches))
    torch.set_num_threads(threads)


def passages_step(folder: Path, rows: int) -> dict[str, object]:
    layers = 12 if os.environ.get("M2KR_WHOLE") else 4
    text = TextSettings(num_hidden_layers=layers)
    model = model_of(folder, text, VisionSettings(num_hidden_layers=1))
    texts = passages(rows)
    some = texts[: rows // 8]
    exact, encoder = Encoder(model), Encoder(model, output="float16")
    recorder = Recorder(exact)
    ours, plain = exact.passages(texts), plain_passages(model, some, half=False)
    worst = max(float(np.abs(a - b).max()) for a, b in zip(ours, plain, strict=False))
    assert model.context_tokenizer is not None
    lengths = [len(model.context_tokenizer.encode(text)) + 1 for text in texts]
    seconds = timed(
        ours=lambda: encoder.passages(texts),
        bare=lambda: bare_bert(model, recorder.batches),
        plain=lambda: plain_passages(model, some),
    )
    seconds["plain"] = [each * len(texts) / len(some) for each in seconds["plain"]]
    wasted = sum(padded(n, 512) for n in lengths) / sum(lengths) - 1
    return {
        **seconds,
        "worst_difference": worst,
        "median_tokens": statistics.median(lengths),
        "filling": wasted,
    }


def photographs(folder: Path, rows: int) -> list[Path]:
    """JPEG files of 640 x 480 with coarse and fine structure, as large as photographs are."""
    rng = np.random.default_rng(1)
    paths = []
    for row in range(rows):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480))
        grain = rng.normal(0, 8, (480, 640, 3))
        pixels = np.clip(np.asarray(coarse, np.float64) + grain, 0, 255).astype(np.uint8)
        paths.append(folder / f"{row}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=88)
    return paths


def plain_queries(model: PreFLMR, texts: list[str], paths: list[Path]) -> list[np.ndarray]:
    import datasets
    import transformers

    datasets.disable_progress_bars()
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    processor = kind()
    tokenizer = model.query_tokenizer
    assert tokenizer is not None

    def prepare(rows: dict[str, list[str]]) -> dict[str, object]:
        pixels = []
        for path in rows["img_path"]:
            image = Image.open(path).convert("RGB")
            pixels.append(processor(image, return_tensors="pt")["pixel_values"][0])
        tokens = tokenizer(rows["text"])
        return {**{k: v.tolist() for k, v in tokens.items()}, "pixel_values": torch.stack(pixels)}

    table = datasets.Dataset.from_dict({"text": texts, "img_path": list(map(str, paths))})
    table = table.map(prepare, batched=True, batch_size=8, load_from_cache_file=False)
    found: list[np.ndarray] = []
    for start in range(0, len(table), 8):
        rows = table[start : start + 8]
        with torch.no_grad():
            output = model.query(
                torch.LongTensor(rows["input_ids"]),
                torch.LongTensor(rows["attention_mask"]),
                torch.FloatTensor(rows["pixel_values"]),
            )
        found += list(output.late_interaction_output.numpy())
    return found


def images_step(folder: Path, rows: int) -> dict[str, object]:
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 1}
    model = model_of(
        folder,
        TextSettings(num_hidden_layers=1, **small),
        VisionSettings(num_hidden_layers=1, patch_size=224, **small),
    )
    texts = [f"w{n} w{n + 1}: what is w{n}" for n in range(rows)]
    paths = photographs(folder, rows)
    encoder = Encoder(model)
    worst = max(
        float(np.abs(a - b[b.any(axis=1)]).max())
        for a, b in zip(
            encoder.queries(texts, paths), plain_queries(model, texts, paths), strict=True
        )
    )
    seconds = timed(
        ours=lambda: encoder.queries(texts, paths),
        plain=lambda: plain_queries(model, texts, paths),
    )
    return {**seconds, "worst_difference": worst}


if __name__ == "__main__":
    step, where, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    steps = {"passages": passages_step, "images": images_step}
    print(json.dumps(steps[step](where, count)))
