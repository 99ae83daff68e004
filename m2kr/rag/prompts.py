"""What a reader's model is asked: the paper's line of text, and turns of a chat.

Whatever a question or a passage holds stays text: nothing in it is taken for a placeholder.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from m2kr.errors import InputError
from m2kr.evaluation.result import json_sha256
from m2kr.rag.reader import RetrievedPassage
from m2kr.yaml_files import read_yaml

PAPER_END = " Answer:"

_PLACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
# The placeholders that each text may have, and those that it must have.
_ALLOWED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "system": ((), ()),
    "with_passages": (("question", "passages"), ("question", "passages")),
    "without_passages": (("question",), ("question",)),
    "passage": (("number", "text"), ("text",)),
}


def paper_start(question: str, *, caption: str = "", objects: Sequence[str] = ()) -> str:
    """What stands before the passage in the paper's input: ``Question: … [Caption: … Objects: …]``.

    The runs with PreFLMR have the question alone; caption and objects are those of RA-VQA's OK-VQA.
    """
    parts = [f"Question: {question.strip()}"]
    if caption.strip():
        parts.append(f"Caption: {caption.strip()}")
    if objects:
        parts.append(f"Objects: {', '.join(objects)}")
    return " ".join(parts)


def paper_prompt(
    question: str, passage: str | None, *, caption: str = "", objects: Sequence[str] = ()
) -> str:
    """The paper's input: ``Question: … Knowledge: … Answer:``, one passage at a time.

    Args:
        question: The query's question.
        passage: None, or an empty text, leaves the knowledge out: an answer without retrieval.
        caption: Of the image, if there is one.
        objects: That were seen in the image.
    """
    start = paper_start(question, caption=caption, objects=objects)
    knowledge = f" Knowledge: {passage.strip()}" if passage and passage.strip() else ""
    return start + knowledge + PAPER_END


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """The texts that a model of instructions is asked with.

    Attributes:
        system: The system's turn; "" for none.
        with_passages: The user's turn; has ``{question}`` and ``{passages}``.
        without_passages: The user's turn if there are no passages; has ``{question}``.
        passage: One passage; has ``{text}``, and ``{number}`` from 1 if it likes.
        empty_question: Stands for the question where the image alone asks.
    """

    system: str = (
        "You answer questions. Give the answer itself, in a few words, without a sentence."
    )
    with_passages: str = (
        "{passages}\n\nUse the passages above where they help.\nQuestion: {question}\nShort answer:"
    )
    without_passages: str = "Question: {question}\nShort answer:"
    passage: str = "Passage {number}: {text}"
    empty_question: str = "What does the image show?"

    def __post_init__(self) -> None:
        for name, (allowed, required) in _ALLOWED.items():
            _require_places(name, getattr(self, name), allowed, required)

    @classmethod
    def from_file(cls, path: str | Path) -> "ChatPrompt":
        """The prompt of a YAML file, with any of the attributes as keys; the others are ours.

        A brace that is meant as one is doubled: ``{{``.

        Raises:
            MissingError: There is no such file.
            InputError: A key is not known, a text has another placeholder than it may, or lacks one.
        """
        path = Path(path).expanduser()
        known = [field.name for field in fields(cls)]
        expected = "texts under " + ", ".join(known)
        texts: Mapping[Any, Any] = read_yaml(path, "a prompt", expected, words=True)
        for key, text in texts.items():
            if key not in known:
                raise InputError(
                    f"a prompt has no text '{key}'", where=str(path), expected=expected
                )
            if not isinstance(text, str):
                raise InputError(f"'{key}' is no text", where=str(path), expected="one text")
        try:
            return cls(**texts)
        except InputError as error:
            raise InputError(
                error.what, where=str(path), expected=error.expected, fix=error.fix
            ) from None

    @property
    def fingerprint(self) -> str:
        """A hash of all texts."""
        return json_sha256(asdict(self))

    def turns(self, question: str, passages: Sequence[str]) -> tuple[str, str]:
        """The system's turn ("" if there is none) and the user's.

        Args:
            question: May be empty.
            passages: Their texts, best first.
        """
        values = {"question": question.strip() or self.empty_question}
        if passages:
            values["passages"] = "\n\n".join(
                _filled(self.passage, {"number": str(number), "text": text.strip()})
                for number, text in enumerate(passages, 1)
            )
        user = _filled(self.with_passages if passages else self.without_passages, values)
        return _filled(self.system, {}), user


def fit_passages(
    passages: Sequence[RetrievedPassage], fits: Callable[[list[str]], bool]
) -> tuple[list[str], list[dict[str, Any]]]:
    """As much of the passages as fits: the last one is cut first, at a blank, then the one before it.

    Args:
        passages: Best first.
        fits: Whether a prompt with some texts is short enough; asked some 15 times.

    Returns:
        Texts, fewer of them where a passage has no room at all; and what was cut:
        ``passage_id, characters, kept_characters``.
    """
    texts = [passage.text.strip() for passage in passages]
    if fits(texts):
        return texts, []
    least, most = 0, sum(map(len, texts))  # `least` characters fit, or nothing does; `most` do not
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(_first(texts, middle)) else (least, middle)
    kept = _first(texts, least)
    cut = [
        {
            "passage_id": passage.passage_id,
            "characters": len(text),
            "kept_characters": len(kept[number]) if number < len(kept) else 0,
        }
        for number, (passage, text) in enumerate(zip(passages, texts, strict=True))
        if number >= len(kept) or len(kept[number]) < len(text)
    ]
    return kept, cut


def _first(texts: Iterable[str], characters: int) -> list[str]:
    """The first so many characters of some texts, without the half word at the end."""
    kept: list[str] = []
    for text in texts:
        part = text[: max(characters, 0)]
        if 0 < len(part) < len(text) and not text[len(part)].isspace():
            words = part.rsplit(maxsplit=1)
            # Some languages have no blanks: a text without any is cut where it must be.
            part = words[0] if len(words) > 1 else part
        part = part.rstrip()
        if text and not part:
            break
        kept.append(part)
        characters -= len(text)
    return kept


def _require_places(name: str, text: str, allowed: Sequence[str], required: Sequence[str]) -> None:
    places = []
    for match in _PLACES.finditer(text):
        if match[0] in ("{{", "}}"):
            continue
        if match[1] not in allowed:
            can = ", ".join(f"{{{place}}}" for place in allowed) or "none"
            raise InputError(
                f"'{name}' has the placeholder '{match[0]}'",
                expected=f"of placeholders: {can}",
                fix="a brace that is meant as one is doubled: {{ or }}",
            )
        places.append(match[1])
    for place in required:
        if place not in places:
            raise InputError(f"'{name}' lacks {{{place}}}", expected=f"a text with {{{place}}}")


def _filled(text: str, values: Mapping[str, str]) -> str:
    """A text with its placeholders filled in one pass: what is filled in is not looked at again."""
    return _PLACES.sub(lambda match: match[0][0] if match[1] is None else values[match[1]], text)
