"""``m2kr train`` ended by signals and gone on with: ``OUT SIGNAL,… WORD…``; prints exit codes as JSON.

A process that has imported torch forks for each run.
"""

import json
import os
import signal
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert m2kr.rag.training.reader_task
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:])))
