"""The last tokens of a segment, which the next one still sees: their keys and values stand in front of its own.

The slots of the overlap are -W..-1, those of the segment 0..C-1; row W + s of the rotation's tables is that of slot s.
"""

import torch
from torch import Tensor

from infini_attention.ops.inputs import Inputs
from infini_attention.ops.rotary import rotate, turn, turn_back
from infini_attention.shapes import Slots
from infini_attention.state import InfiniState


def place(qk: tuple[Tensor, Tensor], slots: Slots | slice, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Rotates q and k `[B, T, heads, K]` as tokens at `slots` of their segments."""
    if inputs.rotary is None:
        return qk
    shift = inputs.overlap
    places = slice(slots.start + shift, slots.stop + shift) if isinstance(slots, slice) else slots + shift
    turns = inputs.rotary.turns(places, qk[0].dtype)
    return turn(qk[0], *turns), turn(qk[1], *turns)


def carry(keys: Tensor, values: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """What is seen of whole segments `[..., C, G, D]` after their end: `[..., W, G, D]`, the keys rotated anew."""
    size, overlap = inputs.segment_size, inputs.overlap
    keys, values = keys[..., size - overlap :, :, :], values[..., size - overlap :, :, :]
    if inputs.rotary is not None and overlap:
        (cos, sin), dtype = inputs.rotary.tables, keys.dtype
        keys = rotate(turn_back(keys, cos[size:], sin[size:]), cos[:overlap], sin[:overlap]).to(dtype)
    return keys, values


def chain(keys: Tensor, values: Tensor, inputs: Inputs, state: InfiniState) -> tuple[Tensor, Tensor]:
    """What each of consecutive segments `[B, S, C, G, D]` sees of the one before: `[B, S + 1, W, G, D]`.

    The first comes from `state`, the last is for the segment that follows them.
    """
    later_keys, later_values = carry(keys, values, inputs)
    return (
        torch.cat((state.overlap_keys[:, None], later_keys), 1),
        torch.cat((state.overlap_values[:, None], later_values), 1),
    )


def in_front(before: Tensor, own: Tensor) -> Tensor:
    """`[..., W, G, D]` and `[..., C, G, D]` to `[..., W + C, G, D]`."""
    return torch.cat((before, own), -3) if before.shape[-3] else own
