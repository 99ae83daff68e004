"""KVQA's upstream records: images of people with captions, questions and answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from m2kr.building.formats.json_stream import object_members
from m2kr.building.ledger import Ledger
from m2kr.building.spec import BuildContext
from m2kr.errors import InputError

from ._images import flat_path

DATASET = "kvqa/dataset.json"
URL = "http://dosa.cds.iisc.ac.in/kvqa/dataset.json"
KEYS = ("imgPath", "wikiCap", "Questions", "Answers", "split")
FOLDS = 5
TRAIN, VAL, TEST = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Pictured:
    """One image.

    Attributes:
        row: Number of its record.
        id: Upstream's key of it.
        img_path: Path below the folder ``KVQAimgs``.
        caption: What Wikipedia says below it.
        said: Questions with their answers, in upstream's order.
        left_out: How many questions or answers hold no text, and are not in ``said``.
        sets: ``TRAIN``, ``VAL`` or ``TEST`` in each of upstream's five random splits.
    """

    row: int
    id: str
    img_path: str
    caption: str
    said: tuple[tuple[str, str], ...]
    left_out: int
    sets: tuple[int, ...]


def pictured(ctx: BuildContext, *, quiet: bool = False) -> Iterator[Pictured]:
    """The images of upstream's file in its order; the ledger is told of all records but those given.

    Args:
        ctx: The build.
        quiet: Leave the ledger alone: another pass tells of these records.

    Raises:
        InputError: The file is damaged, or holds none: it is another file, or KVQA's older release.
    """
    ledger = Ledger("quiet") if quiet else ctx.ledger
    path = ctx.files[DATASET]
    file, seen, older = path.name, set[str](), False
    with path.open("rb") as stream:
        for row, (key, record) in enumerate(object_members(stream, where=str(path)), 1):
            ledger.read(file)
            found = _pictured(row, key, record)
            if key in seen:
                found = "an image id used twice"
            if isinstance(found, str):
                older = older or (isinstance(record, dict) and "sourcePath" in record)
                ledger.drop(found, file=file, row=row, detail=key[:80])
                continue
            seen.add(key)
            yield found
    if not seen:
        what = "this is KVQA's older release" if older else "not one record is as it should be"
        keys = ", ".join(f'"{name}": …' for name in KEYS)
        raise InputError(
            what,
            where=str(path),
            expected=f'{{"image id": {{{keys}}}, …}} with {FOLDS} values from 1 to 3 as split',
            fix=f"replace it by {URL}",
        )


def _pictured(row: int, key: str, record: Any) -> Pictured | str:
    """A record, or what is wrong with it."""
    if not isinstance(record, dict):
        return "no record"
    for name in KEYS:
        if name not in record:
            return f"no key {name!r}"
    path, caption, asked, answered, sets = (record[name] for name in KEYS)
    img_path = flat_path(path, "KVQAimgs")
    if not key.strip() or img_path is None:
        return "no image"
    if not isinstance(caption, str) or not caption.strip():
        return "no caption"
    if not isinstance(asked, list) or not isinstance(answered, list):
        return "no list of questions or of answers"
    if len(asked) != len(answered):
        return "not as many answers as questions"
    if not _are_sets(sets):
        return "split is not five values from 1 to 3"
    pairs = [(_text(q), _text(a)) for q, a in zip(asked, answered, strict=True)]
    said = tuple(pair for pair in pairs if all(pair))
    left_out = len(pairs) - len(said)
    return Pictured(row, key, img_path, caption.strip(), said, left_out, tuple(sets))


def _text(value: Any) -> str:
    """A question or an answer as text: some answers are numbers. Empty if it is neither."""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _are_sets(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == FOLDS
        and all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 3 for v in value)
    )
