"""Phrase search over millions of passages: SQLite FTS5 in one file, no server.

It stands in for the Elasticsearch of the authors' pipelines: which passages hold an answer (OKVQA),
which titles hold an entity's name (Infoseek). A phrase is a run of tokens inside one field. Tokens are
runs of letters and digits in lower case: no stemming, no stop words, accents kept. Elasticsearch's
standard analyzer differs in that it keeps "don't" and "U.S" whole.
"""

import hashlib
import itertools
import json
import logging
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from m2kr.atomic import replace
from m2kr.errors import InputError, M2KRError, MissingError, UsageError
from m2kr.locks import Held, hold
from m2kr.progress import SILENT, Progress

if TYPE_CHECKING:
    import pyarrow as pa

    Batches = Iterable[pa.RecordBatch]

log = logging.getLogger("m2kr.building.formats.phrase_index")

Fields = Collection[Literal["title", "text"]]
BOTH: Fields = ("title", "text")
FORMAT = "m2kr-phrases-1"
COMMIT_ROWS = 100_000
CHUNK_ROWS = 10_000
SAVE_PHRASES = 32
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

# A rollback journal, not WAL: it works on network folders and leaves one file.
LOAD = """PRAGMA page_size = 8192; PRAGMA cache_size = -131072; PRAGMA secure_delete = OFF;
PRAGMA synchronous = NORMAL; PRAGMA locking_mode = EXCLUSIVE;"""
# Titles have a table of their own: in `both` a passage is as long as its title and text, and "Paris"
# would lose to a short passage of "Paris, Texas". It also spares title searches the long lists of text.
TABLES = {"both": "title, text", "titles": "title"}
# Flushes of 16 MB keep the hash in the processor's cache (64 MB is slower). Their segments are merged
# 64 at a time, and at the end into one, as each costs every later search a look-up.
FTS = """CREATE VIRTUAL TABLE {0} USING fts5({1}, content='passages', content_rowid='row',
tokenize='unicode61 remove_diacritics 0');
INSERT INTO {0}({0}, rank)
VALUES ('automerge', 0), ('crisismerge', 64), ('hashsize', 16777216), ('pgsz', 8000);"""
META = "CREATE TABLE meta (stamp TEXT, rows INTEGER, state TEXT)"
PASSAGES = "CREATE TABLE passages (row INTEGER PRIMARY KEY, id TEXT, title TEXT, text TEXT)"
ADD = "INSERT INTO {0}(rowid, {1}) SELECT row, {1} FROM passages WHERE row >= ? AND row < ?"
MERGE = "INSERT INTO {0}({0}, rank) VALUES ('merge', -5000)"
SEARCH = "SELECT rowid, -bm25({0}) AS score FROM {0} WHERE {0} MATCH ? ORDER BY 2 DESC, 1 LIMIT ?"
READ_HITS = "SELECT name, hits FROM hits WHERE name = ?"
WRITE_HITS = "INSERT OR REPLACE INTO hits VALUES (?, ?)"
HIT = np.dtype([("row", "<i8"), ("score", "<f8")])


class PhraseHit(NamedTuple):
    """A passage with the phrase: its 0-based place in the input and its score (more is better)."""

    row: int
    score: float


class IndexedPassage(NamedTuple):
    """One passage as it was given, with its 0-based place in the input."""

    row: int
    id: str
    title: str
    text: str


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


@contextmanager
def _explained(path: Path, fix: str) -> Iterator[None]:
    """Turns SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        what, where = f"phrase index: {error}", str(path)
        if "no such module" in str(error):
            fix = "use a Python whose sqlite3 has FTS5, as python.org's, conda's and Debian's have"
            raise MissingError(what, where=where, fix=fix) from error
        if _code(error) == sqlite3.SQLITE_FULL:
            room = "room for three times the passages' bytes"
            raise M2KRError(what, where=where, expected=room, fix=f"free space; {fix}") from error
        kind = InputError if _code(error) in DAMAGED else M2KRError
        raise kind(what, where=where, fix=fix) from error


def _remove(path: Path) -> None:
    """Deletes a database with its journal, which would be replayed into a new file of that name."""
    for name in (path.name, f"{path.name}-journal"):
        path.with_name(name).unlink(missing_ok=True)


def _meta(db: sqlite3.Connection) -> tuple[str, int, str] | None:
    """Stamp, rows and state of an index; None if the file holds something else."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE sql = ?", (META,)).fetchone():
        return None
    meta: tuple[str, int, str] | None = db.execute("SELECT * FROM meta").fetchone()
    return meta


