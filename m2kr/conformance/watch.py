"""Which files are written while something runs, and where."""

import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MADE = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1}  # which argument is written
# What is being watched: audit hooks can't be taken away again, so there is one, which may rest.
_watching: list[list[str]] = []
_hooked = False


@contextmanager
def files_written(apart_from: Sequence[Path]) -> Iterator[list[str]]:
    """Files that this process writes meanwhile, by Python's own calls, in the order it does.

    Not told are those below ``apart_from``, in caches that libraries keep (``~/.cache``,
    ``__pycache__``, installed packages) and in temporary folders with names drawn by lot.

    Yields:
        The list, complete at the end.
    """
    global _hooked
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked = True
    heard: list[str] = []
    told: list[str] = []
    _watching.append(heard)
    try:
        yield told
    finally:
        _watching.remove(heard)
        allowed = [*map(_real, apart_from), *_caches()]
        for name in dict.fromkeys(heard):
            path = _real(Path(name))
            below = any(path.is_relative_to(folder) for folder in allowed)
            if not below and "__pycache__" not in path.parts and not _is_temporary(path):
                told.append(str(path))


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open":
        path, mode, flags = arguments
        written = set(mode or "") & set("wax+") or (mode is None and (flags or 0) & _WRITES)
    elif event in _MADE:
        path, written = arguments[_MADE[event]], True
    else:
        return
    if written and isinstance(path, str | bytes | os.PathLike):
        for heard in _watching:
            heard.append(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 - it must not look


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _caches() -> Iterator[Path]:
    yield from (Path("/dev"), Path("/proc"), Path("/sys"), _real(Path.home() / ".cache"))
    names = ("HF_HOME", "XDG_CACHE_HOME", "TORCH_HOME", "TRITON_CACHE_DIR", "MPLCONFIGDIR")
    yield from (_real(Path(os.environ[name])) for name in names if os.environ.get(name))
    yield from (
        _real(Path(sysconfig.get_paths()[name])) for name in ("stdlib", "purelib", "platlib")
    )
    yield _real(Path(site.getuserbase()))


def _is_temporary(path: Path) -> bool:
    """Whether a file is in, or is, a temporary one whose name was drawn by lot."""
    root = _real(Path(tempfile.gettempdir()))
    if not path.is_relative_to(root) or path == root:
        return False
    first = path.relative_to(root).parts[0]
    return first.startswith(("tmp", "m2kr-", "torch", "pymp-"))
