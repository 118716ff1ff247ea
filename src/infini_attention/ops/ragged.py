"""Rows whose segments end at different tokens: left-padded prompts, and streams that are decoded side by side.

Few tokens that fit into every row's unfinished segment are answered where they stand. Otherwise each row is laid out on
a grid of whole segments, its unfinished segment first, so that the segments of all rows line up.
"""

from dataclasses import replace

import torch
from torch import Tensor

from infini_attention.ops.inputs import Inputs, Result, Tokens
from infini_attention.ops.mix import attend, local_attention, sees
from infini_attention.ops.overlap import carry, chain, in_front, place
from infini_attention.shapes import RowCounts, Slots
from infini_attention.state import InfiniState
from infini_attention.window import Window


def forward(inputs: Inputs) -> Result:
    """See `infini_attention`."""
    tokens, valid, filled = inputs.tokens, inputs.tokens.valid, inputs.state.tokens_in_window
    if valid is None:
        stops = filled + tokens.q.shape[1]
        slots = filled.to(tokens.q.device)[:, None] + torch.arange(tokens.q.shape[1], device=tokens.q.device)
    else:
        # What stands at a padded position must not matter, not even if it is infinite.
        tokens = tokens.map(lambda x: x.masked_fill(~valid.view(*valid.shape, *[1] * (x.dim() - 2)), 0))
        stops = filled + valid.sum(1).cpu()
        slots = (filled.to(valid.device)[:, None] + valid.cumsum(1) - 1).clamp(min=0)
    q, k = place((tokens.q, tokens.k), slots % inputs.segment_size, inputs)
    tokens = replace(tokens, q=q, k=k, valid=valid)
    answer = _inside if int(stops.max()) <= inputs.segment_size else _on_grid
    out, state = answer(inputs, tokens, slots, stops)
    return out if valid is None else out.masked_fill(~valid[..., None, None], 0), state


def _inside(inputs: Inputs, tokens: Tokens, slots: Slots, stops: RowCounts) -> Result:
    """All tokens stay inside their row's unfinished segment: the usual case of decoding."""
    state, size, before = inputs.state, inputs.segment_size, inputs.overlap
    row = torch.arange(len(slots), device=slots.device)[:, None].expand_as(slots)
    real = slice(None) if tokens.valid is None else tokens.valid
    window, places = state.own_window(tokens.q, tokens.k, tokens.v), (row[real], slots[real] + before)
    window.keys[places], window.values[places] = tokens.k[real], tokens.v[real]
    used = slice(before + int(stops.max()))
    visible = _visible(inputs, slots[:, None], torch.zeros_like(slots[:, :1]))[:, 0, ..., used]
    local = local_attention(inputs, tokens.q, window.keys[:, used], window.values[:, used], visible=visible)
    out, trace = attend(inputs, tokens, local, state, 1)
    seen, full = state.tokens_seen + stops - state.tokens_in_window, stops == size
    if not full.any():
        return out, InfiniState.on(*trace.at(False), window, seen)
    full = full.to(slots.device)
    begun, rows = Window.begin(*carry(*window.parts[:2], inputs), size), full[:, None, None, None]
    keys, values = torch.where(rows, begun.keys, window.keys), torch.where(rows, begun.values, window.values)
    window = Window(keys, values, before)
    return out, InfiniState.on(*trace.at(full.long()), window, seen)


def _on_grid(inputs: Inputs, tokens: Tokens, slots: Slots, stops: RowCounts) -> Result:
    if tokens.valid is None:
        tokens = replace(tokens, valid=torch.ones_like(slots, dtype=torch.bool))
    state, size = inputs.state, inputs.segment_size
    segments = -(-int(stops.max()) // size)
    grid = tokens.map(lambda x: _scatter(x, tokens, slots, segments * size))

    def lay_out(placed: Tensor, before: Tensor) -> Tensor:
        """`[B, S + 1, C, ...]`: goes on in the empty slots of the unfinished segment; an empty one comes last."""
        first = before + placed[:, :size]
        laid = torch.cat((first, placed[:, size:], torch.zeros_like(first)), 1)
        return laid.view(len(stops), segments + 1, *first.shape[1:])

    keys, values = lay_out(grid.k, state.keys), lay_out(grid.v, state.values)
    overlaps = chain(keys[:, :-1], values[:, :-1], inputs, state)
    visible = None
    if inputs.overlap:
        own = torch.arange(size, device=slots.device).expand(len(stops), segments, size)
        visible = _visible(inputs, own, torch.arange(segments, device=slots.device)[None]).flatten(0, 1)
    local = local_attention(
        inputs,
        grid.q.reshape(-1, size, *grid.q.shape[2:]),
        *(in_front(x, own)[:, :-1].flatten(0, 1) for x, own in zip(overlaps, (keys, values), strict=True)),
        causal=visible is None,
        visible=visible,
    )
    out, trace = attend(inputs, grid, local.reshape(*grid.q.shape[:3], -1), state, segments)
    row, last = torch.arange(len(stops)), stops // size
    window = keys[row, last], values[row, last], overlaps[0][row, last], overlaps[1][row, last]
    seen = state.tokens_seen + stops - state.tokens_in_window
    state = InfiniState(*trace.at(last.to(slots.device)), *window, seen)
    return out[row[:, None].to(slots.device), slots], state


def _visible(inputs: Inputs, queries: Tensor, segments: Tensor) -> Tensor:
    """Bool `[B, S, 1, L, W + C]`: what queries at slots `[B, S, L]` see, in the `segments [B or 1, S]` from now on."""
    slots = torch.arange(-inputs.overlap, inputs.segment_size, device=queries.device)
    seen = sees(queries[:, :, None, :, None], slots, inputs.sliding_window)
    if not inputs.overlap:
        return seen
    finished = inputs.state.tokens_seen.to(queries.device)[:, None] // inputs.segment_size + segments
    return seen & ((slots >= 0) | (finished > 0)[:, :, None, None, None])


def _scatter(x: Tensor, tokens: Tokens, slots: Slots, size: int) -> Tensor:
    """Puts each real token of `x [B, T, ...]` at its slot of an empty `[B, size, ...]`."""
    assert tokens.valid is not None
    row = torch.arange(len(x), device=x.device)[:, None]
    slot = slots.masked_fill(~tokens.valid, size)
    return x.new_zeros(len(x), size + 1, *x.shape[2:]).index_put((row, slot), x)[:, :size]
