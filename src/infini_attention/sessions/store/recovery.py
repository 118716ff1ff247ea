"""A new index for a store whose index is lost or damaged, from the records beside the blobs."""

import time
from pathlib import Path

from infini_attention.errors import InfiniError, StoreError
from infini_attention.sessions.store import rows
from infini_attention.sessions.store.depot import INDEX, Depot
from infini_attention.sessions.store.manifest import Blob
from infini_attention.sessions.store.rows import StoredSession

_MAX_RECORD_BYTES = 16 << 20


def rebuild_store(folder: str | Path, *, blobs: str | None = None) -> list[str]:
    """Makes the index of a store anew; the old one is put aside. No other process may have the store open.

    Every session whose `save` had returned is there again, at the revision that was saved last. One whose deletion was
    cut short may be there again too.

    Args:
        folder: of the store.
        blobs: as it was given when the store was made.

    Returns:
        The records that were left out because they, or blobs that they name, are missing or damaged.

    Raises:
        StoreError: the folder cannot be written, or has neither an index nor records.
    """
    index = Path(folder) / INDEX
    try:
        for suffix in ("", "-wal", "-shm"):
            old = index.with_name(index.name + suffix)
            if old.exists():
                old.rename(old.with_name(f"{index.name}.damaged-{time.time_ns()}{suffix}"))
    except OSError as error:
        raise StoreError(f"{index}: could not be put aside ({error.strerror}); nothing was changed") from error
    depot, left_out = Depot.open(Path(folder), blobs, rebuild=True), []
    newest: dict[tuple[str, str], tuple[StoredSession, list[tuple[Blob, ...]]]] = {}
    for record in depot.blobs.keys("sessions"):
        try:
            session = StoredSession.decoded(depot.blobs.read(record, _MAX_RECORD_BYTES), record)
            used = [_blobs_of(depot, session, place) for place in session.places]
        except (InfiniError, FileNotFoundError, KeyError, TypeError, ValueError, AttributeError):
            left_out.append(record)
            continue
        key = session.owner, session.name
        if key not in newest or newest[key][0].revision < session.revision:
            newest[key] = (session, used)
    with depot.database.writing() as db:
        for session, used in newest.values():
            rows.hold(db, session.owner, "rebuild", {blob for blobs_used in used for blob in blobs_used}, 0)
            rows.put_session(db, session, used)
        rows.release(db, "rebuild")
    depot.database.close()
    return left_out


def _blobs_of(depot: Depot, session: StoredSession, place: rows.StoredPlace) -> tuple[Blob, ...]:
    """Raises `StoreError` where one is not there whole."""
    used = (place.manifest, *depot.manifest(session.owner, place).parts)
    missing = [blob.digest for blob in used if not depot.has(session.owner, blob)]
    if missing:
        raise StoreError(f"blob {missing[0]} is not there")
    return used
