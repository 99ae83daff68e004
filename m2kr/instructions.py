"""Instruction templates, and the rule that gives each query one of them for good.

``confidence`` says how a list is known: ``high`` read in official material, ``medium`` read in a
derived code base or inferred, ``ours`` written by us because the original list is not public.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TemplateList:
    """A named list of instructions; a template listed twice is twice as likely."""

    name: str
    templates: tuple[str, ...]
    used_for: tuple[str, ...]
    origin: str
    confidence: Literal["high", "medium", "ours"]

    def choose(self, row_id: str, seed: int = 0) -> str:
        """The instruction of one row: it depends on the seed and the row's id alone."""
        return self.templates[keyed_choice(len(self.templates), row_id, seed)]


def keyed_choice(n: int, key: str, seed: int = 0) -> int:
    """An index in ``range(n)`` from a keyed hash, so that a draw depends on nothing but its key."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") % n


def join_question(instruction: str, question: str) -> str:
    """Instruction and question as one query text, the way the official evaluation does it.

    The instruction is trimmed and closed with a colon if it has none, then a blank and the question.
    """
    head = instruction.strip()
    if not head:
        return question.strip()
    if not head.endswith(":"):
        head += ":"
    return f"{head} {question}".strip()


def _list(
    name: str,
    used_for: Sequence[str],
    origin: str,
    confidence: Literal["high", "medium", "ours"],
    *templates: str,
) -> TemplateList:
    return TemplateList(name, templates, tuple(used_for), origin, confidence)


TEMPLATES: dict[str, TemplateList] = {
    t.name: t
    for t in (
        _list(
            "iq2t",
            ("oven", "okvqa", "infoseek", "evqa"),
            "official fine-tuning example; the fourth and eighth are the same",
            "high",
            "Using the provided image, obtain documents that address the subsequent question: ",
            "Retrieve documents that provide an answer to the question alongside the image: ",
            "Extract documents linked to the question provided in conjunction with the image: ",
            "Utilizing the given image, obtain documents that respond to the following question: ",
            "Using the given image, access documents that provide insights into the following question: ",
            "Obtain documents that correspond to the inquiry alongside the provided image: ",
            "With the provided image, gather documents that offer a solution to the question: ",
            "Utilizing the given image, obtain documents that respond to the following question: ",
        ),
        _list(
            "wit",
            ("wit", "iglue"),
            "research configurations derived from the official code",
            "high",
            "Identify the document that is connected to this image.:",
            "Provide information about the document linked to this image.:",
            "Please describe the document that corresponds to this image.:",
            "What is the document that this image is related to?:",
            "Could you elucidate the document associated with this image?:",
            "Describe the document that accompanies this image.:",
            "Please give information on the document that goes with this image.:",
            "What document is represented by this image?:",
            "Identify the document that this image pertains to.:",
        ),
        _list(
            "llava",
            ("llava",),
            "research configurations derived from the official code",
            "medium",
            "Provide a brief description of the image along with the following question:",
            "Provide a concise explanation of the image along with the following question:",
        ),
        _list(
            "caption",
            ("cc3m",),
            "LLaVA's brief-description prompts; their use for CC3M is inferred",
            "medium",
            "Describe the image concisely.:",
            "Provide a brief description of the given image.:",
            "Offer a succinct explanation of the picture presented.:",
            "Summarize the visual content of the image.:",
            "Give a short and clear explanation of the subsequent image.:",
            "Share a concise interpretation of the image provided.:",
            "Present a compact description of the photo’s key features.:",
            "Relay a brief, clear account of the picture shown.:",
            "Render a clear and concise summary of the photo.:",
            "Write a terse but informative summary of the picture.:",
            "Create a compact narrative representing the image presented.:",
        ),
        _list(
            "kvqa",
            ("kvqa",),
            "all KVQA queries of the authors' M2KR challenge data",
            "high",
            "Provide a brief description of the image and the relevant details of the person in the "
            "image.:",
        ),
        _list(
            "msmarco",
            ("msmarco",),
            "ours: the released list is not public outside the release itself",
            "ours",
            "Retrieve the document that answers this question: ",
            "Find a passage that answers the following question: ",
            "Obtain a document that responds to this query: ",
        ),
    )
}


def templates_of(source: str) -> TemplateList | None:
    """The built-in list of instructions for a source."""
    return next((listed for listed in TEMPLATES.values() if source in listed.used_for), None)
