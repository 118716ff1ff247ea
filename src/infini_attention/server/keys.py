"""API keys: who is asking, without ever comparing what was sent with a key itself."""

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path

from infini_attention.errors import ConfigError

VARIABLE = "INFINI_API_KEYS"
SHORTEST = 16


class Keys:
    """The keys that are let in.

    Args:
        keys: none means that everybody is, as one and the same owner.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, key: str | None) -> str | None:
        """Whose sessions a request may see, by a name that does not tell the key; None for a key that is not known."""
        if not self:
            return ""
        sent, found = _digest(key or ""), False
        for known in self._digests:  # all of them, whichever it is: how long it takes tells nothing
            found |= hmac.compare_digest(known, sent)
        return owner_of(key or "") if found else None


def owner_of(key: str) -> str:
    """The owner's name in a store."""
    return _digest(key).hex()


def load_keys(path: Path | None) -> tuple[str, ...]:
    """Keys from a file, one a line, or from the environment's INFINI_API_KEYS, separated by commas or spaces.

    Lines that begin with # say nothing.

    Raises:
        ConfigError: a file that cannot be read or holds no key, or a key of fewer than 16 characters.
    """
    if path is None:
        keys = os.environ.get(VARIABLE, "").replace(",", " ").split()
    else:
        try:
            lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"{path}: the API keys cannot be read ({error})") from error
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise ConfigError(f"{path}: holds no API key; expected one a line")
    for number, key in enumerate(keys, 1):
        if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                f"API key {number} cannot be used: expected at least {SHORTEST} letters, digits and signs without "
                "spaces, such as `openssl rand -hex 24` gives"
            )
    return tuple(dict.fromkeys(keys))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
