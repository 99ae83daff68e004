"""Where built data and downloads live."""

import os
from collections.abc import Iterator
from pathlib import Path

from m2kr.errors import UsageError

ENV = "M2KR_DATA"


def data_root(path: str | os.PathLike[str] | None = None) -> Path:
    """The data root: the argument, else ``M2KR_DATA``, else the platform's user data folder.

    Raises:
        UsageError: There is something else than a folder, or its name is not UTF-8.
    """
    given = path if path is not None else os.environ.get(ENV)
    if path is None and not given:
        import platformdirs

        return Path(platformdirs.user_data_dir("m2kr", appauthor=False))
    if not os.fspath(given or ""):
        raise UsageError("the data root has no name", expected="a folder; is a variable unset?")
    root = Path(given or "").expanduser().absolute()
    if root.exists() and not root.is_dir():
        raise UsageError("the data root is no folder", where=str(root), expected="a folder")
    if any("\ud800" <= c <= "\udfff" for c in str(root)):  # manifests couldn't hold it
        raise UsageError("the name of the data root is not UTF-8", where=str(root))
    return root


def downloads(root: Path) -> Path:
    """The folder of upstream files, shared by every edition and source."""
    return root / "downloads"


def manifest_path(edition: Path, config: str) -> Path:
    """The file whose presence says that a source is completely built in an edition folder."""
    return edition / f"{config}_manifest.json"


def editions(root: Path) -> Iterator[Path]:
    """Edition folders under a root that hold at least one built source, by name."""
    if not root.is_dir():
        return
    for folder in sorted(root.iterdir()):
        if (
            folder.is_dir()
            and not folder.name.startswith(".")
            and any(folder.glob("*_manifest.json"))
        ):
            yield folder
