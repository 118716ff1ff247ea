"""How a server is set up: where it listens, what it keeps, and how much anyone may ask of it."""

from dataclasses import dataclass, field
from pathlib import Path

from infini_attention.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """What is refused, and with which status; bytes and tokens.

    Attributes:
        body_bytes: of a request's body, and `upload_bytes` of one that uploads a file (413).
        prompt_tokens: that one request of the OpenAI kind may bring along (413). Reading into a session has no such
            limit: a text may be as long as its upload.
        new_tokens: that a request may ask for (400).
        sessions, responses, key_bytes: that each key may keep (429); the oldest responses make room for new ones.
        key_requests: of each key that may be in work or wait (429); None means no other limit than that of all.
        batch: sessions that the model works on at the same time.
        queue: requests that may wait for them (503).
        piece_tokens: that are read at a time while others are written to.
    """

    body_bytes: int = 8 << 20
    upload_bytes: int = 256 << 20
    prompt_tokens: int = 131_072
    new_tokens: int = 4096
    sessions: int = 1000
    responses: int = 1000
    key_bytes: int = 8 << 30
    key_requests: int | None = None
    batch: int = 64
    queue: int = 256
    piece_tokens: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "queue" else 1
            if value is not None and value < least:
                raise ConfigError(f"{name.replace('_', ' ')} must be at least {least}; got {value}")


@dataclass(frozen=True)
class Room:
    """How much memory is spent on what could be had again from the disk, or by reading it once more.

    Attributes:
        live_sessions, live_bytes: of the sessions that were used last.
        prefix_bytes: of the places in conversations from which a client that sends its history again goes on.
        history_bytes: of the places that one session can go back to; on the disk too.
    """

    live_sessions: int = 64
    live_bytes: int = 1 << 30
    prefix_bytes: int = 512 << 20
    history_bytes: int = 64 << 20


@dataclass(frozen=True)
class ServerSettings:
    """All of it.

    Attributes:
        store: the folder of the sessions.
        model_name: what clients call the model.
        source: where the model was loaded from, kept in snapshots as a hint; nothing means `model_name`.
        adapter: kept in snapshots as a hint.
        blobs: where the states are kept, see `SessionStore`.
        keys: API keys; none means that nobody is asked for one.
        hosts: names under which a browser may know the server; none means any.
        grace_seconds: that running answers get to end in when the server is stopped.
        keep_alive_seconds: between two signs of life in a stream that has nothing to say.
    """

    store: Path
    model_name: str
    source: str = ""
    adapter: str = ""
    blobs: str | None = None
    keys: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    room: Room = field(default_factory=Room)
    hosts: tuple[str, ...] = ()
    grace_seconds: float = 10.0
    keep_alive_seconds: float = 15.0
