"""The store of sessions, as the server and the command line name it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infini_attention.errors import ConfigError

if TYPE_CHECKING:
    from infini_attention.sessions import SessionStore

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


def store_folder(store: Path | None) -> Path:
    """That of `--store`, or the user's own."""
    from platformdirs import user_data_path

    return store or user_data_path("infini-attention") / "store"


def open_store(store: Path | None) -> "SessionStore":
    """One that is there. Raises `ConfigError` where it is not."""
    from infini_attention.sessions import SessionStore

    folder = store_folder(store)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no store; `infini serve` makes one, or name another --store")
    return SessionStore(folder)
