"""The blobs of a store: written before they are needed, checked when they are read, removed when nothing uses them."""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from sqlite3 import Connection

from infini_attention.errors import StoreError
from infini_attention.sessions.snapshot import Part
from infini_attention.sessions.store import rows
from infini_attention.sessions.store.blobs import Blobs, make_folder, open_blobs
from infini_attention.sessions.store.database import Database
from infini_attention.sessions.store.manifest import MAX_BYTES, Blob, Manifest, check_content, part_of
from infini_attention.sessions.store.rows import Gone, StoredPlace, StoredSession

INDEX = "index.sqlite"
HOLD_SECONDS = 3600.0  # a writer that takes longer counts as dead

Contents = Mapping[Blob, Callable[[], bytes]]


class Depot:
    """Blobs and their index.

    A blob is entered into the index before it is written, and a file is removed only while the index is locked and
    says that nothing uses or holds it: so whatever is killed, and when, no blob that is in use is ever missing.
    """

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self.database, self.blobs = database, blobs

    @classmethod
    def open(cls, folder: Path, blobs: str | None, *, rebuild: bool = False) -> "Depot":
        """That of a store, see `SessionStore`; with `rebuild`, of one whose index is lost."""
        try:
            make_folder(folder.absolute())
        except OSError as error:
            raise StoreError(f"{folder}: the store could not be made here ({error.strerror})") from error
        index = folder / INDEX
        if not (rebuild or index.exists()):
            records = any(open_blobs(blobs or str(folder)).keys("sessions"))
            if records and not index.exists():  # no other process has just made it
                raise StoreError(f"{index} is missing, but not the sessions: `infini session rebuild` makes a new one")
        database = Database(index)
        with database.writing() as db:
            db.execute("INSERT OR IGNORE INTO settings VALUES ('blobs', ?)", (blobs or "",))
            (where,) = db.execute("SELECT value FROM settings WHERE name = 'blobs'").fetchone()
        if blobs is not None and blobs != where:
            raise StoreError(f"{folder}: keeps its blobs at {where or folder}, got {blobs}; leave `blobs` out")
        return cls(database, open_blobs(where or str(folder)))

    @contextmanager
    def holding(self, owner: str, contents: Contents) -> Iterator[str]:
        """Writes what is not there yet, and keeps all of it from being swept until the end. Gives the writer's name."""
        writer = secrets.token_hex(16)
        with self.database.writing() as db:
            there = rows.hold(db, owner, writer, contents, time.time() + HOLD_SECONDS)
        try:
            for blob in contents.keys() - there:
                key = _key(owner, blob.digest)
                if self.blobs.size(key) != blob.nbytes:
                    self.blobs.write(key, contents[blob]())
            yield writer
        except BaseException:
            with suppress(StoreError):  # on a full disk not even this may be possible: then the hold runs out
                with self.database.writing() as db:
                    held = rows.release(db, writer)
                self.sweep(held)
            raise

    def check_held(self, db: Connection, writer: str, contents: Contents) -> None:
        """Called in the transaction that uses the blobs. Raises `StoreError` where some may have been swept."""
        if rows.holds(db, writer) != len(contents):
            raise StoreError(f"the blobs took longer than {HOLD_SECONDS:.0f} seconds to write; save again")
        rows.release(db, writer)

    def manifest(self, owner: str, place: StoredPlace) -> Manifest:
        """Raises `SnapshotError` where it is damaged, and `FileNotFoundError` where it is not there."""
        name = _key(owner, place.manifest.digest)
        content = self.blobs.read(name, MAX_BYTES)
        check_content(content, place.manifest, name)
        return Manifest.decoded(content, name)

    def part(self, owner: str, blob: Blob) -> Part:
        """Raises `SnapshotError` where it is damaged, and `FileNotFoundError` where it is not there."""
        name = _key(owner, blob.digest)
        return part_of(self.blobs.read(name, blob.nbytes + 1), blob, name)

    def has(self, owner: str, blob: Blob) -> bool:
        return self.blobs.size(_key(owner, blob.digest)) == blob.nbytes

    def write_record(self, session: StoredSession) -> None:
        """Called inside the transaction that enters the session: so records are as old or as new as the index."""
        self.blobs.write(session.record, session.encoded())

    def clean_up(self, gone: Gone) -> None:
        """After a transaction that is done, whatever comes of this: what stays is found by the next whole sweep."""
        with suppress(StoreError):
            for record in gone.records:
                self.blobs.delete(record)
            if gone.blobs:
                self.sweep(gone.blobs)

    def sweep(self, among: Iterable[int] | None = None) -> None:
        """Removes blobs that nothing uses: of some numbers, or all."""
        with self.database.writing() as db:
            if among is None and (found := db.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                raise ValueError(found)  # it might not know of blobs that are in use
            for row in rows.unused(db, time.time(), among):
                self.blobs.delete(_key(row["owner"], row["digest"]))
                db.execute("DELETE FROM blobs WHERE id = ?", (row["id"],))
            if among is None:
                self._sweep_unknown(db)

    def _sweep_unknown(self, db: Connection) -> None:
        known = {row["record"] for row in db.execute("SELECT record FROM sessions")}
        known |= {_key(row["owner"], row["digest"]) for row in db.execute("SELECT owner, digest FROM blobs")}
        for folder in ("parts", "sessions"):
            for key in list(self.blobs.keys(folder)):
                if key not in known:
                    self.blobs.delete(key)
        self.blobs.clean(HOLD_SECONDS)


def record_key(owner: str, name: str, revision: int) -> str:
    """Of a new record: each has its own, so that none is ever overwritten."""
    return f"sessions/{_folder(owner)}/{name}.{revision}.{secrets.token_hex(8)}.json"


def _key(owner: str, digest: str) -> str:
    return f"parts/{_folder(owner)}/{digest}"


def _folder(owner: str) -> str:
    """Owners share no blobs: whether somebody else has read the same text cannot be told from anything."""
    return sha256(owner.encode()).hexdigest()[:32]
