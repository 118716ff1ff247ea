"""Texts that begin alike are read once: at a million tokens, that is half of the work of an evaluation."""

from collections.abc import Callable

import torch
from torch import Tensor

from infini_attention.evaluation.stream import Stream, read_span


class Trunk:
    """A stream that follows a sequence of texts as far as each has the beginning of the next one.

    Args:
        open_stream: gives a stream that has read nothing.
    """

    def __init__(self, open_stream: Callable[[], Stream]) -> None:
        self.open_stream = open_stream
        self.stream: Stream | None = None
        self.ids = torch.empty(0, 0, dtype=torch.int64)  # of the last text
        self.place = 0  # so many of them were read

    def branch(self, ids: Tensor, following: Tensor | None, limit: int, piece_size: int) -> tuple[Stream, int]:
        """A stream that has read the beginning of `ids`, and how many tokens of it.

        Args:
            ids: `[B, T]`, the text.
            following: the next text, whose common beginning with this one is kept for it.
            limit: read no further.
            piece_size: tokens per row that are read at a time.
        """
        if self.stream is None or min(limit, common_start(self.ids, ids)) < self.place:
            self.stream, self.place = self.open_stream(), 0
        shared = 0 if following is None else min(limit, common_start(ids, following))
        read_span(self.stream, ids, self.place, shared, piece_size)
        self.ids, self.place = ids, max(shared, self.place)
        return self.stream.fork(), self.place


def common_start(left: Tensor, right: Tensor) -> int:
    """How many columns of two `[B, T]` are equal from the first one on; 0 where the shapes differ."""
    if left.shape != right.shape:
        return 0
    different = (left != right).any(0).nonzero()
    return int(different[0]) if len(different) else left.shape[1]
