"""What checking images costs, in a process of its own.

    python image_cost.py check - IMAGES

Prints one JSON object: ``verify_images``, and a pool of as many processes that do nothing but decode
the same bytes (which they inherit), turn by turn.
"""

import io
import json
import multiprocessing
import statistics
import sys
import time

import numpy as np
from PIL import Image

from m2kr.building.images.check import cores, verify_images
from m2kr.evaluation.result import peak_memory

ROUNDS = 3
DATA: list[bytes] = []


def photo(seed: int) -> bytes:
    """A JPEG file like a thumbnail of WIT or a photo of COCO."""
    size = ((300, 225), (640, 480))[seed % 2]
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize(size, 3)
    noise = rng.integers(-12, 13, (size[1], size[0], 3))
    pixels = np.clip(np.asarray(coarse, np.int16) + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return out.getvalue()


def decode(number: int) -> tuple[int, int]:
    return Image.open(io.BytesIO(DATA[number])).convert("RGB").size


def check(images: int) -> dict:
    kinds = [photo(seed) for seed in range(100)]
    DATA.extend(kinds[i % len(kinds)] for i in range(images))
    jobs = cores()
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(ROUNDS):
        start = time.perf_counter()
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            done = sum(1 for _ in pool.imap(decode, range(images), chunksize=32))
        seconds["bare"].append(time.perf_counter() - start)
        start = time.perf_counter()
        items = ((f"{i}", data) for i, data in enumerate(DATA))
        sound = sum(one.ok for one in verify_images(items, jobs=jobs))
        seconds["ours"].append(time.perf_counter() - start)
        if (done, sound) != (images, images):
            raise SystemExit(f"{done} and {sound} images")
    speed = statistics.median(b / o for b, o in zip(seconds["bare"], seconds["ours"], strict=True))
    size = sum(map(len, kinds)) / len(kinds)
    best = {name: min(times) for name, times in seconds.items()}
    return {"speed": speed, "jobs": jobs, "bytes_each": size} | best


if __name__ == "__main__":
    print(json.dumps(check(int(sys.argv[3])) | {"peak": peak_memory()}))
