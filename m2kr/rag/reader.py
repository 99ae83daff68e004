"""What a reader is: it answers a question about an image from passages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class RetrievedPassage:
    """A passage as a reader gets it.

    Attributes:
        passage_id: Its id in the source.
        text: Its text.
        score: The retriever's score, as the run has it; 0 for the oracle's.
    """

    passage_id: str
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A question as a reader gets it.

    Attributes:
        question_id: The query's id.
        question: Its question; "" if the image alone asks.
        image: None if there is none, or if the reader doesn't look at images.
        passages: Best first; none of them for an answer without retrieval.
    """

    question_id: str
    question: str
    image: "Image | None"
    passages: tuple[RetrievedPassage, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reader said.

    Attributes:
        text: The answer, stripped; "" if it gave none.
        score: Higher is surer; comparable within one reader only. A log probability where it has one.
        passage_id: The passage that the answer was read from, where the reader knows it.
        input_tokens: That the model read, 0 if it is no model; None if unknown, as where an endpoint
            doesn't say.
        output_tokens: That it wrote; None if unknown.
        dollars: What was paid for it, 0 where nothing is; None if unknown.
        detail: More of it for the record, such as each passage's own answer; plain JSON.
    """

    text: str
    score: float = 0.0
    passage_id: str | None = None
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    dollars: float | None = 0.0
    detail: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Reader(Protocol):
    """Anything that answers.

    Attributes:
        name: Short and stable; tables and files show it.
        sees_images: Whether it looks at images; if not, none are opened for it.
        batch: Requests that it is given at a time, at most.
    """

    name: str
    sees_images: bool
    batch: int

    def facts(self) -> Mapping[str, Any]:
        """All that decides its answers, as plain JSON: kept answers are found by it.

        No secret is in it: it stands in records and file names are made from it.
        """
        ...

    def answer(
        self, image: "Image | None", question: str, passages: Sequence[RetrievedPassage]
    ) -> Answer:
        """The answer to one question.

        Args:
            image: In RGB; None if there is none.
            question: May be empty.
            passages: Best first; may be none.

        Raises:
            M2KRError: It can't answer this one, or any.
        """
        ...

    def answers(self, requests: Sequence[ReadRequest]) -> Iterator[tuple[int, Answer]]:
        """The answers to several, each with its request's number, in whatever order they are ready."""
        ...


class ReaderBase:
    """A reader that answers one question at a time; the subclass sets ``name`` and writes `answer`.

    Attributes:
        sees_scores: Whether its answers depend on the passages' scores. If not, the same passages with
            other scores have the same answer, and it isn't asked twice (nor paid twice).
    """

    name: str = ""
    sees_images: bool = True
    batch: int = 1
    sees_scores: bool = True

    def facts(self) -> Mapping[str, Any]:
        """As of `Reader.facts`: the name alone."""
        return {"name": self.name}

    def answer(
        self, image: "Image | None", question: str, passages: Sequence[RetrievedPassage]
    ) -> Answer:
        """As of `Reader.answer`."""
        raise NotImplementedError

    def answers(self, requests: Sequence[ReadRequest]) -> Iterator[tuple[int, Answer]]:
        """As of `Reader.answers`: one after the other."""
        for number, request in enumerate(requests):
            yield number, self.answer(request.image, request.question, request.passages)
