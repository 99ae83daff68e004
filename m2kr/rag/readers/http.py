"""A reader by a server of chat completions: OpenAI's protocol, which vLLM, llama.cpp and others speak."""

import base64
import hashlib
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from m2kr.errors import InputError, M2KRError, UsageError
from m2kr.rag.budget import describe_spent
from m2kr.rag.chat_client import ChatClient, ChatConfig, Message, chat_config
from m2kr.rag.prompts import ChatPrompt
from m2kr.rag.reader import Answer, ReaderBase, ReadRequest, RetrievedPassage

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class HttpConfig(ChatConfig):
    """`ChatConfig`, and what a question is sent as.

    Attributes:
        prompt: YAML file of the prompt's texts (see `m2kr.rag.prompts.ChatPrompt`); ours if None.
        images: Images are sent; ``false`` for a model that reads text alone.
        image_side: Pixels of an image's longer side; larger ones are made smaller.
        image_format: ``jpeg`` (quality 90), or ``png`` without loss.
        image_bytes: That an image as it is sent may have.
        image_first: The image stands before the text, not after it.
    """

    prompt: str | None = None
    images: bool = True
    image_side: int = 1024
    image_format: Literal["jpeg", "png"] = "jpeg"
    image_bytes: int = 5_000_000
    image_first: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 16 <= self.image_side <= 8192 or self.image_bytes < 1000:
            raise UsageError(
                "the settings of images can't be these",
                expected="image_side from 16 to 8192, image_bytes from 1000",
            )


class HttpReader(ReaderBase):
    """Answers by a server's model.

    An answer's score is the sum of its tokens' log probabilities where the server gives them, else 0.

    Args:
        config: The server, the model, the prompt, what it may cost.

    Raises:
        UsageError: A setting can't be used.
    """

    name = "http"
    sees_scores = False

    def __init__(self, config: HttpConfig) -> None:
        self._config = config
        self._client = ChatClient(config)
        self._prompt = ChatPrompt.from_file(config.prompt) if config.prompt else ChatPrompt()
        self.sees_images = config.images
        self.batch = 4 * config.concurrency

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> Self:
        """A reader by ``--set`` strings; see `HttpConfig`.

        Raises:
            UsageError: A setting is not known or can't be used.
        """
        return cls(chat_config(HttpConfig, settings, "reader http"))

    def facts(self) -> Mapping[str, Any]:
        """As of `Reader.facts`: model, server, sampling, prompt, how images are sent."""
        config = self._config
        image = None
        if config.images:
            image = {
                "side": config.image_side,
                "format": config.image_format,
                "first": config.image_first,
            }
        facts = self._client.facts() | {"prompt": self._prompt.fingerprint, "image": image}
        return {"name": self.name, **facts}

    @property
    def spent(self) -> str:
        """What was spent so far, in one line."""
        return describe_spent(self._client.budget.spent)

    def answer(
        self, image: "Image | None", question: str, passages: Sequence[RetrievedPassage]
    ) -> Answer:
        """As of `Reader.answer`."""
        return self._answer(ReadRequest("", question, image, tuple(passages)), threading.Event())

    def answers(self, requests: Sequence[ReadRequest]) -> Iterator[tuple[int, Answer]]:
        """As of `Reader.answers`: several at a time, each as it arrives.

        Raises:
            M2KRError: Of the first request that failed, after the answers that were under way.
        """
        yield from self._client.run(self._answer, requests)

    def _answer(self, request: ReadRequest, stop: threading.Event) -> Answer:
        try:
            messages, digest = self._messages(request)
            said = self._client.complete(messages, image=digest is not None, stop=stop)
        except M2KRError as error:
            raise _at_question(error, request.question_id) from None
        detail = dict(said.detail)
        if said.missing:
            detail["missing"] = said.missing
        if digest:
            detail["image_sha256"] = digest
        if said.logprob is None and self._config.logprobs:
            detail["logprob"] = None
        return Answer(
            said.text,
            0.0 if said.logprob is None else said.logprob,
            input_tokens=said.input_tokens,
            output_tokens=said.output_tokens,
            dollars=said.dollars,
            detail=detail,
        )

    def _messages(self, request: ReadRequest) -> tuple[list[Message], str | None]:
        """Messages, and the digest of the image's bytes as sent."""
        system, user = self._prompt.turns(
            request.question, [passage.text for passage in request.passages]
        )
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        if request.image is None or not self.sees_images:
            return [*messages, {"role": "user", "content": user}], None
        kind, data = encode_image(request.image, self._config)
        address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        parts = [
            {"type": "image_url", "image_url": {"url": address}},
            {"type": "text", "text": user},
        ]
        if not self._config.image_first:
            parts.reverse()
        return [*messages, {"role": "user", "content": parts}], hashlib.sha256(data).hexdigest()


def encode_image(image: "Image", config: HttpConfig) -> tuple[str, bytes]:
    """An image as it is sent: its kind and its bytes, which depend on its pixels alone.

    Raises:
        InputError: It has more bytes than it may.
    """
    from PIL import Image as Images

    picture = image.convert("RGB")
    longer = max(picture.size)
    if longer > config.image_side:
        width, height = (max(1, round(n * config.image_side / longer)) for n in picture.size)
        picture = picture.resize((width, height), Images.Resampling.LANCZOS)
    # Its info may hold a profile or a comment, which would be written, too.
    picture.info = {}
    file = io.BytesIO()
    if config.image_format == "png":
        picture.save(file, "png", compress_level=6)
    else:
        picture.save(file, "jpeg", quality=90, subsampling=0)
    data = file.getvalue()
    if len(data) > config.image_bytes:
        raise InputError(
            f"the image has {len(data):,} bytes as it would be sent",
            expected=f"at most {config.image_bytes:,}",
            fix=f"--set image_side={config.image_side // 2}",
        )
    return config.image_format, data


def _at_question(error: M2KRError, question_id: str) -> M2KRError:
    """The error with the question that it came at."""
    if not question_id:
        return error
    where = f"question {question_id}" + (f", {error.where}" if error.where else "")
    return type(error)(error.what, where=where, expected=error.expected, fix=error.fix)
