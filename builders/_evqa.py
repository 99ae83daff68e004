"""E-VQA's upstream rows, image names, and the one pass through its knowledge base."""

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from m2kr.building.formats.archives import members
from m2kr.building.formats.delimited import read_csv
from m2kr.building.formats.json_stream import array_items, object_members
from m2kr.building.ledger import Ledger
from m2kr.building.sampling import keyed_hash
from m2kr.building.spec import BuildContext
from m2kr.errors import InputError

from ._rows import dropper

# What is read of the CSV files, which have other columns, too.
COLUMNS = (
    "question",
    "question_type",
    "answer",
    "evidence",
    "evidence_section_id",
    "wikipedia_url",
    "dataset_name",
    "dataset_image_ids",
)
KB = "evqa/encyclopedic_kb_wiki.zip"
INAT = {"train": "evqa/inat2021_train.json.tar.gz", "val": "evqa/inat2021_val.json.tar.gz"}
_TYPES = ("templated", "automatic", "multi_answer", "2_hop")
_CHUNK = 5_000


@dataclass(frozen=True, slots=True)
class Asked:
    """One single-hop question of the CSV.

    Attributes:
        row: Its record number.
        images: Ids in the image's data set.
        dataset: ``inaturalist`` or ``landmarks``.
        section: Wikipedia address and section number of the evidence.
    """

    row: int
    question: str
    answers: tuple[str, ...]
    images: tuple[str, ...]
    dataset: str
    kind: str
    section: tuple[str, int]
    evidence: str


def csv_name(split: str) -> str:
    """Upstream's file of a split."""
    return "val.csv" if split == "valid" else f"{split}.csv"


def asked_rows(ctx: BuildContext, split: str, ledger: Ledger) -> Iterator[Asked]:
    """The single-hop questions of a split; the ledger is told of all rows but those given."""
    file = csv_name(split)
    path = ctx.files[f"evqa/{file}"]
    with path.open("rb") as stream:
        drop = dropper(ledger, file)
        for block in read_csv(stream, COLUMNS, where=str(path), on_fault=drop):
            ledger.read(file, block.records)
            for i, record in enumerate(block.batch.to_pylist()):
                row = block.row(i)
                kind = record["question_type"]
                if kind in {"multi_answer", "2_hop"}:
                    ledger.filter(f"question type {kind}", file=file, row=row)
                    continue
                asked = _asked(row, record)
                if isinstance(asked, Asked):
                    yield asked
                else:
                    ledger.drop(asked, file=file, row=row, detail=record["question"][:80])


def _asked(row: int, record: Mapping[str, str]) -> Asked | str:
    """A row of the CSV, or what is wrong with it."""
    if record["question_type"] not in _TYPES:
        return "an unknown question type"
    if record["dataset_name"] not in {"inaturalist", "landmarks"}:
        return "an unknown image data set"
    images = tuple(i for i in record["dataset_image_ids"].split("|") if i)
    answers = tuple(dict.fromkeys(a.strip() for a in record["answer"].split("|") if a.strip()))
    section = record["evidence_section_id"].strip()
    if not images:
        return "no image"
    if not answers:
        return "no answer"
    if not section.isdecimal() or not record["wikipedia_url"]:
        return "no evidence section"
    return Asked(
        row,
        record["question"],
        answers,
        images,
        record["dataset_name"],
        record["question_type"],
        (record["wikipedia_url"], int(section)),
        record["evidence"],
    )


def inat_names(ctx: BuildContext) -> dict[str, str]:
    """File names of the iNaturalist images that any question asks about, by id."""
    wanted: set[str] = set()
    for split in ("train", "valid", "test"):
        for asked in asked_rows(ctx, split, Ledger("quiet")):
            if asked.dataset == "inaturalist":
                wanted.update(asked.images)
    found: dict[str, str] = {}
    for name in INAT.values():
        with only_json(ctx.files[name]) as stream:
            for image in array_items(stream, where=str(ctx.files[name]), key="images"):
                try:
                    image_id, file_name = str(image["id"]), image["file_name"]
                except (TypeError, KeyError) as error:
                    raise InputError(
                        "an image without id or file_name",
                        where=str(ctx.files[name]),
                        expected='{"images": [{"id": 1, "file_name": "train/…/….jpg", …}, …]}',
                    ) from error
                if image_id in wanted:
                    found.setdefault(image_id, str(file_name))
    return found


@contextmanager
def only_json(path: Path) -> Iterator[BinaryIO]:
    """The JSON member of an archive, as a stream.

    Raises:
        InputError: there is none.
    """
    for member in members(path):
        if member.name.endswith(".json"):
            with member.open() as stream:
                yield stream
            return
    raise InputError("there is no JSON file in this archive", where=str(path))


