"""BLIP-2's decodings against all sequences that there are, enumerated."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.tiny_readers import save_blip2

from m2kr.rag.reader import RetrievedPassage
from m2kr.rag.readers.blip2 import Blip2Reader

WORDS = ["question", "answer", "knowledge", "river", "bear", "castle", ":", "is"]
LONGEST = 3
PASSAGES = (
    RetrievedPassage("near", "river is bear", 2.0),
    RetrievedPassage("far", "castle castle is river question bear", 1.5),
    RetrievedPassage("same", "bear", 1.5),
)
QUESTION = "is castle bear"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_blip2(tmp_path_factory.mktemp("blip2"), WORDS)


@pytest.fixture
def image() -> Image.Image:
    return Image.radial_gradient("L").convert("RGB")


def prompt(passage: str | None) -> str:
    return f"Question: {QUESTION}" + (f" Knowledge: {passage}" if passage else "") + " Answer:"


class Enumerated:
    """Every sequence of at most three tokens under the model, one forward pass of transformers each."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoProcessor, Blip2ForConditionalGeneration

        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
        vocabulary = range(len(self.processor.tokenizer))
        self.end = self.processor.tokenizer.eos_token_id
        inner = [token for token in vocabulary if token != self.end]
        self.sequences = [
            (*start, self.end)
            for length in range(LONGEST)
            for start in itertools.product(inner, repeat=length)
        ] + list(itertools.product(inner, repeat=LONGEST))

    def text(self, sequence: tuple[int, ...]) -> str:
        return self.processor.tokenizer.decode(sequence, skip_special_tokens=True).strip()

    def log_probabilities(self, image: Image.Image | None, passage: str | None) -> Any:
        """Of each sequence; the log probability of every next token comes from its prefix."""
        import torch

        inputs = self.processor(images=image, text=prompt(passage), return_tensors="pt")
        inner = [t for t in range(len(self.processor.tokenizer)) if t != self.end]
        prefixes = [p for n in range(LONGEST) for p in itertools.product(inner, repeat=n)]
        following = {}
        for length, group in itertools.groupby(prefixes, key=len):
            rows = list(group)
            starts = torch.tensor([[0, *row] for row in rows])
            many = {
                name: value.expand(len(rows), *value.shape[1:]) for name, value in inputs.items()
            }
            with torch.inference_mode():
                out = self.model(**many, decoder_input_ids=starts)
            ends = torch.log_softmax(out.logits[:, -1].double(), -1)
            following |= dict(zip(rows, ends.tolist(), strict=True))
            assert length == len(rows[0])
        return [
            sum(following[sequence[:i]][token] for i, token in enumerate(sequence))
            for sequence in self.sequences
        ]


@pytest.fixture(scope="module")
def enumerated(folder: Path) -> Enumerated:
    return Enumerated(folder)


def softmax_logs(scores: list[float], temperature: float = 1.0) -> list[float]:
    total = sum(math.exp(score / temperature) for score in scores)
    return [score / temperature - math.log(total) for score in scores]


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_paper_decoding_is_the_best_of_all_sequences(
    folder: Path, enumerated: Enumerated, image: Image.Image, temperature: float
) -> None:
    reader = Blip2Reader(
        str(folder), beams=150, max_tokens=LONGEST, temperature=temperature, device="cpu"
    )
    said = reader.answer(image, QUESTION, PASSAGES)
    documents = softmax_logs([p.score for p in PASSAGES], temperature)
    joint = {
        (number, sequence): documents[number] + value / len(sequence)
        for number, passage in enumerate(PASSAGES)
        for sequence, value in zip(
            enumerated.sequences,
            enumerated.log_probabilities(image, passage.text),
            strict=True,
        )
    }
    number, sequence = max(joint, key=joint.__getitem__)
    assert said.text == enumerated.text(sequence)
    assert said.passage_id == PASSAGES[number].passage_id
    assert said.score == pytest.approx(joint[number, sequence], abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_marginal_decoding_is_the_most_probable_text(
    folder: Path, enumerated: Enumerated, image: Image.Image, temperature: float
) -> None:
    reader = Blip2Reader(
        str(folder),
        decoding="marginal",
        beams=150,
        max_tokens=LONGEST,
        temperature=temperature,
        device="cpu",
    )
    said = reader.answer(image, QUESTION, PASSAGES)
    documents = softmax_logs([p.score for p in PASSAGES], temperature)
    probability: dict[str, float] = {}
    for passage, document in zip(PASSAGES, documents, strict=True):
        values = enumerated.log_probabilities(image, passage.text)
        assert sum(map(math.exp, values)) == pytest.approx(1, abs=1e-6)  # they are all there are
        for sequence, value in zip(enumerated.sequences, values, strict=True):
            text = enumerated.text(sequence)
            probability[text] = probability.get(text, 0) + math.exp(document + value)
    best = max(probability, key=probability.__getitem__)
    assert said.text == best
    # Beams hold the better sequences: what they leave out can only add to the true sum.
    assert math.exp(said.score) == pytest.approx(probability[best], rel=0.02)
    assert math.exp(said.score) <= probability[best] * (1 + 1e-4)
