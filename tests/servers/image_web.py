"""Fetching images from a server on this machine, for tests of it."""

import threading
import time
from pathlib import Path

from servers.faulty_server import Fault, FaultyServer, Request
from support.hostile_images import picture

from m2kr.building.fetch.retry import Policy
from m2kr.building.images.from_urls import fetch_urls
from m2kr.building.images.hosts import HostRule, Rules
from m2kr.building.images.outcome import FetchCounts, UnavailableImage
from m2kr.building.images.shard_writer import ShardWriter

PHOTO = picture("JPEG")
QUICK = Policy(attempts=3, backoff=0.01, connect_timeout=5, read_timeout=5, redirects=3)
FREE = HostRule(connections=4, per_second=10_000)


def quick(**how) -> Rules:
    """Rules for a server on this machine."""
    return Rules(**{"private": True, "policy": QUICK, "other": FREE} | how)


def photo(number: int) -> bytes:
    return picture("PNG", (number % 50 + 1, number // 50 + 1))


class WatchedServer(FaultyServer):
    """Notes when requests come, and how many are being answered at a time, by Host header."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(files)
        self.times: list[float] = []
        self.hosts: list[str] = []
        self.most = self._active = 0
        self._watch = threading.Lock()

    def take(self, request: Request) -> Fault:
        with self._watch:
            self.times.append(time.monotonic())
            self.hosts.append(request.headers["Host"].partition(":")[0])
        return super().take(request)

    def pause(self, seconds: float) -> None:
        with self._watch:
            self._active += 1
            self.most = max(self.most, self._active)
        super().pause(seconds)
        with self._watch:
            self._active -= 1


def fetched(
    folder: Path, wanted: dict[str, str], rules: Rules | None = None, jobs: int = 8
) -> tuple[FetchCounts, dict[str, UnavailableImage]]:
    faults: list[UnavailableImage] = []
    with ShardWriter(folder) as store:
        done = fetch_urls(wanted, store, faults.append, rules=rules or quick(), jobs=jobs)
        assert done.there + done.added == sum(map(store.has, wanted))
    assert done.faults == len(faults)
    assert done.there + done.added + done.faults == len(wanted)
    return done, {fault.name: fault for fault in faults}