def select_sections(
    ctx: BuildContext, gold: Mapping[tuple[str, int], set[str]], base: int, first: str, path: Path
) -> None:
    """One pass through the knowledge base: writes every section that some pool takes.

    Args:
        ctx: The build.
        gold: Splits by (address, section number) of the evidence of their questions.
        base: Sections of the part that all pools share.
        first: The split whose gold sections fill that part first; a keyed sample fills the rest.
        path: Arrow stream to write, in the order of the knowledge base; its metadata tell how many
            articles and sections there are, and which articles are none.
    """
    counts = {"articles": 0, "sections": 0}
    faulty: list[tuple[int, str]] = []
    sample, kept = _Sample(ctx.seed, base), dict[int, dict[str, Any]]()
    with only_json(ctx.files[KB]) as stream:
        for url, article in object_members(stream, where=str(ctx.files[KB])):
            counts["articles"] += 1
            if not is_article(article):
                faulty.append((counts["articles"], url))
                continue
            for section in sections(url, article):
                place = counts["sections"]
                counts["sections"] += 1
                splits = gold.get((url, section["number"]), ())
                section |= {"place": place, "splits": sorted(splits), "shared": first in splits}
                if splits:
                    kept[place] = section
                if not section["shared"]:
                    sample.offer(section)
    shared = {_said(section) for section in kept.values() if section["shared"]}
    for section, *again in sample.in_order():
        if len(shared) >= base:
            break
        shared.add(_said(section))
        for each in (section, *again):
            kept[each["place"]] = each | {"shared": True}
    rows = [kept[place] for place in sorted(kept)]
    _number(rows)
    facts = counts | {"faulty": faulty}
    schema = _SELECTED.with_metadata({"facts": json.dumps(facts)})
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for start in range(0, len(rows), _CHUNK):
            writer.write_batch(
                pa.RecordBatch.from_pylist(rows[start : start + _CHUNK], schema=schema)
            )


class _Sample:
    """Of the passages that are offered, those with the smallest keyed hashes of their id.

    Args:
        seed: Of the hashes.
        size: How many are kept. They may repeat evidence, so that fewer are taken.
    """

    def __init__(self, seed: int, size: int) -> None:
        self._seed, self._size = seed, size
        # The largest hash is on top, negated: it goes when a smaller one comes.
        self._heap: list[tuple[int, int, tuple[str, str, str]]] = []
        # Sections that say the same under one id are one passage.
        self._held: dict[tuple[str, str, str], list[dict[str, Any]]] = {}

    def offer(self, section: dict[str, Any]) -> None:
        """Takes a section in, if its hash is small enough."""
        key = -keyed_hash(section["passage_id"], "evqa pool", self._seed)
        full = len(self._heap) >= self._size
        if full and (not self._heap or key < self._heap[0][0]):
            return  # most sections end here, their text not looked at
        said = _said(section)
        if said in self._held:
            self._held[said].append(section)
            return
        entry = (key, section["place"], said)
        if not full:
            heapq.heappush(self._heap, entry)
        elif key > self._heap[0][0]:
            del self._held[heapq.heapreplace(self._heap, entry)[2]]
        else:
            return
        self._held[said] = [section]

    def in_order(self) -> Iterator[list[dict[str, Any]]]:
        """The sections of each passage, the smallest hash first."""
        for _, _, said in sorted(self._heap, key=lambda entry: (-entry[0], entry[1])):
            yield self._held[said]


def _said(section: Mapping[str, Any]) -> tuple[str, str, str]:
    """What makes a section another passage than others of its id; titles aren't unique."""
    return section["passage_id"], section["section_title"], section["text"]


def _number(rows: Sequence[dict[str, Any]]) -> None:
    """Gives each passage an id of its own, for all pools, with a number where the id is taken.

    Sections that say the same under one id are the passage, and of the page, of the first of them.
    """
    known: dict[str, dict[tuple[str, str, str], tuple[str, str]]] = {}
    for row in rows:
        own = row["passage_id"]
        taken = known.setdefault(own, {})
        new = own if not taken else f"{own}#{len(taken) + 1}"
        row["passage_id"], row["url"] = taken.setdefault(_said(row), (new, row["url"]))


_SELECTED = pa.schema(
    [
        ("place", pa.int64()),
        ("passage_id", pa.string()),
        ("title", pa.string()),
        ("section_title", pa.string()),
        ("text", pa.string()),
        ("url", pa.string()),
        ("address", pa.string()),
        ("number", pa.int64()),
        ("splits", pa.list_(pa.string())),
        ("shared", pa.bool_()),
    ]
)


def is_article(article: Any) -> bool:
    """Whether a value of the knowledge base has a title, and sections with a heading each."""
    return (
        isinstance(article, dict)
        and isinstance(article.get("title"), str)
        and _texts(article.get("section_titles"))
        and _texts(article.get("section_texts"))
        and len(article["section_titles"]) == len(article["section_texts"])
    )


def sections(url: str, article: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The sections of an article that hold text, with their ids."""
    title, titles = article["title"], article["section_titles"]
    for number, text in enumerate(article["section_texts"]):
        if text.strip():
            yield {
                "passage_id": f"WikiWeb_{title}_{number}",
                "title": title,
                "section_title": titles[number],
                "text": text,
                "url": url,
                "address": url,
                "number": number,
            }


def _texts(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(each, str) for each in value)
    )
