"""The training loop from top to bottom: model, data, optimiser, steps, log, validation, checkpoints.

What feeds a step is a function of its number alone: its visits (`Mixture.visit`), its learning rate
(`set_rates`), and the random numbers of its dropout (`_seed_step`). So a run that goes on from a
checkpoint makes the steps of one that never stopped, whatever it validates or logs besides.
"""

import hashlib
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from m2kr import locks
from m2kr.evaluation.cost import processor
from m2kr.evaluation.result import versions
from m2kr.paths import data_root
from m2kr.progress import SILENT, Progress
from m2kr.progress import task as steps_shown
from m2kr.training.optimiser import (
    clip_gradients,
    make_optimiser,
    optimiser_state,
    restore_optimiser,
    set_rates,
)
from m2kr.training.parallel import Team, joined
from m2kr.training.recipe import Recipe
from m2kr.training.recipe_checks import check_recipe
from m2kr.training.retriever_task import RetrieverTask
from m2kr.training.step_errors import enough_memory, name_batch
from m2kr.training.step_lines import StepLines
from m2kr.training.stop_signals import StopSignal
from m2kr.training.trackers import open_trackers
from m2kr.training.training_state import MODEL, Checkpoint, RunFolder
from m2kr.training.training_task import LoopRecipe, TaskKind

