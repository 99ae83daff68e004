"""Downloads from a server on this machine, for tests of them."""

import hashlib
import random
from pathlib import Path

from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.fetch import fetch
from m2kr.building.fetch.retry import Policy

BODY = random.Random(1).randbytes(300_000)
FAST = Policy(
    attempts=4,
    step=10_000,
    backoff=0.01,
    backoff_cap=0.05,
    retry_after_cap=5,
    connect_timeout=1,
    read_timeout=0.3,
    chunk=4096,
    spare=0,
)


class Meter:
    """A progress that counts."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self.totals: dict[str, int | None] = {}
        self.finished: list[str] = []

    def start(self, name: str, total: int | None, unit: str = "B") -> None:
        assert name not in self.bytes
        self.bytes[name], self.totals[name] = 0, total

    def advance(self, name: str, n: int) -> None:
        self.bytes[name] += n

    def done(self, name: str) -> None:
        self.finished.append(name)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def asset(*urls: str, name: str = "x/a.bin", **facts: object) -> Asset:
    return Asset(name, urls, **facts)  # type: ignore[arg-type]


def get(folder: Path, *assets: Asset, policy: Policy = FAST, **options: object) -> bytes:
    """Fetches, and gives the bytes of the first asset."""
    files = fetch(assets, folder, policy=policy, **options)  # type: ignore[arg-type]
    assert set(files) == {a.name for a in assets}
    return files[assets[0].name].read_bytes()


def finished(folder: Path) -> set[str]:
    """What lies in a downloads folder besides the engine's own files."""
    files = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {p.as_posix() for p in files if p.parts[0][0] != "." and p.name != "lock.json"}


def unfinished(folder: Path) -> list[Path]:
    return [p for p in (folder / ".partial").rglob("*") if p.is_file()]
