"""A digest of every token of a stream that goes on: no token is kept, and the split into calls does not matter."""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BLOCK_TOKENS = 1024


@dataclass(frozen=True)
class TokenDigest:
    """SHA-256 chained over blocks of 1024 tokens, and the tokens of the unfinished block.

    Attributes:
        chain: hex digest of all finished blocks.
        pending: at most 1023 token ids.
    """

    chain: str = ""
    pending: tuple[int, ...] = ()

    def update(self, token_ids: Sequence[int]) -> "TokenDigest":
        """The digest after `token_ids` more."""
        chain, tokens = self.chain, [*self.pending, *token_ids]
        while len(tokens) >= BLOCK_TOKENS:
            chain = _link(chain, tokens[:BLOCK_TOKENS])
            tokens = tokens[BLOCK_TOKENS:]
        return type(self)(chain, tuple(tokens))

    @property
    def hex(self) -> str:
        """The digest of all tokens so far."""
        return _link(self.chain, self.pending)


def prefix_digests(token_ids: Sequence[int], lengths: Iterable[int]) -> dict[int, str]:
    """`TokenDigest.hex` of the first n tokens for each n of `lengths`, in one pass; without those beyond the end."""
    digest, done, digests = TokenDigest(), 0, {}
    for length in sorted({length for length in lengths if 0 <= length <= len(token_ids)}):
        digest, done = digest.update(token_ids[done:length]), length
        digests[length] = digest.hex
    return digests


def _link(chain: str, tokens: Sequence[int]) -> str:
    return hashlib.sha256(chain.encode() + array("q", tokens).tobytes()).hexdigest()
