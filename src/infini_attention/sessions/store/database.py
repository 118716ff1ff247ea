"""The SQLite file of a store: opening it, transactions, and what its errors mean."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infini_attention.errors import InfiniError, StoreError

APPLICATION_ID, VERSION = 0x494E4649, 1  # "INFI"
BUSY_SECONDS = 30.0

SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- A session is where it stands (its last place) and the places that it can go back to.
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL,
    record TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL, UNIQUE (owner, name)
);
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY, owner TEXT NOT NULL, digest TEXT NOT NULL, nbytes INTEGER NOT NULL,
    model TEXT NOT NULL, adapter TEXT NOT NULL, fingerprint TEXT NOT NULL,
    tokens INTEGER NOT NULL, tokens_digest TEXT NOT NULL, turns INTEGER NOT NULL, UNIQUE (owner, digest)
);
CREATE INDEX snapshots_by_tokens ON snapshots (owner, fingerprint, tokens);
CREATE TABLE places (
    session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE, snapshot INTEGER NOT NULL REFERENCES snapshots,
    border INTEGER NOT NULL, opens INTEGER, marks TEXT NOT NULL, PRIMARY KEY (session, snapshot)
) WITHOUT ROWID;
CREATE INDEX places_by_snapshot ON places (snapshot);
-- Blobs, those of manifests among them. One that no snapshot uses and no writer holds is swept.
CREATE TABLE blobs (
    id INTEGER PRIMARY KEY, owner TEXT NOT NULL, digest TEXT NOT NULL, nbytes INTEGER NOT NULL, UNIQUE (owner, digest)
);
CREATE TABLE uses (
    snapshot INTEGER NOT NULL REFERENCES snapshots ON DELETE CASCADE, blob INTEGER NOT NULL REFERENCES blobs,
    PRIMARY KEY (snapshot, blob)
) WITHOUT ROWID;
CREATE INDEX uses_by_blob ON uses (blob);
CREATE TABLE holds (
    writer TEXT NOT NULL, blob INTEGER NOT NULL REFERENCES blobs ON DELETE CASCADE, until REAL NOT NULL,
    PRIMARY KEY (writer, blob)
) WITHOUT ROWID;
CREATE INDEX holds_by_blob ON holds (blob);
"""


class Database:
    """One file, which threads and processes may share on one machine.

    Args:
        path: of the file; its folder must exist.

    Raises:
        StoreError: in all methods: the disk is full or read-only, the file is damaged, or locked for half a minute.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock, self._process = path, threading.RLock(), 0
        self._connection: sqlite3.Connection | None = None
        with self._errors(), self._lock:
            self._connect()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that others see whole or not at all, on the disk when it ends."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """All that is read inside is of one moment."""
        with self._transaction("BEGIN") as connection:
            yield connection

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._errors(), self._lock:
            connection = self._connect()
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite ends it by itself after some errors
                    connection.execute("ROLLBACK")
                raise

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and self._process == os.getpid():  # a fork must open its own
            return self._connection
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._process = connection, os.getpid()
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
        self._use_wal(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            found = tuple(
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
            )
            if found == (0, 0) and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
            elif found != (APPLICATION_ID, VERSION):
                raise StoreError(
                    f"{self.path} is not the index of a store, or of another version: expected {APPLICATION_ID:#x} "
                    f"version {VERSION}, got {found[0]:#x} version {found[1]}; name another folder"
                )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """SQLite does not wait where two processes switch a new file at the same time."""
        end = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "malformed" in str(error):
                raise self._damaged(error) from error
            raise StoreError(
                f"{self.path}: the index could not be used ({error}); nothing that was stored is lost. Expected a "
                "folder of this machine that can be written and has room"
            ) from error
        except InfiniError:
            raise
        except (sqlite3.DatabaseError, LookupError, TypeError, ValueError) as error:  # what is damaged may say anything
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self.path}: the index is damaged ({error}); the sessions are not: `infini session rebuild` makes "
            "a new index from them"
        )
