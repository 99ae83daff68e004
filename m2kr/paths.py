"""Where built data and downloads live."""

import os
from collections.abc import Iterator
from pathlib import Path

ENV = "M2KR_DATA"


def data_root(path: str | os.PathLike[str] | None = None) -> Path:
    """The data root: the argument, else ``M2KR_DATA``, else the platform's user data folder."""
    if path is not None:
        return Path(path).expanduser().absolute()
    if os.environ.get(ENV):
        return Path(os.environ[ENV]).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("m2kr", appauthor=False))


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