def _open_part(part: Path, stamp: str) -> sqlite3.Connection:
    """The unfinished index that a killed process left, or a new one."""
    try:
        db = sqlite3.connect(part, isolation_level=None)
        db.executescript(LOAD)
        if (_meta(db) or ("", 0, ""))[0] == stamp:
            return db
        db.close()
    except sqlite3.DatabaseError as error:
        if _code(error) not in DAMAGED:
            raise
    _remove(part)
    db = sqlite3.connect(part, isolation_level=None)
    fts = "".join(FTS.format(table, fields) for table, fields in TABLES.items())
    db.executescript(f"{LOAD} BEGIN; {META}; {PASSAGES}; {fts} COMMIT")
    db.execute("INSERT INTO meta VALUES (?, 0, 'loading')", (stamp,))
    return db


def _fill(db: sqlite3.Connection, rows: "Batches", lock: Held, progress: Progress) -> None:
    """Stores and indexes what is not committed yet; each transaction carries the count of rows."""
    _, start, state = _meta(db) or ("", 0, "")
    if state != "loading":
        return
    progress.start("phrase index", None, "passages")
    progress.advance("phrase index", start)
    end, committed = 0, start
    db.execute("BEGIN")
    for batch in rows:
        if missing := {"id", "title", "text"} - set(batch.schema.names):
            raise InputError(f"passages lack {min(missing)!r}", expected="id, title and text")
        for offset in range(0, batch.num_rows, CHUNK_ROWS):
            chunk = batch.slice(offset, CHUNK_ROWS)
            first, end = max(end, start), end + chunk.num_rows
            if end <= first:
                continue
            chunk = chunk.slice(chunk.num_rows - (end - first))
            columns = [[x or "" for x in chunk[c].to_pylist()] for c in ("id", "title", "text")]
            numbered = zip(range(first, end), *columns, strict=True)
            db.executemany("INSERT INTO passages VALUES (?, ?, ?, ?)", numbered)
            for table, fields in TABLES.items():
                db.execute(ADD.format(table, fields), (first, end))
            progress.advance("phrase index", end - first)
            if end - committed >= COMMIT_ROWS:
                lock.check()
                db.execute("UPDATE meta SET rows = ?", (end,))
                db.execute("COMMIT")
                db.execute("BEGIN")
                committed = end
    if end < start:
        what = f"{end} passages, but an earlier run of the same key read {start}"
        raise InputError(what, fix="give the same rows for the same key")
    db.execute("UPDATE meta SET rows = ?, state = 'merging'", (end,))
    db.execute("COMMIT")
    progress.done("phrase index")


def _merge(db: sqlite3.Connection, lock: Held) -> None:
    """Makes one segment of each table, in small transactions that reuse the pages of earlier ones."""
    for table in TABLES:
        before = -2
        while db.total_changes - before >= 2:  # fewer changes: FTS5's sign that nothing is left
            lock.check()
            before = db.total_changes
            db.execute(MERGE.format(table))
    db.execute("UPDATE meta SET state = 'complete'")


def _remembered(path: Path, sql: str, rows: Iterable[Sequence[bytes]]) -> dict[bytes, bytes]:
    """Reads or writes the side file of results; what goes wrong with it costs time and no more."""
    try:
        with closing(sqlite3.connect(path, timeout=60)) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS hits (name BLOB PRIMARY KEY, hits BLOB)")
            return dict(entry for row in rows for entry in db.execute(sql, row))
    except sqlite3.Error as error:
        log.warning("going on without remembered phrases: %s: %s", path, error)
        if _code(error) in DAMAGED:
            _remove(path)
        return {}


