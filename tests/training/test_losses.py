"""Losses against their formulas, written out query by query, and against the official code's."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from training import tiny_batches

from m2kr.errors import InputError, UsageError
from m2kr.preflmr import PreFLMR
from m2kr.preflmr.checkpoint import state_dict
from m2kr.preflmr.model import scoring
from m2kr.training import losses
from m2kr.training.batch import TrainingBatch
from m2kr.training.batch_encoder import BatchEncoder, Encoded
from m2kr.training.objective import Objective
from m2kr.training.recipe import Distillation, Negatives, Recipe

shapes = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 999))


def cross_entropy(scores: list[Tensor], positive: Tensor) -> Tensor:
    return torch.stack(scores).logsumexp(0) - positive


def naive(rows: Encoded, batch: TrainingBatch, recipe: Recipe) -> Tensor:
    """The whole loss, one query after the other."""
    near = torch.einsum("qid,njd->qnij", rows.queries, rows.documents)
    near = near.masked_fill(~rows.mask[None, :, None, :], scoring.MASKED)
    scores = near.max(-1).values.sum(-1)
    n, negatives, distillation = batch.passages_per_query, recipe.negatives, recipe.distillation
    size = len(batch) // negatives.groups
    contrastive, distilled = [], []
    for i in range(len(batch)):
        first = i // size * size * n
        seen = range(first, first + size * n)
        if not negatives.in_batch:
            seen = range(i * n, (i + 1) * n)
        rivals = []
        for j in seen:
            right = int(batch.passage_keys[j]) in batch.positive_keys[i].tolist()
            if j == i * n or not (right and negatives.skip_right):
                rivals.append(scores[i, j])
        contrastive.append(cross_entropy(rivals, scores[i, i * n]))
        assert batch.teacher_scores is not None
        own, teacher = scores[i, i * n : (i + 1) * n], batch.teacher_scores[i].double()
        known = ~teacher.isnan()
        if distillation.kind == "kl" and known.sum() > 1:
            p = (teacher[known] / distillation.temperature).log_softmax(0)
            q = (own[known] / distillation.temperature).log_softmax(0)
            distilled.append((p.exp() * (p - q)).sum())
        if distillation.kind == "margin_mse" and known[0] and known[1:].any():
            off = [
                (own[0] - own[j] - (teacher[0] - teacher[j])) ** 2 for j in range(1, n) if known[j]
            ]
            distilled.append(torch.stack(off).mean())
    loss = torch.stack(contrastive).mean()
    if distillation.kind == "none":
        return loss
    taught = torch.stack(distilled).mean() if distilled else loss * 0
    return (1 - distillation.weight) * loss + distillation.weight * taught


class Rows(torch.nn.Module):
    """Stands where the encoder stands: its rows are its parameters."""

    def __init__(self, batch: TrainingBatch, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        each, passages = 3, len(batch.passage_ids)
        self.queries = torch.nn.Parameter(
            torch.randn(len(batch), 3, 4, generator=draw, dtype=torch.float64)
        )
        self.documents = torch.nn.Parameter(
            torch.randn(passages, each, 4, generator=draw, dtype=torch.float64)
        )
        self.mask = torch.rand(passages, each, generator=draw) < 0.8

    def forward(self, batch: TrainingBatch) -> Encoded:
        return Encoded(self.queries * 1, self.documents * 1, self.mask)


@settings(deadline=None, max_examples=25)
@given(
    shapes,
    st.sampled_from(["none", "kl", "margin_mse"]),
    st.sampled_from(["batch", "groups", "own"]),
    st.booleans(),
    st.floats(0.0, 1.0),
)
def test_the_loss_and_its_gradient(
    shape: tuple[int, int, int], kind: str, rivals: str, skip_right: bool, weight: float
) -> None:
    queries, each, seed = shape
    batch = tiny_batches.batch(queries, each, seed=seed)
    recipe = tiny_batches.recipe(
        negatives=Negatives(
            in_batch=rivals != "own",
            groups=queries if rivals == "groups" else 1,
            skip_right=skip_right,
        ),
        distillation=Distillation(kind, "file", weight, temperature=1.5),  # type: ignore[arg-type]
    )
    rows = Rows(batch, seed)
    wanted = naive(rows(batch), batch, recipe)
    right = torch.autograd.grad(wanted, [rows.queries, rows.documents], allow_unused=True)
    found = Objective(recipe).backward(rows, batch, 0.25)
    assert found["loss"] == pytest.approx(float(wanted.detach()), rel=1e-12, abs=1e-12)
    assert Objective(recipe).value(rows, batch) == found
    for parameter, gradient in zip((rows.queries, rows.documents), right, strict=True):
        wanted_gradient = torch.zeros_like(parameter) if gradient is None else gradient
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, 0.25 * wanted_gradient, rtol=1e-10, atol=1e-12)


def test_two_of_four_in_groups() -> None:
    batch = tiny_batches.batch(4, 2)
    recipe = tiny_batches.recipe(negatives=Negatives(groups=2))
    rows = Rows(batch, 1)
    wanted = float(naive(rows(batch), batch, recipe).detach())
    assert Objective(recipe).value(rows, batch)["loss"] == pytest.approx(wanted, rel=1e-12)
    odd = tiny_batches.batch(3, 2)
    with pytest.raises(InputError, match="3 queries can't be cut into 2"):
        Objective(recipe).value(Rows(odd, 1), odd)


def test_the_own_positive_stays_where_it_is_right_elsewhere() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    keys, right = torch.tensor([7, 7, 9]), torch.tensor([[7, -1]])
    mask = losses.right_passages(keys, right)
    assert mask.tolist() == [[True, True, False]]
    found = losses.contrastive(scores, torch.tensor([0]), mask)
    assert float(found) == pytest.approx(math.log(math.e**1 + math.e**3) - 1)


def test_the_filler_is_no_key() -> None:
    assert not losses.right_passages(torch.tensor([-1, 3]), torch.tensor([[-1, 4]])).any()


def test_queries_that_a_teacher_says_nothing_of() -> None:
    nan, scores = math.nan, torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 2.0, 3.0], [nan, nan, nan], [nan, 1.0, 2.0], [1.0, nan, nan]])
    values, counts = losses.kl(scores, teacher)
    assert counts.tolist() == [True, False, True, False]
    values.sum().backward()
    assert scores.grad is not None
    assert scores.grad[1].eq(0).all()
    assert scores.grad[2, 0] == 0
    assert scores.grad.isfinite().all()
    values, counts = losses.margin_mse(scores, teacher)
    assert counts.tolist() == [True, False, False, False]
    assert values[1:].eq(0).all()
    same = losses.kl(teacher[:1].double(), teacher[:1])[0]
    assert float(same) == pytest.approx(0, abs=1e-12)


def test_a_distilling_recipe_needs_a_teacher() -> None:
    import dataclasses

    batch = dataclasses.replace(tiny_batches.batch(), teacher_scores=None)
    recipe = tiny_batches.recipe(distillation=Distillation("kl", "a file"))
    with pytest.raises(InputError, match="teacher"):
        Objective(recipe).value(Rows(batch, 0), batch)


@pytest.mark.parametrize(
    "negatives",
    [Negatives(across_ranks=True, in_batch=False), Negatives(across_ranks=True, groups=2)],
)
def test_recipes_that_contradict_themselves(negatives: Negatives) -> None:
    with pytest.raises(UsageError, match="across_ranks"):
        Objective(tiny_batches.recipe(negatives=negatives))


@pytest.mark.parametrize("name", ["tiny_preflmr", "tiny_flmr", "tiny_separate"])
def test_the_official_losses_and_gradients(name: str) -> None:
    """Of the golden files; in chunks as well."""
    folder = tiny_batches.GOLDEN
    with np.load(folder / f"{name}_io.npz") as arrays:
        golden = {key: each for key, each in arrays.items() if each.dtype.kind != "U"}
        names = [str(each) for each in arrays["grad_names"]]
    model = PreFLMR.from_pretrained(folder / name, attention="eager")
    tensors = {key: torch.from_numpy(each) for key, each in golden.items()}
    for run in (key for key in golden if key.startswith("loss_n") and "rows" not in key):
        _, n, mode = run.split("_")
        rows = tensors[f"loss_{n}_doc_rows"].long()
        batch = TrainingBatch(
            tensors["q_input_ids"],
            tensors["q_attention_mask"],
            tensors["d_input_ids"][rows],
            tensors["d_attention_mask"][rows],
            rows,
            torch.full((len(tensors["q_input_ids"]), 1), -1),
            pixel_values=tensors["pixel_values"],
        )
        for chunk in (None, 2):
            negatives = Negatives(in_batch=mode == "inbatch", skip_right=False)
            recipe = tiny_batches.recipe(negatives=negatives, chunk=chunk)
            found = Objective(recipe).backward(BatchEncoder(model, recipe), batch)
            assert found["loss"] == pytest.approx(float(golden[run]), abs=1e-5)
            gradients = tiny_batches.gradients(model)
            if f"grad_norm_{n}_{mode}" not in golden:
                continue
            norms, sums, waves = (
                golden[f"grad_{what}_{n}_{mode}"] for what in ("norm", "sum", "cosproj")
            )
            largest = np.nanmax(norms)
            for number, official in enumerate(names):
                own = gradients.get(state_dict.canonical(official, model.config) or "")
                assert (own is None) == bool(np.isnan(norms[number])), official
                if own is None:
                    continue
                flat = own.double().flatten()
                wave = torch.cos(torch.arange(len(flat), dtype=torch.float64))
                floor = max(norms[number], 1e-3 * largest)
                for value, right in (
                    (flat.norm(), norms),
                    (flat.sum(), sums),
                    (flat @ wave, waves),
                ):
                    assert abs(float(value) - right[number]) <= 1e-3 * floor, official
