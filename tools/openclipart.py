"""Makes Debian's package openclipart-svg into files for ``m2kr import``: ``openclipart.py FOLDER``.

Some thousand public-domain drawings with titles and keywords: an alignment set of images and short texts that
any machine with apt can have (``apt-get install openclipart-svg librsvg2-bin``). Afterwards:

    m2kr import openclipart FOLDER --from beir --images FOLDER/images

A query is a drawing, its passage what the drawing's metadata says. A title that many drawings have is that
of a collection, and the file's name takes its place, less its author and numbers. Drawings of equal text
share a passage, and all drawings of a passage are of one split; a text that many share tells nothing of any.
What is left out is counted in ``counts.json``. What is rendered already is not rendered again.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from m2kr.instructions import keyed_choice, templates_of

DRAWINGS = Path("/usr/share/openclipart/svg")
MANY = 8  # drawings of one text
SPLITS = ("train",) * 8 + ("valid", "test")
_DC = "{http://purl.org/dc/elements/1.1/}"
_KEYWORD = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
_NO_KEYWORDS = {"hash", "unsorted"}  # "hash" is a fault of the program that wrote them
_NO_TITLES = {
    "",
    "untitled",
    "unnamed",
    "title",
    "unknown",
    "clipart",
    "clip art",
    "image",
    "drawing",
}
_SECONDS = 20  # of one rendering


@dataclass(frozen=True)
class Drawing:
    """What is known of a drawing: its path below the folder, and its metadata in plain words."""

    path: str
    title: str
    file_name: str
    description: str
    keywords: tuple[str, ...]

    def text(self, titles: Counter[str]) -> str:
        """The passage; empty where title or keywords lack."""
        title = self.file_name if titles[self.title.lower()] > MANY else self.title
        if title.lower() in _NO_TITLES or not self.keywords:
            return ""
        said = self.description if self.description.lower() != title.lower() else ""
        sentences = (title, said, f"Keywords: {', '.join(self.keywords)}")
        return " ".join(each if each[-1] in ".!?" else f"{each}." for each in sentences if each)


def read(folder: Path, counts: Counter[str]) -> Iterator[Drawing]:
    """The drawings below a folder, each file once."""
    seen = set()
    for path in sorted(folder.rglob("*.svg")):
        counts["files"] += 1
        content = path.read_bytes()
        if (digest := hashlib.sha256(content).digest()) in seen:
            counts["left out: the same file again"] += 1
            continue
        seen.add(digest)
        try:
            root = ElementTree.fromstring(content)  # noqa: S314 - of a Debian package
        except ElementTree.ParseError:
            counts["left out: broken XML"] += 1
            continue
        work = next((each for each in root.iter() if each.tag.endswith("}Work")), None)
        if work is None:
            counts["left out: no metadata"] += 1
            continue
        author = " ".join(part.text or "" for part in work.findall(f"{_DC}creator//{_DC}title"))
        keywords = (_plain(each.text).lower() for each in work.iter(_KEYWORD))
        yield Drawing(
            path.relative_to(folder).as_posix(),
            re.sub(r"^Clipart by [\w ]+ - ", "", _plain(work.findtext(f"{_DC}title"))),
            _name(path.stem, author),
            _plain(work.findtext(f"{_DC}description")),
            tuple(sorted({each for each in keywords if _name(each, author)} - _NO_KEYWORDS)),
        )


def _plain(text: str | None) -> str:
    return " ".join(
        re.sub(r"<[^>]*>|\S+@\S+|https?://\S+", " ", text or "").replace("_", " ").split()
    )


def _name(stem: str, author: str) -> str:
    """``az-lizard_benji_park_01`` by Benji Park is ``az lizard``; an author's name may be cut off."""
    names = [name for name in re.findall(r"\w+", author.lower()) if len(name) > 2]
    words = [word for word in re.split(r"[\W_\d]+", stem) if word]
    return " ".join(
        word
        for word in words
        if len(word) < 3 or not any(name.startswith(word.lower()) for name in names)
    )


