"""A run's folder: what it was begun with, its log, and the checkpoints that it goes on from.

    trained/NAME.FINGERPRINT/
        recipe.yaml  run.json  log.jsonl
        checkpoints/step-00000100/   model/  state.pt  state.json
        model/

A checkpoint's folder appears when all of it is on the disk; ``state.json`` holds its files' hashes.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from m2kr import atomic
from m2kr.errors import CheckError
from m2kr.evaluation.result import versions
from m2kr.hashes import file_sha256

if TYPE_CHECKING:
    from m2kr.preflmr.preflmr import PreFLMR

log = logging.getLogger("m2kr.training")

LOG, RUN, RECIPE, MODEL = "log.jsonl", "run.json", "recipe.yaml", "model"
_STATE, _FACTS = "state.pt", "state.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """What must be the same for a run to go on.

    Attributes:
        recipe: Fingerprint.
        data: Fingerprint of all that visits depend on.
        start_weights: SHA-256 of the weights that training started from.
        processes: That train together.
        batch: Queries a process and micro-batch.
        accumulate: Micro-batches a step.
        start_files: SHA-256 of that model's configuration and tokenizers; older runs recorded none.
    """

    recipe: str
    data: str
    start_weights: str
    processes: int
    batch: int
    accumulate: int
    start_files: str = ""

    def require(self, recorded: Mapping[str, Any], where: Path) -> None:
        """Refuses to go on from what was recorded of another run.

        Raises:
            CheckError: Names what differs, as it was and as it is.
        """
        now = dataclasses.asdict(self)
        older = {"start_files"} - recorded.keys()
        differs = [name for name in now if name not in older and now[name] != recorded.get(name)]
        if not differs:
            return
        sides = "; ".join(
            f"{name.replace('_', ' ')} {recorded.get(name)} there, {now[name]} now"
            for name in differs
        )
        raise CheckError(
            f"this run was begun with other values: {sides}",
            where=str(where),
            expected="the recipe, data, start weights and files, processes and batch that it was begun with",
            fix="go on with those, or train into another folder (--out)",
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A sound checkpoint.

    Attributes:
        folder: Where it is.
        step: Steps done.
    """

    folder: Path
    step: int

    @property
    def model(self) -> Path:
        """The weights in the official layout."""
        return self.folder / MODEL

    def state(self) -> dict[str, Any]:
        """What the optimiser keeps of each parameter."""
        loaded: dict[str, Any] = torch.load(
            self.folder / _STATE, map_location="cpu", weights_only=True
        )
        return loaded


