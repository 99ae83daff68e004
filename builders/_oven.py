"""OVEN's upstream rows, the draws among them, and the one pass through Wiki6M."""

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from m2kr import atomic
from m2kr.building.formats.delimited import BadRecord
from m2kr.building.formats.json_stream import read_json_lines
from m2kr.building.ledger import Ledger
from m2kr.building.sampling import keyed_hash
from m2kr.building.spec import BuildContext

from ._images import oven_ending, oven_path
from ._rows import json_records, no_records, opened

ANNOTATIONS = {
    "train": "oven/oven_entity_train.jsonl",
    "val": "oven/oven_entity_val.jsonl",
}
WIKI = "oven/Wiki6M_ver_1_0.jsonl.gz"
KEYS = ("data_id", "image_id", "question", "entity_id", "entity_text")
WIKI_KEYS = ("wikidata_id", "wikipedia_title", "wikipedia_summary")  # the others may lack
# Split -> upstream's part: the labels of its test are withheld.
UPSTREAM = {"train": "train", "valid": "val", "test": "val"}
_CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class Asked:
    """One upstream row.

    Attributes:
        row: Its line number.
        id: Upstream's.
        image_id: Such as ``oven_01963180``.
        img_path: Path of the image, as the release has it.
        question: What is asked about the image.
        entity_id: Wikidata id of what it shows.
        entity_text: Its name.
    """

    row: int
    id: str
    image_id: str
    img_path: str
    question: str
    entity_id: str
    entity_text: str


def asked_rows(ctx: BuildContext, part: str, ledger: Ledger) -> Iterator[Asked]:
    """The sound rows of an upstream file, repeated ids included; the ledger is told of the others.

    Raises:
        InputError: Not one row has the keys of an annotation: it is another file.
    """
    path = ctx.files[ANNOTATIONS[part]]
    for row, record in json_records(path, ledger, KEYS):
        asked = _asked(row, record)
        if isinstance(asked, Asked):
            yield asked
        else:
            ledger.drop(asked, file=path.name, row=row, detail=_shown(record["data_id"]))


def _asked(row: int, record: Mapping[str, Any]) -> Asked | str:
    """A row, or what is wrong with it."""
    values = [record[key] for key in KEYS]
    if not all(isinstance(value, str) for value in values):
        return "a field is no text"
    data_id, image_id, question, entity_id, entity_text = values
    img_path = oven_path(image_id, oven_ending(question))
    if not data_id.strip():
        return "no data_id"
    if img_path is None:
        return "no OVEN image"
    if not question.strip():
        return "no question"
    return Asked(row, data_id, image_id, img_path, question, entity_id, entity_text)


def _shown(value: Any) -> str:
    """An id for the ledger, cut; nothing if it is no text."""
    return value[:80] if isinstance(value, str) else ""


class Sound(NamedTuple):
    """The sound rows of an upstream file in arrays: millions of them in 20 bytes each.

    Attributes:
        rows: Line numbers, of rows with equal data_id that of the first.
        keys: A uniform 64-bit number for each, by seed and data_id alone.
        entities: Place of each row's entity in ``names``.
        names: Wikidata ids.
        repeated: Line numbers of rows whose data_id an earlier one has.
    """

    rows: NDArray[np.int64]
    keys: NDArray[np.uint64]
    entities: NDArray[np.int32]
    names: list[str]
    repeated: NDArray[np.int64]


def sound(ctx: BuildContext, part: str) -> Sound:
    """The sound rows of an upstream file; read once for all tables of a build."""

    def make(path: Path) -> None:
        rows, keys, entities = array("q"), array("Q"), array("i")
        places: dict[str, int] = {}
        for asked in asked_rows(ctx, part, Ledger("quiet")):
            rows.append(asked.row)
            keys.append(keyed_hash(asked.id, "oven", ctx.seed))
            entities.append(places.setdefault(asked.entity_id, len(places)))
        first = _first(np.frombuffer(keys, np.uint64))
        with path.open("wb") as file:
            np.savez(
                file,
                rows=np.frombuffer(rows, np.int64)[first],
                keys=np.frombuffer(keys, np.uint64)[first],
                entities=np.frombuffer(entities, np.int32)[first],
                names=np.frombuffer(orjson.dumps(list(places)), np.uint8),
                repeated=np.frombuffer(rows, np.int64)[~first],
            )

    with np.load(ctx.once(f"oven-{part}.npz", make), allow_pickle=False) as found:
        names = orjson.loads(found["names"].tobytes())
        return Sound(found["rows"], found["keys"], found["entities"], names, found["repeated"])


