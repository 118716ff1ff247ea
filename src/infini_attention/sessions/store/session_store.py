"""Sessions in a folder: many of them, with their histories, for several processes at once.

An index in SQLite says what there is; the states are blobs named by their content, in the same folder or at an fsspec
URL, so that forks and the places of one session share what they have in common. A session is written in this order: its
blobs, a record of it from which the index can be made anew, and the index, in one transaction. When `save` returns, all
of it is on the disk; a process that is killed before has changed nothing. The text that a history keeps is not stored.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from sqlite3 import Connection

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infini_attention.errors import ConflictError, InputError, SnapshotError, StoreError, UnknownSessionError
from infini_attention.models.fingerprint import fingerprint
from infini_attention.sessions.digest import prefix_digests
from infini_attention.sessions.history import History, HistorySettings, Place
from infini_attention.sessions.session import Session
from infini_attention.sessions.snapshot import Snapshot
from infini_attention.sessions.snapshot_file import SnapshotHeader
from infini_attention.sessions.store import rows
from infini_attention.sessions.store.depot import Depot, record_key
from infini_attention.sessions.store.manifest import Blob, Manifest
from infini_attention.sessions.store.quota import StoreLimits
from infini_attention.sessions.store.reopening import reopen
from infini_attention.sessions.store.rows import Gone, StoredPlace, StoredSession, check_name


class SessionStore:
    """Sessions by owner and name.

    An owner is any text, such as the digest of an API key: one cannot see, name or continue another one's sessions.

    Args:
        folder: on a disk of this machine (SQLite locks files there); made if it is not there.
        blobs: where the states are kept: another folder, or an fsspec URL such as `s3://bucket/folder`, used by this
            store alone. None means the folder itself, or what was named when the store was made.
        limits: of each owner.

    Raises:
        StoreError: in all methods: the disk is full, read-only or out of reach, or the index is damaged. Nothing that a
            `save` has returned from is lost by it.
    """

    def __init__(self, folder: str | Path, *, blobs: str | None = None, limits: StoreLimits | None = None) -> None:
        self.folder, self.limits = Path(folder), limits or StoreLimits()
        self._depot = Depot.open(self.folder, blobs)
        self._database = self._depot.database

    def close(self) -> None:
        """Closes the index; the next call opens it again."""
        self._database.close()

    def save(self, name: str, session: Session, *, owner: str = "", expect: str | None = None) -> StoredSession:
        """Writes a session with the places that it can go back to, or replaces the one of that name.

        What is there already, such as the states of a session that this one was forked from, is not written again.

        Args:
            name: 1 to 100 letters, digits, dots, dashes and underscores.
            expect: the `record` of the session that is to be replaced, "" for none; None replaces whatever is there.

        Raises:
            ConflictError: something else is there, be it of the same name and revision.
            QuotaError: more than the owner may have.
            StoreError: nothing was read yet, or a name that cannot be.
        """
        check_name(name)
        current = session.snapshot()
        if current.tokens == 0:
            raise StoreError("the session has read nothing yet: there is nothing to save")
        header, places, used = session.header(current), [], []
        contents: dict[Blob, Callable[[], bytes]] = {}
        for place in _places(session.position.history, current):
            own = header.at(place.snapshot)
            manifest = Manifest.of(own, place.snapshot)
            written = manifest.encoded()
            blob = Blob(sha256(written).hexdigest(), len(written))
            contents |= {Blob(*part.identity): part.encoded for part in place.snapshot.parts}
            contents[blob] = partial(bytes, written)
            places.append(StoredPlace.of(own, place, blob))
            used.append((blob, *manifest.parts))
        with self._depot.holding(owner, contents) as writer, self._database.writing() as db:
            self._depot.check_held(db, writer, contents)
            row, now = rows.session_row(db, owner, name), time.time()
            revision, created, record = (row["revision"], row["created"], row["record"]) if row else (0, now, "")
            if expect is not None and expect != record:
                there = f"is at revision {revision} now" if row else "is gone"
                raise ConflictError(f"session {name!r} was changed meanwhile and {there}: load it again")
            entry = StoredSession(owner, name, revision + 1, created, now, tuple(places))
            entry, gone = self._enter(db, entry, used)
        self._depot.clean_up(gone)
        return entry

    def load(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        owner: str = "",
        history: HistorySettings | None = None,
    ) -> Session:
        """A session with the places that it can go back to.

        Raises:
            UnknownSessionError: there is none of that name.
            SnapshotError: another model's, or damaged blobs.
        """
        while True:
            entry = self.get(name, owner=owner)
            try:
                session = reopen(self._depot, owner, entry.places, model, tokenizer, history)
            except FileNotFoundError as error:
                if self.get(name, owner=owner).record == entry.record:
                    raise _missing(name, error) from error
                continue  # it was replaced while it was read
            with suppress(StoreError), self._database.writing() as db:  # on a full disk it can still be used
                rows.touch(db, owner, name, time.time())
            return session

    def get(self, name: str, *, owner: str = "") -> StoredSession:
        """What is known of a session. Raises `UnknownSessionError` where there is none of that name."""
        with self._database.reading() as db:
            return _only(db, owner, name)

    def header(self, name: str, *, owner: str = "") -> SnapshotHeader:
        """What a session says of itself, as `read_header` of a file. Raises what `load` does."""
        try:
            return self._depot.manifest(owner, self.get(name, owner=owner).place).header
        except FileNotFoundError as error:
            raise _missing(name, error) from error

    def sessions(self, *, owner: str = "") -> list[StoredSession]:
        """An owner's sessions, the one that was used last coming last."""
        with self._database.reading() as db:
            return rows.sessions_of(db, owner)

    def bytes_of(self, *, owner: str = "") -> int:
        """Bytes of all blobs of an owner, those that several sessions share counted once."""
        with self._database.reading() as db:
            return rows.bytes_of(db, owner)

    def fork(self, name: str, copy: str, *, owner: str = "") -> StoredSession:
        """A second session that stands where the first one does; no state is copied.

        Raises:
            UnknownSessionError: there is none of that name.
            ConflictError: there is one of the name `copy` already.
            QuotaError: more than the owner may have.
        """
        check_name(copy)
        with self._database.writing() as db:
            source, now = _only(db, owner, name), time.time()
            if rows.session_row(db, owner, copy) is not None:
                raise ConflictError(f"there is a session {copy!r} already: name another one, or delete it")
            entry = replace(source, name=copy, revision=1, created=now, used=now)
            entry, gone = self._enter(db, entry, [()] * len(source.places))
        self._depot.clean_up(gone)
        return entry

    def rewind(
        self,
        name: str,
        *,
        to_token: int | None = None,
        to_mark: str | None = None,
        to_turn: int | None = None,
        owner: str = "",
    ) -> StoredSession:
        """Takes a session back to one of its places, without its model. What came after is gone, but for forks.

        Args:
            to_token, to_mark, to_turn: one of them, as for `Session.rewind`.

        Raises:
            UnknownSessionError: there is no session of that name.
            InputError: a place that is not kept.
            ConflictError: another process has changed it meanwhile.
        """
        if (to_token is None) + (to_mark is None) + (to_turn is None) != 2:
            raise InputError("rewind to one of to_token, to_mark and to_turn; got none, or several of them")
        entry = self.get(name, owner=owner)

        def wanted(place: StoredPlace) -> bool:
            turn = place.opens is not None and place.opens == to_turn
            return turn or place.tokens == to_token or to_mark in place.marks

        kept = [number for number, place in enumerate(entry.places) if place.tokens and wanted(place)]
        if not kept:
            known = ", ".join(f"{place.tokens:,}" for place in entry.places if place.tokens)
            raise InputError(f"session {name!r} keeps no such place; expected one of {known} tokens, a mark or a turn")
        places = entry.places[: kept[0] + 1]
        used = [(place.manifest, *self._depot.manifest(owner, place).parts) for place in places]
        with self._database.writing() as db:
            found = _only(db, owner, name)
            if found.record != entry.record:
                raise ConflictError(f"session {name!r} was changed meanwhile: look at it again")
            back = replace(found, revision=found.revision + 1, used=time.time(), places=places)
            back, gone = self._enter(db, back, used)
        self._depot.clean_up(gone)
        return back

    def delete(self, name: str, *, owner: str = "") -> None:
        """Removes a session, and the states that no other one has. Raises `UnknownSessionError` where there is none."""
        gone = Gone()
        with self._database.writing() as db:
            _only(db, owner, name)
            rows.drop_session(db, owner, name, gone)
        self._depot.clean_up(gone)

    def longest_prefix(
        self, model: PreTrainedModel, token_ids: Sequence[int], *, owner: str = ""
    ) -> StoredPlace | None:
        """Of all stored places of all of an owner's sessions with a model, the one after the most of `token_ids`.

        Returns:
            A place whose first `tokens` tokens are those of `token_ids`, for `open`; None where there is none.
        """
        with self._database.reading() as db:
            places = rows.snapshots_up_to(db, owner, fingerprint(model), len(token_ids))
        digests = prefix_digests(token_ids, {place.tokens for place in places})
        return next((place for place in places if digests[place.tokens] == place.tokens_digest), None)

    def open(
        self,
        place: StoredPlace,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        owner: str = "",
        history: HistorySettings | None = None,
    ) -> Session:
        """A new session that stands at a stored place. Raises `UnknownSessionError` where it was deleted meanwhile."""
        try:
            return reopen(self._depot, owner, [place], model, tokenizer, history)
        except FileNotFoundError as error:
            raise UnknownSessionError("the stored place was deleted meanwhile: look for another one") from error

    def verify(self, name: str, *, owner: str = "") -> StoredSession:
        """Reads all states of a session. Raises `SnapshotError` unless all are what was written."""
        entry = self.get(name, owner=owner)
        try:
            blobs = {blob for place in entry.places for blob in self._depot.manifest(owner, place).parts}
            for blob in blobs:
                self._depot.part(owner, blob)
        except FileNotFoundError as error:
            raise _missing(name, error) from error
        return entry

    def sweep(self) -> None:
        """Removes what killed processes have left behind; for a quiet moment, such as the start of a server."""
        self._depot.sweep()

    def _enter(
        self, db: Connection, session: StoredSession, used: Sequence[tuple[Blob, ...]]
    ) -> tuple[StoredSession, Gone]:
        """Replaces a session in the index; `used` are the blobs of each place whose snapshot is new."""
        gone = Gone()
        rows.drop_session(db, session.owner, session.name, gone)
        session = replace(session, record=record_key(session.owner, session.name, session.revision))
        rows.put_session(db, session, used)
        self.limits.make_room(db, session, gone)
        self._depot.write_record(session)
        return _only(db, session.owner, session.name), gone


def _only(db: Connection, owner: str, name: str) -> StoredSession:
    found = rows.sessions_of(db, owner, name)
    if not found:
        raise UnknownSessionError(f"there is no session {name!r:.120}; expected the name of one that was saved")
    return found[0]


def _missing(name: str, error: FileNotFoundError) -> SnapshotError:
    return SnapshotError(f"session {name!r}: {error.filename} is missing; use another copy")


def _places(history: History, current: Snapshot) -> list[Place]:
    """All that a session is saved with; the last one is where it stands."""
    *before, last = history.places
    if last.tokens < current.tokens:
        before, last = [*before, last], Place(current)
    told = (place for place in before if place.tokens or place.marks or place.opens is not None)
    return [*told, replace(last, snapshot=current)]
