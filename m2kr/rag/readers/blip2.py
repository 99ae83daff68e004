"""BLIP-2 FLAN-T5 as the paper's reader: one passage an input, one answer from all of them."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from m2kr.errors import UsageError
from m2kr.rag.prompts import fit_passages, paper_prompt
from m2kr.rag.reader import Answer, ReaderBase, RetrievedPassage
from m2kr.rag.readers.joint import (
    document_log_probabilities,
    log_sum,
    merged_marginals,
    paper_scores,
)
from m2kr.rag.readers.local_model import (
    LocalModel,
    Precision,
    greedy,
    require_positive,
    special_tokens,
    up_to_end,
    written_tokens,
)
from m2kr.retrievers._settings import split_off

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_CANDIDATES = 64  # of one passage, in the decoder at a time
_SHOWN = 5  # candidates in an answer's detail


class Blip2Reader(ReaderBase):
    """Reads ``Question: … Knowledge: … Answer:`` once for each passage, with the image each time.

    ``decoding=paper`` takes the best beam of each passage and answers with the one of the highest
    log softmax(retrieval score) + beam score, transformers' length-normalised one; equal answers of
    several passages don't add up. ``decoding=marginal`` scores all beams of all passages under every
    passage and answers with the highest log Σ_k p(passage k) p(answer | passage k); token sequences that
    read the same are one answer. That is the probability of generating it within ``max_tokens``.

    A text longer than ``max_input`` tokens loses the passage's end. The paper's code cuts the text as a
    whole, so that a long passage takes ``Answer:`` away; ``cut`` in an answer's detail says where the two
    differ. A question that is too long by itself is read whole.

    Args:
        model: Folder or hub id of a BLIP-2 with a T5.
        revision: Of a hub id.
        adapter: A folder of peft's, such as a LoRA that was trained; it is merged in.
        decoding: See above.
        temperature: The retrieval scores are divided by it; 1 is the paper's, and very peaked.
        beams: 2 as in the paper's command; its configuration's default is 5.
        max_tokens: Of an answer.
        max_input: Of a text, without the image's tokens.
        batch_size: Passages at a time.
        dtype: ``auto`` is float32 on the processor and bfloat16 on a GPU.
        device: ``auto``, ``cpu``, ``cuda`` ...

    Raises:
        MissingError: There is no such model or adapter, or a package is not installed.
        UsageError: A setting has no such value, or the model is another.
    """

    name = "blip2"

    def __init__(
        self,
        model: str = "Salesforce/blip2-flan-t5-xl",
        *,
        revision: str | None = None,
        adapter: Path | None = None,
        decoding: Literal["paper", "marginal"] = "paper",
        temperature: float = 1.0,
        beams: int = 2,
        max_tokens: int = 10,
        max_input: int = 512,
        batch_size: int = 5,
        dtype: Precision = "auto",
        device: str = "auto",
    ) -> None:
        numbers = {"temperature": temperature, "beams": beams, "max_tokens": max_tokens}
        for name, value in {**numbers, "max_input": max_input, "batch_size": batch_size}.items():
            require_positive(name, value)
        self._model = LocalModel(
            model,
            "the reader 'blip2'",
            revision=revision,
            adapter=adapter,
            dtype=dtype,
            device=device,
        )
        config = self._model.config()
        inner: Any = getattr(config, "text_config", None)
        if config.model_type != "blip-2" or not inner.is_encoder_decoder:
            raise UsageError(
                f"the model is a '{config.model_type}'"
                + (f" with a '{inner.model_type}'" if config.model_type == "blip-2" else ""),
                where=model,
                expected="a BLIP-2 with a T5, such as Salesforce/blip2-flan-t5-xl",
                fix="--reader hf reads other models",
            )
        self._decoding, self._temperature, self._beams = decoding, temperature, beams
        self._max_tokens, self._max_input, self._at_once = max_tokens, max_input, batch_size

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> "Blip2Reader":
        """The reader of ``--set key=value`` settings, which are its arguments."""
        return cls(**split_off(cls, settings, "reader blip2")[0])

    def facts(self) -> dict[str, Any]:
        """The model's, and all settings that decide answers."""
        return {
            "name": self.name,
            **self._model.facts(),
            "prompt": "Question: {question} Knowledge: {passage} Answer:",
            "decoding": self._decoding,
            "temperature": self._temperature,
            "beams": self._beams,
            "max_tokens": self._max_tokens,
            "max_input": self._max_input,
        }

    def answer(
        self, image: "Image | None", question: str, passages: Sequence[RetrievedPassage]
    ) -> Answer:
        """As of `Reader.answer`; ``score`` is that of the decoding.

        Raises:
            InputError: A passage's score is not finite.
        """
        documents = document_log_probabilities([p.score for p in passages], self._temperature)
        texts, notes = [], []
        for passage in passages or (None,):
            text, note = self._text(question, passage)
            texts.append(text)
            notes.append(note)
        if not passages:
            documents = np.zeros(1)
        states = self._encoded(image, texts)
        beams = self._beams_of(states)
        read = int(sum(mask.sum() for _, mask in states))
        decide = self._by_paper if self._decoding == "paper" else self._by_marginal
        text, score, document, detail = decide(documents, states, beams)
        for number, (note, passage) in enumerate(zip(notes, passages, strict=False)):
            note |= {
                "passage_id": passage.passage_id,
                "answer": self._decoded(beams[number][0][0]),
                "sequence_score": beams[number][0][1],
                "document_log_probability": float(documents[number]),
            }
        return Answer(
            text,
            score,
            passages[document].passage_id if passages else None,
            input_tokens=read,
            output_tokens=sum(len(tokens) for beam in beams for tokens, _ in beam),
            detail={**detail, "documents": notes} if passages else {**detail, **notes[0]},
        )

    def _by_paper(
        self, documents: Any, states: Any, beams: Any
    ) -> tuple[str, float, int, dict[str, Any]]:
        del states
        joint = paper_scores(documents, [beam[0][1] for beam in beams])
        best = int(joint.argmax())  # the first of equals: the better passage
        return self._decoded(beams[best][0][0]), float(joint[best]), best, {}

    def _by_marginal(
        self, documents: Any, states: Any, beams: Any
    ) -> tuple[str, float, int, dict[str, Any]]:
        candidates = list(dict.fromkeys(tokens for beam in beams for tokens, _ in beam))
        likelihoods = np.stack([self._likelihoods(state, candidates) for state in states], axis=1)
        texts, joint = merged_marginals(
            [self._decoded(tokens) for tokens in candidates], documents, likelihoods
        )
        marginals = log_sum(joint)
        best = int(marginals.argmax())
        order = np.argsort(-marginals, kind="stable")[:_SHOWN]
        shown = [{"answer": texts[i], "log_probability": float(marginals[i])} for i in order]
        detail = {"candidates": shown, "different_candidates": len(texts)}
        return texts[best], float(marginals[best]), int(joint[best].argmax()), detail

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = getattr(self._processor, "tokenizer", self._processor)
        tokenizer.padding_side = "right"
        return tokenizer

    @cached_property
    def _processor(self) -> Any:
        return self._model.open_processor()

    @cached_property
    def _loaded(self) -> Any:
        from transformers import Blip2ForConditionalGeneration

        return self._model.open_model(Blip2ForConditionalGeneration)

    def _decoded(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def _plain(self, text: str) -> str:
        """A text in which nothing is taken for one of the tokenizer's marks, such as ``</s>``."""
        return special_tokens(self._tokenizer).sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)

    def _text(self, question: str, passage: RetrievedPassage | None) -> tuple[str, dict[str, Any]]:
        """The input for one passage, and what was cut."""
        question = self._plain(question)

        def length(text: str | None) -> int:
            return len(self._tokenizer(paper_prompt(question, text))["input_ids"])

        kept: list[str] = []
        note: dict[str, Any] = {}
        if passage is not None:
            plain = RetrievedPassage(passage.passage_id, self._plain(passage.text), passage.score)
            kept, cut = fit_passages(
                [plain], lambda texts: length(texts[0] if texts else None) <= self._max_input
            )
            note = {"cut": {k: v for k, v in cut[0].items() if k != "passage_id"}} if cut else {}
        text = kept[0] if kept else None
        if not text and (tokens := length(None)) > self._max_input:
            note["question_tokens"] = tokens
        return paper_prompt(question, text), note

    def _encoded(self, image: "Image | None", texts: Sequence[str]) -> list[tuple[Any, Any]]:
        """The encoder's states of each text with the image before it, 1 x T x D, and their masks.

        The image is looked at once, and its tokens are repeated.
        """
        import torch

        model, states = self._loaded, []
        with torch.inference_mode():
            sight = None if image is None else self._sight(image)
            for start in range(0, len(texts), self._at_once):
                part = list(texts[start : start + self._at_once])
                tokens = self._tokenizer(part, padding=True, return_tensors="pt").to(model.device)
                inputs = model.get_input_embeddings()(tokens["input_ids"])
                mask = tokens["attention_mask"]
                if sight is not None:
                    seen = sight.to(inputs.dtype).expand(len(part), -1, -1)
                    inputs = torch.cat([seen, inputs], dim=1)
                    mask = torch.cat([mask.new_ones(seen.shape[:2]), mask], dim=1)
                encoder = model.language_model.get_encoder()
                hidden = encoder(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
                # Without the padding, so that what follows depends on one text alone.
                states += [
                    (hidden[i : i + 1, :n], mask[i : i + 1, :n])
                    for i, n in enumerate(mask.sum(1).tolist())
                ]
        return states

    def _sight(self, image: "Image") -> Any:
        """The image as the language model is shown it: 1 x Q x D."""
        pixels = self._processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
        return image_tokens(self._loaded, pixels)

    def _beams_of(
        self, states: Sequence[tuple[Any, Any]]
    ) -> list[list[tuple[tuple[int, ...], float]]]:
        """The token sequences of each text with their scores, best first."""
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        language, found = self._loaded.language_model, []
        config = greedy(language, self._max_tokens, self._beams)
        config.output_scores, config.output_logits = True, self._beams == 1
        if self._decoding == "marginal":
            config.num_return_sequences = self._beams
        for hidden, mask in states:
            with torch.inference_mode():
                out = language.generate(
                    encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
                    attention_mask=mask,
                    generation_config=config,
                )
            if self._beams == 1:
                tokens, scores = written_tokens(out, config)[0]
                found.append([(tuple(tokens), sum(scores) / len(scores))])
                continue
            found.append(
                [
                    (tuple(up_to_end(row.tolist()[1:], config)), float(score))
                    for row, score in zip(out.sequences, out.sequences_scores, strict=True)
                ]
            )
        return found

    def _likelihoods(
        self, state: tuple[Any, Any], candidates: Sequence[tuple[int, ...]]
    ) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """The log probability of each candidate's tokens, given one text."""
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        language, (hidden, mask) = self._loaded.language_model, state
        start = language.generation_config.decoder_start_token_id
        sums = []
        for first in range(0, len(candidates), _CANDIDATES):
            part = candidates[first : first + _CANDIDATES]
            width = max(map(len, part))
            # What stands after the end is not counted, so any token will do there.
            targets = torch.tensor(
                [[*tokens, *[0] * (width - len(tokens))] for tokens in part], device=hidden.device
            )
            inputs = torch.cat([torch.full_like(targets[:, :1], start), targets[:, :-1]], dim=1)
            with torch.inference_mode():
                logits = language(
                    encoder_outputs=BaseModelOutput(
                        last_hidden_state=hidden.expand(len(part), -1, -1)
                    ),
                    attention_mask=mask.expand(len(part), -1),
                    decoder_input_ids=inputs,
                ).logits
            scores = torch.log_softmax(logits.double(), -1).gather(2, targets[..., None])[..., 0]
            counted = torch.tensor(
                [[n < len(tokens) for n in range(width)] for tokens in part], device=hidden.device
            )
            sums.append(scores.masked_fill(~counted, 0).sum(1).cpu().numpy())
        return np.concatenate(sums)


def image_tokens(model: Any, pixels: "Tensor") -> "Tensor":
    """What BLIP-2's language model is shown of images: (N x Q x D) of pixels (N x 3 x H x W)."""
    import torch

    vision = model.vision_model(pixel_values=pixels.to(model.device, model.dtype))[0]
    attended = torch.ones(vision.shape[:-1], dtype=torch.long, device=vision.device)
    asked = model.qformer(
        query_embeds=model.query_tokens.expand(len(vision), -1, -1),
        encoder_hidden_states=vision,
        encoder_attention_mask=attended,
    )[0]
    tokens: Tensor = model.language_projection(asked.to(vision.dtype))
    return tokens