def render(size: int, source: Path, target: Path) -> str:
    """Renders one drawing on white; what is wrong with it, or nothing."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        tmp = target.with_suffix(".tmp")
        sides = ["--width", str(size), "--height", str(size), "--keep-aspect-ratio"]
        command = ["rsvg-convert", *sides, "--background-color", "white", "--output", str(tmp)]
        try:
            subprocess.run(  # noqa: S603
                [*command, str(source)], check=True, capture_output=True, timeout=_SECONDS
            )
            with Image.open(tmp) as image:
                image.convert("RGB").save(tmp, "PNG")
        except (subprocess.SubprocessError, OSError):
            tmp.unlink(missing_ok=True)
            return "left out: can't be rendered"
        tmp.replace(target)
    with Image.open(target) as image:
        blank = image.convert("RGB").getcolors(1) is not None
    return "left out: an empty picture" if blank else ""


def write(folder: Path, drawings: Path, size: int, limit: int | None = None) -> dict[str, int]:
    """Writes all files; what was made and what was left out, counted."""
    counts: Counter[str] = Counter()
    read_ones = list(read(drawings, counts))
    titles = Counter(each.title.lower() for each in read_ones)
    by_text: dict[str, list[Drawing]] = defaultdict(list)
    for each in read_ones:
        if text := each.text(titles):
            by_text[text].append(each)
        else:
            counts["left out: no title or no keywords"] += 1
    for text in [text for text, ones in by_text.items() if len(ones) > MANY]:
        counts[f"left out: more than {MANY} drawings have its text"] += len(by_text.pop(text))
    chosen = [(each, text) for text, ones in by_text.items() for each in ones][:limit]
    images = folder / "images"
    with ThreadPoolExecutor() as pool:
        jobs = [
            pool.submit(render, size, drawings / each.path, images / f"{each.path}.png")
            for each, _ in chosen
        ]
        faults = [job.result() for job in jobs]
    corpus, queries, qrels = {}, [], defaultdict(list)
    pictures = set()
    instructions = templates_of("wit")
    assert instructions is not None
    for (each, text), fault in zip(chosen, faults, strict=True):
        image = images / f"{each.path}.png"
        if not fault and (looks := image.read_bytes()) in pictures:
            fault = "left out: the same picture again"
        if fault:
            counts[fault] += 1
            continue
        pictures.add(looks)
        passage = hashlib.sha256(text.encode()).hexdigest()[:16]
        split = SPLITS[keyed_choice(len(SPLITS), passage)]
        query = each.path.removesuffix(".svg")
        corpus[passage] = {"_id": passage, "title": "", "text": text}
        line = {"_id": query, "text": "", "image": f"{each.path}.png"}
        queries.append(line | {"instruction": instructions.choose(query)})
        qrels[split].append(f"{query}\t{passage}\t1")
        counts[f"queries of {split}"] += 1
    counts["passages"] = len(corpus)
    _lines(folder / "corpus.jsonl", map(json.dumps, corpus.values()))
    _lines(folder / "queries.jsonl", map(json.dumps, queries))
    for split, rows in qrels.items():
        _lines(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *rows])
    _lines(folder / "counts.json", [json.dumps(counts, indent=2)])
    return dict(counts)


def _lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--drawings", type=Path, default=DRAWINGS)
    parser.add_argument("--size", type=int, default=224, help="longer side of an image")
    parser.add_argument("--limit", type=int, help="only so many drawings")
    args = parser.parse_args()
    if not args.drawings.is_dir() or shutil.which("rsvg-convert") is None:
        parser.error(
            "drawings or rsvg-convert missing: apt-get install openclipart-svg librsvg2-bin"
        )
    for what, number in write(args.folder, args.drawings, args.size, args.limit).items():
        print(f"{number:6,}  {what}")  # noqa: T201


if __name__ == "__main__":
    main()
