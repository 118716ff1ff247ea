"""The sessions of a server: all of them in the store, and those that were used last in memory as well."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from infini_attention.errors import SnapshotError, UnknownSessionError
from infini_attention.server.errors import ApiError, own_files
from infini_attention.server.metrics import Metrics
from infini_attention.server.records import Records
from infini_attention.server.settings import Room
from infini_attention.sessions import HistorySettings, Session, SessionStore, StoredSession

EMPTY = "empty session"


@dataclass
class Held:
    """A session that one request may write to.

    Attributes:
        session: a fork of it; nothing is changed until `save`.
        record: of what was loaded, see `StoredSession`; "" for one that has read nothing.
    """

    shelf: "Shelf"
    owner: str
    name: str
    session: Session
    record: str

    async def save(self) -> StoredSession:
        """Returns once the session is on the disk. Raises `ConflictError` where another process has changed it."""
        saved = await asyncio.to_thread(
            self.shelf.store.save, self.name, self.session, owner=self.owner, expect=self.record
        )
        if not self.record:
            await asyncio.to_thread(self.shelf.records.delete, self.owner, EMPTY, self.name)
        self.record = saved.record
        self.shelf.keep(self.owner, self.name, self.session.fork(), saved.record)
        return saved


class Shelf:
    """Opens sessions, keeps those at hand that were used last, and lets one request at a time write to each.

    All methods belong to the event loop; what takes time is done in other threads.

    Args:
        begin: gives a session that has read nothing, with a history of the settings.
    """

    def __init__(
        self,
        store: SessionStore,
        records: Records,
        begin: Callable[[HistorySettings], Session],
        room: Room,
        metrics: Metrics,
        max_sessions: int,
    ) -> None:
        self.store, self.records, self.room, self.metrics = store, records, room, metrics
        self.max_sessions, self.history = max_sessions, HistorySettings(max_bytes=room.history_bytes)
        self._begin = begin
        self._live: OrderedDict[tuple[str, str], tuple[Session, str, int]] = OrderedDict()
        self._busy: set[tuple[str, str]] = set()
        self._naming = asyncio.Lock()  # so that no two requests take one name, or the last room that there is

    async def create(self, owner: str, name: str | None) -> str:
        """A session that has read nothing; its name. Raises `ApiError` where it is taken, or there is no room."""
        async with self._naming:
            name = await self._free_name(owner, name)
            await asyncio.to_thread(self.records.put, owner, EMPTY, name, {})
        return name

    async def _free_name(self, owner: str, name: str | None) -> str:
        """For one more session: `name` itself, or one that nobody can guess. Raises `ApiError` where there is none."""
        known = await self.names(owner)
        if name in known:
            raise ApiError(409, f"there is a session {name!r} already; choose another id, or leave it out", "conflict")
        if len(known) >= self.max_sessions:
            message = f"this key has {len(known)} sessions, as many as it may; delete one"
            raise ApiError(429, message, "insufficient_quota")
        return name or new_name("sess")

    async def names(self, owner: str) -> set[str]:
        def names() -> set[str]:
            stored = {entry.name for entry in self.store.sessions(owner=owner)}
            return stored | set(self.records.names(owner, EMPTY))

        return await asyncio.to_thread(names)

    async def get(self, owner: str, name: str) -> tuple[Session, StoredSession | None]:
        """A fork of a session as it was last saved, and what the store says; None for one that has read nothing.

        Raises:
            UnknownSessionError: there is none of that name.
        """
        try:
            entry = await asyncio.to_thread(self.store.get, name, owner=owner)
        except UnknownSessionError:
            self._forget(owner, name)
            if await asyncio.to_thread(self.records.get, owner, EMPTY, name) is None:
                raise
            return self._begin(self.history), None
        live = self._live.get((owner, name))
        if live is None or live[1] != entry.record:  # another process may have changed it
            blank = self._begin(self.history)
            with own_files():
                session = await asyncio.to_thread(
                    self.store.load, name, blank.model, blank.tokenizer, owner=owner, history=self.history
                )
            self.keep(owner, name, session, entry.record)
            return session.fork(), entry
        self._live.move_to_end((owner, name))
        return live[0].fork(), entry

    @asynccontextmanager
    async def writing(self, owner: str, name: str) -> AsyncIterator[Held]:
        """A session to be changed. Raises `ApiError` while another request does so, and what `get` raises."""
        if (owner, name) in self._busy:
            raise ApiError(
                409, f"session {name!r:.120} is being changed by another request; wait for that to end", "session_busy"
            )
        self._busy.add((owner, name))
        try:
            session, entry = await self.get(owner, name)
            yield Held(self, owner, name, session, entry.record if entry else "")
        finally:
            self._busy.discard((owner, name))

    async def delete(self, owner: str, name: str) -> None:
        """Raises `UnknownSessionError` where there is none of that name."""
        async with self.writing(owner, name) as held:
            self._forget(owner, name)
            # Also of one that has read something: a killed process may have left it.
            await asyncio.to_thread(self.records.delete, owner, EMPTY, name)
            if held.record:
                await asyncio.to_thread(self.store.delete, name, owner=owner)

    async def fork(self, owner: str, name: str, copy: str | None) -> tuple[str, StoredSession | None]:
        """A second session that stands where the first one does, and shares its state in memory too.

        Returns:
            Its name, and what the store says; None for one that has read nothing.
        """
        async with self._naming:
            copy = await self._free_name(owner, copy)
            session, entry = await self.get(owner, name)
            if entry is None:
                await asyncio.to_thread(self.records.put, owner, EMPTY, copy, {})
                return copy, None
            forked = await asyncio.to_thread(self.store.fork, name, copy, owner=owner)
            if forked.places == entry.places:  # another process may have changed it meanwhile
                self.keep(owner, copy, session, forked.record)
        return copy, forked

    async def restore(self, owner: str, path: Path, name: str | None) -> str:
        """A session from a file that was downloaded; its name. Raises `SnapshotError` for one that is none."""
        blank = self._begin(self.history)
        try:
            session = await asyncio.to_thread(
                type(blank).load, path, blank.model, blank.tokenizer, name=blank.name, history=self.history
            )
        except SnapshotError as error:
            raise SnapshotError(str(error).replace(str(path), "the file")) from error
        async with self._naming:
            name = await self._free_name(owner, name)
            await Held(self, owner, name, session, "").save()
        return name

    def keep(self, owner: str, name: str, session: Session, record: str) -> None:
        """At hand, as long as there is room."""
        key, nbytes = (owner, name), session.state_bytes + session.history_bytes
        self._live[key] = (session, record, nbytes)
        self._live.move_to_end(key)
        while len(self._live) > self.room.live_sessions or (self._live and self._nbytes > self.room.live_bytes):
            self._live.popitem(last=False)
        self._measure()

    def _forget(self, owner: str, name: str) -> None:
        self._live.pop((owner, name), None)
        self._measure()

    def _measure(self) -> None:
        self.metrics.live_sessions.set(len(self._live))
        self.metrics.live_bytes.set(self._nbytes)

    @property
    def _nbytes(self) -> int:
        return sum(nbytes for _, _, nbytes in self._live.values())


def new_name(kind: str) -> str:
    """That nobody can guess: 128 random bits."""
    return f"{kind}_{secrets.token_hex(16)}"
