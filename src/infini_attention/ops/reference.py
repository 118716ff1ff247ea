"""The equations in order, one token after another: the oracle that every other backend is compared with.

Slow on purpose, and shares no code with the vectorised backend but the feature maps and the rotation. Computes in at
least float32 (float64 where the inputs are), and autograd runs through all of it. The equation numbers are those of
arXiv 2404.07143.
"""

from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor

from infini_attention.ops.features import elu_plus_one, rms_norm, unit_silu
from infini_attention.ops.inputs import Inputs, Result, Tokens
from infini_attention.ops.rotary import rotate, turn_back
from infini_attention.state import InfiniState, Memory


def forward(inputs: Inputs) -> Result:
    """See `infini_attention`."""
    outputs, states = [], []
    for row in range(inputs.state.batch_size):
        stream = _Stream.thaw(inputs, row)
        tokens = inputs.tokens.map(itemgetter(slice(row, row + 1)))
        outputs.append(_read_row(stream, tokens))
        states.append(stream.freeze())
    return torch.stack(outputs), _stack_rows(states)


@dataclass
class _Stream:
    """One row while it is read.

    `M_start [G, K, V]` and `z_start [G, K]` are the memory of the segment's start. Under gated_delta, `M` is the memory
    after the last token; under the paper's rules, `M` and `z` are the sums that the unfinished segment adds at its end.
    """

    inputs: Inputs
    M_start: Tensor
    z_start: Tensor | None
    M: Tensor
    z: Tensor | None
    keys: list[Tensor]
    values: list[Tensor]
    overlap_keys: list[Tensor]  # of the segment before, rotated for the places in front of this one
    overlap_values: list[Tensor]
    tokens_seen: int

    @classmethod
    def thaw(cls, inputs: Inputs, row: int) -> "_Stream":
        state = inputs.state
        committed, running = (
            (memory.matrix[row], None if memory.normalizer is None else memory.normalizer[row])
            for memory in (state.committed, state.running)
        )
        filled = int(state.tokens_in_window[row])
        keys, values = list(state.keys[row, :filled]), list(state.values[row, :filled])
        before = state.overlap if bool(state.follows_segment[row]) else 0
        overlap_keys, overlap_values = list(state.overlap_keys[row, :before]), list(state.overlap_values[row, :before])
        return cls(
            inputs, *committed, *running, keys, values, overlap_keys, overlap_values, int(state.tokens_seen[row])
        )

    def freeze(self) -> InfiniState:
        state = self.inputs.state

        def slots(tokens: list[Tensor], like: Tensor) -> Tensor:
            """`[1, n, G, D]`, as many as `like [B, n, G, D]` has, the unused ones zero."""
            filled = like.new_zeros(1, *like.shape[1:])
            return torch.cat((torch.stack(tokens)[None], filled[:, len(tokens) :]), 1) if tokens else filled

        return InfiniState(
            Memory(self.M_start[None], None if self.z_start is None else self.z_start[None]),
            Memory(self.M[None], None if self.z is None else self.z[None]),
            slots(self.keys, state.keys),
            slots(self.values, state.values),
            slots(self.overlap_keys, state.overlap_keys),
            slots(self.overlap_values, state.overlap_values),
            torch.tensor([self.tokens_seen]),
        )


def _read_row(stream: _Stream, tokens: Tokens) -> Tensor:
    """All tokens of one row, `[1, T, ...]` in, `[T, H, V]` out; padded tokens give 0."""
    time, heads, value_dim = *tokens.q.shape[1:3], tokens.v.shape[3]
    outputs = list(tokens.q.new_zeros(time, heads, value_dim))
    for t in range(time):
        if tokens.valid is None or tokens.valid[0, t]:
            outputs[t] = _read_token(stream, tokens[t : t + 1])
    return torch.stack(outputs) if outputs else tokens.q.new_zeros(time, heads, value_dim)


