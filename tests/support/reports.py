"""Results with their split and runs for a report: small, and with texts that mean harm."""

import functools
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from datasets import Dataset
from PIL import Image

import m2kr
from m2kr.api import Results, evaluate
from m2kr.data.images.store import ImageStore
from m2kr.data.records import Passages, Queries
from m2kr.evaluation.result import Result
from m2kr.progress import SILENT
from m2kr.report.page.data_files import DataFiles
from m2kr.report.page.folder import write_page
from m2kr.report.page.queries import write_queries
from m2kr.report.summary import Summary
from m2kr.retrieval.run import Run

if TYPE_CHECKING:
    from m2kr.data.load import Split

HOSTILE = "</script><script>document.title='harmed'</script><img src=x onerror=alert(1)>"
ODD = (
    "line\u2028 paragraph\u2029 \u202eturned round\u202c {{ 7*7 }} ${7*7} `x` \\u003c 'q' \"q\" "
    "\u0000 é 漢字 🦒"
)
PASSAGES = [
    {"id": "p/0", "text": f"A giraffe eats leaves. {HOSTILE}", "title": HOSTILE},
    {"id": "p/1", "text": f"İstanbul lies on two continents. {ODD}"},
    {"id": "p/2", "text": "The straße is long, and the STRASSE is not.", "img_path": "a.png"},
    {"id": f"p/<b>{ODD.replace(chr(0), '')}", "text": "Nothing of use."},
    *({"id": f"p/{n}", "text": f"Filler number {n}. " * 20} for n in range(4, 16)),
    {"id": "p/long", "text": "word " * 1000},
]
QUERIES: list[dict[str, Any]] = [
    {
        "id": "q/0",
        "question": "What do giraffes eat?",
        "positives": ["p/0"],
        "answers": ["Leaves "],
    },
    {
        "id": "q/1",
        "question": f"Where? {HOSTILE}",
        "positives": ["p/1"],
        "answers": ["i̇stanbul", ""],
    },
    {"id": "q/2", "question": "", "img_path": "a.png", "positives": ["p/2", "p/4"]},
    {
        "id": f"q/#%<i>{ODD.replace(chr(0), '')}",
        "question": ODD,
        "img_path": "b.png",
        "positives": ["p/5"],
    },
    {"id": "q/4", "question": "Which?", "answers": ["STRASSE", "straße"]},
    {"id": "q/5", "question": "Not judged"},
]


