"""What was read, counted."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ReadStats:
    """What a session has read so far.

    Attributes:
        tokens_read: all tokens, prompts and generated text included.
        text_bytes: of the text read, in UTF-8.
        nats: sum of the losses of the scored tokens.
        tokens_scored: how many these are (all that was read with a score, but the first of the stream).
        bytes_scored: of the text that they came from.
    """

    tokens_read: int = 0
    text_bytes: int = 0
    nats: float = 0.0
    tokens_scored: int = 0
    bytes_scored: int = 0

    @property
    def perplexity(self) -> float | None:
        """Per token; None before two tokens were read."""
        return math.exp(min(self.nats / self.tokens_scored, 700)) if self.tokens_scored else None

    @property
    def bits_per_byte(self) -> float | None:
        """Of the UTF-8 text; None before two tokens were read."""
        return self.nats / math.log(2) / self.bytes_scored if self.tokens_scored and self.bytes_scored else None
