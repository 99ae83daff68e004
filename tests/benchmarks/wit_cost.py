"""What reading one of WIT's files costs, in a process of its own: ours and the plain way.

    python wit_cost.py STEP FOLDER ROWS

Prints one JSON object. Steps: ``make`` (a file in upstream's form, kept in FOLDER), ``ours`` (the part
of a build: English rows, typed, ledgered, as Arrow, synced), ``rival`` (gzip and pyarrow's CSV reader,
nothing written).
"""

import csv
import gzip
import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.csv
from isal import igzip
from upstream import _filler

from m2kr.building import registry
from m2kr.building.options import resolve_options
from m2kr.building.parts import PartJob, build_part
from m2kr.building.spec import BuildConfig
from m2kr.evaluation.result import peak_memory
from m2kr.progress import SILENT
from m2kr_builders import _wit

FILE = "train-00000"
_TEXTS = {  # of each column: share of rows that have it, characters
    "section_title": (0.75, 18),
    "hierarchical_section_title": (1.0, 40),
    "caption_reference_description": (0.45, 60),
    "caption_attribution_description": (0.95, 110),
    "caption_alt_text_description": (0.15, 40),
    "context_page_description": (0.98, 520),
    "context_section_description": (0.9, 560),
}


def make(folder: Path, rows: int) -> dict:
    path = folder / "wit.tsv.gz"
    filler, rng = _filler(0).decode(), np.random.default_rng(0)
    start, size = time.perf_counter(), 0
    with igzip.open(path, "wt", compresslevel=3, encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(_wit.HEADER)
        for number in range(rows):
            row = dict.fromkeys(_wit.HEADER, "")
            places = rng.integers(0, len(filler) - 4000, len(_TEXTS)).tolist()
            has = rng.random(len(_TEXTS)).tolist()
            for (name, (share, length)), place, drawn in zip(
                _TEXTS.items(), places, has, strict=True
            ):
                if drawn < share:
                    row[name] = filler[place : place + length]
            if number % 50 == 0:  # a few cells have lines of their own, and quotes
                row["context_section_description"] += '\nand "more"\nof it'
            row |= {
                "language": "en"
                if number % 7 == 0
                else ("de", "fr", "nl", "ru", "ja", "pl")[number % 6],
                "page_url": f"https://en.wikipedia.org/wiki/Page_{number}",
                "image_url": f"https://upload.wikimedia.org/wikipedia/commons/a/ab/File_{number}.jpg",
                "page_title": f"Page {number}",
                "mime_type": "image/jpeg",
                "original_height": "1200",
                "original_width": "1600",
                "is_main_image": "false",
                "attribution_passes_lang_id": "true",
                "page_changed_recently": "true",
            }
            writer.writerow(row.values())
            size += sum(map(len, row.values())) + 17
    return {"seconds": time.perf_counter() - start, "text": size, "packed": path.stat().st_size}


def ours(folder: Path, rows: int) -> dict:
    builder = registry.builder("wit")
    name = _wit.files(["train"])[FILE]
    staging = folder / "staging"
    for old in (staging / "parts").glob("*"):
        old.unlink()
    (staging / "parts").mkdir(parents=True, exist_ok=True)
    options = resolve_options(builder.source, {})
    config = BuildConfig(builder, staging, {name: folder / "wit.tsv.gz"}, options, ("train",))
    start = time.perf_counter()
    stats = build_part(PartJob(FILE, config), SILENT)
    return {"seconds": time.perf_counter() - start, "english": stats["rows"]}


def rival(folder: Path, rows: int) -> dict:
    start, seen = time.perf_counter(), 0
    with gzip.open(folder / "wit.tsv.gz") as file:
        reader = pyarrow.csv.open_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(block_size=8 << 20),
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t", newlines_in_values=True),
        )
        for batch in reader:
            seen += len(batch)
    assert seen == rows
    return {"seconds": time.perf_counter() - start, "rows": seen}


if __name__ == "__main__":
    step, where, count = sys.argv[1:]
    told = {"make": make, "ours": ours, "rival": rival}[step](Path(where), int(count))
    print(json.dumps(told | {"peak": peak_memory()}))
