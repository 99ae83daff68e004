"""A source of one split with images, made from records, and what can be read and said of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import m2kr
from m2kr.building.publish import remove
from m2kr.building.verify import verify_root

CONFIG = "TINY"
ROWS = 20


def tiny(root: Path, text: str = "text", edition: str | None = None) -> m2kr.Split:
    """A source of one split with images, made from records."""
    passages = {f"p{i}": f"{text} number {i} of {ROWS}" for i in range(ROWS + len(text) // 8)}
    queries = [
        {
            "id": f"q{i}",
            "question": f"{text} {i}",
            "img_path": f"a/{i % 5}.jpg",
            "positives": [f"p{i + len(text)}"],
        }
        for i in range(6)
    ]
    photos = root / "photos"
    (photos / "a").mkdir(parents=True, exist_ok=True)
    for i in range(5):
        (photos / "a" / f"{i}.jpg").write_bytes(bytes([i]))
    if list(root.glob(f"{edition or 'tiny'}/{CONFIG}_manifest.json")):
        remove("tiny", root, edition=edition or "tiny")
    return m2kr.from_records(
        passages, queries, name="tiny", edition=edition, images=photos, data=root
    )


def rows(root: Path, edition: str = "tiny") -> list[Any]:
    """All that can be read of a split: tables, and rows by id."""
    split = m2kr.load("tiny", edition=edition, data=root)
    found: list[Any] = [t.to_list() for t in (split.queries, split.passages, split.qrels)]
    found += [split.query(f"q{i}") for i in range(6)] + [split.passage("p3")]
    return [*found, split.fingerprints, split.manifest["comparable"], split.manifest["partial"]]


def problems(root: Path, edition: str = "tiny") -> list[str]:
    """What verify says of one edition; each finding says what to do."""
    found = [f for _, f in verify_root(root, "tiny", edition) if f.problem]
    assert all(f.fix for f in found)
    return [f"{f.table}: {f.problem}" for f in found]


def files_of(*folders: Path) -> list[Path]:
    found = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    return sorted(p for p in found if p.stat().st_size and not p.name.startswith("."))


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the object in a JSON file."""
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")
