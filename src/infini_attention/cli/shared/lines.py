"""Lines that people type, or that a script pipes in."""

import sys
from collections.abc import Iterator
from contextlib import suppress

from infini_attention.errors import InputError


def typed_lines(prompt: str) -> Iterator[str]:
    """Lines from a terminal, with a history where there is readline; otherwise from standard input, as they come.

    Raises:
        InputError: bytes that are not UTF-8.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield from stdin_lines()
        return
    with suppress(ImportError):
        import readline  # noqa: F401 - input() then edits the line and knows those before it
    while True:
        try:
            line = input(prompt)
        except EOFError:
            print()  # the shell's next line begins a new one
            return
        yield _checked(line)


def stdin_lines() -> Iterator[str]:
    """Lines of standard input. Raises `InputError` for bytes that are not UTF-8."""
    try:
        for line in sys.stdin:
            yield _checked(line)
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: not utf-8 text ({error.reason}); convert it first") from error


def _checked(line: str) -> str:
    """In some locales Python hands on bad bytes as surrogates, which no tokenizer takes."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise InputError("standard input: not utf-8 text; convert it first") from error
    return line.rstrip("\r\n")
