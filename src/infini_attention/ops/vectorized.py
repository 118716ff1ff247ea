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
from infini_attention.ops.rotary import rotate
from infini_attention.state import InfiniState


def forward(inputs: Inputs) -> Result:
    """See `infini_attention`."""
    state, time = inputs.state, inputs.tokens.q.shape[1]
    if time == 0:
        return inputs.tokens.q.new_zeros(*inputs.tokens.q.shape[:3], inputs.tokens.v.shape[3]), state
    offsets = state.tokens_in_window
    if inputs.tokens.valid is not None or bool((offsets != offsets[0]).any()):
        return ragged.forward(inputs)
    size = inputs.segment_size
    head = min(time, -int(offsets[0]) % size)
    whole = head + (time - head) // size * size
    outputs = []
    for piece, start, stop in ((_part, 0, head), (_whole, head, whole), (_part, whole, time)):
        if start < stop:
            out, state = piece(inputs, inputs.tokens[start:stop], state)
            outputs.append(out)
    return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0], state


def _part(inputs: Inputs, tokens: Tokens, state: InfiniState) -> Result:
    """Tokens that stay inside the unfinished segment, filled alike in all rows."""
    start = int(state.tokens_in_window[0])
    stop = start + tokens.q.shape[1]
    if inputs.rotary is not None:
        cos, sin = (table[start:stop] for table in inputs.rotary)
        tokens = replace(tokens, q=rotate(tokens.q, cos, sin), k=rotate(tokens.k, cos, sin))
    keys = torch.cat((state.keys[:, :start], tokens.k, state.keys[:, stop:]), 1)
    values = torch.cat((state.values[:, :start], tokens.v, state.values[:, stop:]), 1)
    # The first key that any of these queries sees; a single token sees all from there on.
    first = 0 if inputs.sliding_window is None else max(0, start + 1 - inputs.sliding_window)
    visible = None
    if stop - start > 1:
        slots = torch.arange(first, stop, device=keys.device)
        visible = sees(slots[start - first :, None], slots, inputs.sliding_window)
    local = local_attention(inputs, tokens.q, keys[:, first:stop], values[:, first:stop], visible=visible)
    out, trace = attend(inputs, tokens, local, state, 1)
    full = stop == inputs.segment_size
    return out, InfiniState(
        *trace.at(int(full)),
        torch.zeros_like(keys) if full else keys,
        torch.zeros_like(values) if full else values,
        state.tokens_seen + tokens.q.shape[1],
    )


def _whole(inputs: Inputs, tokens: Tokens, state: InfiniState) -> Result:
    """Whole segments, right after the end of one: they attend all together."""
    size = inputs.segment_size
    segments = tokens.q.shape[1] // size

    def rows(x: Tensor) -> Tensor:
        return x.reshape(-1, size, *x.shape[2:])

    q, k = rows(tokens.q), rows(tokens.k)
    if inputs.rotary is not None:
        q, k = rotate(q, *inputs.rotary), rotate(k, *inputs.rotary)
    local = local_attention(inputs, q, k, rows(tokens.v), causal=True)
    out, trace = attend(inputs, tokens, local.reshape(*tokens.q.shape[:3], -1), state, segments)
    return out, InfiniState(*trace.at(segments), state.keys, state.values, state.tokens_seen + segments * size)
