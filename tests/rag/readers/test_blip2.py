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


@pytest.mark.parametrize("temperature", [1.0, pytest.param(0.2, marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("temperature", [pytest.param(1.0, marks=pytest.mark.slow), 5.0])
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


@pytest.mark.parametrize("passages", [(), PASSAGES[:1]])
def test_one_input_answers_as_transformers_own_generate(
    folder: Path, enumerated: Enumerated, image: Image.Image, passages: Any
) -> None:
    reader = Blip2Reader(str(folder), beams=3, max_tokens=5, device="cpu")
    said = reader.answer(image, QUESTION, passages)
    text = prompt(passages[0].text if passages else None)
    inputs = enumerated.processor(images=image, text=text, return_tensors="pt")
    out = enumerated.model.generate(
        **inputs,
        num_beams=3,
        max_new_tokens=5,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert said.text == enumerated.text(tuple(out.sequences[0].tolist()))
    assert said.score == pytest.approx(float(out.sequences_scores[0]), abs=1e-4)
    assert said.passage_id == (passages[0].passage_id if passages else None)
    assert said.input_tokens == inputs["input_ids"].shape[1]


@pytest.mark.parametrize(("decoding", "beams"), [("paper", 1), ("marginal", 3)])
def test_padding_changes_nothing(
    folder: Path, image: Image.Image, decoding: Any, beams: int
) -> None:
    how: Any = {"decoding": decoding, "beams": beams, "max_tokens": 4, "device": "cpu"}
    together = Blip2Reader(str(folder), batch_size=3, **how).answer(image, QUESTION, PASSAGES)
    alone = Blip2Reader(str(folder), batch_size=1, **how).answer(image, QUESTION, PASSAGES)
    assert together.text == alone.text
    assert together.score == pytest.approx(alone.score, abs=1e-4)
    assert together.input_tokens == alone.input_tokens


def test_without_image_and_without_passages(folder: Path, enumerated: Enumerated) -> None:
    import torch

    reader = Blip2Reader(str(folder), beams=1, max_tokens=1, device="cpu")
    said = reader.answer(None, QUESTION, ())
    tokens = enumerated.processor.tokenizer(prompt(None), return_tensors="pt")
    with torch.inference_mode():
        logits = enumerated.model.language_model(
            input_ids=tokens["input_ids"], decoder_input_ids=torch.zeros((1, 1), dtype=torch.long)
        ).logits
    assert said.score == pytest.approx(float(torch.log_softmax(logits[0, 0], -1).max()), abs=1e-4)
    assert said.passage_id is None
    assert "documents" not in said.detail


def test_a_long_passage_is_cut_and_the_answers_mark_stays(folder: Path, image: Image.Image) -> None:
    reader = Blip2Reader(str(folder), max_input=14, beams=2, max_tokens=2, device="cpu")
    long = RetrievedPassage("long", "river bear </s> castle " * 30, 1.0)
    text, note = reader._text(QUESTION, long)
    assert text.startswith("Question: is castle bear Knowledge: river bear")
    assert text.endswith(" Answer:")
    assert len(reader._tokenizer(text)["input_ids"]) <= 14
    assert 0 < note["cut"]["kept_characters"] < note["cut"]["characters"]
    said = reader.answer(image, QUESTION, (long, PASSAGES[2]))
    first, second = said.detail["documents"]
    assert first["cut"] == note["cut"]
    assert "cut" not in second
    # A question that is too long is read whole, and said to be.
    text, note = reader._text("river " * 30, PASSAGES[0])
    assert text == "Question: " + ("river " * 30).strip() + " Answer:"
    assert note["question_tokens"] > 14


def test_ways_to_write_one_answer_are_one_answer() -> None:
    import numpy as np

    from m2kr.rag.readers.joint import document_log_probabilities, log_sum, merged_marginals

    documents = document_log_probabilities([3.0, 1.0])
    likelihoods = np.log([[0.2, 0.1], [0.3, 0.3], [0.15, 0.3]])
    texts, joint = merged_marginals(["Rome", "Paris", "Rome"], documents, likelihoods)
    assert texts == ["Rome", "Paris"]
    near, far = np.exp(documents)
    assert np.exp(log_sum(joint)) == pytest.approx([0.35 * near + 0.4 * far, 0.3])


def test_scores_far_from_zero_have_probabilities() -> None:
    import numpy as np

    from m2kr.errors import InputError
    from m2kr.rag.readers.joint import document_log_probabilities

    peaked = document_log_probabilities([10_000.0, 9_000.0, -10_000.0])
    assert peaked.tolist() == [0.0, -1000.0, -20000.0]
    assert np.exp(document_log_probabilities([5.0, 5.0])) == pytest.approx([0.5, 0.5])
    assert document_log_probabilities([]).size == 0
    with pytest.raises(InputError, match="finite"):
        document_log_probabilities([1.0, float("nan")])


@pytest.mark.slow
def test_an_adapter_is_merged_and_one_of_another_model_refused(
    folder: Path, tmp_path: Path, image: Image.Image
) -> None:
    import torch

    peft = pytest.importorskip("peft")
    from transformers import Blip2ForConditionalGeneration

    from m2kr.errors import InputError

    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    targets = r".*language_model.*\.(q|v)"
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=32, target_modules=targets)
    )
    torch.manual_seed(5)
    for name, weights in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weights, std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    for file in folder.iterdir():
        if not (tmp_path / "merged" / file.name).exists():
            (tmp_path / "merged" / file.name).write_bytes(file.read_bytes())
    how: Any = {"max_tokens": 4, "device": "cpu"}
    plain = Blip2Reader(str(folder), **how)
    ours = Blip2Reader(str(folder), adapter=tmp_path / "adapter", **how)
    merged = Blip2Reader(str(tmp_path / "merged"), **how)
    answers = [reader.answer(image, QUESTION, PASSAGES) for reader in (plain, ours, merged)]
    assert answers[1].text == answers[2].text
    assert answers[1].score == pytest.approx(answers[2].score, abs=1e-4)
    assert answers[0].score != pytest.approx(answers[1].score, abs=1e-2)
    assert plain.facts() != ours.facts()

    config = tmp_path / "adapter" / "adapter_config.json"
    late = Blip2Reader(str(folder), adapter=tmp_path / "adapter", **how)
    late.facts()  # what answers are kept by must be what gives them
    config.write_text(config.read_text().replace('"lora_alpha": 32', '"lora_alpha": 16'), "utf-8")
    with pytest.raises(InputError, match="written while it was in use"):
        late.answer(image, QUESTION, ())
    config.write_text(config.read_text().replace("(q|v)", "(q|v|k)"), encoding="utf-8")
    with pytest.raises(InputError, match="adapter"):
        Blip2Reader(str(folder), adapter=tmp_path / "adapter", **how).answer(image, QUESTION, ())


def test_other_models_are_refused(tmp_path: Path) -> None:
    from support.tiny_readers import save_llama

    from m2kr.errors import UsageError

    with pytest.raises(UsageError, match="llama"):
        Blip2Reader(str(save_llama(tmp_path / "llama")))
    with pytest.raises(UsageError, match="temperature"):
        Blip2Reader.from_settings({"model": str(tmp_path), "temperature": "0"})
    with pytest.raises(UsageError, match="decoding"):
        Blip2Reader.from_settings({"model": str(tmp_path), "decoding": "best"})
