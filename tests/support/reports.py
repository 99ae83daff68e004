"""Results with their split and runs for a report: small, and with texts that mean harm."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

import m2kr
from m2kr.api import Results, evaluate
from m2kr.retrieval.run import Run

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
