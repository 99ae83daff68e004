"""A small clean benchmark folder of BEIR's form, and readers and writers of its files."""

import io
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

Rows = list[dict[str, Any]]
_SUBJECTS = (
    "lighthouse harbour bakery glacier orchard monastery railway violin telescope windmill vineyard "
    "aqueduct tannery foundry observatory granary ferry cathedral quarry library "
)
_WORDS = (
    "old stone northern builders carried winter grain across narrow valley market bridge river "
    "painted copper roof signal tower keeper village summer stream timber wall iron gate garden "
    "merchant letter captain island forest winding road miller bell chapel meadow sheep wool lantern "
    "rope anchor salt oven kiln clay brick school teacher map compass ledger coin "
)


@dataclass
class Folder:
    """Records of a folder; qrels by split are ``(query, passage, grade)``."""

    corpus: Rows
    queries: Rows
    qrels: dict[str, list[tuple[Any, Any, Any]]]
    images: dict[str, Image.Image | bytes] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """The files."""
        folder.mkdir(parents=True)
        for name, rows in (("corpus", self.corpus), ("queries", self.queries)):
            lines = (json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / "qrels").mkdir()
        for split, rows in self.qrels.items():
            lines = ["query-id\tcorpus-id\tscore\n", *("\t".join(map(str, r)) + "\n" for r in rows)]
            (folder / "qrels" / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
        for name, image in self.images.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            if isinstance(image, bytes):
                path.write_bytes(image)
            else:
                image.save(path)
        for name, data in self.raw.items():
            (folder / name).write_bytes(data)
        return folder


def picture(seed: int, size: int = 48) -> Image.Image:
    """A picture unlike those of other seeds."""
    draw_from = random.Random(seed)
    image = Image.new("RGB", (size, size), tuple(draw_from.choices(range(256), k=3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = draw_from.randrange(size), draw_from.randrange(size)
        draw.rectangle(
            (x, y, x + draw_from.randrange(6, 20), y + draw_from.randrange(6, 20)),
            fill=tuple(draw_from.choices(range(256), k=3)),
        )
    return image


def shows(i: int) -> bool:
    """Whether a query has an image: 1, 3 ... 11 and 41 ... 51."""
    return i % 2 == 1 and i % 40 < 12


def png(image: Image.Image) -> bytes:
    """The file of a picture."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def clean_folder() -> Folder:
    """120 passages; 40 queries of test and 40 of train, 6 of each with an image; nothing is wrong in it."""
    draw = random.Random(7)
    corpus: Rows = []
    for i in range(120):
        words = draw.choices(_WORDS.split(), k=40)
        words[5:5] = ["answer" + _letters(i)]
        corpus.append({"_id": f"p{i}", "title": f"Place {_letters(i)}", "text": " ".join(words)})
    queries: Rows = []
    images: dict[str, Image.Image | bytes] = {}
    qrels: dict[str, list[tuple[Any, Any, Any]]] = {"test": [], "train": []}
    for i in range(80):
        query: dict[str, Any] = {
            "_id": f"q{i}",
            "text": f"what was built beside {_SUBJECTS.split()[i % 20]} number {i}"
            + ("" if shows(i) else f", the {_letters(i)}"),
            "instruction": "Find the passage that answers",
            "answers": ["answer" + _letters(i)],
        }
        if shows(i):
            query["image"] = f"images/{i}.png"
            images[query["image"]] = png(picture(i))
        queries.append(query)
        qrels["test" if i < 40 else "train"].append((f"q{i}", f"p{i}", 1))
    return Folder(corpus, queries, qrels, images)


def _letters(i: int) -> str:
    return "".join(chr(97 + int(digit)) * 2 for digit in f"{i:03d}")
