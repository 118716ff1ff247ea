"""Where the keys and values of unfinished segments lie while a stream is decoded: in slots that nobody copies."""

import torch
from torch import Tensor

from infini_attention.shapes import OverlapKeys, OverlapValues, RowCounts, SegmentKeys, SegmentValues


class Window:
    """Keys and values of the overlap and the segment behind it, `[B, W + C, G, D]`, which successive states share.

    A slot is written only once, by the state that goes on first from the newest one; who comes later writes to a copy.
    So nothing that a state has seen ever changes, and none of it is copied for the next token.
    """

    _newest: Tensor | None = None  # the token counts of the state that may write: that very tensor

    def __init__(self, keys: Tensor, values: Tensor, overlap: int) -> None:
        self.keys, self.values, self.overlap = keys, values, overlap
        self.recorded = keys.requires_grad or values.requires_grad  # autograd has to find the slots as they are now

    @classmethod
    def begin(cls, overlap_keys: OverlapKeys, overlap_values: OverlapValues, segment_size: int) -> "Window":
        """Of a segment of which nothing was read yet."""

        def in_front(before: Tensor) -> Tensor:
            return torch.cat((before, before.new_zeros(len(before), segment_size, *before.shape[2:])), 1)

        return cls(in_front(overlap_keys), in_front(overlap_values), overlap_keys.shape[1])

    def give(self, tokens_seen: RowCounts) -> None:
        """Lets the state with these counts write next."""
        self._newest = tokens_seen

    def take(self, tokens_seen: RowCounts) -> bool:
        """Whether the state with these counts may write. It is told so once, in whatever thread it asks."""
        if self.keys.is_inference() and not torch.is_inference_mode_enabled():
            return False
        return self._newest is tokens_seen and vars(self).pop("_newest", None) is tokens_seen

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    @property
    def parts(self) -> tuple[SegmentKeys, SegmentValues, OverlapKeys, OverlapValues]:
        """As views."""
        before, own = slice(self.overlap), slice(self.overlap, None)
        return self.keys[:, own], self.values[:, own], self.keys[:, before], self.values[:, before]

    def copy(self, filled: RowCounts) -> "Window":
        """For a state that has filled so many slots: the others are zero, whoever has written them."""
        slots = torch.arange(-self.overlap, self.keys.shape[1] - self.overlap)
        free = (slots >= filled[:, None]).to(self.keys.device)[:, :, None, None]
        return Window(self.keys.masked_fill(free, 0), self.values.masked_fill(free, 0), self.overlap)