class RunFolder:
    """A run's folder, of which one process at a time is the writer.

    Args:
        folder: The run's.
        identity: What it must have been begun with.
        keep: How many checkpoints stay, besides the best one.

    Attributes:
        validation: Fingerprint of what is validated on: the log may have that of an earlier session,
            on other queries or another pool, with which it doesn't compare.
    """

    def __init__(self, folder: Path, identity: Identity, keep: int) -> None:
        self.folder = folder
        self.validation = ""
        self.identity = identity
        self.checkpoints = folder / "checkpoints"
        self._keep = max(1, keep)

    def begin(self, recipe: str, facts: Mapping[str, Any]) -> None:
        """Writes what the run is, or finds that it is the one begun before.

        Raises:
            CheckError: It is another one.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        run = self.folder / RUN
        if run.exists():
            try:
                recorded = read_json(run)
            except ValueError as error:
                raise CheckError(
                    f"the file is damaged: {error}",
                    where=str(run),
                    fix="copy the fields from a checkpoint's state.json, or train into another folder",
                ) from error
            self.identity.require(recorded, run)
            return
        atomic.write_text(self.folder / RECIPE, recipe, alone=True)
        atomic.write_json(run, {**dataclasses.asdict(self.identity), **facts}, alone=True)

    def latest(self) -> Checkpoint | None:
        """The last sound checkpoint; damaged ones are passed over with a warning.

        Raises:
            CheckError: It is of another run.
        """
        for folder in sorted(self.checkpoints.glob("step-*"), reverse=True):
            if fault := _fault(folder):
                log.warning("%s is passed over: %s", folder, fault)
                continue
            facts = read_json(folder / _FACTS)
            self.identity.require(facts, folder)
            return Checkpoint(folder, facts["step"])
        return None

    def save(
        self,
        step: int,
        model: "PreFLMR",
        optimiser: Mapping[str, Any],
        *,
        name: str = "",
        batch: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Writes a checkpoint, after the log's lines so far are on the disk.

        Args:
            step: Steps done.
            model: With whole parameters.
            optimiser: What it keeps of each parameter, by the parameter's name.
            name: Of the folder; ``step-`` and the number if empty.
            batch: Where a step went wrong: its visits.
        """
        folder = self.checkpoints / (name or f"step-{step:08}")
        if (self.folder / LOG).exists():
            with (self.folder / LOG).open("rb+") as lines:
                os.fsync(lines.fileno())
        with atomic.writing(folder, alone=True) as aside:
            aside.mkdir()
            model.save_pretrained(aside / MODEL)
            with atomic.writing(aside / _STATE) as path:
                torch.save({"optimiser": dict(optimiser)}, path)
            if batch is not None:
                atomic.write_json(aside / "batch.json", batch)
            files = sorted(path for path in aside.rglob("*") if path.is_file())
            facts = dataclasses.asdict(self.identity) | {
                "step": step,
                "visit": step
                * self.identity.processes
                * self.identity.batch
                * self.identity.accumulate,
                "versions": versions(),
                "files": {path.relative_to(aside).as_posix(): file_sha256(path) for path in files},
            }
            atomic.write_json(aside / _FACTS, facts)
            atomic.discard(folder)  # a damaged one that was passed over
        return Checkpoint(folder, step)

    def validated(self, step: int) -> bool:
        """Whether the log has a step's validation."""
        return any(row["step"] == step for row in self._validations())

    def best(self, metric: str) -> int | None:
        """The step whose validation is best so far, the earlier of equals; None before the first.

        What training began with is no step of it.

        Args:
            metric: Higher is better; lower, if it is the loss.
        """
        sign = -1 if metric == "loss" else 1
        values = [
            (sign * row["validation"][metric], -row["step"])
            for row in self._validations()
            if metric in row["validation"] and row["step"]
        ]
        return -max(values)[1] if values else None

    def since_best(self, metric: str) -> int:
        """How many validations came after the best one."""
        steps = {row["step"] for row in self._validations() if metric in row["validation"]}
        best = self.best(metric)
        return 0 if best is None else sum(step > best for step in steps)

    def best_checkpoint(self, metric: str) -> Checkpoint | None:
        """The one that `best` names, if it is there and sound."""
        step = self.best(metric)
        folder = self.checkpoints / f"step-{step or 0:08}"
        return None if step is None or _fault(folder) else Checkpoint(folder, step)

    def _validations(self) -> Iterator[dict[str, Any]]:
        """The log's validations on what is validated on now."""
        for row in self.rows():
            if "validation" in row and row.get("on", self.validation) == self.validation:
                yield row

    def prune(self, metric: str) -> None:
        """Removes all checkpoints but the last ones and the best by validation."""
        old = sorted(self.checkpoints.glob("step-*"))[: -self._keep]
        if old:
            best = f"step-{self.best(metric) or 0:08}"
            for folder in old:
                if folder.name != best:
                    atomic.discard(folder)

    def publish(self, checkpoint: Checkpoint) -> Path:
        """The run's ``model``: the same files as the last checkpoint's."""
        published = self.folder / MODEL
        with atomic.writing(published, alone=True) as aside:
            for path in sorted(checkpoint.model.rglob("*")):
                to = aside / path.relative_to(checkpoint.model)
                to.parent.mkdir(parents=True, exist_ok=True)
                if path.is_file():
                    atomic.link(path, to)
            atomic.discard(published)
        return published

    def append(self, row: Mapping[str, Any]) -> None:
        """One more line of the log."""
        with atomic.reopen(self.folder / LOG, append=True) as file:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def rows(self) -> Iterator[dict[str, Any]]:
        """The log's lines; a last one that was cut off is left out."""
        path = self.folder / LOG
        if path.exists():
            yield from _whole_lines(path.read_bytes())

    def cut_log(self, step: int) -> None:
        """Leaves the lines of steps up to this one: later ones come again."""
        kept = [json.dumps(row, ensure_ascii=False) for row in self.rows() if row["step"] <= step]
        atomic.write_text(self.folder / LOG, "".join(line + "\n" for line in kept), alone=True)


def _whole_lines(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _fault(folder: Path) -> str | None:
    """Why a checkpoint can't be used; None if it is as it was written."""
    try:
        files = read_json(folder / _FACTS)["files"]
        for name, digest in files.items():
            if file_sha256(folder / name) != digest:
                return f"{name} is damaged"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{_FACTS} is damaged ({type(error).__name__})"
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def weights_sha256(model: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        whole = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {whole.dtype} {tuple(whole.shape)}\n".encode())
        digest.update(memoryview(whole.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def model_files_sha256(model: "PreFLMR") -> str:
    """SHA-256 over what a checkpoint holds besides weights: configuration, tokenizers, image sizes."""
    import hashlib
    import tempfile

    config = model.config.to_dict() | {
        "mapping": dataclasses.asdict(model.config)["mapping_config"]
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("query_tokenizer", "context_tokenizer", "image_processor"):
            if (settings := getattr(model, part)) is not None:
                (folder / part).mkdir()
                settings.save_pretrained(folder / part)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
