"""A generative model with an adapter, as training calls it: target tokens' log probabilities of a batch."""

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from m2kr.errors import UsageError
from m2kr.rag.prompts import fit_passages, paper_prompt
from m2kr.rag.reader import RetrievedPassage
from m2kr.rag.readers.blip2 import image_tokens
from m2kr.rag.readers.joint import document_log_probabilities
from m2kr.rag.readers.local_model import LocalModel, special_tokens
from m2kr.rag.training.lora import add_lora, restore_adapter, save_adapter

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from m2kr.rag.training.questions import QuestionVisit
    from m2kr.rag.training.reader_recipe import ReaderRecipe

NO_TOKEN = -100  # where a target is over


@dataclasses.dataclass(frozen=True)
class ReaderBatch:
    """Some questions' inputs: one for each passage, N in all.

    Attributes:
        input_ids: (N x L); of a causal model the target follows.
        attended: (N x L), 1 where there is a token.
        target_ids: (N x T), `NO_TOKEN` after the end.
        owners: (N), the number of each input's question in the batch, ascending.
        documents: (N), float64, log p(passage) among its question's.
        pixel_values: (I x 3 x S x S) of the questions that have images; None if none has.
        images: (questions), the row of ``pixel_values``, -1 without an image.
        prompt_lengths: (N), tokens before the target.
        visits: What it was made of.
    """

    input_ids: "Tensor"
    attended: "Tensor"
    target_ids: "Tensor"
    owners: "Tensor"
    documents: "Tensor"
    pixel_values: "Tensor | None"
    images: "Tensor"
    prompt_lengths: "Tensor"
    visits: "tuple[QuestionVisit, ...]"

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return dataclasses.replace(self, **moved)


class ReaderInputs:
    """Makes batches as `Blip2Reader` reads: the paper's line, whose passage is cut where it is too long.

    Args:
        source: The model's files.
        recipe: Its ``data`` and ``loss`` are read.

    Attributes:
        sees: Whether images are read.
        tokenizer: The model's.
    """

    def __init__(self, source: LocalModel, recipe: "ReaderRecipe") -> None:
        self.sees, self._encodes = kind_of(source.config())
        self._processor: Any = source.open_processor() if self.sees else None
        self.tokenizer = self._processor.tokenizer if self._processor else source.open_tokenizer()
        self._recipe = recipe
        self._marks = special_tokens(self.tokenizer)
        self._lock = threading.Lock()  # tokenizers are no threads' friends
        ends = self.tokenizer.eos_token_id
        if ends is None:
            raise UsageError("the tokenizer has no end token", where=recipe.reader.model)
        self._end = int(ends)
        self.pad = int(ends if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id)

    def batch(
        self, visits: Sequence["QuestionVisit"], images: Sequence["Image | None"]
    ) -> ReaderBatch:
        """The batch of some questions.

        Args:
            visits: TrainingQuestions, passages and targets.
            images: Of the questions; not looked at by a model that sees none.
        """
        with self._lock:
            prompts = [
                self._prompt(each.question, passage)
                for each in visits
                for passage in each.passages or (None,)
            ]
            targets = [self._target(target) for each in visits for target in each.targets]
        inputs = prompts
        if not self._encodes:
            inputs = [[*prompt, *own] for prompt, own in zip(prompts, targets, strict=True)]
        counts = [max(1, len(each.passages)) for each in visits]
        documents = [
            torch.from_numpy(
                document_log_probabilities(
                    [p.score for p in each.passages] or [0.0], self._recipe.loss.temperature
                )
            )
            for each in visits
        ]
        pixels: list[Tensor] = []
        places: list[int] = []
        for image in images:
            seen = self.sees and image is not None
            places.append(len(pixels) if seen else -1)
            if seen:
                made = self._processor.image_processor(images=image, return_tensors="pt")
                pixels.append(made["pixel_values"])
        return ReaderBatch(
            _filled(inputs, self.pad),
            _filled([[1] * len(each) for each in inputs], 0),
            _filled(targets, NO_TOKEN),
            torch.repeat_interleave(torch.arange(len(visits)), torch.tensor(counts)),
            torch.cat(documents),
            torch.cat(pixels) if pixels else None,
            torch.tensor(places),
            torch.tensor([len(each) for each in prompts]),
            tuple(visits),
        )

    def _prompt(self, question: str, passage: RetrievedPassage | None) -> list[int]:
        most, question = self._recipe.data.input_tokens, self._plain(question)

        def tokens(text: str | None) -> list[int]:
            ids: list[int] = self.tokenizer(paper_prompt(question, text))["input_ids"]
            return ids

        if passage is None:
            return tokens(None)
        plain = RetrievedPassage(passage.passage_id, self._plain(passage.text), passage.score)
        kept, _ = fit_passages(
            [plain], lambda texts: len(tokens(texts[0] if texts else None)) <= most
        )
        return tokens(kept[0] if kept else None)

    def _target(self, text: str) -> list[int]:
        text = self._plain(text) if self._encodes else " " + self._plain(text)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids[: self._recipe.data.target_tokens - 1], self._end]

    def _plain(self, text: str) -> str:
        """A text in which nothing is taken for one of the tokenizer's marks, such as ``</s>``."""
        return self._marks.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)


