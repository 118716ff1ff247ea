"""Places in conversations, by the digest of all tokens before them: who sends a history again does not pay for it."""

from collections import OrderedDict
from collections.abc import Sequence

from infini_attention.server.metrics import Metrics
from infini_attention.sessions import Snapshot
from infini_attention.sessions.digest import prefix_digests

_AT_A_TIME = 16


class Prefixes:
    """Snapshots, of which those go that were used longest ago. Used by the engine's thread alone.

    Each belongs to an owner: whether somebody else has sent the same text cannot be told from how long it takes.

    Args:
        max_bytes: of all of them.
    """

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self.max_bytes, self.metrics = max_bytes, metrics
        self._nbytes = 0
        self._snapshots: OrderedDict[tuple[str, int, str], Snapshot] = OrderedDict()

    def longest(self, owner: str, token_ids: Sequence[int]) -> Snapshot | None:
        """The snapshot after the most of `token_ids`; None where nothing of it is known."""
        known = {tokens for other, tokens, _ in self._snapshots if other == owner and tokens <= len(token_ids)}
        lengths = sorted(known, reverse=True)
        for first in range(0, len(lengths), _AT_A_TIME):  # as a rule, one of the longest it is
            digests = prefix_digests(token_ids, lengths[first : first + _AT_A_TIME])
            for tokens in sorted(digests, reverse=True):
                key = (owner, tokens, digests[tokens])
                if key in self._snapshots:
                    self._snapshots.move_to_end(key)
                    return self._snapshots[key]
        return None

    def add(self, owner: str, snapshot: Snapshot) -> None:
        key = (owner, snapshot.tokens, snapshot.digest.hex)
        if key not in self._snapshots:
            self._snapshots[key] = snapshot
            self._nbytes += snapshot.nbytes
        self._snapshots.move_to_end(key)
        while self._nbytes > self.max_bytes:
            _, oldest = self._snapshots.popitem(last=False)
            self._nbytes -= oldest.nbytes
        self.metrics.prefix_bytes.set(self._nbytes)
