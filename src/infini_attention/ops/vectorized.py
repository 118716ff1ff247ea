"""The torch backend: all segments of a call at once, in big matrix products.

A call is cut where the stream's segments end: what completes the unfinished segment, all whole segments together, and
the start of the next one. Rows whose segments do not end at the same token go to `ragged`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from infini_attention.ops import ragged
from infini_attention.ops.inputs import Inputs, Result, Tokens
from infini_attention.ops.mix import attend, local_attention, sees
from infini_attention.ops.overlap import carry, chain, in_front, place
from infini_attention.state import InfiniState


def forward(inputs: Inputs) -> Result:
    """See `infini_attention`."""
    state, time = inputs.state, inputs.tokens.q.shape[1]
    if time == 0:
        return inputs.tokens.q.new_zeros(*inputs.tokens.q.shape[:3], inputs.tokens.v.shape[3]), state
    offsets, follows = state.tokens_in_window, state.follows_segment
    uneven = bool((offsets != offsets[0]).any()) or (inputs.overlap and bool((follows != follows[0]).any()))
    if inputs.tokens.valid is not None or uneven:
        return ragged.forward(inputs)
    size, offset = inputs.segment_size, int(offsets[0])
    head = min(time, -offset % size)
    whole = head + (time - head) // size * size
    outputs = []
    for piece, start, stop in ((_part, 0, head), (_whole, head, whole), (_part, whole, time)):
        if start < stop:
            tokens = inputs.tokens if stop - start == time else inputs.tokens[start:stop]
            out, state = piece(inputs, tokens, state)
            outputs.append(out)
    return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0], state


def _part(inputs: Inputs, tokens: Tokens, state: InfiniState) -> Result:
    """Tokens that stay inside the unfinished segment, filled alike in all rows."""
    start = int(state.tokens_in_window[0])
    stop = start + tokens.q.shape[1]
    slots = slice(start, stop)
    tokens = replace(tokens, q=place(tokens.q, slots, inputs), k=place(tokens.k, slots, inputs))
    keys = torch.cat((state.keys[:, :start], tokens.k, state.keys[:, stop:]), 1)
    values = torch.cat((state.values[:, :start], tokens.v, state.values[:, stop:]), 1)
    # The first key that any of these queries sees; a single token sees all from there on. Below 0 is the overlap.
    first = -inputs.overlap if bool(state.follows_segment[0]) else 0
    if inputs.sliding_window is not None:
        first = max(first, start + 1 - inputs.sliding_window)
    seen_keys, seen_values = keys[:, max(0, first) : stop], values[:, max(0, first) : stop]
    if first < 0:
        seen_keys = in_front(state.overlap_keys[:, first:], seen_keys)
        seen_values = in_front(state.overlap_values[:, first:], seen_values)
    visible = None
    if stop - start > 1:
        seen = torch.arange(first, stop, device=keys.device)
        visible = sees(seen[start - first :, None], seen, inputs.sliding_window)
    local = local_attention(inputs, tokens.q, seen_keys, seen_values, visible=visible)
    out, trace = attend(inputs, tokens, local, state, 1)
    full = stop == inputs.segment_size
    overlap = carry(keys, values, inputs) if full else (state.overlap_keys, state.overlap_values)
    if full:
        keys, values = torch.zeros_like(keys), torch.zeros_like(values)
    return out, InfiniState(*trace.at(int(full)), keys, values, *overlap, state.tokens_seen + tokens.q.shape[1])


def _whole(inputs: Inputs, tokens: Tokens, state: InfiniState) -> Result:
    """Whole segments, right after the end of one: they attend all together."""
    size = inputs.segment_size
    segments = tokens.q.shape[1] // size

    def rows(x: Tensor) -> Tensor:
        return x.reshape(-1, size, *x.shape[2:])

    q, k, v = place(rows(tokens.q), slice(None), inputs), place(rows(tokens.k), slice(None), inputs), rows(tokens.v)
    if inputs.overlap:
        before, values_before = chain(k.unflatten(0, (-1, segments)), v.unflatten(0, (-1, segments)), inputs, state)
        k, v = in_front(before[:, :-1].flatten(0, 1), k), in_front(values_before[:, :-1].flatten(0, 1), v)
        overlap = before[:, -1], values_before[:, -1]
    else:
        overlap = state.overlap_keys, state.overlap_values
    visible = None
    if inputs.overlap and not state.follows_segment[0]:  # a stream's first segment has nothing to overlap with
        slots = torch.arange(-inputs.overlap, size, device=k.device)
        visible = sees(slots[-size:, None], slots, inputs.sliding_window).repeat(segments, 1, 1, 1)
        visible[0] &= slots >= 0
        visible = visible.repeat(tokens.q.shape[0], 1, 1, 1)
    local = local_attention(inputs, q, k, v, causal=visible is None, visible=visible)
    out, trace = attend(inputs, tokens, local.reshape(*tokens.q.shape[:3], -1), state, segments)
    seen = state.tokens_seen + segments * size
    return out, InfiniState(*trace.at(segments), state.keys, state.values, *overlap, seen)