def _filled(rows: Sequence[Sequence[int]], value: int) -> "Tensor":
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def kind_of(config: Any) -> tuple[bool, bool]:
    """Whether a model sees images, and whether an encoder reads the input.

    Raises:
        UsageError: It is of a kind that isn't trained here.
    """
    sees = config.model_type == "blip-2"
    encodes = bool((config.text_config if sees else config).is_encoder_decoder)
    if sees and not encodes:
        raise UsageError(
            f"the model is a BLIP-2 with a '{config.text_config.model_type}'",
            where="reader.model",
            expected="one with a T5, such as Salesforce/blip2-flan-t5-xl",
        )
    return sees, encodes


def reader_class(config: Any, *, auto: bool = False) -> Any:
    """The class of transformers' that a configuration's model is trained as.

    Args:
        config: The model's.
        auto: The one that opens files, in place of the model's own.

    Raises:
        UsageError: It is of a kind that isn't trained here.
    """
    import transformers

    sees, encodes = kind_of(config)
    if sees:
        return transformers.Blip2ForConditionalGeneration
    kind = transformers.AutoModelForSeq2SeqLM if encodes else transformers.AutoModelForCausalLM
    if type(config) not in kind._model_mapping:
        raise UsageError(
            f"a '{config.model_type}' is not trained here",
            where="reader.model",
            expected="a BLIP-2 with a T5, a sequence-to-sequence or a causal language model",
        )
    return kind if auto else kind._model_mapping[type(config)]


class AdaptedReader(nn.Module):
    """The model with adapters; all else of it is frozen.

    Args:
        source: The model's files.
        recipe: Says where adapters are.
        dtype: What adapters are kept and float64 models computed in.
    """

    def __init__(self, source: LocalModel, recipe: "ReaderRecipe", dtype: torch.dtype) -> None:
        super().__init__()
        config = source.config()
        self.sees, self.encodes = kind_of(config)
        self.model = source.open_model(reader_class(config, auto=True))
        if dtype == torch.float64:
            self.model.to(dtype)
        self._lora, self._name = recipe.lora, recipe.reader.model
        self.adapted = add_lora(self.model, recipe.lora, dtype)
        if recipe.steps.checkpoint_activations:
            how = {"use_reentrant": False}
            self.language.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)

    @property
    def language(self) -> Any:
        """The language model."""
        return self.model.language_model if self.sees else self.model

    def forward(self, batch: ReaderBatch) -> "Tensor":
        """Log probabilities of the target's tokens, (N x T), 0 where a target is over."""
        inputs, mask = self.shown(batch)
        counted = batch.target_ids != NO_TOKEN
        targets = batch.target_ids.clamp(min=0)
        if self.encodes:
            begin = self.language.config.decoder_start_token_id
            before = torch.cat([torch.full_like(targets[:, :1], begin), targets[:, :-1]], dim=1)
            logits = self.language(
                inputs_embeds=inputs,
                attention_mask=mask,
                decoder_input_ids=before,
                use_cache=False,
            ).logits
        else:
            logits = self.language(
                inputs_embeds=inputs, attention_mask=mask, use_cache=False
            ).logits
            steps = torch.arange(targets.shape[1], device=targets.device)
            places = batch.prompt_lengths[:, None] - 1 + steps
            places = places.clamp(max=logits.shape[1] - 1)
            logits = logits[torch.arange(len(logits), device=places.device)[:, None], places]
        with torch.autocast(logits.device.type, enabled=False):
            wide = logits if logits.dtype == torch.float64 else logits.float()
            chosen = torch.log_softmax(wide, -1).gather(2, targets[..., None])[..., 0]
        return chosen.masked_fill(~counted, 0)

    def shown(self, batch: ReaderBatch) -> "tuple[Tensor, Tensor]":
        """What the language model reads, (N x Q+L x D), and its mask: the image's tokens come first."""
        inputs = self.model.get_input_embeddings()(batch.input_ids)
        mask = batch.attended
        if batch.pixel_values is None or not self.sees:
            return inputs, mask
        seen = self._sight(batch.pixel_values).to(inputs.dtype)
        places = batch.images[batch.owners]  # each question's image is looked at once
        there = (places >= 0).to(mask.dtype)
        inputs = torch.cat([seen[places.clamp(min=0)], inputs], dim=1)
        return inputs, torch.cat([there[:, None].expand(-1, seen.shape[1]), mask], dim=1)

    @torch.no_grad()
    def _sight(self, pixels: "Tensor") -> "Tensor":
        return image_tokens(self.model, pixels)

    def train(self, mode: bool = True) -> Self:
        """Training mode for the language model, whose dropout counts; what sees drops nothing."""
        super().train(mode)
        if self.sees:
            for part in (self.model.vision_model, self.model.qformer):
                part.eval()
        return self

    def save_pretrained(self, folder: Path) -> None:
        """Writes the adapter alone, in peft's layout."""
        task = "SEQ_2_SEQ_LM" if self.encodes else "CAUSAL_LM"
        save_adapter(
            self.model, folder, self._lora, task_type=task, base_model_name_or_path=self._name
        )

    def restore(self, folder: Path) -> None:
        """Puts back what `save_pretrained` wrote."""
        restore_adapter(self.model, folder)
