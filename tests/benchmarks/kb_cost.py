"""What streaming a knowledge base like Encyclopedic-VQA's costs, in a process of its own.

    python kb_cost.py STEP FILE ARTICLES

Prints one JSON object. Steps: ``write`` (the file, and FILE.ends with the bytes of each article) and
``stream`` (``object_members``, and a bare ``orjson.loads`` on the pieces cut beforehand).
"""

import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson

from m2kr.building.formats.json_stream import object_members
from m2kr.evaluation.result import peak_memory

TURN = 1_000
LONGEST = 200_000
WORDS = """the of and in is was river, family species (also "the" Zürich Müller's 1984. known as
population; station born – found city Łódź 東京 are with several which by early from"""
RARE = ["{\\displaystyle x},", "[[link]]", "{{main}}", '},"']


def write_kb(path: Path, articles: int, seed: int = 0) -> list[int]:
    """A knowledge base in the true format: about 7 kB an article, the longest ones 200 kB.

    Returns:
        The number of bytes of each ``"url": {article}``; between them are two, ``", "``.
    """
    rng = np.random.default_rng(seed)
    words = rng.choice(WORDS.split(), 200_000).tolist()
    words[::2_000] = rng.choice(RARE, 100).tolist()
    filler = " ".join(words)
    sizes = []
    with path.open("wb") as file:
        for n in range(articles):
            url = f"https://en.wikipedia.org/wiki/Article_{seed}_{n}"
            member = f"{json.dumps(url)}: {json.dumps(article(n, url, filler, rng))}".encode()
            file.write((b", " if n else b"{") + member)
            sizes.append(len(member))
        file.write(b"}" if articles else b"{}")
    return sizes


def article(n: int, url: str, filler: str, rng: np.random.Generator) -> dict:
    """One article: log-normal length, sections of about 900 characters, a few images."""
    length = int(min(rng.lognormal(8.1, 1.0), LONGEST * 0.75))
    sections = 1 + length // 900
    images = min(int(rng.geometric(0.35)), 40)
    starts = rng.integers(0, len(filler) - 3 * LONGEST // 2, sections)
    lengths = (rng.dirichlet(np.full(sections, 2.0)) * length).astype(int)
    title = filler[starts[0] : starts[0] + 18]
    upload = f"https://upload.wikimedia.org/wikipedia/commons/{n % 10}/{n % 256:02x}/"
    return {
        "title": title,
        "section_titles": [title, *(filler[s : s + 14] for s in starts[1:])],
        "section_texts": [filler[s : s + m] for s, m in zip(starts, lengths, strict=True)],
        "image_urls": [f"{upload}Image_{n}_{i}.jpg" for i in range(images)],
        "image_reference_descriptions": [filler[i : i + 60] for i in range(images)],
        "image_section_indices": [i % sections for i in range(images)],
        "url": url,
    }


def write(path: Path, articles: int) -> dict:
    sizes = write_kb(path, articles)
    np.array(sizes, np.int64).tofile(ends(path))
    return {"bytes": path.stat().st_size, "longest": max(sizes)}


def ends(path: Path) -> Path:
    return path.with_name(path.name + ".ends")


def pieces(file: BinaryIO, sizes: np.ndarray) -> Iterator[bytes]:
    """Articles as documents of their own, read from disk."""
    for size in sizes.tolist():
        file.seek(1 if file.tell() == 0 else 2, 1)
        yield b"{" + file.read(size) + b"}"


def stream(path: Path, articles: int) -> dict:
    """Ours and the bare decoder turn by turn, so that the machine's moods hit both."""
    sizes = np.fromfile(ends(path), np.int64)
    ours: list[float] = []
    bare: list[float] = []
    read = 0
    with path.open("rb") as file, path.open("rb") as other:
        members, cut = object_members(file, where=str(path)), pieces(other, sizes)
        while True:
            start = time.perf_counter()
            turn = 0
            for key, value in itertools.islice(members, TURN):
                turn += len(key) == len(value["url"])
            if not turn:
                break
            ours.append(time.perf_counter() - start)
            read += turn
            bare.append(0.0)
            for piece in itertools.islice(cut, turn):
                start = time.perf_counter()
                orjson.loads(piece)
                bare[-1] += time.perf_counter() - start
    if read != articles:
        raise SystemExit(f"{read} articles")
    speed = statistics.median(b / o for b, o in zip(bare, ours, strict=True))
    return {"ours": sum(ours), "bare": sum(bare), "speed": speed}


if __name__ == "__main__":
    step, where, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    steps = {f.__name__: f for f in (write, stream)}
    imports = peak_memory()
    result = steps[step](where, count)
    print(json.dumps(result | {"peak": peak_memory(), "over_imports": peak_memory() - imports}))
