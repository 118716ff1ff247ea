"""The store of sessions, as the server and the command line name it."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infini_attention.cli.shared.common import ModelOptions, open_as_read, open_session
from infini_attention.errors import ConfigError, ConflictError

if TYPE_CHECKING:
    from infini_attention.sessions import Session, SessionStore

Store = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        help="The folder of the sessions.  [default: one of the user's data folders]",
        show_default=False,
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--api-key-file", metavar="FILE", help="API keys, one a line.  [default: $INFINI_API_KEYS]"),
]
OwnerFile = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        metavar="FILE",
        help="Whose sessions: those of the one API key in it.  [default: of a server without keys]",
        show_default=False,
    ),
]


def store_folder(store: Path | None) -> Path:
    """That of `--store`, or the user's own."""
    from platformdirs import user_data_path

    return store or user_data_path("infini-attention") / "store"


def existing_folder(store: Path | None) -> Path:
    """The same, of a store that is there. Raises `ConfigError` where it is not."""
    folder = store_folder(store)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no store; `infini serve` makes one, or name another --store")
    return folder


def open_store(store: Path | None) -> "SessionStore":
    """One that is there. Raises `ConfigError` where it is not."""
    from infini_attention.sessions import SessionStore

    return SessionStore(existing_folder(store))


def owner_in(key_file: Path | None) -> str:
    """Whose sessions are meant: those of the one API key in a file, or of a server without keys."""
    if key_file is None:
        return ""
    from infini_attention.server.keys import load_keys, owner_of

    keys = load_keys(key_file)
    if len(keys) != 1:
        raise ConfigError(f"{key_file}: expected the one API key whose sessions are meant; got {len(keys)}")
    return owner_of(keys[0])


def open_file_or_stored(options: ModelOptions, source: str, store: Path | None, key_file: Path | None) -> "Session":
    """A session file, or a stored session: that of a store that is named, or of a name that no file has."""
    named = store is not None or key_file is not None
    if not named and (Path(source).exists() or not _is_stored(source)):
        return open_session(options, Path(source))
    opened = open_store(store)
    return _load(options, opened, source, owner_in(key_file))


class StoredOutput:
    """A stored session that is gone on with, and put back at the end. It is begun where there is none.

    Args:
        name: of the session.
        store, key_file: as they were given.

    Raises:
        StoreError: a name that no session can have, or a store that cannot be used.
    """

    def __init__(self, name: str, store: Path | None, key_file: Path | None) -> None:
        from infini_attention.sessions import SessionStore, check_name

        check_name(name)
        self.name, self.owner = name, owner_in(key_file)
        self.store = SessionStore(store_folder(store))
        known = {entry.name: entry.record for entry in self.store.sessions(owner=self.owner)}
        self.record = known.get(name, "")

    def open(self, options: ModelOptions) -> "Session":
        if self.record:
            return _load(options, self.store, self.name, self.owner)
        return open_session(options, None, rewinds=True)

    def save(self, session: "Session") -> str:
        """The name under which it is now: another one where somebody has changed the session meanwhile."""
        try:
            return self.store.save(self.name, session, owner=self.owner, expect=self.record).name
        except ConflictError:
            return self.store.save(
                f"{self.name[:80]}-{secrets.token_hex(4)}", session, owner=self.owner, expect=""
            ).name


def _load(options: ModelOptions, store: "SessionStore", name: str, owner: str) -> "Session":
    pair, *_ = open_as_read(options, store.header(name, owner=owner))
    return store.load(name, *pair, owner=owner)


def _is_stored(name: str) -> bool:
    """Whether the user's own store has it."""
    folder = store_folder(None)
    return folder.is_dir() and name in {entry.name for entry in open_store(None).sessions()}
