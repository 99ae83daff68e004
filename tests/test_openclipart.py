"""Debian's drawings as a source: what is told of each, and what is left out."""

import json
import runpy
from collections import Counter
from pathlib import Path

from PIL import Image

from m2kr.building.userdata.importer import import_files
from m2kr.data.load import load

TOOL = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "openclipart.py"))


def svg(
    path: Path, title: str, keywords: list[str], author: str = "", description: str = ""
) -> None:
    items = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:cc="http://web.resource.org/cc/" '
        f'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" id="{path.stem}"><cc:Work>'
        f"<dc:title>{title}</dc:title><dc:description>{description}</dc:description>"
        f"<dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>"
        f"<dc:creator><cc:Agent><dc:title>{author}</dc:title></cc:Agent></dc:creator>"
        "</cc:Work></svg>",
        encoding="utf-8",
    )


def test_drawings_become_a_source(tmp_path: Path) -> None:
    drawings, out = tmp_path / "svg", tmp_path / "out"
    svg(drawings / "a/bee_jane_doe_01.svg", "Bee", ["insect", "hash", "", "animal"], "Jane Doe")
    svg(drawings / "a/bee_02.svg", "Bee", ["animal", "insect"])
    for number in range(9):  # a title of a collection, names in the files
        svg(
            drawings / f"set/{'abcdefghi'[number]}pple_jane_doe_{number}.svg",
            "Set",
            ["fruit"],
            "Jane Doe",
        )
    for number in range(9):
        svg(drawings / f"star/x{number}.svg", "Star", ["shape"])
    svg(drawings / "b/nothing.svg", "Nothing", [])
    svg(drawings / "b/untitled.svg", "", ["word"])
    svg(drawings / "b/white.svg", "White", ["pale"], description="Seen at <b>http://x.org</b>")
    svg(drawings / "b/copy.svg", "Copy", ["again"])
    (drawings / "b/bad.svg").write_text("<svg", encoding="utf-8")
    (drawings / "b/bare.svg").write_text("<svg/>", encoding="utf-8")
    (drawings / "b/link.svg").symlink_to(drawings / "a/bee_02.svg")
    names = sorted(path.relative_to(drawings) for path in drawings.rglob("*.svg"))
    for number, name in enumerate(names):  # rendered before: nothing is rendered again
        picture = Image.new("RGB", (4, 4), "white")
        if name.stem != "white":
            picture.putpixel((0, 0), (3 if name.stem == "copy" else number + 50, 0, 0))
        (out / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(out / "images" / f"{name}.png")
    (out / "images/b/copy.svg.png").write_bytes((out / "images/a/bee_02.svg.png").read_bytes())

    counts = TOOL["write"](out, drawings, 4)

    assert json.loads((out / "counts.json").read_text(encoding="utf-8")) == counts
    assert counts["files"] == len(names)
    assert {what: number for what, number in counts.items() if "left out" in what} == {
        "left out: the same file again": 1,
        "left out: broken XML": 1,
        "left out: no metadata": 1,
        "left out: no title or no keywords": 2,
        "left out: more than 8 drawings have its text": 9,
        "left out: an empty picture": 1,
        "left out: the same picture again": 1,
    }
    built = import_files(
        "drawings", layout="beir", folder=out, images=[out / "images"], data=tmp_path / "data"
    )
    splits = {
        name: load("drawings", name, data=tmp_path / "data") for name in built.manifest["splits"]
    }
    queries = [query for split in splits.values() for query in split.queries]
    assert len(queries) == 11 and all(query["instruction"] for query in queries)
    texts = {row["passage_content"]: row["passage_id"] for row in splits["train"].passages}
    assert len(texts) == 10
    assert "Bee. Keywords: animal, insect." in texts  # of both files, by both spellings
    assert "apple. Keywords: fruit." in texts
    asked = Counter(query["pos_item_ids"][0] for query in queries)
    assert asked[texts["Bee. Keywords: animal, insect."]] == 2
    where = [{q["pos_item_ids"][0] for q in split.queries} for split in splits.values()]
    assert sum(map(len, where)) == len(set.union(*where))  # no passage is asked for in two splits
