"""Responses that are kept: each is a state of constant size, and what was said. The oldest make room for new ones."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from infini_attention.errors import QuotaError, UnknownSessionError
from infini_attention.server.errors import ApiError, not_found, own_files
from infini_attention.server.records import Records
from infini_attention.sessions import HistorySettings, Session, SessionStore

_KIND = "response"
_ABANDONED_SECONDS = 3600.0


class ResponseShelf:
    """All methods belong to the event loop; what takes time is done in other threads.

    Args:
        store: with limits of its own.
        records: what was said.
        begin: gives a session that has read nothing.
    """

    def __init__(self, store: SessionStore, records: Records, begin: Callable[[], Session]) -> None:
        self.store, self.records, self._begin = store, records, begin

    async def save(self, owner: str, name: str, session: Session, body: dict[str, Any]) -> None:
        """Returns once both are on the disk."""
        await asyncio.to_thread(self._save, owner, name, session, body)

    async def session(self, owner: str, name: str) -> Session:
        """That stands behind a response. Raises `ApiError` where there is none of that name."""
        blank = self._begin()

        def load() -> Session:
            history = HistorySettings(max_bytes=0)
            with own_files():
                return self.store.load(name, blank.model, blank.tokenizer, owner=_place(owner), history=history)

        await self.body(owner, name)
        try:
            return await asyncio.to_thread(load)
        except UnknownSessionError as error:
            raise self._none(name) from error

    async def body(self, owner: str, name: str) -> dict[str, Any]:
        """What was answered. Raises `ApiError` where there is none of that name."""
        found = await asyncio.to_thread(self.records.get, owner, _KIND, name)
        if found is None:
            raise self._none(name)
        return found

    async def delete(self, owner: str, name: str) -> None:
        """Those that go on from it stay. Raises `ApiError` where there is none of that name."""
        if not await asyncio.to_thread(self.records.delete, owner, _KIND, name):
            raise self._none(name)
        await asyncio.to_thread(self._drop, owner, name)

    def sweep(self, owners: list[str]) -> None:
        """Removes states whose response was never answered, because the server was killed before.

        One that was written just now may be answered yet, by another server on the same store.
        """
        before = time.time() - _ABANDONED_SECONDS
        for owner in owners:
            known = set(self.records.names(owner, _KIND))
            for entry in self.store.sessions(owner=_place(owner)):
                if entry.name not in known and entry.created < before:
                    self._drop(owner, entry.name)

    def _save(self, owner: str, name: str, session: Session, body: dict[str, Any]) -> None:
        while True:
            try:
                self.store.save(name, session, owner=_place(owner), expect="")
                break
            except QuotaError:
                oldest = next(iter(self.records.names(owner, _KIND)), None)
                if oldest is None:
                    raise
                self.records.delete(owner, _KIND, oldest)
                self._drop(owner, oldest)
        self.records.put(owner, _KIND, name, body)

    def _drop(self, owner: str, name: str) -> None:
        with suppress(UnknownSessionError):  # another request was faster
            self.store.delete(name, owner=_place(owner))

    def _none(self, name: str) -> ApiError:
        return not_found("response", name)


def _place(owner: str) -> str:
    """No key's name: those are digests, or nothing."""
    return f"{owner}/responses"