log = logging.getLogger("m2kr.training")


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run.

    Attributes:
        folder: The run's.
        checkpoint: Its model after the last step, in the official layout; a reader's adapter is the best
            by validation.
        losses: Of each step, the mean over its queries.
        steps: How many there were.
        seconds: That they took, without validation and saving.
    """

    folder: Path
    checkpoint: Path
    losses: tuple[float, ...]
    steps: int
    seconds: float


def train(
    recipe: Recipe,
    *,
    data: str | os.PathLike[str] | None = None,
    images: Sequence[str | Path] = (),
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    tell: Callable[[str], None] = log.info,
) -> Trained:
    """Trains a PreFLMR model, or goes on with a run that was stopped.

    ``OUT/NAME.FINGERPRINT/`` holds the recipe, the log, checkpoints and the trained model; the same
    call goes on from the last checkpoint there, and gives the run back if it is finished. Under
    ``torchrun`` all its processes train one model; they share the folder.

    Args:
        recipe: Decides what is computed.
        data: Where its sources were built; see `m2kr.paths.data_root`.
        images: Image roots searched before the sources' own.
        out: Folder of runs; ``trained`` if None.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``; with several processes each has its own GPU.
        progress: Told of steps.
        tell: Takes lines for people: where a run goes on, some of its steps, that it is saved.

    Raises:
        CheckError: The folder holds another run, or the loss is no finite number: the batch is named.
        M2KRError: Data, weights, device or memory don't do.
        KeyboardInterrupt: By Ctrl-C; like every signal, it ends the step and saves first.
    """
    check_recipe(recipe)
    return train_task(RetrieverTask, recipe, data, images, out, device, progress, tell)


def train_task(
    kind: TaskKind,
    recipe: LoopRecipe,
    data: str | os.PathLike[str] | None = None,
    images: Sequence[str | Path] = (),
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    tell: Callable[[str], None] = log.info,
) -> Trained:
    """Trains whatever ``kind`` makes of a recipe; all else is as of `train`."""
    with ExitStack() as stack:
        team = stack.enter_context(joined(recipe.steps.parallel, device))
        cards = [team.device] if team.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(cards))
        folder = Path(out or "trained")
        return _train(kind, recipe, team, data_root(data), images, folder, progress, tell, stack)


def _train(
    kind: TaskKind,
    recipe: LoopRecipe,
    team: Team,
    data: Path,
    images: Sequence[str | Path],
    out: Path,
    progress: Progress,
    tell: Callable[[str], None],
    stack: ExitStack,
) -> Trained:
    steps, saving, leads = recipe.steps, recipe.saving, team.rank == 0

    # What is trained, and on what.
    task = kind(recipe, team, data, images)
    model = task.model

    # The run's folder, and how far it came.
    identity = task.identity()
    run = RunFolder(out / f"{recipe.name}.{identity.recipe[:8]}", identity, saving.keep)
    checkpoint: Checkpoint | None = None
    if leads:
        stack.enter_context(locks.hold(run.folder / ".lock", f"the run {run.folder}", wait=False))
        machine = {"device": str(team.device), "processor": processor(), "versions": versions()}
        run.begin(task.recipe_text(), {"data_facts": task.facts(), "machine": machine})
        checkpoint = run.latest()
        run.cut_log(checkpoint.step if checkpoint else -1)
    checkpoint = team.gather(checkpoint)[0]
    first = checkpoint.step if checkpoint else 0
    if not leads:
        tell = log.debug
    tell(_beginning(first, steps.steps, run.folder))
    if checkpoint:
        task.load(checkpoint.model)

    # The parameters that change, and how.
    told = progress if leads else SILENT
    module = team.wrap(task.module(told)).train()
    optimiser = make_optimiser(task.groups(), recipe)
    if checkpoint:
        restore_optimiser(optimiser, model, team, checkpoint.state()["optimiser"])

    def save(step: int, **more: Any) -> Checkpoint | None:
        whole, state = team.whole_model(model), optimiser_state(optimiser, model, team)
        kept = run.save(step, whole, state, **more) if whole is not None and leads else None
        team.gather(None)  # all go on when it is on the disk
        return kept

    validator = task.validator() if recipe.validation.every and leads else None
    if validator is not None:
        run.validation = validator.fingerprint

    def validate(step: int) -> None:
        whole = team.whole_model(model)
        if validator is not None and whole is not None:
            began = time.perf_counter()
            values = validator.validate(whole, step, told)
            row = {"step": step, "validation": values, "on": run.validation}
            row["seconds"] = time.perf_counter() - began
            record(row, {f"validation/{name}": value for name, value in values.items()})
        team.gather(None)
        module.train()

    def validates(step: int) -> bool:
        every = recipe.validation.every
        return _due(every, step) or (every > 0 and step == steps.steps)

    def tired() -> bool:
        """Whether too many validations brought nothing better."""
        best = run.since_best(recipe.validation.metric) if task.patience and leads else -1
        return bool(task.patience and team.gather(best)[0] >= task.patience)

    # What is told of a step.
    settings = asdict(recipe) | asdict(identity)
    trackers = open_trackers(recipe, run.folder, first, settings) if leads else []
    for tracker in trackers:
        stack.callback(tracker.close)

    def record(row: Mapping[str, Any], shown: Mapping[str, float]) -> None:
        run.append(row)
        for tracker in trackers:
            tracker.log(row["step"], shown)

    # The steps.
    parameters = [each for group in optimiser.param_groups for each in group["params"]]
    queries = steps.batch * steps.accumulate * team.world
    done = first
    lines = StepLines(tell, first, steps.steps, queries)
    with (
        StopSignal.awaited(
            lambda: tell(f"ending step {min(done + 1, steps.steps):,}, then saving")
        ) as stop,
        closing(task.batches(first)) as batches,
        steps_shown(told, "training", steps.steps, "steps"),
        enough_memory(recipe),
    ):
        if first:
            told.advance("training", first)
        if validates(first) and not team.gather(run.validated(first))[0]:
            validate(first)  # the last session ended before it
        began = time.perf_counter()
        left = range(first, first if tired() else steps.steps)
        for step, micro_batches in zip(left, batches, strict=False):
            _seed_step(steps.seed, step, team.rank)
            rates = set_rates(optimiser, recipe, step)
            losses: list[dict[str, float]] = []
            for number, batch in enumerate(micro_batches):
                last = number == len(micro_batches) - 1
                with team.accumulating(module, last=last), _autocast(recipe, team.device):
                    here = batch.to(team.device)
                    losses.append(task.backward(module, here, 1 / steps.accumulate))
            norm = clip_gradients(parameters, recipe.optimiser.clip)
            means, stopped = _means(team, losses, stop)
            if not all(map(math.isfinite, (*means.values(), norm))):
                figures = means | {"grad_norm": norm}
                name_batch(task.described, team, micro_batches, losses, step, figures, save)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

            done, seconds = step + 1, time.perf_counter() - began
            figures = means | rates | {"grad_norm": norm}
            figures |= {"queries_per_second": queries / seconds, "seconds": seconds}
            if leads:
                record({"step": done, "visits": done * queries} | figures, figures)
            told.advance("training", 1)
            lines.step(done, means["loss"], seconds)
            saves = validates(done) or _due(saving.every, done) or done == steps.steps
            if saves or stopped:
                checkpoint = save(done)
            if validates(done) and not stopped:
                validate(done)
            if leads and saves:
                run.prune(recipe.validation.metric)
            if stopped or (validates(done) and tired()):
                break
            began = time.perf_counter()
    if stop.number:
        tell(f"saved after step {done:,} in {run.folder}")
        signal.raise_signal(stop.number)
    if leads and checkpoint:
        best = run.best_checkpoint(recipe.validation.metric) if task.ends_with_best else None
        if best and best.step < done:
            tell(
                f"the best {recipe.validation.metric} was after step {best.step:,}, of {done:,} made"
            )
        run.publish(best or checkpoint)
    rows = [row for row in run.rows() if "loss" in row]
    return Trained(
        run.folder,
        run.folder / "model",
        tuple(row["loss"] for row in rows),
        done,
        sum(row["seconds"] for row in rows),
    )


def _beginning(first: int, steps: int, folder: Path) -> str:
    if not first:
        return f"training {steps:,} step{'s' * (steps != 1)} in {folder}"
    if first == steps and (folder / MODEL).is_dir():
        return (
            f"already trained: {folder} "
            "(nothing was done; --set steps.seed=… or --out trains another)"
        )
    return f"going on after step {first:,} of {steps:,} ({folder})"


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Starts torch's random numbers, of which dropout is made, anew."""
    words = f"dropout {seed} {step} {rank}".encode()
    torch.manual_seed(int.from_bytes(hashlib.blake2b(words, digest_size=8).digest()) >> 1)


def _autocast(recipe: LoopRecipe, device: torch.device) -> AbstractContextManager[object]:
    if recipe.steps.precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _means(
    team: Team, losses: Sequence[dict[str, float]], stop: StopSignal
) -> tuple[dict[str, float], bool]:
    """Losses over all micro-batches of all processes; and whether one of them shall stop."""
    sums = [sum(own[name] for own in losses) for name in losses[0]]
    *totals, stopped = team.total([*sums, float(stop.number > 0)])
    if stopped:
        stop.number = stop.number or signal.SIGTERM
    parts = len(losses) * team.world
    return {name: total / parts for name, total in zip(losses[0], totals, strict=True)}, stopped > 0


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