def _first(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which keys are the first of their value. Equal 64 bits of unequal ids: one build in a million."""
    order = np.argsort(keys, kind="stable")
    first = np.ones(len(keys), bool)
    first[order[1:]] = keys[order[1:]] != keys[order[:-1]]
    return first


def smallest(keys: NDArray[np.uint64], groups: NDArray[np.int32], most: int) -> NDArray[np.int64]:
    """Places of the ``most`` smallest keys of each group, ascending."""
    order = np.lexsort((keys, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    ranks = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return np.sort(order[ranks < most])


def nearest_cap(counts: NDArray[np.int64], wanted: int) -> int:
    """The cap on counts with which their sum comes nearest to a number; of two equals the lower one."""
    caps = np.arange(1, int(counts.max(initial=1)) + 1)
    ordered = np.sort(counts)
    whole = np.concatenate([[0], np.cumsum(ordered)])
    below = np.searchsorted(ordered, caps, side="right")
    sums = whole[below] + caps * (len(ordered) - below)
    return int(caps[np.argmin(np.abs(sums - wanted))])


class Entities(NamedTuple):
    """What one pass through Wiki6M found.

    Attributes:
        path: Arrow file of its rows that some pool takes, and of faulty ones.
        lines: Lines in all; a blank one counts as a row of no entity.
    """

    path: Path
    lines: int

    def rows(self) -> Iterator[dict[str, Any]]:
        """Those rows in the order of the file; ``problem`` says what is wrong, or is null."""
        with pa.memory_map(str(self.path)) as source:
            for batch in pa.ipc.open_stream(source):
                yield from batch.to_pylist()


def entities(ctx: BuildContext) -> Entities:
    """The pass through Wiki6M for the entities of all splits of a build; made once for its tables."""

    def make(folder: Path) -> None:
        wanted: dict[str, set[str]] = {}
        for part in sorted({UPSTREAM[split] for split in ctx.source.pools}):
            for name in sound(ctx, part).names:
                wanted.setdefault(name, set()).add(part)
        folder.mkdir()
        lines = _select(ctx.files[WIKI], wanted, folder / "rows.arrow")
        (folder / "lines").write_text(str(lines), encoding="utf-8")

    folder = ctx.once("oven-entities", make)
    return Entities(folder / "rows.arrow", int((folder / "lines").read_text(encoding="utf-8")))


def _select(source: Path, wanted: Mapping[str, set[str]], path: Path) -> int:
    """Writes the rows of Wiki6M that are wanted or faulty; gives the number of the last line."""
    seen, spare, pending = set[str](), dict[str, dict[str, Any]](), list[dict[str, Any]]()
    last, good = 0, False
    with path.open("wb") as file, pa.ipc.new_stream(file, _SELECTED) as writer:

        def note(least: int = _CHUNK, **facts: Any) -> None:
            if facts:
                pending.append({"row": last, **facts})
            if len(pending) >= least:
                writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=_SELECTED))
                pending.clear()

        def fault(found: BadRecord) -> None:
            nonlocal last
            last = found.row
            note(problem="unreadable record", detail=f"{found.problem}: {found.text}")

        with opened(source) as stream:
            for row, record in read_json_lines(stream, on_fault=fault, keys=WIKI_KEYS[:1]):
                last, good = row, True
                own = record["wikidata_id"]
                if not isinstance(own, str):
                    note(problem="a wikidata_id that is no text", detail="")
                    continue
                if own not in wanted:
                    continue
                title, (instead, text) = record.get("wikipedia_title"), _text(record)
                facts: dict[str, Any] = {
                    "entity": own,
                    "title": title if isinstance(title, str) else None,
                    "text": text,
                    "parts": sorted(wanted[own]),
                    "instead": instead,
                }
                if not text:
                    note(problem="no summary, content or title", detail=_shown(own))
                elif own in seen:
                    note(problem=_TWICE, detail=_shown(own))
                elif instead is None:
                    seen.add(own)
                    note(**facts)
                elif own not in spare:  # a later row may have the summary
                    spare[own] = {"row": row, **facts}
                elif instead < spare[own]["instead"]:  # content before title
                    note(**_repeated(spare[own]))
                    spare[own] = {"row": row, **facts}
                else:
                    note(problem=_TWICE, detail=_shown(own))
        for own, facts in spare.items():
            note(**(_repeated(facts) if own in seen else facts))
        note(least=1)
    if not good:
        raise no_records(source, WIKI_KEYS)
    if spare:
        _sort(path)
    return last


_TWICE = "a wikidata_id used twice"


def _repeated(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"row": facts["row"], "problem": _TWICE, "detail": _shown(facts["entity"])}


def _text(record: Mapping[str, Any]) -> tuple[str | None, str]:
    """The text of an entity's passage, and what it is in place of the summary, if it is."""
    for key in ("wikipedia_summary", "wikipedia_content", "wikipedia_title"):
        value = record.get(key)
        if isinstance(value, str) and value.strip():
            return (None if key == "wikipedia_summary" else key), value
    return None, ""


def _sort(path: Path) -> None:
    """Puts selected rows into the order of the file they are from."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all().sort_by("row")
    with (
        atomic.writing(path, alone=True) as aside,
        atomic.create(aside) as file,
        pa.ipc.new_stream(file, _SELECTED) as writer,
    ):
        writer.write_table(table, max_chunksize=_CHUNK)


_SELECTED = pa.schema(
    [
        ("row", pa.int64()),
        ("problem", pa.string()),
        ("detail", pa.string()),
        ("entity", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("parts", pa.list_(pa.string())),
        ("instead", pa.string()),
    ]
)
