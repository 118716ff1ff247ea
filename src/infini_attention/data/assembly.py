"""Samples are put together of pieces, and must know where each came to stand."""

from collections.abc import Sequence

import torch
from torch import Tensor

Span = tuple[int, int]  # token positions: start, and the one after the last


class Assembly:
    """Token ids that are put together piece by piece."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.count = 0

    @property
    def token_ids(self) -> Tensor:
        """All of it, `[T]` int64."""
        return torch.cat(self.parts)

    def add(self, ids: Tensor | Sequence[int]) -> Span:
        """Where they come to stand."""
        start, self.count = self.count, self.count + len(ids)
        self.parts.append(torch.as_tensor(ids, dtype=torch.int64))
        return start, self.count

    def hide(self, needles: Sequence[Sequence[int]], places: Sequence[int], filler: Tensor) -> tuple[Span, ...]:
        """Adds all of `filler [N]`, with each needle in front of the token of it at its place; places ascend.

        Returns:
            Where the needles come to stand.
        """
        spans, start = [], 0
        for ids, place in zip(needles, places, strict=True):
            self.add(filler[start:place])
            spans.append(self.add(ids))
            start = place
        self.add(filler[start:])
        return tuple(spans)
