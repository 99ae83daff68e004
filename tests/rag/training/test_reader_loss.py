"""The loss of a batch: padding has no part in it, and the marginal is the sum that it says."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from m2kr.rag.readers.local_model import LocalModel
from m2kr.rag.training.adapted_reader import NO_TOKEN, AdaptedReader, ReaderInputs
from m2kr.rag.training.answer_loss import batch_loss
from m2kr.rag.training.questions import images_of
from m2kr.rag.training.reader_task import ReaderTask
from tests.rag.training.conftest import Reading
from tests.support.tiny_reader_training import calm
from tests.support.tiny_readers import save_llama, save_t5

FLOAT64 = {"steps": {"precision": "float64"}, "lora": {"dropout": 0.0}}


def changed(model: torch.nn.Module) -> None:
    """Adapters that do something."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)


def loss_and_gradients(task: ReaderTask, numbers: list[int]) -> tuple[float, list[torch.Tensor]]:
    batch = task._batch([task._questions.visit(number) for number in numbers])
    task.model.eval()
    task.model.zero_grad()
    loss = batch_loss(task.recipe, task.model(batch), batch)
    loss.backward()
    return float(loss.detach()), [
        p.grad.clone() for p in task.groups()["lora"] if p.grad is not None
    ]


@pytest.mark.parametrize("kind", ["blip2", "t5", "llama"])
@pytest.mark.parametrize("loss", ["tokens", "marginal"])
def test_a_batch_of_different_lengths_is_the_mean_of_its_questions(
    kind: str, loss: str, reading: Reading, tmp_path: Path
) -> None:
    changes: dict[str, Any] = dict(FLOAT64)
    if kind == "llama":
        changes["reader"] = {"model": str(save_llama(tmp_path / "model"))}
        changes["lora"] = {"dropout": 0.0, "targets": ("q_proj", "v_proj")}
    else:
        wild = reading.model if kind == "blip2" else save_t5(tmp_path / "wild")
        changes["reader"] = {"model": str(calm(wild, tmp_path / "model"))}
    task = reading.task(
        loss={"kind": loss, "temperature": 2.0}, data={"target_tokens": 6}, **changes
    )
    # Different lengths of questions and targets, with and without an image, and other numbers of inputs.
    longer = {"hat": "hat of the door", "cup": "cup"}
    of_row = task._questions.as_visit

    def as_visit(row: int, passages: Any, number: int = 0) -> Any:
        import dataclasses

        visit = of_row(row, passages[: 1 + number % 3], number)
        word = visit.question.split()[-1]
        target = tuple(f"{each} {longer.get(word, 'x')}" for each in visit.targets)
        question = visit.question.replace(word, longer.get(word, word))
        return dataclasses.replace(visit, question=question, targets=target)

    task._questions.as_visit = as_visit  # type: ignore[method-assign]
    changed(task.model)
    whole, gradients = loss_and_gradients(task, [0, 1, 2, 3, 4])
    singles = [loss_and_gradients(task, [number]) for number in range(5)]
    assert whole == pytest.approx(sum(each for each, _ in singles) / 5, rel=1e-12)
    assert len(gradients) == (12 if kind != "llama" else 4) * 2
    for place, gradient in enumerate(gradients):
        mean = sum(own[place] for _, own in singles) / 5
        # Variances of norms are float32's, in transformers 4 the attention's softmax, too.
        torch.testing.assert_close(gradient, mean, rtol=1e-5, atol=1e-6 * float(mean.abs().max()))
    assert any(float(each.abs().max()) > 1e-6 for each in gradients)


def test_log_probabilities_are_those_of_transformers_forward(reading: Reading) -> None:
    from transformers import Blip2ForConditionalGeneration

    recipe = reading.recipe(lora={"dropout": 0.0})
    source = LocalModel(str(reading.model), "reader", dtype="float32", device="cpu")
    inputs = ReaderInputs(source, recipe)
    model = AdaptedReader(source, recipe, torch.float32).eval()
    task = reading.task(lora={"dropout": 0.0})
    visits = [task._questions.visit(number) for number in range(8)]
    visit = next(each for each in visits if each.row % 2)  # one with an image
    image = images_of(task._questions, [visit], seen=True)
    batch = inputs.batch([visit], image)
    theirs = Blip2ForConditionalGeneration.from_pretrained(reading.model).eval()
    processor = source.open_processor()
    for number, (passage, target) in enumerate(zip(visit.passages, visit.targets, strict=True)):
        text = f"Question: {visit.question} Knowledge: {passage.text} Answer:"
        shown = processor(images=image[0], text=text, return_tensors="pt")
        labels = processor.tokenizer(target, return_tensors="pt")["input_ids"]
        if int(labels[0, -1]) != 2:  # a real T5's tokenizer ends a text itself
            labels = torch.cat([labels, torch.tensor([[2]])], dim=1)
        out = theirs(**shown, labels=labels)
        right = torch.log_softmax(out.logits, -1).gather(2, labels[..., None])[0, :, 0]
        ours = model(batch)[number]
        counted = batch.target_ids[number] != NO_TOKEN
        assert batch.target_ids[number][counted].tolist() == labels[0].tolist()
        torch.testing.assert_close(ours[counted], right, rtol=1e-4, atol=1e-4)


def test_the_marginal_is_the_sum_over_passages(reading: Reading) -> None:
    task = reading.task(loss={"kind": "marginal", "temperature": 3.0}, **FLOAT64)
    changed(task.model)
    numbers = [3, 4]
    whole, _ = loss_and_gradients(task, numbers)
    expected = []
    for number in numbers:
        visit = task._questions.visit(number)
        scores = [math.exp(each.score / 3.0) for each in visit.passages]
        total = 0.0
        for passage, score, target in zip(visit.passages, scores, visit.targets, strict=True):
            assert target == visit.targets[0]
            one = task._questions.as_visit(visit.row, (passage,))
            one = type(one)(0, one.row, one.question_id, one.question, one.passages, (target,))
            with torch.no_grad():
                likelihood = math.exp(float(task.model(task._batch([one])).sum()))
            total += score / sum(scores) * likelihood
        expected.append(-math.log(total))
    assert whole == pytest.approx(sum(expected) / 2, rel=1e-9)


def test_a_long_passage_is_cut_and_the_answer_is_still_asked_for(reading: Reading) -> None:
    from m2kr.rag.reader import RetrievedPassage

    task = reading.task(data={"input_tokens": 16, "target_tokens": 2})
    visit = task._questions.as_visit(0, (RetrievedPassage("p", "the hat is red. " * 50, 1.0),))
    batch = task._batch([visit])
    assert batch.input_ids.shape[1] <= 16
    text = task._inputs.tokenizer.decode(batch.input_ids[0])
    assert text.startswith("question : what colour is the hat knowledge : the hat is")
    assert "answer :" in text
    assert batch.target_ids.tolist() == [[batch.target_ids[0, 0], 2]]
