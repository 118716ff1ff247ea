"""Text from files and pipes, in blocks: never the whole of it at once."""

import codecs
import io
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from infini_attention.errors import InputError

BLOCK_BYTES = 1 << 16
_REMEDY = "name its encoding with --encoding, for instance --encoding latin-1"


@runtime_checkable
class Readable(Protocol):
    """What is used of a binary file."""

    def read(self, size: int = ..., /) -> bytes: ...


def check_text(path: Path, encoding: str = "utf-8") -> int | None:
    """Reads through a file once without keeping it, so that a bad byte near its end does not cost an hour.

    Returns:
        Its size in bytes; None for a pipe, which can be read only once and is not looked at.

    Raises:
        InputError: missing, a directory, unreadable, empty, binary, or not in `encoding`.
    """
    _check_encoding(encoding)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a directory; name the text files in it")
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            for _ in read_blocks(file, encoding, name=str(path)):
                pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return path.stat().st_size


def blocks_of(source: str | Iterable[str] | Path | Readable) -> Iterator[str]:
    """A text in blocks, whatever it comes from.

    Args:
        source: a text; blocks of one, cut anywhere; a path or a binary file of UTF-8; or a text file.

    Raises:
        InputError: as `check_text` and `read_blocks` do, and for blocks that are no text.
    """
    if isinstance(source, str):
        yield source
    elif isinstance(source, Path):
        check_text(source)
        with source.open("rb") as file:
            yield from read_blocks(file, name=str(source))
    elif isinstance(source, io.TextIOBase):  # its lines may be as long as the file
        yield from iter(partial(source.read, BLOCK_BYTES), "")
    elif isinstance(source, Readable):
        yield from read_blocks(source, name=str(getattr(source, "name", "the file")))
    else:
        for block in source:
            if not isinstance(block, str):
                raise InputError(f"a text in blocks must be made of str; got {type(block).__name__}: decode it first")
            yield block


def read_blocks(
    file: Readable, encoding: str = "utf-8", *, name: str = "standard input", remedy: str = _REMEDY
) -> Iterator[str]:
    """Decodes a stream block by block.

    Args:
        name: of the stream, for errors.
        remedy: what whoever gave the stream can do if its encoding is another one.

    Raises:
        InputError: where it is empty, binary, or not in `encoding`.
    """
    _check_encoding(encoding)
    decoder = codecs.getincrementaldecoder(encoding)()
    position = 0
    while True:
        # read1 hands on what a pipe has; read would wait for a whole block
        block = file.read1(BLOCK_BYTES) if hasattr(file, "read1") else file.read(BLOCK_BYTES)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeError as error:  # utf-16 without its mark raises this, and not a UnicodeDecodeError
            reason = str(error)
            if isinstance(error, UnicodeDecodeError):  # its object begins with what the block before left over
                offset = position + len(block) - len(error.object) + error.start
                reason = f"byte {error.object[error.start]:#04x} at offset {offset}"
            raise InputError(f"{name}: not {encoding} text ({reason}); {remedy}") from error
        if "\0" in text:
            raise InputError(f"{name}: a binary file (a NUL character near offset {position}); expected text")
        position += len(block)
        if text:
            yield text
        if not block:
            break
    if not position:
        raise InputError(f"{name}: is empty; expected text")


def _check_encoding(encoding: str) -> None:
    try:
        "".encode(encoding)  # unlike codecs.lookup, this refuses codecs that are not of text, such as base64
        codecs.getincrementaldecoder(encoding)
    except (LookupError, ValueError) as error:  # a NUL character is a ValueError
        raise InputError(f"unknown encoding {encoding!r}; try utf-8, latin-1, cp1252 or utf-16") from error