def _cleaned(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the character that no table of ours may hold."""
    return json.loads(json.dumps(records).replace("\\u0000", ""))  # type: ignore[no-any-return]


def hostile_results(folder: Path) -> Results:
    """Two runs evaluated on the split, saved with their rankings; one name is hostile, too."""
    photos = folder / "photos"
    photos.mkdir()
    for shade, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (400, 300), (shade * 90, 120, 60)).save(photos / name)
    split = m2kr.from_records(
        _cleaned(PASSAGES), _cleaned(QUERIES), name="odd", images=[photos], data=folder / "data"
    )
    ids = split.passages_view.ids.to_pylist()
    queries = split.queries_view.ids.to_pylist()
    forward = {q: {p: 1 / (n + 1) for n, p in enumerate(ids)} for q in queries}
    backward = {q: {p: float(n) for n, p in enumerate(ids)} for q in queries}
    backward[queries[0]] = {ids[3]: 2.5}
    runs = [Run.from_dict(forward, name="forward"), Run.from_dict(backward, name=HOSTILE)]
    return evaluate(split, runs, out=folder / "results")


def data_of(file: Path) -> tuple[str, Any]:
    """The name and the value that a data file hands to the page."""
    text = file.read_text(encoding="utf-8")
    assert text.startswith("m2kr(") and text.endswith(")\n")
    name, value = json.loads(f"[{text[5:-2]}]")
    return name, value


@dataclass
class BigSplit:
    """A split of any size in memory, with what `write_queries` reads of one."""

    queries: Dataset
    passages: Dataset
    images: ImageStore | None
    manifest: dict[str, Any] = field(default_factory=lambda: {"groups": ["kind"]})
    relevance_threshold: float = 1.0

    @property
    def queries_view(self) -> Queries:
        return Queries(self.queries)

    @property
    def passages_view(self) -> Passages:
        return Passages(self.passages)


def big_split(queries: int, passages: int, images: Path | None = None) -> BigSplit:
    """Questions and passages of random words; a third of the questions have an image."""
    random = np.random.default_rng(1)
    words = np.array([f"w{''.join(map(chr, 97 + random.integers(0, 26, 5)))}" for _ in range(5000)])

    def text(length: int) -> str:
        return " ".join(words[random.integers(0, len(words), length)])

    photos = sorted(path.name for path in images.iterdir()) if images else []
    table = {
        "question_id": [f"query/{n}" for n in range(queries)],
        "question": [f"What is {text(7)}?" for _ in range(queries)],
        "instruction": ["Find the passage that answers the question: "] * queries,
        "img_path": [
            photos[n % len(photos)] if photos and n % 3 == 0 else None for n in range(queries)
        ],
        "pos_item_ids": [[f"passage/{n * 7 % passages}"] for n in range(queries)],
        "answers": [[text(1), text(2)] for _ in range(queries)],
        "kind": [f"kind {n % 4}" for n in range(queries)],
    }
    pool = {
        "passage_id": [f"passage/{n}" for n in range(passages)],
        "passage_content": [text(100) for _ in range(passages)],
        "title": [f"Title {n}" for n in range(passages)],
        "img_path": [None] * passages,
    }
    store = ImageStore([images]) if images else None
    return BigSplit(Dataset.from_dict(table), Dataset.from_dict(pool), store)


def big_run(split: BigSplit, system: int, depth: int) -> Run:
    """Random rankings, the right passage somewhere in most of them: sooner for lower systems."""
    random = np.random.default_rng(system)
    queries, passages = len(split.queries), len(split.passages)
    # Systems retrieve much the same: an offset of the query's own, and noise.
    near = np.arange(queries)[:, None] * 7 + random.integers(0, 4 * depth, (queries, 2 * depth))
    rows = np.full((queries, depth), -1, np.int64)
    for query, candidates in enumerate(near % passages):
        distinct = np.unique(candidates)
        random.shuffle(distinct)
        distinct = distinct[distinct != query * 7 % passages][: depth - 1]
        place = min(len(distinct), int(random.exponential(3 + 4 * system)))
        ranked = np.insert(distinct, place, query * 7 % passages)
        rows[query, : len(ranked)] = ranked
    scores = np.broadcast_to(np.linspace(30, 1, depth), rows.shape)
    return Run.from_rows(
        split.queries_view.ids.to_pylist(),
        split.passages_view.ids,
        rows,
        scores,
        name=f"system {system}",
    )


def big_results(systems: int, sources: int, queries: int) -> list[Result]:
    """Results of every system on every source, with all metrics that a page shows."""
    made = []
    for source, system in itertools.product(range(sources), range(systems)):
        base = 0.7 - 0.04 * system + 0.02 * (source % 3)
        metrics = {
            f"{stem}@{k}": {
                "value": (value := base * (0.4 + 0.2 * np.log10(k))),
                "low": value - 0.02,
                "high": value + 0.02,
                "n": queries,
            }
            for stem in ("hit_rate", "pseudo_recall", "mrr", "set_recall")
            for k in (1, 5, 10, 20, 50, 100, 500)
        }
        groups = {"kind": {f"kind {n}": {"n": queries // 4, "metrics": metrics} for n in range(4)}}
        made.append(
            Result(
                source=f"source{source}",
                split="test",
                edition="m2kr",
                retriever={"name": f"system {system}", "settings": {}, "modalities": {}},
                k=500,
                headline="pseudo_recall@5" if source % 2 else "hit_rate@5",
                metrics=metrics,
                groups=groups,
                counts={"queries": queries, "passages": 100_000},
                images=None,
                fingerprints={"eval": f"fp1:{source}"},
                run_sha256=f"{source} {system}",
                partial=False,
                comparable="",
                seconds={"search": 0.004 * queries * 3**system, "total": 10.0},
                peak_memory_bytes=None,
                bytes_per_passage=None,
                versions={},
            )
        )
    return made


def big_report(
    folder: Path,
    *,
    systems: int,
    sources: int,
    queries: int,
    depth: int,
    images: Path | None = None,
) -> Path:
    """A report of some size; every source has the same queries. Its page."""
    split = big_split(queries, max(2_000, 20 * queries), images)
    runs = [big_run(split, system, depth) for system in range(systems)]
    folder.mkdir()
    files = DataFiles(folder)
    browsers = []
    for source in range(sources):
        left_out = write_queries(
            cast("Split", split),
            [functools.partial(runs.__getitem__, n) for n in range(systems)],
            files,
            str(source),
            SILENT,
        )
        names = [f"system {n}" for n in range(systems)]
        browsers.append(left_out | {"folder": str(source), "systems": names, "faults": []})
    letters = {"hit_rate@5": {f"system {n}": "abcdefghij"[n // 2] for n in range(systems)}}
    summary = Summary.of(big_results(systems, sources, queries))
    write_page(folder, summary, browsers, [letters] * sources)
    return folder / "index.html"
