"""How much each owner of a store may keep, and what goes when there is no room."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from sqlite3 import Connection

from infini_attention.errors import QuotaError
from infini_attention.sessions.store import rows
from infini_attention.sessions.store.rows import Gone, StoredSession

Eviction = Callable[[Sequence[StoredSession]], Iterable[StoredSession]]


def least_recently_used(sessions: Sequence[StoredSession]) -> list[StoredSession]:
    """An eviction policy: the session that was used longest ago goes first."""
    return sorted(sessions, key=lambda session: session.used)


@dataclass(frozen=True)
class StoreLimits:
    """What each owner may keep; None means no limit.

    Attributes:
        max_bytes: of all blobs, those that several sessions share counted once.
        max_sessions: how many.
        evict: given an owner's other sessions, says in which order they go when there is no room for a new state; None
            refuses that state.
    """

    max_bytes: int | None = None
    max_sessions: int | None = None
    evict: Eviction | None = None

    def make_room(self, db: Connection, session: StoredSession, gone: Gone) -> None:
        """Called when `session` is entered. Raises `QuotaError` where there is no room for it."""
        owner = session.owner
        reason = self._exceeded(db, owner)
        if reason is None:
            return
        others = [other for other in rows.sessions_of(db, owner) if other.name != session.name]
        order = iter(self.evict(others) if self.evict is not None else ())
        while reason is not None:
            victim = next(order, None)
            if victim is None:
                raise QuotaError(f"no room for session {session.name!r}: {reason}; delete sessions, or raise the limit")
            rows.drop_session(db, owner, victim.name, gone)
            reason = self._exceeded(db, owner)

    def _exceeded(self, db: Connection, owner: str) -> str | None:
        if self.max_sessions is not None and (found := rows.count_of(db, owner)) > self.max_sessions:
            return f"its owner would have {found} sessions, at most {self.max_sessions} are allowed"
        if self.max_bytes is not None and (found := rows.bytes_of(db, owner)) > self.max_bytes:
            return f"its owner would have {found:,} bytes, at most {self.max_bytes:,} are allowed"
        return None
