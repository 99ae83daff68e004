"""Answers kept by what was asked: shared by processes, none lost, none paid twice."""

import contextlib
import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from m2kr import locks
from m2kr.errors import InputError, M2KRError
from m2kr.rag.reader import Answer, RetrievedPassage

STORE_NAME = "answers.sqlite"
_FORM = 1  # of the tables; in ``user_version``
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL, seconds REAL NOT NULL)
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asking (key BLOB PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
"""
_WAIT = 60.0  # seconds for another process's transaction
_GLANCE = 0.3  # seconds in which the end of a process on this host shows
_AT_ONCE = 500  # keys of a query; SQLite takes 999 variables everywhere


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer and what it took.

    Attributes:
        answer: The answer.
        seconds: That the reader took.
    """

    answer: Answer
    seconds: float


def answer_key(
    facts: Mapping[str, Any],
    question: str,
    image: str | None,
    passages: Sequence[RetrievedPassage],
) -> bytes:
    """What an answer is kept under: a hash of all that the reader was and was given.

    Args:
        facts: The reader's.
        question: The question.
        image: Digest of the image; None if there is none or the reader sees none.
        passages: In their order.
    """
    shown = [[passage.passage_id, passage.text, passage.score] for passage in passages]
    text = json.dumps([_FORM, dict(facts), question, image, shown], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


class AnswerStore:
    """A SQLite file of answers; several processes may use one at a time.

    An answer is committed as it arrives, so that a killed process loses none. Before a question is
    asked it is claimed: another process then leaves it to the first one, as long as that lives.

    Args:
        path: The file; made if it is not there, in a folder that is.

    Raises:
        InputError: it is no such file.
        M2KRError: it can't be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner = secrets.token_hex(8)
        self._lock: locks.Held | None = None
        with _told(path):
            self._db = sqlite3.connect(path, timeout=_WAIT, isolation_level=None)
            try:
                # On a network disk SQLite may have no WAL, and goes on with its journal.
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._make_tables()
            except BaseException:
                self._db.close()
                raise

    def _make_tables(self) -> None:
        form = self._db.execute("PRAGMA user_version").fetchone()[0]
        if form not in (0, _FORM):
            raise InputError(
                f"these kept answers have the form {form}",
                where=str(self.path),
                expected=f"the form {_FORM}, of this version of m2kr",
                fix="move the file away, or give another --out",
            )
        self._db.executescript(_TABLES)
        self._db.execute(f"PRAGMA user_version = {_FORM}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives up what was claimed and closes the file."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("DELETE FROM asking WHERE owner = ?", [self._owner])
        if self._lock is not None:
            self._lock.release()
        self._db.close()

    def get(self, keys: Iterable[bytes]) -> dict[bytes, KeptAnswer]:
        """The answers that are kept, by key."""
        rows = self._rows("SELECT key, answer, seconds FROM answers WHERE key IN", keys)
        return {key: KeptAnswer(_answer(text, self.path), seconds) for key, text, seconds in rows}

    def known(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those of some keys that have an answer."""
        return {row[0] for row in self._rows("SELECT key FROM answers WHERE key IN", keys)}

    def claim(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of some keys that this process may ask for: no answer is kept, and nobody else is asking."""
        if self._lock is None:
            self._lock = locks.take(self._marker(self._owner), "answers that are asked for")
        mine: set[bytes] = set()
        with self._transaction():
            left = set(keys) - self.known(keys)
            for key in left:
                done = self._db.execute(
                    "INSERT OR IGNORE INTO asking VALUES (?, ?)", [key, self._owner]
                )
                if done.rowcount:
                    mine.add(key)
        return mine

    def put(self, key: bytes, answer: Answer, seconds: float) -> None:
        """Keeps an answer; the first one stays."""
        text = json.dumps(asdict(answer) | {"detail": dict(answer.detail)}, sort_keys=True)
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", [key, text, seconds])
            self._db.execute("DELETE FROM asking WHERE key = ?", [key])

    def give_up(self, keys: Iterable[bytes]) -> None:
        """Takes back claims that no answer came for."""
        with self._transaction():
            self._db.executemany(
                "DELETE FROM asking WHERE key = ? AND owner = ?",
                [(key, self._owner) for key in keys],
            )

    def free_claims_of_the_dead(self, *, patient: bool = False) -> None:
        """Takes back the claims of processes that ended without an answer.

        Args:
            patient: Wait for a sign of life from those on other hosts, too: seconds for each.
        """
        with _told(self.path):
            claims = self._db.execute("SELECT DISTINCT owner FROM asking").fetchall()
        # A process may have been killed before its first claim, or after its last.
        prefix, suffix = f".{self.path.name}.", ".lock"
        markers = self.path.parent.glob(f"{prefix}*{suffix}")
        names = (marker.name.removeprefix(prefix).removesuffix(suffix) for marker in markers)
        for owner in {owner for (owner,) in claims} | {name for name in names if "." not in name}:
            end = time.monotonic() + _GLANCE
            if owner == self._owner:
                continue
            try:
                held = locks.take(
                    self._marker(owner),
                    "answers that are asked for",
                    wait=False,
                    cancelled=None if patient else partial(_is_over, end),
                )
            except (locks.Busy, TimeoutError):
                continue
            with self._transaction():
                self._db.execute("DELETE FROM asking WHERE owner = ?", [owner])
            held.release()

    def _marker(self, owner: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{owner}.lock")

    def _rows(self, query: str, keys: Iterable[bytes]) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        left = list(dict.fromkeys(keys))
        with _told(self.path):
            for start in range(0, len(left), _AT_ONCE):
                some = left[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                rows += self._db.execute(f"{query} ({marks})", some).fetchall()
        return rows

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with _told(self.path):
            if self._db.in_transaction:  # an interrupt came just as one had begun
                self._db.execute("ROLLBACK")
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _is_over(end: float) -> bool:
    return time.monotonic() > end


def _answer(text: str, path: Path) -> Answer:
    try:
        return Answer(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise InputError(f"a kept answer is damaged: {error}", where=str(path)) from error


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What SQLite raises as our error."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise M2KRError(
            f"kept answers can't be used: {error}",
            where=str(path),
            expected="room on a disk that this user may write to",
            fix="the same command goes on where this one stopped; --out FOLDER for another place",
        ) from error
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"not a file of kept answers: {error}",
            where=str(path),
            fix="move it away: what it has is then asked anew",
        ) from error
