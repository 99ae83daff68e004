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
from m2kr.preflmr.encode.device_workers import compile_modules
from m2kr.preflmr.preflmr import PreFLMR
from m2kr.progress import SILENT, Progress, task
from m2kr.training.batch_encoder import BatchEncoder
from m2kr.training.loader import Loader
from m2kr.training.mixture import Mixture, open_splits
from m2kr.training.objective import Objective, StepLosses
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
from m2kr.training.recipe_file import dump_recipe, recipe_fingerprint
from m2kr.training.start import build_model
from m2kr.training.step_errors import enough_memory, name_batch
from m2kr.training.step_lines import StepLines
from m2kr.training.stop_signals import StopSignal
from m2kr.training.trackers import open_trackers
from m2kr.training.trained_parts import set_trained
from m2kr.training.training_state import (
    MODEL,
    Checkpoint,
    Identity,
    RunFolder,
    model_files_sha256,
    weights_sha256,
)

log = logging.getLogger("m2kr.training")


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run.

    Attributes:
        folder: The run's.
        checkpoint: Its model after the last step, in the official layout.
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
    """Trains a model, or goes on with a run that was stopped.

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
    with ExitStack() as stack:
        team = stack.enter_context(joined(recipe.steps.parallel, device))
        cards = [team.device] if team.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(cards))
        return _train(
            recipe, team, data_root(data), images, Path(out or "trained"), progress, tell, stack
        )


def _train(
    recipe: Recipe,
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
    dtype = torch.float64 if steps.precision == "float64" else torch.float32
    model = build_model(recipe.start, team.device, dtype)
    mixture = Mixture(recipe, open_splits(recipe, data, images))
    objective = Objective(recipe, team.rank, team.world)

    # The run's folder, and how far it came.
    identity = Identity(
        recipe_fingerprint(recipe),
        mixture.fingerprint,
        weights_sha256(model),
        team.world,
        steps.batch,
        steps.accumulate,
        model_files_sha256(model),
    )
    run = RunFolder(out / f"{recipe.name}.{identity.recipe[:8]}", identity, saving.keep)
    checkpoint: Checkpoint | None = None
    if leads:
        stack.enter_context(locks.hold(run.folder / ".lock", f"the run {run.folder}", wait=False))
        machine = {"device": str(team.device), "processor": processor(), "versions": versions()}
        run.begin(dump_recipe(recipe), {"data_facts": mixture.facts(), "machine": machine})
        checkpoint = run.latest()
        run.cut_log(checkpoint.step if checkpoint else -1)
    checkpoint = team.gather(checkpoint)[0]
    first = checkpoint.step if checkpoint else 0
    if not leads:
        tell = log.debug
    tell(_beginning(first, steps.steps, run.folder))
    if checkpoint:
        model.load_state_dict(PreFLMR.from_pretrained(checkpoint.model, dtype=dtype).state_dict())

    # Batches; what frozen parts make of texts and images may be computed here, before they are wrapped.
    told = progress if leads else SILENT
    loader = Loader(recipe, mixture, model, team.rank, team.world, progress=told)

    # The parameters that change, and how.
    set_trained(model, recipe)
    if steps.compile:
        compile_modules([model])
    encoder = team.wrap(BatchEncoder(model, recipe)).train()
    groups = set_trained(model, recipe)
    optimiser = make_optimiser(groups, recipe)
    if checkpoint:
        restore_optimiser(optimiser, model, team, checkpoint.state()["optimiser"])

    def save(step: int, **more: Any) -> Checkpoint | None:
        whole, state = team.whole_model(model), optimiser_state(optimiser, model, team)
        kept = run.save(step, whole, state, **more) if whole is not None and leads else None
        team.gather(None)  # all go on when it is on the disk
        return kept

    validator = None
    if recipe.validation.every and leads:
        from m2kr.training.validation import Validator

        validator = Validator(recipe, data, images)
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
        encoder.train()

    def validates(step: int) -> bool:
        every = recipe.validation.every
        return _due(every, step) or (every > 0 and step == steps.steps)

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
        closing(loader.steps(first)) as batches,
        task(told, "training", steps.steps, "steps"),
        enough_memory(recipe),
    ):
        if first:
            told.advance("training", first)
        if validates(first) and not team.gather(run.validated(first))[0]:
            validate(first)  # the last session ended before it
        began = time.perf_counter()
        for step, micro_batches in zip(range(first, steps.steps), batches, strict=False):
            _seed_step(steps.seed, step, team.rank)
            rates = set_rates(optimiser, recipe, step)
            losses: list[StepLosses] = []
            for number, batch in enumerate(micro_batches):
                last = number == len(micro_batches) - 1
                with team.accumulating(encoder, last=last), _autocast(recipe, team.device):
                    here = batch.to(team.device)
                    losses.append(objective.backward(encoder, here, 1 / steps.accumulate))
            norm = clip_gradients(parameters, recipe.optimiser.clip)
            means, stopped = _means(team, losses, stop)
            if not all(map(math.isfinite, (*means.values(), norm))):
                figures = means | {"grad_norm": norm}
                name_batch(mixture, team, micro_batches, losses, step, figures, save)
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
            if stopped:
                break
            began = time.perf_counter()
    if stop.number:
        tell(f"saved after step {done:,} in {run.folder}")
        signal.raise_signal(stop.number)
    if leads and checkpoint:
        run.publish(checkpoint)
    rows = [row for row in run.rows() if "loss" in row]
    return Trained(
        run.folder,
        run.folder / "model",
        tuple(row["loss"] for row in rows),
        steps.steps,
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


def _autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    if recipe.steps.precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _means(team: Team, losses: Sequence[StepLosses], stop: StopSignal) -> tuple[StepLosses, bool]:
    """Losses over all micro-batches of all processes; and whether one of them shall stop."""
    sums = [sum(own[name] for own in losses) for name in losses[0]]
    *totals, stopped = team.total([*sums, float(stop.number > 0)])
    if stopped:
        stop.number = stop.number or signal.SIGTERM
    parts = len(losses) * team.world
    return {name: total / parts for name, total in zip(losses[0], totals, strict=True)}, stopped > 0


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
