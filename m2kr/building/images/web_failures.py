"""Addresses that are known to have no image, so that nobody asks for them again.

A file of JSON lines beside the shards of a store, only appended to; a line that a kill tore is cut
off by the next run. The store's own lock guards it.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

import orjson

from m2kr.building.images.shard_writer import NameSet
from m2kr.errors import plainly

FILE = "failed-urls.jsonl"
_LINE = 1 << 16
_AT_ONCE = 256


class Failures:
    """The failures of a store; to be used in ``with`` while the store is open for writing.

    Args:
        folder: The store's.
        rules: The texts that a failure may have.
        forget: What is known is not told (and stays in the file).

    Raises:
        M2KRError: the file can't be read or written.
    """

    def __init__(self, folder: Path, rules: Iterable[str], *, forget: bool = False) -> None:
        self._path = folder / FILE
        self._known = {rule: NameSet() for rule in rules}
        self._forget = forget
        self._waiting: list[bytes] = []

    def __enter__(self) -> Self:
        with plainly(self._path):
            self._load()
        return self

    def __exit__(self, *failure: object) -> None:
        self.flush()

    def rule_of(self, url: str) -> str | None:
        """Why an address has no image, if that is known."""
        if self._forget:
            return None
        return next((rule for rule, urls in self._known.items() if url in urls), None)

    def add(self, url: str, rule: str, detail: str) -> None:
        """Remembers a failure, unless this address has one of the same rule."""
        if url in self._known[rule]:
            return
        self._known[rule].add(url)
        row = {"url": url, "rule": rule, "detail": detail}
        with suppress(
            orjson.JSONEncodeError
        ):  # a lone surrogate is no text; such a one is asked again
            self._waiting.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        if len(self._waiting) >= _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Writes what waits, for good."""
        if not self._waiting:
            return
        with plainly(self._path), self._path.open("ab") as file:
            file.write(b"".join(self._waiting))
            file.flush()
            os.fsync(file.fileno())
        self._waiting.clear()

    def _load(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("r+b") as file:
            whole = 0
            while line := file.readline(_LINE):
                if line.endswith(b"\n"):
                    whole = file.tell()
                    self._take(line)
            file.truncate(whole)

    def _take(self, line: bytes) -> None:
        with suppress(orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            row = orjson.loads(line)
            known = self._known[row["rule"]]
            if row["url"] not in known:
                known.add(row["url"])
