"""Runs that are killed, of one process and of two: ``DATA OUT KILLS``.

A process that has imported torch forks for each run, so that ten of them take no ten imports. The
runs' folders are for the test to compare; exit codes are printed as JSON, negative for a signal.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed.fsdp
import torch.distributed.tensor

from m2kr.cli import main as command_line
from m2kr.training import loop
from m2kr.training.recipe import Recipe
from m2kr.training.recipe_file import dump_recipe
from m2kr.training.start import build_model
from tests.support.own_process import WHOLE
from tests.support.tiny_training import StopsAt, tiny_recipe

_SCALE = 8 if WHOLE else 1  # ten kills need many steps
STEPS = 30 * _SCALE
_ACROSS = tiny_recipe(
    steps={"steps": 4, "batch": 2, "accumulate": 2, "precision": "float64"},
    start={"dropout": 0.0},
    negatives={"across_ranks": True},
)
#: What two processes train, by the name of the folder.
RECIPES = {
    "ddp": tiny_recipe(
        steps={"steps": 12 * _SCALE, "batch": 2, "accumulate": 2}, saving={"every": 2}
    ),
    "fsdp": tiny_recipe(
        steps={"steps": 12 * _SCALE, "batch": 2, "parallel": "fsdp"}, saving={"every": 2}
    ),
    "across": replace(_ACROSS, steps=replace(_ACROSS.steps, chunk=1)),
    "across fsdp": replace(_ACROSS, steps=replace(_ACROSS.steps, parallel="fsdp")),
}


def _forked(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        # Whatever runs the tests may ignore it, as a shell does for what it starts in the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException as error:  # noqa: BLE001 - the process ends here
            print(f"rank {os.environ.get('RANK')}: {error!r}", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def _ended(pids: list[int], out: Path, number: int = 0, limit: int = 0) -> list[int]:
    """Exit codes; a signal is sent once the log has so many lines more, and a little later."""
    limit += _lines(out)
    codes: dict[int, int] = {}
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        if number and _lines(out) >= limit:
            time.sleep(_DRAW.random() * 0.05)
            for pid in set(pids) - set(codes):
                os.kill(pid, number)
            number = 0
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


def _lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("*/log.jsonl"))


_DRAW = random.Random(5)


def one(data: Path, out: Path, names: list[str]) -> list[int]:
    """``m2kr train`` ended by signals and gone on with, beside a run that never stopped."""
    recipe = tiny_recipe(steps={"steps": STEPS, "accumulate": 2}, saving={"every": 3})
    (out / "tiny.yaml").write_text(dump_recipe(recipe))
    _ended([_forked(lambda: loop.train(recipe, data=data, out=out / "whole"))], out / "whole")
    words = ["m2kr", "train", str(out / "tiny.yaml"), "--data", str(data), "--out"]
    sys.argv = [*words, str(out / "cut")]
    codes = []
    for name in [*names, None]:
        number = getattr(signal, name) if name else 0
        pid = _forked(command_line.main)
        codes += _ended([pid], out / "cut", number, _DRAW.randrange(1, 5))
    return codes


def two(data: Path, out: Path, kills: int) -> dict[str, list[list[int]]]:
    """Two processes, of which one fails, or both are killed, and gone on with; codes by folder."""
    codes: dict[str, list[list[int]]] = {}
    for name in ("ddp", "fsdp", *(("across", "across fsdp") if kills > 1 else ())):
        codes[name] = [_ended(_pair(RECIPES[name], data, out / name), out / name)]
        if name.startswith("across"):
            continue
        cut = out / f"{name} cut"
        codes[cut.name] = []
        if name == "fsdp":
            codes[cut.name] += [_ended(_pair(RECIPES[name], data, cut, StopsAt(3)), cut)]
        ends = [signal.SIGTERM] * (kills > 1) + [signal.SIGKILL] * (kills - (name == "fsdp"))
        for number in [*ends, 0]:
            pids = _pair(RECIPES[name], data, cut)
            codes[cut.name].append(_ended(pids, cut, number, _DRAW.randrange(1, 4)))
    return codes


def _pair(recipe: Recipe, data: Path, out: Path, progress: StopsAt | None = None) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2")
    pids = []
    for rank in range(2):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        told = {} if progress is None else {"progress": progress}
        pids.append(_forked(lambda: loop.train(recipe, data=data, out=out, device="cpu", **told)))  # noqa: B023
    return pids


if __name__ == "__main__":
    torch.set_num_threads(1)
    build_model(tiny_recipe().start)  # imports
    data_root, folder, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    ends = ["SIGKILL", "SIGTERM", "SIGINT", *["SIGKILL"] * (kills - 1)]
    results = {"one": one(data_root, folder, ends), "two": two(data_root, folder, kills)}
    print(json.dumps(results))
