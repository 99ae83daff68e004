"""A generative model of transformers as a reader: with or without sight, all passages in one prompt."""

import inspect
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m2kr.errors import InputError, UsageError, one_line
from m2kr.rag.prompts import ChatPrompt, fit_passages
from m2kr.rag.reader import Answer, ReaderBase, ReadRequest, RetrievedPassage
from m2kr.rag.readers.local_model import (
    LocalModel,
    Precision,
    greedy,
    require_positive,
    special_tokens,
    written_tokens,
)
from m2kr.retrievers._settings import split_off

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("m2kr.rag")

_NO_LIMIT = 1_000_000  # tokenizers without a length say 10^30
# Padding may move the first token's log probability by rounding, no further.
_ROUNDING = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.3}
_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class _Kind:
    """How a configuration's model is opened.

    Attributes:
        loader: The class of transformers', by name.
        sight: Whether it looks at images.
        parts: Whether its chat's turns are lists of texts and images.
        encodes: Whether an encoder reads the prompt, so that only the answer is generated.
    """

    loader: str
    sight: bool
    parts: bool
    encodes: bool


@dataclass(frozen=True)
class _Written:
    """What a model wrote: tokens with their log probabilities, up to the first end; tokens it read."""

    tokens: list[int]
    scores: list[float]
    read: int


@dataclass(frozen=True)
class _Prompted:
    """A request as text; ``cut`` is what the context had no room for."""

    text: str
    image: "Image | None"
    cut: list[dict[str, Any]]


