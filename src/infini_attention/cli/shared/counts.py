"""Numbers as people write them in options."""

import re

from infini_attention.errors import ConfigError

UNITS = {"": 1, "K": 1024, "M": 1024**2}


def parse_tokens(option: str, text: str) -> int:
    """`4096`, `128K` or `1M` as tokens; K = 1024, M = 1024K. Raises `ConfigError`."""
    count = _tokens(text)
    if count is None:
        raise ConfigError(f"{option} must look like 4096, 128K or 1M; got {text!r}")
    return count


def parse_lengths(text: str) -> tuple[int, ...]:
    """`4096,128K,1M` as tokens. Raises `ConfigError`."""
    lengths = [_tokens(part) for part in text.split(",")]
    if None in lengths:
        raise ConfigError(f"--lengths must look like 4096 or 4K,128K,1M; got {text!r}")
    return tuple(length for length in lengths if length is not None)


def parse_counts(option: str, text: str) -> tuple[int, ...]:
    """`1,4,16` as numbers. Raises `ConfigError`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]+", part) and int(part) for part in parts):
        raise ConfigError(f"{option} must look like 16 or 1,4,16; got {text!r}")
    return tuple(map(int, parts))


def _tokens(text: str) -> int | None:
    found = re.fullmatch(r"([0-9]+)([KM]?)", text.strip().upper())
    return int(found[1]) * UNITS[found[2]] or None if found else None
