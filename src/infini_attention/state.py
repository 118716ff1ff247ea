"""What a stream carries from call to call: a value that is passed in and returned, never kept on a module.

The size of a state depends on the shapes alone, not on how much was read: the unfinished segment's keys and values are
allocated whole, so `nbytes` is the same after one token and after ten million.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from infini_attention.shapes import (
    HeadFlags,
    MemoryMatrix,
    MemoryNormalizer,
    OverlapKeys,
    OverlapValues,
    RowCounts,
    RowFlags,
    Rule,
    SegmentKeys,
    SegmentValues,
)
from infini_attention.window import Window

PAPER_RULES: tuple[Rule, ...] = ("linear", "delta")


@dataclass(frozen=True)
class Memory:
    """The compressive memory of one layer: `M` and, in the paper's rules, its normaliser `z`; at least float32."""

    matrix: MemoryMatrix
    normalizer: MemoryNormalizer | None

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.matrix,) if self.normalizer is None else (self.matrix, self.normalizer)

    @cached_property
    def is_empty(self) -> HeadFlags:
        """`[B, G]`: nothing was ever written. It is looked up once: a committed memory serves a whole segment."""
        return (self.matrix if self.normalizer is None else self.normalizer).eq(0).flatten(2).all(-1)


@dataclass(frozen=True)
class InfiniState:
    """The state of one attention layer for a batch of streams.

    Attributes:
        committed: the memory as it stood at the start of the unfinished segment. This is what queries read.
        running: what the unfinished segment's tokens have written. Under gated_delta this is the memory after the last
            token. Under the paper's rules it is the sum of these writes alone, added to `committed` when the segment
            ends: beside the sums of a long stream, the write of a single token would be lost in rounding.
        keys: `[B, C, G, K]`, the unfinished segment's keys, rotated, in the dtype of the model; unused slots are zero.
        values: `[B, C, G, V]`, likewise.
        overlap_keys: `[B, W, G, K]`, the last keys of the segment before, which attention still sees, rotated to the
            places in front of the unfinished segment; zero in rows whose first segment is unfinished. W is often 0.
        overlap_values: `[B, W, G, V]`, likewise.
        tokens_seen: `[B]` int64, real (not padded) tokens of each row. It stays on the CPU: how many slots of a segment
            are filled decides which code runs, and asking an accelerator for it would stall every decode step.
        window: where keys and values lie while a stream is decoded, shared with the states before and after. They are
            copied out of it when somebody asks for them; then it is None, as in every state that was made of tensors.
    """

    committed: Memory
    running: Memory
    keys: SegmentKeys
    values: SegmentValues
    overlap_keys: OverlapKeys
    overlap_values: OverlapValues
    tokens_seen: RowCounts
    window: Window | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def on(cls, committed: Memory, running: Memory, window: Window, tokens_seen: RowCounts) -> "InfiniState":
        """The state that has just written to `window`, and may go on there."""
        if window.recorded:
            return cls(committed, running, *window.parts, tokens_seen)
        window.give(tokens_seen)
        state = object.__new__(cls)
        vars(state).update(committed=committed, running=running, window=window, tokens_seen=tokens_seen)
        return state

    def own_window(self, *tokens: Tensor) -> Window:
        """Where `tokens`, the queries, keys and values that come next, can be written and attended to."""
        window, recorded = self.window, torch.is_grad_enabled() and any(x.requires_grad for x in tokens)
        if window is not None and not recorded and window.take(self.tokens_seen):
            return window
        if window is None:
            keys, values = (self.overlap_keys, self.keys), (self.overlap_values, self.values)
            window = Window(torch.cat(keys, 1), torch.cat(values, 1), self.overlap)
        else:
            window = window.copy(self.tokens_in_window)
        window.recorded |= recorded
        return window

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Keys and values, where they lie in a window: nobody shall see what others write there."""
            window = vars(self).get("window")
            if window is None or name not in _IN_WINDOW:
                raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}", name=name, obj=self)
            parts = window.copy(self.tokens_in_window).parts
            vars(self).update(zip(_IN_WINDOW, parts, strict=True), window=None)
            return vars(self)[name]

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def zeros(
        cls,
        batch_size: int,
        num_kv_heads: int,
        key_dim: int,
        value_dim: int,
        segment_size: int,
        *,
        rule: Rule,
        overlap: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> "InfiniState":
        """The state of a stream of which nothing has been read. `dtype` is that of the keys and values."""
        memory_dtype = torch.promote_types(dtype, torch.float32)
        memory_shape = (0, 0) if rule == "none" else (key_dim, value_dim)
        matrix = torch.zeros(batch_size, num_kv_heads, *memory_shape, dtype=memory_dtype, device=device)
        normalizer = matrix.new_zeros(batch_size, num_kv_heads, key_dim) if rule in PAPER_RULES else None
        memory = Memory(matrix, normalizer)
        keys = torch.zeros(batch_size, segment_size, num_kv_heads, key_dim, dtype=dtype, device=device)
        values = torch.zeros(batch_size, segment_size, num_kv_heads, value_dim, dtype=dtype, device=device)
        before = (
            keys.new_zeros(batch_size, overlap, *keys.shape[2:]),
            values.new_zeros(batch_size, overlap, *values.shape[2:]),
        )
        return cls(memory, memory, keys, values, *before, torch.zeros(batch_size, dtype=torch.int64))

    @property
    def batch_size(self) -> int:
        return len(self.tokens_seen)

    @property
    def segment_size(self) -> int:
        return self.keys.shape[1] if self.window is None else self.window.keys.shape[1] - self.window.overlap

    @property
    def overlap(self) -> int:
        return self.overlap_keys.shape[1] if self.window is None else self.window.overlap

    @property
    def follows_segment(self) -> RowFlags:
        """`[B]`: whether a whole segment was read, so that there is something to overlap with."""
        return self.tokens_seen >= self.segment_size

    @property
    def tokens_in_window(self) -> RowCounts:
        """`[B]`: tokens of the unfinished segment, which attention still sees exactly."""
        return self.tokens_seen % self.segment_size

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors: both memories, the segment's keys and values, the overlap's, the token counts."""
        return sum(part.nbytes for part in pytree.tree_leaves(vars(self)) if part is not None)

    def to(self, device: torch.device | str) -> "InfiniState":
        """The same state on `device` (the token counts stay on the CPU)."""
        moved = pytree.tree_map(lambda tensor: tensor.to(device), self)
        return replace(moved, tokens_seen=self.tokens_seen)

    def detach(self) -> "InfiniState":
        """The same values without their history: the border of truncated back-propagation through time."""
        return pytree.tree_map(lambda tensor: tensor.detach(), self)

    def select_rows(self, index: Tensor) -> "InfiniState":
        """Rows `index` (`[N]` int64), in that order; a row may be taken more than once (beam search, forks)."""
        return pytree.tree_map(lambda tensor: tensor.index_select(0, index.to(tensor.device)), self)

    @classmethod
    def concatenate(cls, states: Sequence["InfiniState"]) -> "InfiniState":
        """The rows of several states of one layer, in that order; their segments may end at different tokens."""
        return pytree.tree_map(lambda *rows: torch.cat(rows), *states)

    def repeat_rows(self, times: int) -> "InfiniState":
        """Each row `times` times in place: `a b` becomes `a a b b`."""
        return pytree.tree_map(lambda tensor: tensor.repeat_interleave(times, 0), self)

    def forget(self) -> "InfiniState":
        """The same stream with its memory emptied: the memory-off control. What attention sees stays."""
        empty = pytree.tree_map(torch.zeros_like, self.committed)
        return replace(self, committed=empty, running=empty)


_IN_WINDOW = ("keys", "values", "overlap_keys", "overlap_values")  # in the order of `Window.parts`

pytree.register_dataclass(Memory)
pytree.register_dataclass(InfiniState, drop_field_names=["window"])