class HfReader(ReaderBase):
    """Answers by a chat with a model of transformers, greedily: nothing is drawn.

    Any model of ``AutoModelForImageTextToText``, ``AutoModelForCausalLM`` or ``AutoModelForSeq2SeqLM``,
    which of them its configuration decides. The prompt goes through the model's own chat template, or as
    plain text where it has none; then the answer ends at the first line's end. An answer's score is the
    mean log probability of its tokens, the end's included.

    A prompt longer than the model's context loses passages from the last one's end, never the question;
    ``cut`` in an answer's detail says so.

    Args:
        model: Folder or hub id.
        revision: Of a hub id.
        gguf_file: The weights' file in the folder, if they are in GGUF.
        adapter: A folder of peft's, which is merged in.
        prompt: A file as of `ChatPrompt.from_file`.
        image: Where it stands in the user's turn; ``none`` shows it to no model.
        max_tokens: Of an answer.
        max_input: Tokens of a prompt; by default what the model's context leaves.
        batch_size: Prompts at a time. The first batch is answered one by one, too: if padding changes
            more than rounding does, all the others are answered one by one.
        dtype: ``auto`` is float32 on the processor and bfloat16 on a GPU.
        device: ``auto``, ``cpu``, ``cuda`` ...
        cache: Where a GGUF file's weights are kept as safetensors.

    Raises:
        MissingError: There is no such model, adapter or file, or a package is not installed.
        UsageError: A setting has no such value; the model is of another kind or made by its own code.
        InputError: The prompt's file is wrong.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        gguf_file: str | None = None,
        adapter: Path | None = None,
        prompt: Path | None = None,
        image: Literal["first", "last", "none"] = "first",
        max_tokens: int = 32,
        max_input: int | None = None,
        batch_size: int = 1,
        dtype: Precision = "auto",
        device: str = "auto",
        cache: Path | None = None,
    ) -> None:
        require_positive("max_tokens", max_tokens)
        require_positive("batch_size", batch_size)
        require_positive("max_input", 1 if max_input is None else max_input)
        self._prompt = ChatPrompt() if prompt is None else ChatPrompt.from_file(prompt)
        self._model = LocalModel(
            model,
            "the reader 'hf'",
            revision=revision,
            gguf_file=gguf_file,
            adapter=adapter,
            dtype=dtype,
            device=device,
            cache=cache,
        )
        self._config = self._model.config()
        self._kind = _kind_of(self._config, model, sight=image != "none")
        self._image, self._max_tokens, self._max_input = image, max_tokens, max_input
        self.name = "hf-" + re.sub(r"[^\w.-]+", "-", self._model.short_name)
        self.sees_images, self.batch = self._kind.sight, batch_size
        self._padding_is_harmless: bool | None = None  # not known before there is a batch

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> "HfReader":
        """The reader of ``--set key=value`` settings, which are its arguments."""
        return cls(**split_off(cls, settings, "reader hf")[0])

    def facts(self) -> dict[str, Any]:
        """The model's, the prompt's fingerprint and the lengths."""
        return {
            "name": self.name,
            **self._model.facts(),
            "class": self._kind.loader,
            "prompt": self._prompt.fingerprint,
            "image": self._image if self.sees_images else "none",
            "max_tokens": self._max_tokens,
            "max_input": self._max_input,
            "decoding": "greedy",
        }

    def answer(
        self, image: "Image | None", question: str, passages: Sequence[RetrievedPassage]
    ) -> Answer:
        """As of `Reader.answer`.

        Raises:
            InputError: The question alone is longer than the model's context.
        """
        return self._together([self._prompted(image, question, passages)])[0]

    def answers(self, requests: Sequence[ReadRequest]) -> Iterator[tuple[int, Answer]]:
        """As of `Reader.answers`: prompts with an image apart from those without."""
        sighted = [n for n, r in enumerate(requests) if r.image is not None and self.sees_images]
        blind = sorted(set(range(len(requests))) - set(sighted))
        for numbers in (sighted, blind):
            for start in range(0, len(numbers), self.batch):
                part = numbers[start : start + self.batch]
                prompts = [
                    self._prompted(requests[n].image, requests[n].question, requests[n].passages)
                    for n in part
                ]
                yield from zip(part, self._together(prompts), strict=True)

    def _together(self, prompts: list[_Prompted]) -> list[Answer]:
        if len(prompts) > 1 and self._padding_is_harmless is None:
            self._padding_is_harmless = self._pads_well(prompts)
        if len(prompts) > 1 and self._padding_is_harmless:
            written = self._written(prompts)
        else:
            written = [self._written([prompt])[0] for prompt in prompts]
        return [self._said(*both) for both in zip(prompts, written, strict=True)]

    def _pads_well(self, prompts: list[_Prompted]) -> bool:
        """Whether a batch gives what its prompts give alone."""
        near = _ROUNDING[self._model.dtype]
        same = all(
            abs(together.scores[0] - self._written([prompt])[0].scores[0]) <= near
            for prompt, together in zip(prompts, self._written(prompts), strict=True)
        )
        if not same:
            logger.warning("%s answers otherwise in a batch: it is asked one by one", self.name)
        return same

    @cached_property
    def _processor(self) -> Any:
        sight = self._kind.sight
        processor = self._model.open_processor() if sight else self._model.open_tokenizer()
        tokenizer = getattr(processor, "tokenizer", processor)
        # Decoders go on at the right end, so what is shorter is padded on the left.
        tokenizer.padding_side = "right" if self._kind.encodes else "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return processor

    @property
    def _tokenizer(self) -> Any:
        return getattr(self._processor, "tokenizer", self._processor)

    def _without_marks(self, text: str) -> str:
        return special_tokens(self._tokenizer).sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)

    @cached_property
    def _loaded(self) -> Any:
        import transformers

        return self._model.open_model(getattr(transformers, self._kind.loader))

    @cached_property
    def _room(self) -> int | None:
        """Tokens that a prompt may have; None for any number."""
        limits = [self._tokenizer.model_max_length]
        if not self._kind.encodes:
            text = self._config.get_text_config()
            limits.append(getattr(text, "max_position_embeddings", None) or _NO_LIMIT)
        context = min(limits)
        room = None if context >= _NO_LIMIT else context
        if room is not None and not self._kind.encodes:
            room -= self._max_tokens
        if self._max_input is None:
            return room
        if room is not None and self._max_input > room:
            raise UsageError(
                f"max_input={self._max_input}",
                expected=f"at most {room:,}: the context of {context:,} tokens holds the answer, too",
            )
        return self._max_input

    def _prompted(
        self, image: "Image | None", question: str, passages: Sequence[RetrievedPassage]
    ) -> _Prompted:
        image = image if self.sees_images else None

        # What looks like one of the model's own marks in a text must stay text.
        passages = [replace(p, text=self._without_marks(p.text)) for p in passages]
        question = self._without_marks(question)

        def text(texts: Sequence[str]) -> str:
            return self._as_text(*self._prompt.turns(question, texts), image is not None)

        whole, room = text([p.text for p in passages]), self._room
        if room is None:
            return _Prompted(whole, image, [])
        # An image takes as many tokens whatever the text: it is looked at once.
        extra = self._length(whole, image) - self._length(whole, None) if image is not None else 0
        kept, cut = fit_passages(passages, lambda t: self._length(text(t), None) + extra <= room)
        prompted = _Prompted(text(kept), image, cut)
        if not kept and self._length(prompted.text, None) + extra > room:
            raise InputError(
                f"the question alone takes {self._length(prompted.text, None) + extra:,} tokens",
                where=question[:60],
                expected=f"at most {room:,}, for the model's context",
            )
        return prompted

    def _length(self, text: str, image: "Image | None") -> int:
        if image is None:
            return len(self._tokenizer(text, add_special_tokens=self._adds_ends)["input_ids"])
        return len(self._inputs([_Prompted(text, image, [])])["input_ids"][0])

    @property
    def _template(self) -> Any:
        own = getattr(self._processor, "chat_template", None)
        template = own or getattr(self._tokenizer, "chat_template", None)
        return template.get("default") if isinstance(template, dict) else template

    @property
    def _adds_ends(self) -> bool:
        """Whether the tokenizer adds its special tokens: a chat template has them already."""
        return not self._template

    def _as_text(self, system: str, user: str, image: bool) -> str:
        """The prompt as the model's template writes it, or as plain text."""
        from jinja2 import TemplateError

        if not self._template:
            text = "\n\n".join(filter(None, (system, user)))
            if not image or self._processor_places_image:
                return text
            token = str(self._processor.image_token)
            return f"{token}\n{text}" if self._image == "first" else f"{text}\n{token}"
        try:
            return self._templated(system, user, image)
        except TemplateError:
            if not system:
                raise
            # Some templates have no turn of a system's.
            return self._templated("", f"{system}\n\n{user}", image)

    def _templated(self, system: str, user: str, image: bool) -> str:
        content: Any = user
        if self._kind.parts:
            parts = [{"type": "text", "text": user}]
            if image:
                parts.insert(0 if self._image == "first" else 1, {"type": "image"})
            content = parts
        turns = [{"role": "user", "content": content}]
        if system:
            said: Any = [{"type": "text", "text": system}] if self._kind.parts else system
            turns.insert(0, {"role": "system", "content": said})
        # Models that think aloud first would spend an answer's tokens on it; other templates ignore this.
        how = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        return str(self._tokenizer.apply_chat_template(turns, chat_template=self._template, **how))

    @property
    def _processor_places_image(self) -> bool:
        """Whether the processor puts the image's tokens in by itself, as BLIP-2's and PaliGemma's do."""
        return not hasattr(self._processor, "image_token") or self._config.model_type in (
            "blip-2",
            "instructblip",
            "paligemma",
        )

    def _inputs(self, prompts: Sequence[_Prompted]) -> Any:
        how = {"return_tensors": "pt", "padding": True, "add_special_tokens": self._adds_ends}
        texts = [prompt.text for prompt in prompts]
        if prompts[0].image is None:
            return self._tokenizer(texts, **how)
        try:
            return self._processor(images=[[prompt.image] for prompt in prompts], text=texts, **how)
        except ValueError as error:  # such as Qwen's of an image 200 times as wide as high
            sizes = ", ".join(f"{p.image.width} x {p.image.height}" for p in prompts if p.image)
            raise InputError(
                f"the model's processor can't read an image of {sizes}: {one_line(error)}",
                expected="an image of a form that this model takes",
                fix="--set image=none for answers without images, or another image",
            ) from error

    def _written(self, prompts: Sequence[_Prompted]) -> list[_Written]:
        """What the model writes to some prompts, all of them with an image or none."""
        import torch

        model, inputs = self._loaded, self._inputs(prompts)
        if prompts[0].image is None:
            inputs, model = inputs.to(model.device), _without_sight(model)
        else:
            inputs = inputs.to(model.device, dtype=model.dtype)
        if "token_type_ids" not in inspect.signature(model.forward).parameters:
            inputs.pop("token_type_ids", None)  # some tokenizers make them for every model
        config = greedy(model, self._max_tokens)
        # The end of a turn may be the tokenizer's alone, and not in the model's own configuration.
        ends = config.eos_token_id
        ends = {*(ends if isinstance(ends, list) else [ends]), self._tokenizer.eos_token_id}
        config.eos_token_id = sorted(ends - {None}) or None
        with torch.inference_mode():
            out = model.generate(**inputs, generation_config=config)
        read = inputs["attention_mask"].sum(1).tolist()
        return [
            _Written(tokens, scores, length)
            for (tokens, scores), length in zip(written_tokens(out, config), read, strict=True)
        ]

    def _said(self, prompt: _Prompted, written: _Written) -> Answer:
        whole = self._tokenizer.decode(written.tokens, skip_special_tokens=True).strip()
        text = _THOUGHTS.sub("", whole).strip()
        if not self._template:
            text = text.split("\n")[0].strip()
        detail: dict[str, Any] = {"written": whole} if text != whole else {}
        if prompt.cut:
            detail["cut"] = prompt.cut
        return Answer(
            text,
            sum(written.scores) / len(written.scores),
            input_tokens=written.read,
            output_tokens=len(written.tokens),
            detail=detail,
        )


