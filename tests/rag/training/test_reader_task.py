"""A reader's run: what changes and what doesn't, going on with the same bits, and the best adapter."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from m2kr.errors import CheckError, InputError, MissingError, UsageError
from m2kr.rag.training.reader_recipe import ReaderStart
from m2kr.rag.training.reader_task import ReaderTask, train_reader
from m2kr.retrieval.run import Run
from m2kr.training.loop import Trained
from m2kr.training.recipe_file import dump_recipe
from tests.rag.training.conftest import Reading
from tests.support.tiny_reader_training import calm
from tests.support.tiny_training import Stopped, StopsAt, logged


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return load_file(trained.checkpoint / "adapter_model.safetensors")


def same(one: Trained, other: Trained) -> None:
    assert logged(one.folder) == logged(other.folder)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def trained(reading: Reading, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    recipe = reading.recipe(validation={"every": 3})
    return train_reader(
        recipe, data=reading.data, out=tmp_path_factory.mktemp("runs"), device="cpu"
    )


def test_the_folder_holds_a_log_checkpoints_and_an_adapter_of_peft(
    trained: Trained, reading: Reading
) -> None:
    rows = [row for row in logged(trained.folder) if "loss" in row]
    assert [row["visits"] for row in rows] == [4, 8, 12, 16, 20, 24]
    assert {row["lr"] for row in rows} == {1e-2}
    validations = [row for row in logged(trained.folder) if "validation" in row]
    assert [row["step"] for row in validations] == [0, 3, 6]
    assert set(validations[0]["validation"]) == {"step", "score", "scored", "loss"}
    assert validations[0]["validation"]["scored"] == 2
    facts = json.loads((trained.folder / "run.json").read_text())["data_facts"]
    assert facts["trained"]["questions"] == 22
    assert facts["adapted_layers"] == 12
    names = {path.name for path in trained.checkpoint.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((trained.checkpoint / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 16)
    assert config["task_type"] == "SEQ_2_SEQ_LM"
    own = weights(trained)
    layers = {name.rpartition(".lora_")[0] for name in own}
    t5 = "base_model.model.language_model"
    assert layers == {
        f"{t5}.{place}.{part}"
        for block in range(2)
        for place in (
            f"encoder.block.{block}.layer.0.SelfAttention",
            f"decoder.block.{block}.layer.0.SelfAttention",
            f"decoder.block.{block}.layer.1.EncDecAttention",
        )
        for part in "qv"
    }
    assert all(bool(each.any()) for each in own.values())  # B is no longer 0
    assert (
        train_reader(
            reading.recipe(validation={"every": 3}),
            data=reading.data,
            out=trained.folder.parent,
            device="cpu",
        )
        == trained
    )


def test_what_is_frozen_has_no_gradients_and_stays_as_it_was(reading: Reading) -> None:
    task = reading.task()
    before = {name: each.clone() for name, each in task.model.state_dict().items()}
    own = {name for name in before if ".lora_" in name}
    optimiser = torch.optim.AdamW(task.groups()["lora"], lr=0.1, weight_decay=0.5)
    model = task.model.train()
    assert model.language.training
    assert not model.model.vision_model.training
    assert not model.model.qformer.training
    for number in range(2):
        batch = task._batch([task._questions.visit(number)])
        task.backward(model, batch, 1.0)
        optimiser.step()
    with_gradients = {name for name, each in model.named_parameters() if each.grad is not None}
    assert with_gradients == own
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == own


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"validation": {"every": 3}}, marks=pytest.mark.slow),
        pytest.param({"steps": {"precision": "bfloat16"}}, marks=pytest.mark.slow),
        pytest.param({"steps": {"checkpoint_activations": True}}, marks=pytest.mark.slow),
        pytest.param({"loss": {"kind": "marginal"}}, marks=pytest.mark.slow),
    ],
)
def test_stopped_at_random_steps_it_ends_with_the_same_bits(
    changes: dict[str, Any], reading: Reading, tmp_path: Path
) -> None:
    recipe = reading.recipe(**changes)
    how: dict[str, Any] = {"data": reading.data, "device": "cpu"}
    whole = train_reader(recipe, out=tmp_path / "whole", **how)
    draw = random.Random(str(changes))
    for _ in range(2):
        torch.rand(draw.randrange(9))  # whatever else the process does with random numbers
        with pytest.raises(Stopped):
            progress = StopsAt(draw.randrange(1, 3))
            train_reader(recipe, out=tmp_path / "cut", progress=progress, **how)
    same(train_reader(recipe, out=tmp_path / "cut", **how), whole)


def test_other_data_recipes_and_weights_are_not_gone_on_with(
    reading: Reading, tmp_path: Path
) -> None:
    run = tmp_path / "run.parquet"
    run.write_bytes(reading.run.read_bytes())
    recipe = reading.recipe(data={"run": str(run)}, steps={"steps": 1}, saving={"every": 0})
    how: dict[str, Any] = {"data": reading.data, "device": "cpu", "out": tmp_path / "out"}
    done = train_reader(recipe, **how)
    whole = Run.load(run).to_dict()
    whole["q0"]["p1"] = 0.125
    Run.from_dict(whole, name="tiny").save(run)
    with pytest.raises(CheckError, match=r"data \w+ there, \w+ now"):
        train_reader(recipe, **how)
    run.write_bytes(reading.run.read_bytes())
    other = reading.recipe(
        data={"run": str(run)}, steps={"steps": 1}, saving={"every": 0}, lora={"r": 2}
    )
    assert train_reader(other, **how).folder != done.folder
    begun = json.loads((done.folder / "run.json").read_text())
    (done.folder / "run.json").write_text(json.dumps(begun | {"start_weights": "0"}))
    with pytest.raises(CheckError, match="start weights 0 there"):
        train_reader(recipe, **how)


def test_training_ends_where_nothing_gets_better_and_the_best_is_kept(
    reading: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {0: 0.6, 1: 0.1, 2: 0.5, 3: 0.5, 4: 0.2, 5: 0.9}

    def validate(self: Any, model: Any, step: int, progress: Any = None) -> dict[str, float]:
        return {"step": float(step), "score": scores[step], "loss": 0.0}

    monkeypatch.setattr("m2kr.rag.training.reader_validation.ReaderValidator.validate", validate)
    recipe = reading.recipe(
        validation={"every": 1, "patience": 2}, steps={"accumulate": 1}, saving={"keep": 1}
    )
    how: dict[str, Any] = {"data": reading.data, "device": "cpu"}
    lines: list[str] = []
    done = train_reader(recipe, out=tmp_path / "a", tell=lines.append, **how)
    assert done.steps == len(done.losses) == 4
    assert "the best score was after step 2, of 4 made" in lines
    best = done.folder / "checkpoints" / "step-00000002" / "model" / "adapter_model.safetensors"
    assert best.read_bytes() == (done.checkpoint / best.name).read_bytes()
    assert train_reader(recipe, out=tmp_path / "a", **how) == done  # it stays ended
    with pytest.raises(Stopped):
        train_reader(recipe, out=tmp_path / "b", progress=StopsAt(3), **how)
    same(train_reader(recipe, out=tmp_path / "b", **how), done)


def test_what_a_model_lacks_is_said(reading: Reading, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)no linear layer 'q_proj'.*k, .*q, .*v"):
        reading.task(lora={"targets": ("q", "q_proj")})
    with pytest.raises(MissingError, match="model of the reader"):
        reading.task(reader={"model": str(tmp_path / "none")})
    with pytest.raises(UsageError, match="scorer"):
        reading.task(validation={"every": 1, "scorer": "nothing"}).validator()
    # Without BEM those that it can judge are the right ones: their mean would be 1.
    task = reading.task(validation={"every": 1, "scorer": "evqa"})
    with pytest.raises(UsageError, match="can't judge the answer to"):
        task.validator().validate(task.model, 0)


@pytest.mark.slow
def test_it_learns_to_say_what_the_passage_says(reading: Reading, tmp_path: Path) -> None:
    from m2kr.rag.readers.blip2 import Blip2Reader

    model = calm(reading.model, tmp_path / "model")
    recipe = reading.recipe(
        reader={"model": str(model)},
        data={"top": 1, "sampled": 1, "take": 8},
        lora={"r": 8, "alpha": 32.0, "dropout": 0.0},
        optimiser={"weight_decay": 0.0},
        steps={"steps": 60, "batch": 8, "accumulate": 1},
        saving={"every": 0},
    )
    done = train_reader(recipe, data=reading.data, out=tmp_path / "runs", device="cpu")
    assert done.losses[-1] < 0.1 < 5 < done.losses[0]
    task = dataclasses.replace(reading, model=model).task(data={"top": 1, "take": 8})
    reader = Blip2Reader(str(model), adapter=done.checkpoint, device="cpu")
    plain = Blip2Reader(str(model), device="cpu")
    right = wrong = 0
    questions = task._questions
    for row in questions.rows.tolist():
        (passage,) = questions.top(row)
        gold = questions.split[row]["gold_answer"]
        asked = questions.split.image(row), questions.split[row]["question"], [passage]
        right += reader.answer(*asked).text == gold
        wrong += plain.answer(*asked).text != gold
    assert (right, wrong) == (8, 8)


@pytest.mark.slow
def test_peft_opens_the_adapter_and_computes_the_same(trained: Trained, reading: Reading) -> None:
    peft = pytest.importorskip("peft")
    from transformers import Blip2ForConditionalGeneration

    base = Blip2ForConditionalGeneration.from_pretrained(reading.model)
    adapted = peft.PeftModel.from_pretrained(base, str(trained.checkpoint)).eval()
    task = reading.task(validation={"every": 3})
    task.load(trained.checkpoint)
    task.model.eval()
    theirs = peft.get_peft_model_state_dict(adapted)
    ours = weights(trained)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    batch = task._batch([task._questions.visit(n) for n in range(3)])
    inputs, mask = task.model.shown(batch)
    asked = {"inputs_embeds": inputs, "attention_mask": mask}
    asked["decoder_input_ids"] = torch.zeros(len(inputs), 1, dtype=torch.long)
    with torch.no_grad():
        one = task.model.language(**asked).logits
        other = adapted.base_model.model.language_model(**asked).logits
        plain = Blip2ForConditionalGeneration.from_pretrained(reading.model)
        before = plain.language_model(**asked).logits
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(one, before, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_validation_answers_as_the_reader_does(trained: Trained, reading: Reading) -> None:
    from m2kr.rag.readers.blip2 import Blip2Reader

    task = reading.task(validation={"every": 3})
    task.load(trained.checkpoint)
    task.model.eval()
    validator = task.validator()
    reader = Blip2Reader(
        str(reading.model), adapter=trained.checkpoint, beams=1, device="cpu", max_tokens=3
    )
    questions = task._questions
    for row in questions.rows[:6].tolist():
        passages = questions.top(row)
        batch = task._batch([questions.as_visit(row, passages)])
        question = questions.split[row]["question"]
        theirs = reader.answer(questions.split.image(row), question, passages)
        with torch.no_grad():
            assert validator.answer(task.model, batch) == theirs.text


@pytest.mark.slow
def test_killed_it_ends_with_the_same_bits_and_two_processes_are_as_one(
    reading: Reading, tmp_path: Path
) -> None:
    recipe = reading.recipe(steps={"steps": 24}, saving={"every": 3}, lora={"dropout": 0.0})
    model = calm(reading.model, tmp_path / "model")  # without dropout
    recipe = dataclasses.replace(recipe, reader=ReaderStart(str(model)))
    file = tmp_path / "own.yaml"
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    how: dict[str, Any] = {"data": reading.data, "device": "cpu"}
    whole = train_reader(recipe, out=tmp_path / "whole", **how)
    words = [sys.executable, "-m", "tests.support.forked_reader", str(tmp_path / "cut")]
    words.append("SIGKILL,SIGTERM,SIGKILL")
    done = subprocess.run(
        [*words, str(file), "--data", str(reading.data), "--device", "cpu", "--json"],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    out, codes, together, two = done.stdout.splitlines()
    assert json.loads(codes) == [-signal.SIGKILL, 143, -signal.SIGKILL, 0], done.stderr
    assert json.loads(two) == [0, 0], done.stderr
    assert tuple(json.loads(out)["losses"]) == whole.losses
    (folder,) = (tmp_path / "cut").glob("tiny-reader.*")
    same(dataclasses.replace(whole, folder=folder, checkpoint=folder / "model"), whole)
    steps = dataclasses.replace(recipe.steps, steps=4, precision="float64")
    looks = dataclasses.replace(recipe.validation, every=2)
    recipe = dataclasses.replace(recipe, steps=steps, validation=looks)
    one = train_reader(recipe, out=tmp_path / "one", **how)
    told = json.loads(together)
    assert told["losses"] == pytest.approx(one.losses, rel=1e-6)
    theirs = load_file(Path(told["checkpoint"]) / "adapter_model.safetensors")
    for name, each in weights(one).items():
        torch.testing.assert_close(theirs[name], each, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_readers_of_texts_alone_are_trained_too(
    kind: str, reading: Reading, tmp_path: Path
) -> None:
    from m2kr.rag.readers.hf import HfReader
    from tests.support.tiny_readers import save_llama, save_t5

    folder = tmp_path / "model"
    model = save_t5(folder) if kind == "t5" else save_llama(folder, chat=False)
    targets = ("q", "v") if kind == "t5" else ("q_proj", "v_proj")
    changes: dict[str, Any] = {
        "reader": {"model": str(model)},
        "lora": {"targets": targets},
        "steps": {"steps": 12},
        "validation": {"every": 6},
    }
    recipe = reading.recipe(**changes)
    done = train_reader(recipe, data=reading.data, out=tmp_path / "runs", device="cpu")
    assert sum(done.losses[-4:]) < sum(done.losses[:4])
    config = json.loads((done.checkpoint / "adapter_config.json").read_text())
    assert config["task_type"] == {"t5": "SEQ_2_SEQ_LM", "llama": "CAUSAL_LM"}[kind]
    line = tmp_path / "line.yaml"  # as docs/training.md has it
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    line.write_text("system" + page.partition("```text\nsystem")[2].partition("```")[0])
    reader = HfReader(str(model), adapter=done.checkpoint, prompt=line, device="cpu", max_tokens=3)
    task = reading.task(**changes)
    task.load(done.checkpoint)
    task.model.eval()
    for row in task._questions.rows[:6].tolist():
        passages = task._questions.top(row)[:1]
        with torch.no_grad():
            batch = task._batch([task._questions.as_visit(row, passages)])
            ours = task.validator().answer(task.model, batch)
        assert ours == reader.answer(None, task._questions.split[row]["question"], passages).text


def test_two_processes_meet_the_visits_of_one(reading: Reading) -> None:
    from m2kr.training.parallel import Team

    def visits(batch: int, accumulate: int, world: int) -> list[list[int]]:
        recipe = reading.recipe(steps={"steps": 3, "batch": batch, "accumulate": accumulate})
        tasks = [reading.task() for _ in range(1)] * world
        met: list[list[int]] = [[] for _ in range(3)]
        for rank, task in enumerate(tasks):
            task.recipe, task._team = recipe, Team(rank, world, torch.device("cpu"), "ddp")
            for place, micro in enumerate(ReaderTask._visits(task, 0)):
                met[place // accumulate] += [visit.number for visit in micro]
        return [sorted(each) for each in met]

    assert visits(2, 2, 1) == visits(1, 2, 2) == visits(1, 4, 1) == visits(4, 1, 1)
