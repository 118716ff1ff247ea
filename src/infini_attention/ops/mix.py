"""One pass over pieces of segments: exact attention inside them, the memory's answer, and the gate between the two."""

import torch
from torch import Tensor
from torch.nn import functional as F

from infini_attention.ops import rules
from infini_attention.ops.inputs import Inputs, Tokens
from infini_attention.ops.rules import MemoryTrace
from infini_attention.shapes import Outputs
from infini_attention.state import InfiniState

# Scores of capped attention that exist at the same time: 64 MB in float32. Chosen by size, it changes no result.
CAPPED_SCORES = 1 << 24


def attend(
    inputs: Inputs, tokens: Tokens, local: Outputs, state: InfiniState, segments: int
) -> tuple[Outputs, MemoryTrace]:
    """Writes and reads the memory for tokens of `segments` equal pieces, and mixes the answer with `local` (eq. 10)."""
    if inputs.rule == "none":
        nothing = state.committed.matrix[:, :, None].expand(-1, -1, segments, -1, -1)
        return local, MemoryTrace(state.committed, nothing, None, nothing, None)
    dtype = state.committed.matrix.dtype
    batch, time, heads = tokens.gate.shape
    kv_heads, length = tokens.k.shape[2], time // segments

    def blocks(x: Tensor) -> Tensor:
        """`[B, T, heads, ...]` to `[B, G, S, N, ...]`: the heads that share a memory are rows of one product."""
        if time == 1:
            return x.to(dtype).reshape(batch, kv_heads, 1, -1, *x.shape[3:])
        laid = x.to(dtype).reshape(batch, segments, length, kv_heads, -1, *x.shape[3:]).movedim((3, 4), (1, 3))
        return laid.reshape(batch, kv_heads, segments, -1, *x.shape[3:])

    def back(x: Tensor) -> Tensor:
        """`[B, G, S, N, ...]` to `[B, T, H, ...]`."""
        if time > 1:
            x = x.reshape(batch, kv_heads, segments, -1, length, *x.shape[4:]).movedim((1, 3), (3, 4))
        return x.reshape(batch, time, heads, -1)

    trace = rules.write(
        inputs.rule,
        blocks(tokens.k_mem),
        blocks(tokens.v),
        None if tokens.beta is None else blocks(tokens.beta),
        None if tokens.erase is None else blocks(tokens.erase),
        None if tokens.log_decay is None else blocks(tokens.log_decay),
        None if tokens.valid is None else tokens.valid.reshape(batch, 1, segments, length),
        state,
    )
    answer = rules.read(blocks(tokens.q_mem), trace.starts, trace.start_normalizers, inputs.norm_weight)
    share = blocks(torch.sigmoid(tokens.gate.to(dtype))).masked_fill(trace.is_empty[..., None], 0)
    return torch.lerp(local.to(dtype), back(answer), back(share)).to(tokens.q.dtype), trace


def local_attention(
    inputs: Inputs, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, visible: Tensor | None = None
) -> Tensor:
    """Softmax attention `[N, L, H, K]` to `[N, L, H, V]` inside segments.

    Either `causal`, where queries and keys are those of the same whole segments, overlaps in front, and the window is
    seen to here; or over the `visible` keys (bool, `[..., L, L']`), or over all of them.
    """
    if causal and (inputs.overlap or inputs.sliding_window is not None or inputs.softcap is not None):
        slots = torch.arange(q.shape[1] - k.shape[1], q.shape[1], device=q.device)
        causal, visible = False, sees(slots[-q.shape[1] :, None], slots, inputs.sliding_window)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if inputs.softcap is not None:
        return _capped_attention(q, k, v, inputs.scale, inputs.softcap, visible).transpose(1, 2)
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=visible,
        is_causal=causal,
        scale=inputs.scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(1, 2)


def sees(queries: Tensor, keys: Tensor, sliding_window: int | None) -> Tensor:
    """Bool: whether a query at slot `queries` of a segment sees the key at slot `keys`; the two broadcast."""
    seen = keys <= queries
    return seen if sliding_window is None else seen & (keys > queries - sliding_window)


def _capped_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float, visible: Tensor | None) -> Tensor:
    """`[N, H, L, K]` to `[N, H, L, V]` with scores softcap * tanh(scores / softcap), which no fused kernel offers."""
    group = q.shape[1] // k.shape[1]
    rows = max(1, CAPPED_SCORES // max(1, q.shape[1] * q.shape[2] * k.shape[2]))
    parts = []
    for start in range(0, len(q), rows):
        part = slice(start, start + rows)
        keys, values = (x[part].repeat_interleave(group, 1) for x in (k, v))
        scores = softcap * torch.tanh(q[part] @ keys.transpose(-1, -2) * (scale / softcap))
        if visible is not None:
            scores = scores.masked_fill(~(visible[part] if visible.dim() == 4 else visible), -torch.inf)
        weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        parts.append(weights.to(values.dtype) @ values)
    return torch.cat(parts)
