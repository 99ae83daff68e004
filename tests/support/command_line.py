"""The ``m2kr`` command in a process of its own that does not import everything anew.

A process that has imported what the commands use forks for each call: a call then costs its work, not a
second of imports. Where the environment is not the one of that process, whose libraries have read it
already, the installed program runs.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

IMPORTED = (
    "m2kr.cli.main",
    "m2kr.api",
    "m2kr.building.build",
    "m2kr.building.images.gather",
    "m2kr.building.release.routes",
    "m2kr.building.userdata.importer",
    "m2kr.evaluation.harness",
    "datasets",
    "rich.markdown",
    "rich.progress",
    "rich.table",
    "typer._adapters",
    "typer.rich_utils",
)
# Heavy packages, imported with the first command that has such a word: another may never need them.
_MODELS = ("torch", "transformers")
IMPORTED_FOR = {
    "bm25": ("bm25s", "scipy.sparse"),
    "fusion": ("bm25s", "scipy.sparse", "torch"),
    "demo": ("bm25s", "scipy.sparse", "torch"),
    "dense_text": _MODELS,
    "image_concepts": ("torch",),
    "preflmr": _MODELS,
    "flmr": _MODELS,
    "explain": _MODELS,
    "model": _MODELS,
    "train": _MODELS,
    "index": ("torch",),
}
PROGRAM = Path(sys.executable).with_name("m2kr")
# What pytest and libraries set in the process of the tests as they go; no command of ours reads it.
_THEIRS = ("PYTEST_", "TORCHINDUCTOR_", "TRITON_CACHE_", "KMP_")


class CommandLine:
    """Runs commands; the process that forks starts with the first call and ends with this one.

    Args:
        also: Modules that it has imported, too.
    """

    def __init__(self, *also: str) -> None:
        self._also = also
        self._socket: socket.socket | None = None
        self._environment: dict[str, str] = {}

    def run(
        self, words: Sequence[str], cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """One command with its output."""
        if not hasattr(os, "fork"):
            return _installed(words, cwd)
        if self._socket is None:
            self._environment = _environment()
            self._socket, theirs = socket.socketpair()
            subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *self._also],
                pass_fds=[theirs.fileno()],
            )
            theirs.close()
        if _environment() != self._environment:
            return _installed(words, cwd)
        ended, end = os.pipe()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            request = json.dumps([str(cwd or Path.cwd()), *words]).encode()
            self._socket.sendall(len(request).to_bytes(4, "big"))
            socket.send_fds(self._socket, [b"!"], [out.fileno(), err.fileno(), end])
            self._socket.sendall(request)
            os.close(end)
            code = int(os.read(ended, 16) or b"-9")
            os.close(ended)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode().replace("\r\n", "\n"))
        return subprocess.CompletedProcess([str(PROGRAM), *words], code, *texts)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_THEIRS)}


def _installed(words: Sequence[str], cwd: Path | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=False, cwd=cwd)


def _serve(server: socket.socket, also: Sequence[str]) -> None:
    os.fsync = lambda fd: None  # as in conftest.py
    for name in (*IMPORTED, *also):
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while size := server.recv(4, socket.MSG_WAITALL):
        _, fds, _, _ = socket.recv_fds(server, 1, 3)
        request = json.loads(server.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
        for name in (name for word in request for name in IMPORTED_FOR.get(word, ())):
            importlib.import_module(name)
        if not os.fork():
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _wait(request, *fds)
        for fd in fds:
            os.close(fd)


def _wait(request: list[str], out: int, err: int, end: int) -> None:
    command = os.fork()
    if not command:
        os.close(end)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        _command(request)
    _, status = os.waitpid(command, 0)
    os.write(end, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _command(request: list[str]) -> None:
    from m2kr.cli.main import main

    cwd, *words = request
    os.chdir(cwd)
    sys.argv = [str(PROGRAM), *words]
    code: object = 70
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or 120
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
