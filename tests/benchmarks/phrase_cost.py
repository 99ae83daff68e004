"""What phrase search costs, in a process of its own so that its peak is its own.

    python phrase_cost.py STEP FOLDER ROWS

Prints one JSON object. Steps: ``corpus`` (passages of 100 Zipf words with titles, and the queries),
``index`` and ``search`` (ours), ``bm25s`` (a rival: as fast as Python gets, but it has no phrases).
"""

import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from m2kr.building.formats.phrase_index import PhraseIndex
from m2kr.evaluation.result import peak_memory

WORDS = 100
CHUNK = 10_000
QUERIES = 200
CHECKED = 20


def vocabulary(size: int) -> list[str]:
    """Made-up words; the frequent ones are short."""
    syllables = [c + v for c in "bcdfghjklmnprstvz" for v in "aeiou"]
    words = list(syllables)
    at = 0
    while len(words) < size:
        words += [words[at] + s for s in syllables]
        at += 1
    return words[:size]


def generate(rows: int) -> Iterator[pa.RecordBatch]:
    """Articles of 6.5 passages on average, with titles of one to four mostly rare words."""
    words = np.array(vocabulary(max(rows, 100_000)), dtype=object)
    rng = np.random.default_rng(0)
    odds = np.cumsum(1 / (np.arange(len(words)) + 2.7))
    title, left = "", 0
    for start in range(0, rows, CHUNK):
        n = min(CHUNK, rows - start)
        drawn = words[np.searchsorted(odds / odds[-1], rng.random((n, WORDS)))]
        titles = []
        for _ in range(n):
            if not left:
                left = int(rng.geometric(1 / 6.5))
                ranks = len(words) ** rng.uniform(0.2, 1, rng.integers(1, 5))
                title = " ".join(words[ranks.astype(int) - 1])
            left -= 1
            titles.append(title)
        ids = [str(i + 1) for i in range(start, start + n)]
        texts = [" ".join(row) for row in drawn.tolist()]
        yield pa.record_batch({"id": ids, "text": texts, "title": titles})


def draw_queries(titles: list[str], texts: list[str]) -> dict[str, list[str]]:
    """Titles as they are, and one to three words in a row from texts: thousands of hits down to one."""
    draw = random.Random(1)
    answers = []
    for text in draw.sample(texts, QUERIES):
        length, start = draw.randint(1, 3), draw.randrange(WORDS - 3)
        answers.append(" ".join(text.split()[start : start + length]))
    return {"title": draw.sample(sorted(set(titles)), QUERIES), "answer": answers}


def batches(folder: Path) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(folder / "corpus.arrow")) as file, pa.ipc.open_stream(file) as stream:
        yield from stream


def queries(folder: Path) -> dict[str, list[str]]:
    return json.loads((folder / "queries.json").read_text())


def corpus(folder: Path, rows: int) -> dict:
    characters, titles, texts = 0, [], []
    with (folder / "corpus.arrow").open("wb") as file:
        stream = None
        for batch in generate(rows):
            stream = stream or pa.ipc.new_stream(file, batch.schema)
            stream.write_batch(batch)
            columns = batch["title"].to_pylist(), batch["text"].to_pylist()
            characters += sum(len(x) for column in columns for x in column)
            titles += columns[0][:2_000]
            texts += columns[1][:1_000]
        stream.close()
    (folder / "queries.json").write_text(json.dumps(draw_queries(titles, texts)))
    return {"characters": characters}


def index(folder: Path, rows: int) -> dict:
    start = time.perf_counter()
    PhraseIndex.build(folder / "phrases.db", batches(folder), key="x")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": (folder / "phrases.db").stat().st_size}


def search(folder: Path, rows: int) -> dict:
    found = PhraseIndex(folder / "phrases.db", "x")
    result: dict = {}
    for kind, k, fields in (("title", 1_000, ["title"]), ("answer", 10, ["title", "text"])):
        asked = queries(folder)[kind]
        times = []
        for phrase in asked:
            start = time.perf_counter()
            found.search(phrase, k=k, fields=fields)
            times.append(time.perf_counter() - start)
        # The first pass writes the side file, the second reads it.
        list(found.search_many(asked, k=k, fields=fields))
        start = time.perf_counter()
        list(found.search_many(asked, k=k, fields=fields))
        remembered = time.perf_counter() - start
        result[kind] = {
            "per_second": len(asked) / sum(times),
            "median_ms": float(np.median(times)) * 1e3,
            "worst_ms": max(times) * 1e3,
            "remembered_per_second": len(asked) / remembered,
            "passages": [len(found.search(p, k=rows, fields=fields)) for p in asked[:CHECKED]],
        }
    return result


def scan(folder: Path, rows: int) -> dict:
    """The truth for the first queries, by looking at every passage."""
    asked = {kind: [f" {p} " for p in found[:CHECKED]] for kind, found in queries(folder).items()}
    counts = {kind: [0] * CHECKED for kind in asked}
    for batch in batches(folder):
        titles = [f" {x} " for x in batch["title"].to_pylist()]
        texts = [f" {x} " for x in batch["text"].to_pylist()]
        for i in range(CHECKED):
            counts["title"][i] += sum(asked["title"][i] in x for x in titles)
            phrase = asked["answer"][i]
            pairs = zip(titles, texts, strict=True)
            counts["answer"][i] += sum(phrase in x or phrase in y for x, y in pairs)
    return counts


def bm25s(folder: Path, rows: int) -> dict:
    import bm25s as rival

    texts: list[str] = []
    for batch in batches(folder):
        pairs = zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True)
        texts += [f"{title} {text}" for title, text in pairs]
    imports, start = peak_memory(), time.perf_counter()
    tokens = rival.tokenize(texts, stopwords=None, show_progress=False)
    retriever = rival.BM25()
    retriever.index(tokens, show_progress=False)
    result: dict = {"seconds": time.perf_counter() - start, "over_texts": peak_memory() - imports}
    retriever.save(folder / "bm25s")
    result["bytes"] = sum(f.stat().st_size for f in (folder / "bm25s").iterdir())
    for kind, asked in queries(folder).items():
        start = time.perf_counter()
        ids = rival.tokenize(asked, stopwords=None, show_progress=False)
        retriever.retrieve(ids, k=10, show_progress=False)
        result[kind] = {"per_second": len(asked) / (time.perf_counter() - start)}
    return result


if __name__ == "__main__":
    step, where, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    steps = {f.__name__: f for f in (corpus, index, search, scan, bm25s)}
    print(json.dumps(steps[step](where, count) | {"peak": peak_memory()}))
