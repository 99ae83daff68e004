"""People's own data as a folder in BEIR's layout, with a train and a test split and images."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

TEMPLATES = ("Where is the {}?", "Find the {}!", "What of the {}?")


def write_own(folder: Path, things: Sequence[str], place: str) -> None:
    """A passage and a picture of each thing; two of three questions about it are for training."""
    (folder / "qrels").mkdir(parents=True)
    (folder / "images").mkdir()
    corpus, queries = [], []
    judged: dict[str, list[str]] = {"train": [], "test": []}
    for n, thing in enumerate(things):
        corpus.append({"_id": thing, "title": "", "text": f"The {thing} is at the {place}."})
        Image.new("RGB", (8, 8), (n * 20 % 256, 80, 9)).save(folder / "images" / f"{thing}.png")
        for number, template in enumerate(TEMPLATES):
            query = {"_id": f"{thing}{number}", "text": template.format(thing)}
            queries.append(query if number else query | {"image": f"{thing}.png"})
            judged["test" if number == 2 else "train"].append(f"{thing}{number}\t{thing}\t1")
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    for split, pairs in judged.items():
        lines = "\n".join(["query-id\tcorpus-id\tscore", *pairs])
        (folder / "qrels" / f"{split}.tsv").write_text(f"{lines}\n", encoding="utf-8")