def _read_token(stream: _Stream, token: Tokens) -> Tensor:
    """Answers one token `[1, 1, ...]`, then writes it: `[H, V]`."""
    inputs, slot, dtype = stream.inputs, len(stream.keys), stream.M.dtype
    q, k = token.q[0, 0], token.k[0, 0]
    if inputs.rotary is not None:  # positions restart in each segment
        cos, sin = (table[inputs.overlap + slot] for table in inputs.rotary.tables)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    stream.keys.append(k)
    stream.values.append(token.v[0, 0])

    group = token.q.shape[2] // token.k.shape[2]
    window = slice(0 if inputs.sliding_window is None else -inputs.sliding_window, None)
    seen = [*stream.overlap_keys, *stream.keys][window], [*stream.overlap_values, *stream.values][window]
    keys, values = (torch.stack(x, 1).to(dtype).repeat_interleave(group, 0) for x in seen)  # [H, n, K], [H, n, V]
    scores = torch.einsum("hk,hnk->hn", q.to(dtype), keys) * inputs.scale
    if inputs.softcap is not None:
        scores = inputs.softcap * torch.tanh(scores / inputs.softcap)
    out = torch.einsum("hn,hnv->hv", scores.softmax(-1), values)  # A_dot

    if inputs.rule != "none":
        read, empty = _retrieve(stream, token.q_mem[0, 0].to(dtype), group)
        share = torch.sigmoid(token.gate[0, 0].to(dtype)).masked_fill(empty, 0)[:, None]
        out = share * read + (1 - share) * out  # eq. 10
        _write(stream, token)
    stream.tokens_seen += 1
    if len(stream.keys) == inputs.segment_size:
        _commit(stream)
    return out.to(token.q.dtype)


def _retrieve(stream: _Stream, q: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """What the memory of the segment's start answers `[H, V]`, and where it is empty `[H]`."""
    M = stream.M_start.repeat_interleave(group, 0)
    if stream.z_start is None:
        read = torch.einsum("hk,hkv->hv", unit_silu(q), M)
        weight = stream.inputs.norm_weight
        return rms_norm(read, None if weight is None else weight.to(read.dtype)), (M == 0).flatten(1).all(-1)
    z = stream.z_start.repeat_interleave(group, 0)
    sigma = elu_plus_one(q)
    denominator = (sigma * z).sum(-1)
    denominator = denominator.masked_fill(denominator == 0, 1)
    return torch.einsum("hk,hkv->hv", sigma, M) / denominator[:, None], (z == 0).all(-1)  # eq. 7


def _write(stream: _Stream, token: Tokens) -> None:
    dtype = stream.M.dtype
    k, v = token.k_mem[0, 0].to(dtype), token.v[0, 0].to(dtype)
    if stream.z is None or stream.z_start is None:
        key = unit_silu(k)
        beta = 1.0 if token.beta is None else token.beta[0, 0].to(dtype)[:, None]
        kept = 1.0 if token.log_decay is None else token.log_decay[0, 0].to(dtype).exp()[:, None, None]
        erase = beta if token.erase is None else token.erase[0, 0].to(dtype)[:, None]
        M = kept * stream.M
        change = beta * v - erase * torch.einsum("gk,gkv->gv", key, M)
        stream.M = M + torch.einsum("gk,gv->gkv", key, change)
        return
    sigma = elu_plus_one(k)
    if stream.inputs.rule == "delta":  # eq. 9: less what the memory of the segment's start already answers
        denominator = (sigma * stream.z_start).sum(-1)
        denominator = denominator.masked_fill(denominator == 0, 1)
        v = v - torch.einsum("gk,gkv->gv", sigma, stream.M_start) / denominator[:, None]
    stream.M = stream.M + torch.einsum("gk,gv->gkv", sigma, v)  # eq. 8
    stream.z = stream.z + sigma


def _commit(stream: _Stream) -> None:
    """The segment is full: what it wrote can be read from now on."""
    if stream.z is None or stream.z_start is None:
        stream.M_start = stream.M
    else:
        stream.M_start, stream.M = stream.M_start + stream.M, torch.zeros_like(stream.M)
        stream.z_start, stream.z = stream.z_start + stream.z, torch.zeros_like(stream.z)
    overlap, rotary = stream.inputs.overlap, stream.inputs.rotary
    last = slice(len(stream.keys) - overlap, None)
    stream.overlap_keys, stream.overlap_values = stream.keys[last], stream.values[last]
    if rotary is not None:  # what stood in row C + i of the tables now stands in row i
        size = stream.inputs.segment_size
        cos, sin = rotary.tables
        stream.overlap_keys = [
            rotate(turn_back(key, cos[size + i], sin[size + i]), cos[i], sin[i]).to(key.dtype)
            for i, key in enumerate(stream.overlap_keys)
        ]
    stream.keys, stream.values = [], []


def _stack_rows(rows: list[InfiniState]) -> InfiniState:
    def stack(memories: list[Memory]) -> Memory:
        normalizers = [memory.normalizer for memory in memories if memory.normalizer is not None]
        return Memory(
            torch.cat([memory.matrix for memory in memories]), torch.cat(normalizers) if normalizers else None
        )

    return InfiniState(
        stack([row.committed for row in rows]),
        stack([row.running for row in rows]),
        torch.cat([row.keys for row in rows]),
        torch.cat([row.values for row in rows]),
        torch.cat([row.overlap_keys for row in rows]),
        torch.cat([row.overlap_values for row in rows]),
        torch.cat([row.tokens_seen for row in rows]),
    )
