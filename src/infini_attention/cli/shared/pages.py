"""Pages that commands write: an earlier one may be replaced, any other file only with --force."""

from pathlib import Path

from infini_attention.cli.shared import common
from infini_attention.errors import InputError

START = 1024  # bytes in which a page names the command that wrote it


def check_page(path: Path, command: str, *, force: bool) -> None:
    """Raises `InputError` unless a page of `infini COMMAND` can be written there. Called before the work."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file; --out expects the name of the report")
    common.check_output(path, force=force or _wrote(command, path))


def _wrote(command: str, path: Path) -> bool:
    mark = f'<meta name="generator" content="infini {command}">'
    try:
        with path.open("rb") as file:
            return mark.encode() in file.read(START)
    except OSError:
        return False
