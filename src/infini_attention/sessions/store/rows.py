"""What the index of a store says: sessions, the places in them, and which blobs are in use."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from sqlite3 import Connection, Row
from typing import Any

from infini_attention.errors import StoreError
from infini_attention.sessions.history import Place
from infini_attention.sessions.snapshot_file import SnapshotHeader
from infini_attention.sessions.store.manifest import Blob


@dataclass(frozen=True)
class StoredPlace:
    """A snapshot in a store, at one place of a session.

    Attributes:
        manifest: its blob.
        model, adapter, fingerprint: as in `SnapshotHeader`.
        tokens, tokens_digest, turns: read until here.
        border, opens, marks: as in `Place`.
    """

    manifest: Blob
    model: str
    adapter: str
    fingerprint: str
    tokens: int
    tokens_digest: str
    turns: int
    border: bool = False
    opens: int | None = None
    marks: tuple[str, ...] = ()

    @classmethod
    def of(cls, header: SnapshotHeader, place: Place, manifest: Blob) -> "StoredPlace":
        return cls(
            manifest,
            header.model,
            header.adapter,
            header.fingerprint,
            place.tokens,
            header.digest.hex,
            header.turns,
            place.border,
            place.opens,
            tuple(sorted(place.marks)),
        )


@dataclass(frozen=True)
class StoredSession:
    """A session in a store.

    Attributes:
        revision: counts the times it was saved, from 1.
        created, used: seconds since 1970.
        places: from the oldest to the newest, which is where the session stands.
        nbytes: of its blobs; forks share them.
        record: the blob in which all this is written down once more, and by whose name one session that was saved
            differs from all others, also from one of the same name and revision after it was deleted.
    """

    owner: str
    name: str
    revision: int
    created: float
    used: float
    places: tuple[StoredPlace, ...]
    nbytes: int = 0
    record: str = ""

    @property
    def place(self) -> StoredPlace:
        """Where it stands."""
        return self.places[-1]

    def encoded(self) -> bytes:
        """For the record, from which an index can be made anew."""
        entries = asdict(self)
        return json.dumps({name: entries[name] for name in _RECORDED}, sort_keys=True).encode()

    @classmethod
    def decoded(cls, content: bytes, record: str) -> "StoredSession":
        """Raises `ValueError`, `TypeError` or `KeyError` where it makes no sense."""
        entries = json.loads(content)
        places = tuple(
            StoredPlace(**place | {"manifest": Blob(**place["manifest"]), "marks": tuple(place["marks"])})
            for place in entries["places"]
        )
        return cls(**{name: entries[name] for name in _RECORDED} | {"places": places}, record=record)


@dataclass
class Gone:
    """What a transaction has taken out of the index, to be removed once it is done.

    Attributes:
        records: keys.
        blobs: numbers in the index; some may be in use elsewhere.
    """

    records: list[str] = field(default_factory=list)
    blobs: set[int] = field(default_factory=set)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RECORDED = ("owner", "name", "revision", "created", "used", "places")


def check_name(name: str) -> None:
    """Raises `StoreError` for a name that no session can have."""
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"a session is called by 1 to 100 letters, digits, dots, dashes and underscores, the first one a letter or "
            f"digit; got {name!r:.120}"
        )


def session_row(db: Connection, owner: str, name: str) -> Row | None:
    found: Row | None = db.execute("SELECT * FROM sessions WHERE owner = ? AND name = ?", (owner, name)).fetchone()
    return found


def sessions_of(db: Connection, owner: str, name: str | None = None) -> list[StoredSession]:
    """With their places, the one that was used last coming last."""
    rows = db.execute(
        "SELECT * FROM sessions WHERE owner = ? AND (? IS NULL OR name = ?) ORDER BY used, id", (owner, name, name)
    ).fetchall()
    return [_session(db, row) for row in rows]


def _session(db: Connection, row: Row) -> StoredSession:
    places = db.execute(
        "SELECT * FROM places JOIN snapshots ON snapshots.id = snapshot WHERE session = ? ORDER BY tokens", (row["id"],)
    ).fetchall()
    blobs = "SELECT blob FROM uses JOIN places USING (snapshot) WHERE session = ?"
    (nbytes,) = db.execute(f"SELECT sum(nbytes) FROM blobs WHERE id IN ({blobs})", (row["id"],)).fetchone()
    if not places:
        raise ValueError(f"session {row['name']!r:.80} has no places")
    entries = {name: row[name] for name in ("owner", "name", "revision", "created", "used", "record")}
    return StoredSession(**entries, places=tuple(map(_place, places)), nbytes=nbytes)


def _place(row: Row) -> StoredPlace:
    names = ("model", "adapter", "fingerprint", "tokens", "tokens_digest", "turns")
    entries: dict[str, Any] = {name: row[name] for name in names}
    if "marks" in row.keys():  # noqa: SIM118 - a row is no dict
        entries |= {"border": bool(row["border"]), "opens": row["opens"], "marks": tuple(json.loads(row["marks"]))}
    return StoredPlace(Blob(row["digest"], row["nbytes"]), **entries)


def snapshots_up_to(db: Connection, owner: str, fingerprint: str, tokens: int) -> list[StoredPlace]:
    """All stored snapshots of a model after at most `tokens` tokens, the longest first."""
    rows = db.execute(
        "SELECT * FROM snapshots WHERE owner = ? AND fingerprint = ? AND tokens BETWEEN 1 AND ? ORDER BY tokens DESC",
        (owner, fingerprint, tokens),
    )
    return [_place(row) for row in rows]


def hold(db: Connection, owner: str, writer: str, blobs: Iterable[Blob], until: float) -> set[Blob]:
    """Keeps blobs from being swept while a writer is at work; those that are known to be there already."""
    there = set()
    for blob in blobs:
        key = (owner, blob.digest)
        db.execute("INSERT OR IGNORE INTO blobs (owner, digest, nbytes) VALUES (?, ?, ?)", (*key, blob.nbytes))
        (number,) = db.execute("SELECT id FROM blobs WHERE owner = ? AND digest = ?", key).fetchone()
        db.execute("INSERT OR REPLACE INTO holds VALUES (?, ?, ?)", (writer, number, until))
        if db.execute("SELECT 1 FROM uses WHERE blob = ? LIMIT 1", (number,)).fetchone():
            there.add(blob)
    return there


def holds(db: Connection, writer: str) -> int:
    return int(db.execute("SELECT count(*) FROM holds WHERE writer = ?", (writer,)).fetchone()[0])


def release(db: Connection, writer: str) -> list[int]:
    """The numbers of the blobs that the writer held."""
    return [int(blob) for (blob,) in db.execute("DELETE FROM holds WHERE writer = ? RETURNING blob", (writer,))]


def put_session(db: Connection, session: StoredSession, blobs: Sequence[tuple[Blob, ...]]) -> None:
    """Writes a session; `blobs` are those of each place, its manifest among them, and are there."""
    (number,) = db.execute(
        "INSERT INTO sessions (owner, name, revision, record, created, used) VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
        (session.owner, session.name, session.revision, session.record, session.created, session.used),
    ).fetchone()
    for place, used in zip(session.places, blobs, strict=True):
        key = (session.owner, place.manifest.digest)
        known = db.execute("SELECT id FROM snapshots WHERE owner = ? AND digest = ?", key).fetchone()
        snapshot = known["id"] if known else _put_snapshot(db, session.owner, place, used)
        marks = json.dumps(place.marks)
        db.execute("INSERT INTO places VALUES (?, ?, ?, ?, ?)", (number, snapshot, place.border, place.opens, marks))


def _put_snapshot(db: Connection, owner: str, place: StoredPlace, blobs: Iterable[Blob]) -> int:
    entries = {
        name: getattr(place, name) for name in ("model", "adapter", "fingerprint", "tokens", "tokens_digest", "turns")
    }
    entries |= {"owner": owner, "digest": place.manifest.digest, "nbytes": place.manifest.nbytes}
    names, slots = ", ".join(entries), ", ".join("?" * len(entries))
    (snapshot,) = db.execute(
        f"INSERT INTO snapshots ({names}) VALUES ({slots}) RETURNING id", tuple(entries.values())
    ).fetchone()
    for blob in set(blobs):
        db.execute(
            "INSERT INTO uses SELECT ?, id FROM blobs WHERE owner = ? AND digest = ?", (snapshot, owner, blob.digest)
        )
    return int(snapshot)


def drop_session(db: Connection, owner: str, name: str, gone: Gone) -> None:
    """With its snapshots, but for those that other sessions have as well."""
    row = session_row(db, owner, name)
    if row is None:
        return
    gone.records.append(row["record"])
    query = "SELECT blob FROM uses JOIN places USING (snapshot) WHERE session = ?"
    gone.blobs.update(int(blob) for (blob,) in db.execute(query, (row["id"],)))
    snapshots = db.execute("SELECT snapshot FROM places WHERE session = ?", (row["id"],)).fetchall()
    db.execute("DELETE FROM sessions WHERE id = ?", (row["id"],))
    db.executemany(
        "DELETE FROM snapshots WHERE id = ? AND NOT EXISTS (SELECT 1 FROM places WHERE snapshot = snapshots.id)",
        [tuple(row) for row in snapshots],
    )


def count_of(db: Connection, owner: str) -> int:
    """How many sessions an owner has."""
    return int(db.execute("SELECT count(*) FROM sessions WHERE owner = ?", (owner,)).fetchone()[0])


def touch(db: Connection, owner: str, name: str, now: float) -> None:
    db.execute("UPDATE sessions SET used = ? WHERE owner = ? AND name = ?", (now, owner, name))


def bytes_of(db: Connection, owner: str) -> int:
    """Of all blobs in use."""
    (nbytes,) = db.execute(
        "SELECT coalesce(sum(nbytes), 0) FROM blobs WHERE owner = ? AND id IN (SELECT blob FROM uses)", (owner,)
    ).fetchone()
    return int(nbytes)


def unused(db: Connection, now: float, among: Iterable[int] | None = None) -> list[Row]:
    """Blobs that nothing uses and no living writer holds; writers that have long been dead hold nothing."""
    db.execute("DELETE FROM holds WHERE until < ?", (now,))
    query = (
        "SELECT * FROM blobs WHERE NOT EXISTS (SELECT 1 FROM uses WHERE blob = blobs.id) "
        "AND NOT EXISTS (SELECT 1 FROM holds WHERE blob = blobs.id)"
    )
    if among is None:
        return db.execute(query).fetchall()
    return [row for number in among for row in db.execute(f"{query} AND id = ?", (number,))]
