"""``m2kr train`` ended by signals and gone on with: ``OUT SIGNAL,… WORD…``; prints exit codes as JSON.

A process that has imported torch forks for each run. Last, two processes train together in ``OUT two``.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch

import m2kr.rag.training.reader_task
from m2kr.cli import main as command_line
from tests.support.forked_training import _forked, _lines

_MORE = 3  # lines of the log before the signal comes


def main(out: Path, names: list[str], words: list[str]) -> list[int]:
    sys.argv = ["m2kr", "train", *words, "--out", str(out)]
    codes = []
    for name in [*names, ""]:
        limit = _lines(out) + _MORE
        pid = _forked(command_line.main)
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            if name and _lines(out) >= limit:
                os.kill(pid, getattr(signal, name))
                name = ""
            time.sleep(0.01)
        codes.append(os.waitstatus_to_exitcode(status))
    return codes


def two(out: Path, words: list[str]) -> list[int]:
    """Exit codes of two processes that train together."""
    sys.argv = ["m2kr", "train", *words, "--out", str(out)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2")
    pids = []
    for rank in range(2):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        pids.append(_forked(command_line.main))
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert m2kr.rag.training.reader_task
    folder, ends, command = Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]
    codes = main(folder, ends, command)
    print(json.dumps(codes))
    more = [word for key in ("precision=float64", "batch=1") for word in ("--set", f"steps.{key}")]
    more += ["--set", "steps.steps=4", "--set", "validation.every=2"]
    print(json.dumps(two(folder.with_name("two"), [*command, *more])))
