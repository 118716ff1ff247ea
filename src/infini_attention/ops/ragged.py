"""Rows whose segments end at different tokens: left-padded prompts, and streams that are decoded side by side.

Few tokens that fit into every row's unfinished segment are answered where they stand. Otherwise each row is laid out on
a grid of whole segments, its unfinished segment first, so that the segments of all rows line up.
"""

from dataclasses import replace

import torch
from torch import Tensor

from infini_attention.ops.inputs import Inputs, Result, Tokens
from infini_attention.ops.mix import attend, local_attention, sees
from infini_attention.ops.rotary import rotate
from infini_attention.ops.rules import MemoryTrace
from infini_attention.shapes import RowCounts, SegmentKeys, SegmentValues, Slots
from infini_attention.state import InfiniState


def forward(inputs: Inputs) -> Result:
    """See `infini_attention`."""
    tokens, state = inputs.tokens, inputs.state
    valid = torch.ones_like(tokens.gate[..., 0], dtype=torch.bool) if tokens.valid is None else tokens.valid
    # What stands at a padded position must not matter, not even if it is infinite.
    tokens = tokens.map(lambda x: x.masked_fill(~valid.view(*valid.shape, *[1] * (x.dim() - 2)), 0))
    filled = state.tokens_in_window
    stops = filled + valid.sum(1).cpu()
    slots = (filled.to(valid.device)[:, None] + valid.cumsum(1) - 1).clamp(min=0)
    if inputs.rotary is not None:
        cos, sin = (table[slots % inputs.segment_size] for table in inputs.rotary)
        tokens = replace(tokens, q=rotate(tokens.q, cos, sin), k=rotate(tokens.k, cos, sin))
    tokens = replace(tokens, valid=valid)
    place = _inside if int(stops.max()) <= inputs.segment_size else _on_grid
    out, trace, keys, values = place(inputs, tokens, slots, stops)
    finished = stops // inputs.segment_size
    next_state = InfiniState(
        *trace.at(finished.to(valid.device)),
        keys,
        values,
        state.tokens_seen + stops - filled,
    )
    return out.masked_fill(~valid[..., None, None], 0), next_state


_Placed = tuple[Tensor, MemoryTrace, SegmentKeys, SegmentValues]


def _inside(inputs: Inputs, tokens: Tokens, slots: Slots, stops: RowCounts) -> _Placed:
    """All tokens stay inside their row's unfinished segment: the usual case of decoding."""
    state, size = inputs.state, inputs.segment_size
    keys = state.keys + _place(tokens.k, tokens, slots, size)
    values = state.values + _place(tokens.v, tokens, slots, size)
    visible = sees(slots[:, None, :, None], torch.arange(size, device=slots.device), inputs.sliding_window)
    local = local_attention(inputs, tokens.q, keys, values, visible=visible)
    out, trace = attend(inputs, tokens, local, state, 1)
    full = (stops == size).to(slots.device)[:, None, None, None]
    return out, trace, keys.masked_fill(full, 0), values.masked_fill(full, 0)


def _on_grid(inputs: Inputs, tokens: Tokens, slots: Slots, stops: RowCounts) -> _Placed:
    state, size = inputs.state, inputs.segment_size
    segments = -(-int(stops.max()) // size)
    grid = tokens.map(lambda x: _place(x, tokens, slots, segments * size))

    def lay_out(placed: Tensor, before: Tensor) -> Tensor:
        """`[B, S + 1, C, ...]`: goes on in the empty slots of the unfinished segment; an empty one comes last."""
        first = before + placed[:, :size]
        laid = torch.cat((first, placed[:, size:], torch.zeros_like(first)), 1)
        return laid.view(len(stops), segments + 1, *first.shape[1:])

    keys, values = lay_out(grid.k, state.keys), lay_out(grid.v, state.values)
    local = local_attention(
        inputs,
        grid.q.reshape(-1, size, *grid.q.shape[2:]),
        keys[:, :-1].flatten(0, 1),
        values[:, :-1].flatten(0, 1),
        causal=True,
    )
    out, trace = attend(inputs, grid, local.reshape(*grid.q.shape[:3], -1), state, segments)
    row, unfinished = torch.arange(len(stops)), stops // size
    return out[row[:, None].to(slots.device), slots], trace, keys[row, unfinished], values[row, unfinished]


def _place(x: Tensor, tokens: Tokens, slots: Slots, size: int) -> Tensor:
    """Puts each real token of `x [B, T, ...]` at its slot of an empty `[B, size, ...]`."""
    assert tokens.valid is not None
    row = torch.arange(len(x), device=x.device)[:, None]
    slot = slots.masked_fill(~tokens.valid, size)
    return x.new_zeros(len(x), size + 1, *x.shape[2:]).index_put((row, slot), x)[:, :size]
