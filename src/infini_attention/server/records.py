"""What a server writes down beside the states of its sessions: responses, and sessions that have read nothing yet."""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infini_attention.errors import StoreError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    owner TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, created REAL NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (owner, kind, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS records_by_age ON records (owner, kind, created);
"""


class Records:
    """JSON objects by owner, kind and id, in a file that is on the disk when a method returns.

    Args:
        path: of the file; its folder must exist.

    Raises:
        StoreError: in all methods: the disk is full, read-only or out of reach, or the file is damaged. Sessions that
            have read something are not in it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        with self._errors():
            path.touch(mode=0o600)  # what was answered is in it
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def put(self, owner: str, kind: str, name: str, body: dict[str, Any]) -> None:
        """A record of that name is replaced."""
        self._run(
            "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", owner, kind, name, time.time(), json.dumps(body)
        )

    def get(self, owner: str, kind: str, name: str) -> dict[str, Any] | None:
        found = self._run("SELECT body FROM records WHERE owner = ? AND kind = ? AND id = ?", owner, kind, name)
        return json.loads(found[0][0]) if found else None

    def delete(self, owner: str, kind: str, name: str) -> bool:
        """Whether it was there."""
        query = "DELETE FROM records WHERE owner = ? AND kind = ? AND id = ? RETURNING id"
        return bool(self._run(query, owner, kind, name))

    def names(self, owner: str, kind: str) -> list[str]:
        """The oldest first."""
        found = self._run("SELECT id FROM records WHERE owner = ? AND kind = ? ORDER BY created, id", owner, kind)
        return [name for (name,) in found]

    def _run(self, query: str, *values: Any) -> list[Any]:
        with self._errors(), self._lock:
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise StoreError(f"{self.path}: could not be used ({error}); nothing that was stored is lost") from error
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.path}: is damaged ({error}). Sessions are not in it, but what was answered at /v1/responses: "
                "put a copy in its place, or move it away to begin a new one"
            ) from error
