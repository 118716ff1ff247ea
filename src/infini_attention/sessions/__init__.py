"""Live streams: a model, its state, and what was read; saved as snapshots."""

from infini_attention.sessions.dialogue import Reply
from infini_attention.sessions.session import Session
from infini_attention.sessions.snapshot import SnapshotHeader, read_header
from infini_attention.sessions.stats import ReadStats

__all__ = ["ReadStats", "Reply", "Session", "SnapshotHeader", "read_header"]
