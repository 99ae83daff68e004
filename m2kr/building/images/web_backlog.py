"""Images that wait for their host's turn, on disk where they are many."""

import itertools
import sqlite3
from collections import deque
from dataclasses import dataclass

import orjson


@dataclass(slots=True)
class Item:
    """An image to be fetched.

    Attributes:
        name: In the store.
        url: Its address as wanted.
        places: Addresses to try, the next one first.
        tries: Failures at that one.
        hops: Redirects followed.
    """

    name: str
    url: str
    places: list[str]
    tries: int = 0
    hops: int = 0


class Backlog:
    """Items that wait, by host: a few of each host in memory, the others in a temporary database."""

    FRONT = 32
    MOST = 20_000  # in memory, and one of each host more

    def __init__(self) -> None:
        self._front: dict[str, deque[Item]] = {}
        self._behind: dict[str, int] = {}
        self._held = 0
        self._number = itertools.count()
        # No name: a file that the system removes, also after a kill.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(
            "CREATE TABLE item (host TEXT, n INTEGER, row BLOB, PRIMARY KEY (host, n)) WITHOUT ROWID"
        )

    def put(self, host: str, item: Item) -> None:
        """At the end of a host's line."""
        front = self._front.setdefault(host, deque())
        few = len(front) < self.FRONT and self._held < self.MOST
        if few and host not in self._behind:
            front.append(item)
            self._held += 1
            return
        row = orjson.dumps(item)
        self._db.execute("INSERT INTO item VALUES (?, ?, ?)", (host, next(self._number), row))
        self._behind[host] = self._behind.get(host, 0) + 1

    def put_first(self, host: str, item: Item) -> None:
        """At the head of a host's line; at its end, if many were put there."""
        front = self._front.setdefault(host, deque())
        if len(front) < 4 * self.FRONT:
            front.appendleft(item)
            self._held += 1
        else:
            self.put(host, item)

    def take(self, host: str) -> Item | None:
        """The first of a host's line."""
        front = self._front.get(host)
        if front is None:
            return None
        if not front:
            self._refill(host, front)
        item = front.popleft()
        self._held -= 1
        if not front and host not in self._behind:
            del self._front[host]
        return item

    def has(self, host: str) -> bool:
        """Whether a host has one."""
        return host in self._front

    def _refill(self, host: str, front: deque[Item]) -> None:
        some = self.FRONT if self._held < self.MOST else 1
        rows = self._db.execute(
            "SELECT n, row FROM item WHERE host = ? ORDER BY n LIMIT ?", (host, some)
        ).fetchall()
        front.extend(Item(**orjson.loads(row)) for _, row in rows)
        self._held += len(rows)
        self._db.execute("DELETE FROM item WHERE host = ? AND n <= ?", (host, rows[-1][0]))
        self._behind[host] -= len(rows)
        if not self._behind[host]:
            del self._behind[host]

    def close(self) -> None:
        """Removes the database."""
        self._db.close()
