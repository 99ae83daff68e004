"""LLaVA-Instruct's conversations, cut into questions with their answers."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from m2kr.building.formats.json_stream import array_items
from m2kr.building.ledger import Ledger
from m2kr.building.sampling import keyed_hash
from m2kr.building.spec import BuildContext
from m2kr.errors import InputError

from ._images import coco_path

COMPONENTS = {
    "conversation": "llava/conversation_58k.json",
    "detail": "llava/detail_23k.json",
    "complex_reasoning": "llava/complex_reasoning_77k.json",
}
KEYS = ("id", "image", "conversations")
_MARK = "<image>"


@dataclass(frozen=True, slots=True)
class Turn:
    """One question with its answer.

    Attributes:
        number: Its place in the conversation, from 0.
        question: Without blanks around it and without the mark for the image.
        answer: As it is.
    """

    number: int
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Talk:
    """One conversation about an image.

    Attributes:
        file: Upstream's file.
        row: Number of its item.
        component: Part of LLaVA-Instruct that the file is.
        id: Upstream's.
        img_id: COCO's number of the image in 12 digits.
        img_path: Path of the image below the COCO folder.
        turns: Questions with their answers.
        left_out: How many questions or answers hold no text, and are not in ``turns``.
        marked: Whether the first question has its mark for the image at one end.
        time: How often the component had this id so far, this time included.
    """

    file: str
    row: int
    component: str
    id: str
    img_id: str
    img_path: str
    turns: tuple[Turn, ...]
    left_out: int
    marked: bool
    time: int = 1


def talks(ctx: BuildContext, *, quiet: bool = False) -> Iterator[Talk]:
    """The conversations of all components; the ledger is told of all items but those given.

    Args:
        ctx: The build.
        quiet: Leave the ledger alone: another pass tells of these items.

    Raises:
        InputError: A file is damaged, or not one item is as it should be: it is another file.
    """
    ledger = Ledger("quiet") if quiet else ctx.ledger
    for component, name in COMPONENTS.items():
        path, seen, times = ctx.files[name], set[int](), dict[str, int]()
        file = path.name
        with path.open("rb") as stream:
            for row, item in enumerate(array_items(stream, where=str(path)), 1):
                ledger.read(file)
                found = _talk(file, row, component, item)
                if isinstance(found, Talk) and (content := _content(found)) in seen:
                    found = "a conversation twice"
                if isinstance(found, str):
                    own = item.get("id") if isinstance(item, dict) else None
                    detail = own[:80] if isinstance(own, str) else ""
                    ledger.drop(found, file=file, row=row, detail=detail)
                    continue
                seen.add(content)
                times[found.id] = times.get(found.id, 0) + 1
                yield replace(found, time=times[found.id])
        if not seen:
            raise InputError(
                "not one item is as it should be",
                where=str(path),
                expected='[{"id": …, "image": "000000215677.jpg", "conversations": '
                '[{"from": "human", "value": …}, {"from": "gpt", "value": …}, …]}, …]',
            )


def _talk(file: str, row: int, component: str, item: Any) -> Talk | str:
    """An item, or what is wrong with it."""
    if not isinstance(item, dict):
        return "no record"
    for name in KEYS:
        if name not in item:
            return f"no key {name!r}"
    own, image, said = (item[name] for name in KEYS)
    if not isinstance(own, str) or not own.strip():
        return "no id"
    found = re.fullmatch(r"([0-9]{12})\.jpg", image) if isinstance(image, str) else None
    if found is None:
        return "no COCO image"
    try:
        speakers, texts = zip(*((turn["from"], turn["value"]) for turn in said), strict=True)
    except (TypeError, KeyError, ValueError):
        return "no turns of someone's words"
    if not all(isinstance(text, str) for text in texts):
        return "a turn is no text"
    if any(speaker != ("human", "gpt")[i % 2] for i, speaker in enumerate(speakers)):
        return "not a human and gpt by turns"
    if len(texts) % 2:
        return "an odd number of turns"
    first, marked = _unmarked(texts[0])
    questions = (first, *(text.strip() for text in texts[2::2]))
    pairs = [Turn(i, *pair) for i, pair in enumerate(zip(questions, texts[1::2], strict=True))]
    turns = tuple(turn for turn in pairs if turn.question and turn.answer.strip())
    if not turns:
        return "no question with an answer"
    path = coco_path("train2014", int(found[1]))
    left_out = len(pairs) - len(turns)
    return Talk(file, row, component, own, found[1], path, turns, left_out, marked)


def _unmarked(text: str) -> tuple[str, bool]:
    """A question without the mark for the image at either end, and whether there was one."""
    text = text.strip()
    bare = text.removeprefix(_MARK) if text.startswith(_MARK) else text.removesuffix(_MARK)
    return bare.strip(), bare != text


def _content(talk: Talk) -> int:
    """A number for what is said about an image; equal ones of other content are one in 10⁹ builds."""
    texts = [text for turn in talk.turns for text in (turn.question, turn.answer)]
    return keyed_hash("\0".join((talk.img_id, *texts)), "llava conversation")