class PhraseIndex:
    """Phrase search over passages, in a file that `build` makes.

    A score is FTS5's ``bm25()`` (k1 1.2, b 0.75, the phrase's own document frequency). With both fields
    it counts occurrences in either and the length of the two, with equal weights: our choice.
    Elasticsearch's phrase multi-match scores each field alone and takes the better one. For that, search
    the fields one by one and keep each row's higher score: the best k of both lists are the best k.
    With ``["text"]`` alone, a passage's length still includes its title.

    A search costs about a microsecond per passage with the phrase. Instances can be pickled and used
    after a fork, not shared by threads.

    Args:
        path: The index file; other processes may read it at the same time.
        key: What `build` was given.

    Raises:
        MissingError: There is no such file.
        InputError: The file is damaged, unfinished, of another key, or no index.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self._fix = f"delete {path} and run the command that builds it again"
        self._stamp, self._hits = f"{FORMAT} {key}", path.with_name(f"{path.name}.hits")
        self._pid = -1
        self._db: sqlite3.Connection
        with _explained(path, self._fix):
            self._reader()

    def _reader(self) -> sqlite3.Connection:
        """This process's connection: SQLite's do not survive a fork."""
        if self._pid == os.getpid():
            return self._db
        where = str(self.path)
        if not self.path.exists():
            raise MissingError("there is no phrase index", where=where)
        # Immutable holds, as a finished index is only ever replaced as a whole.
        uri = f"{self.path.resolve().as_uri()}?mode=ro&immutable=1"
        db = sqlite3.connect(uri, uri=True)
        db.execute("PRAGMA cache_size = -65536")
        stamp, self._rows, state = _meta(db) or ("something else", 0, "no index")
        if (stamp, state) != (self._stamp, "complete"):
            what = f"this is of {stamp} ({state})"
            raise InputError(what, where=where, expected=self._stamp, fix=self._fix)
        self._db, self._pid = db, os.getpid()
        return db

    def __reduce__(self) -> tuple[type["PhraseIndex"], tuple[Path, str]]:
        return PhraseIndex, (self.path, self.key)

    def __len__(self) -> int:
        return self._rows

    @classmethod
    def build(
        cls, path: Path, rows: "Batches", *, key: str, progress: Progress = SILENT
    ) -> "PhraseIndex":
        """Opens the index of this key at ``path``, or makes it first.

        It grows in a file beside ``path``. After a ``kill -9`` the next call with this key goes on from
        the last ``COMMIT_ROWS``. A second process waits for the first. What else is at ``path``, such as
        an index of another key, is replaced when the new one is finished.

        Args:
            path: The index file.
            rows: Batches with the string columns id, title and text (null counts as empty), the same
                in every call with the same key. Not touched if the index exists.
            key: Identity of the rows, such as their file's hash.
            progress: Told of passages.

        Raises:
            InputError: A column is missing, or the rows are fewer than an earlier call saw.
            MissingError: SQLite has no FTS5.
            M2KRError: The disk is full or fails, or this process lost the lock.
        """
        with suppress(InputError, MissingError):
            return cls(path, key)
        with hold(path.with_name(f"{path.name}.lock"), f"the phrase index {path.name}") as lock:
            with suppress(InputError, MissingError):
                return cls(path, key)
            part = path.with_name(f".{path.name}.part")
            with _explained(part, "run the command again: it goes on where it stopped"):
                try:
                    with closing(_open_part(part, f"{FORMAT} {key}")) as db:
                        _fill(db, rows, lock, progress)
                        _merge(db, lock)
                except sqlite3.Error as error:
                    if _code(error) in DAMAGED:  # the next run starts afresh
                        _remove(part)
                    raise
            lock.check()
            replace(part, path)
            _remove(path.with_name(f"{path.name}.hits"))
        return cls(path, key)

    def search(self, phrase: str, *, k: int, fields: Fields = BOTH) -> list[PhraseHit]:
        """The ``k`` best passages with the phrase in one of the fields; equal ones in input order.

        Any string is safe. One without letters and digits finds nothing.

        Raises:
            UsageError: ``k`` is below 1, or ``fields`` are none or unknown.
            InputError: The index turns out to be damaged.
        """
        if k < 1 or not fields or not set(fields) <= {"title", "text"}:
            what = f"cannot search {fields!r} for {k} passages"
            raise UsageError(what, expected="k of at least 1; fields out of title and text")
        # A NUL would end the query, and a lone surrogate is not UTF-8; neither is part of a token.
        plain = phrase.replace("\0", " ").encode("utf-8", "replace").decode()
        only = "{text} : " if set(fields) == {"text"} else ""
        match = only + '"' + plain.replace('"', '""') + '"'
        table = "titles" if set(fields) == {"title"} else "both"
        with _explained(self.path, self._fix):
            hits = self._reader().execute(SEARCH.format(table), (match, k))
            return [PhraseHit(*row) for row in hits]

    def search_many(
        self, phrases: Iterable[str], *, k: int, fields: Fields = BOTH
    ) -> Iterator[list[PhraseHit]]:
        """`search` for each phrase in turn, remembered in ``PATH.hits`` for later calls and processes."""
        pending = iter(phrases)
        while group := list(itertools.islice(pending, SAVE_PHRASES)):
            keys = [json.dumps([self._stamp, sorted(set(fields)), k, phrase]) for phrase in group]
            names = [hashlib.blake2b(x.encode(), digest_size=16).digest() for x in keys]
            known = _remembered(self._hits, READ_HITS, [(name,) for name in names])
            fresh: dict[bytes, bytes] = {}
            try:
                for phrase, name in zip(group, names, strict=True):
                    if name not in known:
                        hits = self.search(phrase, k=k, fields=fields)
                        known[name] = fresh[name] = np.array(hits, HIT).tobytes()
                    yield [PhraseHit(*hit) for hit in np.frombuffer(known[name], HIT).tolist()]
            finally:
                if fresh:
                    _remembered(self._hits, WRITE_HITS, fresh.items())

    def passages(self, rows: Sequence[int]) -> list[IndexedPassage]:
        """The passages at these places of the input, in the order asked for.

        Raises:
            InputError: There is no such row, or the index turns out to be damaged.
        """
        get, passages = "SELECT row, id, title, text FROM passages WHERE row = ?", []
        with _explained(self.path, self._fix):
            for row in rows:
                if (passage := self._reader().execute(get, (row,)).fetchone()) is None:
                    raise InputError(f"no passage {row} of {len(self)}", where=str(self.path))
                passages.append(IndexedPassage(*passage))
        return passages