def _without_sight(model: Any) -> Any:
    """What generates without an image: the language model, where the whole one insists on an image."""
    pixels = inspect.signature(model.generate).parameters.get("pixel_values")
    needed = pixels is not None and pixels.default is inspect.Parameter.empty
    return model.language_model if needed else model


def _kind_of(config: Any, model: str, *, sight: bool) -> _Kind:
    from transformers.models.auto import modeling_auto as auto

    name, encodes = config.model_type, bool(config.is_encoder_decoder)
    if sight and name in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return _Kind("AutoModelForImageTextToText", True, True, _text_encodes(config))
    if name in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and encodes:
        return _Kind("AutoModelForSeq2SeqLM", False, False, True)
    if name in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return _Kind("AutoModelForCausalLM", False, False, False)
    if name in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:  # asked without its image
        return _Kind("AutoModelForImageTextToText", False, True, _text_encodes(config))
    raise UsageError(
        f"a model of the type '{name}' generates no answer",
        where=model,
        expected="an image-text-to-text, causal or sequence-to-sequence language model",
    )


def _text_encodes(config: Any) -> bool:
    """Whether the language model of a model with sight has an encoder, as T5 in BLIP-2."""
    return bool(config.is_encoder_decoder or config.get_text_config().is_encoder_decoder)
