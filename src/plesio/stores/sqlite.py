"""A journal in one SQLite file: the embedded default, nothing to install or start.

Calls run inline in the event loop: an append is shorter than handing it to a thread.
An acknowledged append outlives any crash of the process. With sync="full" it outlives a power cut
too, at the price of one fsync each; with sync="normal" a power cut may take the latest appends,
never leaving a gap or half a blob. Needs a local filesystem (write-ahead log).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from plesio.errors import InternalError, StoreError, UserError
from plesio.stores.head import Head, last_gone

APPLICATION_ID = int.from_bytes(b"ples", "big")
SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 5.0
CHECKPOINT_PAGES = 1000
LOG_LIMIT_BYTES = 4 << 20

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS head (id INTEGER PRIMARY KEY CHECK (id = 1),"
    " epoch INTEGER NOT NULL, holder TEXT NOT NULL, expires_s REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS journal (seq INTEGER PRIMARY KEY, blob BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS snapshot (id INTEGER PRIMARY KEY CHECK (id = 1),"
    " seq INTEGER NOT NULL, blob BLOB NOT NULL)",
    "INSERT OR IGNORE INTO head VALUES (1, 0, '', 0.0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
# The last number is derived, not stored: an append then dirties the journal's pages only.
READ_HEAD = (
    "SELECT epoch, holder, expires_s,"
    " coalesce((SELECT max(seq) FROM journal), (SELECT seq FROM snapshot), 0),"
    " coalesce((SELECT seq FROM snapshot), 0) FROM head"
)
# SQLite's own wording (stable, and without the error codes that only Python 3.11 exposes) -> the mend.
MENDS = {
    "disk is full": "free some space on its disk, then start again",
    "readonly database": "make it and its folder writable, then start again",
    "is locked": "another process is writing to it for too long; stop that one",
    "unable to open": "see that its folder exists and is writable",
    "malformed": "restore it from a copy, or start a new run",
    "disk I/O error": "see whether its disk is full, failing or a network mount",
}


class SqliteStore:
    """Keeps the contract of `plesio.stores.base.Store`, whose docstrings hold here."""

    def __init__(self, path: str | Path, sync: Literal["normal", "full"] = "normal") -> None:
        self._path = Path(path)
        self._sync = sync
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Creates the file for its owner's eyes only (0600); its folder must exist."""
        if self._sync not in ("normal", "full"):
            raise UserError(f"sync {self._sync!r} is unknown; known are: normal, full")
        try:  # made here, not by SQLite, so that it is never readable by others; its log inherits the mode
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            mend = "see that its folder exists and is writable"
            raise StoreError(f"the journal {self._path}: {error.strerror}; {mend}") from error
        with self._explained():
            self._connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            self._check_is_journal()
            self._path.chmod(0o600)
            self._configure()
            with self._transaction() as db:
                for statement in SCHEMA:
                    db.execute(statement)
        except BaseException:
            await self.close()
            raise

    async def elect(self, holder: str, ttl_s: float, now_s: float) -> int:
        self._set_sync("full")  # a power cut must not give one epoch to two leaders
        try:
            with self._transaction() as db:
                head = self._head().elected(holder, ttl_s, now_s)
                change = "UPDATE head SET epoch = ?, holder = ?, expires_s = ?"
                db.execute(change, (head.epoch, head.holder, head.expires_s))
        finally:
            self._set_sync(self._sync)
        return head.epoch

    async def append(self, epoch: int, expected_seq: int, blob: bytes) -> int:
        seq = expected_seq + 1
        with self._transaction() as db:
            self._head().check_append(epoch, expected_seq)
            db.execute("INSERT INTO journal VALUES (?, ?)", (seq, blob))
        return seq

    async def read(self, from_seq: int, most: int = -1) -> list[tuple[int, bytes]]:
        with self._explained():
            query = "SELECT seq, blob FROM journal WHERE seq > ? ORDER BY seq LIMIT ?"
            return self._db.execute(query, (from_seq, most)).fetchall()

    async def last_seq(self) -> int:
        with self._explained():
            return self._head().last_seq

    async def put_snapshot(self, epoch: int, seq: int, blob: bytes, history_from: int | None = None) -> None:
        with self._transaction() as db:
            self._head().check_snapshot(epoch, seq)
            db.execute("REPLACE INTO snapshot VALUES (1, ?, ?)", (seq, blob))
            db.execute("DELETE FROM journal WHERE seq <= ?", (last_gone(seq, history_from),))

    async def get_snapshot(self) -> tuple[int, bytes] | None:
        with self._explained():
            row: tuple[int, bytes] | None = self._db.execute("SELECT seq, blob FROM snapshot").fetchone()
            return row

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise InternalError(f"the journal {self._path} was used while closed; please report it")
        return self._connection

    def _head(self) -> Head:
        return Head(*self._db.execute(READ_HEAD).fetchone())

    def _check_is_journal(self) -> None:
        """Reads only, so that a file of someone else stays as it is."""
        with self._explained():
            (application_id,) = self._db.execute("PRAGMA application_id").fetchone()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application_id == version == tables == 0:
            return  # new, or its creator died before the first commit
        if application_id != APPLICATION_ID:
            raise UserError(f"{self._path} is an SQLite file but not a plesio journal; name another path")
        if version != SCHEMA_VERSION:
            raise UserError(
                f"the journal {self._path} has version {version}, this plesio reads version {SCHEMA_VERSION}"
                "; use the plesio that wrote it, or name a new path"
            )

    def _configure(self) -> None:
        with self._explained():
            self._db.execute("PRAGMA auto_vacuum = FULL")  # works only before the first page is written
            (mode,) = self._db.execute("PRAGMA journal_mode = WAL").fetchone()
            self._db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            self._db.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT_BYTES}")
        if mode != "wal":
            raise StoreError(f"{self._path} cannot keep a write-ahead log; choose a path on a local disk")
        self._set_sync(self._sync)

    def _set_sync(self, sync: Literal["normal", "full"]) -> None:
        with self._explained():
            self._db.execute(f"PRAGMA synchronous = {sync}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Takes the write lock before the first read; commits, or rolls back when anything raises."""
        with self._explained(), self._db as db:
            db.execute("BEGIN IMMEDIATE")
            yield db

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns SQLite's errors into ours, which name the file and the mend."""
        try:
            yield
        except sqlite3.Error as error:
            if "not a database" in str(error):
                raise UserError(f"{self._path} is not a plesio journal; name another path") from error
            mend = next((mend for sign, mend in MENDS.items() if sign in str(error)), "please report it")
            raise StoreError(f"the journal {self._path}: {error}; {mend}") from error
