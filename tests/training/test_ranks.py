"""Several ranks compute what one process does, whose batch is theirs together."""

import multiprocessing
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from training import tiny_batches

from m2kr.training.batch_encoder import BatchEncoder
from m2kr.training.objective import Objective
from m2kr.training.parallel import Team
from m2kr.training.recipe import Distillation, Negatives, Recipe

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and gloo")
QUERIES = 4
KL = Distillation("kl", "file", weight=0.5, temperature=2.0)
MARGINS = Distillation("margin_mse", "file", weight=0.3)


class Run(NamedTuple):
    """One training: losses by step, meant over ranks, and the last weights of rank 0."""

    losses: list[list[float]]
    weights: torch.Tensor


def train(recipe: Recipe, steps: int, *, sharded: bool = False) -> Run:
    """This rank's part in training on some small batches, with AdamW."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    model = tiny_batches.tiny(recipe)
    encoder: Any = BatchEncoder(model, recipe)
    encoder = Team(rank, world, torch.device("cpu"), "fsdp" if sharded else "ddp").wrap(encoder)
    objective = Objective(recipe, rank, world)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3)
    share, losses = QUERIES // world, []
    for step in range(steps):
        batch = tiny_batches.batch(QUERIES, seed=step)
        part = tiny_batches.trimmed(batch.part(rank * share, (rank + 1) * share))
        values = torch.tensor([*objective.backward(encoder, part).values()], dtype=torch.float64)
        if world > 1:
            dist.all_reduce(values)
        losses.append((values / world).tolist())
        optimiser.step()
        optimiser.zero_grad()
    if sharded:
        trained = [each.full_tensor() for each in model.parameters() if each.requires_grad]
    return Run(losses, torch.cat([each.detach().flatten() for each in trained]))


def variants(world: int) -> dict[str, Recipe]:
    """Recipes by name; the part before a colon says what they must equal on one process."""
    of = tiny_batches.recipe
    across, own = Negatives(across_ranks=True), Negatives(in_batch=False)
    made = {f"across:{n}": of(negatives=across, distillation=KL, chunk=n) for n in (None, 1, 2, 3)}
    made |= {f"own:{n}": of(negatives=own, distillation=KL, chunk=n) for n in (None, 1)}
    for parts in (2, 4):
        groups = Negatives(groups=max(1, parts // world))
        for n in (None, 1):
            made[f"apart {parts}:{n}"] = of(negatives=groups, distillation=MARGINS, chunk=n)
    return made


def member(rank: int, world: int, steps: int, names: list[str], store: str, out: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    found = {}
    for name in names:
        found[name] = train(
            variants(world)[name.removeprefix("sharded ")],
            steps,
            sharded=name.startswith("sharded "),
        )
    if rank == 0:
        out.put({name: (run.losses, run.weights.numpy()) for name, run in found.items()})
    dist.destroy_process_group()


def together(world: int, steps: int, names: list[str], folder: Path) -> dict[str, Run]:
    """The variants, trained by several processes that are started once."""
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    store = str(folder / f"store{world}")
    members = [
        context.Process(target=member, args=(rank, world, steps, names, store, out))
        for rank in range(world)
    ]
    for each in members:
        each.start()
    try:
        found = out.get(timeout=300)
    finally:
        for each in members:
            each.join(10)
            each.kill()
    return {name: Run(losses, torch.from_numpy(w)) for name, (losses, w) in found.items()}


def check(found: dict[str, Run], alone: dict[str, Run]) -> None:
    for name, run in found.items():
        wanted = alone[name.removeprefix("sharded ").partition(":")[0]]
        losses, right = torch.tensor(run.losses), torch.tensor(wanted.losses)
        assert torch.allclose(losses, right, rtol=1e-6, atol=0), name
        off = (run.weights - wanted.weights).abs()
        assert float((off / (wanted.weights.abs() + 1e-6)).max()) < 1e-6, name


def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    alone = {name: train(variants(1)[f"{name}:None"], 2) for name in ("across", "apart 2")}
    assert alone["across"].losses != alone["apart 2"].losses
    check(together(2, 2, ["across:1", "apart 2:None"], tmp_path), alone)


@pytest.mark.slow
def test_any_number_of_ranks_and_chunks_is_one_process(tmp_path: Path) -> None:
    names = ["across:1", "across:2", "across:3", "across:None", "own:None"]
    names += ["apart 2:None", "apart 4:None"]
    single = {name: train(variants(1)[name], 20) for name in names}
    alone = {name[:-5]: run for name, run in single.items() if name.endswith(":None")}
    check(single, alone)
    two = ["across:1", "own:None", "apart 4:1", "sharded across:1"]
    check(together(2, 20, two, tmp_path), alone)
    check(together(4, 20, ["across:None", "apart 4:None"], tmp_path), alone)
