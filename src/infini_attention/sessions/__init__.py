"""Live streams: a model, its state, and what was read; rewound, forked, and kept in files and stores."""

from infini_attention.sessions.batch import Batch, read_together, room_of
from infini_attention.sessions.dialogue import Reply
from infini_attention.sessions.history import HistorySettings
from infini_attention.sessions.session import Session
from infini_attention.sessions.snapshot import Snapshot
from infini_attention.sessions.snapshot_file import SnapshotHeader, read_header
from infini_attention.sessions.stats import ReadStats
from infini_attention.sessions.store.quota import StoreLimits, least_recently_used
from infini_attention.sessions.store.recovery import rebuild_store
from infini_attention.sessions.store.rows import StoredPlace, StoredSession, check_name
from infini_attention.sessions.store.session_store import SessionStore

__all__ = [
    "Batch",
    "HistorySettings",
    "ReadStats",
    "Reply",
    "Session",
    "SessionStore",
    "Snapshot",
    "SnapshotHeader",
    "StoreLimits",
    "StoredPlace",
    "StoredSession",
    "check_name",
    "least_recently_used",
    "read_header",
    "read_together",
    "rebuild_store",
    "room_of",
]
