"""The torch backend: all segments of a call at once, in big matrix products.

A call is cut where the stream's segments end: what completes the unfinished segment, all whole segments together, and
the start of the next one. Rows whose segments do not end at the same token go to `ragged`.
"""

import torch
from torch import Tensor

from infini_attention.ops import ragged
from infini_attention.ops.inputs import Inputs, Result, Tokens
from infini_attention.ops.mix import attend, local_attention, sees
from infini_attention.ops.overlap import carry, chain, in_front, place
from infini_attention.state import InfiniState
from infini_attention.window import Window


def forward(inputs: Inputs) -> Result:
    """See `infini_attention`."""
    state, time, size = inputs.state, inputs.tokens.q.shape[1], inputs.segment_size
    if time == 0:
        return inputs.tokens.q.new_zeros(*inputs.tokens.q.shape[:3], inputs.tokens.v.shape[3]), state
    seen = state.tokens_seen.tolist()
    # Where rows stand, and whether they have a segment to overlap with.
    places = {(count % size, bool(inputs.overlap) and count >= size) for count in seen}
    if inputs.tokens.valid is not None or len(places) > 1:
        return ragged.forward(inputs)
    head = min(time, -seen[0] % size)
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
    seen = state.tokens_seen.tolist()[0]
    start = seen % inputs.segment_size
    stop = start + tokens.q.shape[1]
    q, k = place((tokens.q, tokens.k), slice(start, stop), inputs)
    window, shift = state.own_window(q, k, tokens.v), inputs.overlap
    window.keys[:, shift + start : shift + stop] = k
    window.values[:, shift + start : shift + stop] = tokens.v
    # The first slot that any of these queries sees; a single token sees all from there on. Below 0 is the overlap.
    first = -shift if seen >= inputs.segment_size else 0
    if inputs.sliding_window is not None:
        first = max(first, start + 1 - inputs.sliding_window)
    visible = None
    if stop - start > 1:
        slots = torch.arange(first, stop, device=q.device)
        visible = sees(slots[start - first :, None], slots, inputs.sliding_window)
    keys, values = (x[:, shift + first : shift + stop] for x in (window.keys, window.values))
    local = local_attention(inputs, q, keys, values, visible=visible)
    out, trace = attend(inputs, tokens, local, state, 1)
    full = stop == inputs.segment_size
    if full:
        window = Window.begin(*carry(*window.parts[:2], inputs), inputs.segment_size)
    return out, InfiniState.on(*trace.at(full), window, state.tokens_seen + tokens.q.shape[1])


def _whole(inputs: Inputs, tokens: Tokens, state: InfiniState) -> Result:
    """Whole segments, right after the end of one: they attend all together."""
    size = inputs.segment_size
    segments = tokens.q.shape[1] // size

    def rows(x: Tensor) -> Tensor:
        return x.reshape(-1, size, *x.shape[2:])

    q, k = place((rows(tokens.q), rows(tokens.k)), slice(0, size), inputs)
    v = rows(tokens.v)
    if inputs.overlap:
        before, values_before = chain(k.unflatten(0, (-1, segments)), v.unflatten(0, (-1, segments)), inputs, state)
        k, v = in_front(before[:, :-1].flatten(0, 1), k), in_front(values_before[:, :-1].flatten(0, 1), v)
        overlap = _copies(before[:, -1], values_before[:, -1])
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
    return out, InfiniState(*trace.after, state.keys, state.values, *overlap, seen)


def _copies(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """For the next state: a view would keep all that it was cut from."""
    return keys.clone(), values.clone()
