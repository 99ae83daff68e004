"""Processes of our own that run nothing which lies in the current folder by chance.

Python puts the current folder before its own library when it runs a module (``-m``) or a command, as
`multiprocessing` does: a ``json.py`` there would be run in place of the true one.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_SAFE = "PYTHONSAFEPATH"


def command(module: str, *args: str) -> list[str]:
    """The command that runs a module of m2kr with this interpreter; see `environment`."""
    return [sys.executable, "-P", "-m", module, *args]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for `command`: what this process can import, without the current folder."""
    return {**os.environ, **(more or {}), _SAFE: "1", "PYTHONPATH": os.pathsep.join(_paths())}


@contextmanager
def spawning() -> Iterator[None]:
    """Processes that `multiprocessing` spawns inside don't look into the current folder."""
    before, paths = os.environ.get(_SAFE), list(sys.path)
    os.environ[_SAFE] = "1"
    # What is spawned takes its path from here.
    sys.path[:] = _paths()
    try:
        yield
    finally:
        sys.path[:] = paths
        if before is None:
            del os.environ[_SAFE]
        else:
            os.environ[_SAFE] = before


def die_with_parent(parent: int) -> None:
    """A worker whose parent was killed must not go on writing beside its successor."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _paths() -> list[str]:
    """Where modules are looked for, without the current folder."""
    paths = [path for path in sys.path if not _is_current(path)]
    home = str(Path(__file__).parents[1])
    # m2kr is run from a checkout that isn't installed.
    return [*paths, home] if _is_current(home) and home not in paths else paths


def _is_current(path: str) -> bool:
    try:
        return not path or Path(path).samefile(Path.cwd())
    except OSError:
        return False
