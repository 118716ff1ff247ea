"""One pass over pieces of segments: exact attention inside them, the memory's answer, and the gate between the two."""

import torch
from torch import Tensor
from torch.nn import functional as F

from infini_attention.ops import rules
from infini_attention.ops.inputs import Inputs, Tokens
from infini_attention.ops.rules import MemoryTrace
from infini_attention.shapes import Outputs
from infini_attention.state import InfiniState


def attend(
    inputs: Inputs, tokens: Tokens, local: Outputs, state: InfiniState, segments: int
) -> tuple[Outputs, MemoryTrace]:
    """Writes and reads the memory for tokens of `segments` equal pieces, and mixes the answer with `local` (eq. 10)."""
    if inputs.rule == "none":
        nothing = state.committed.matrix[:, :, None].expand(-1, -1, segments + 1, -1, -1)
        return local, MemoryTrace(nothing, None, nothing, None)
    dtype = state.committed.matrix.dtype
    batch, time, heads = tokens.gate.shape
    kv_heads = tokens.k.shape[2]
    group, length = heads // kv_heads, time // segments

    def blocks(x: Tensor) -> Tensor:
        """`[B, T, G, ...]` to `[B, G, S, L, ...]`."""
        return x.to(dtype).reshape(batch, segments, length, *x.shape[2:]).movedim(3, 1)

    trace = rules.write(
        inputs.rule,
        blocks(tokens.k_mem),
        blocks(tokens.v),
        None if tokens.beta is None else blocks(tokens.beta),
        None if tokens.log_decay is None else blocks(tokens.log_decay),
        None if tokens.valid is None else tokens.valid.reshape(batch, 1, segments, length),
        state,
    )
    starts = trace.starts[:, :, :-1]
    z_starts = None if trace.start_normalizers is None else trace.start_normalizers[:, :, :-1]
    # The query heads of a group share a memory: they are rows of one product.
    q = tokens.q_mem.to(dtype).reshape(batch, segments, length, kv_heads, group, -1).permute(0, 3, 1, 4, 2, 5)
    answer = rules.read(q.reshape(batch, kv_heads, segments, group * length, -1), starts, z_starts, inputs.norm_weight)
    answer = answer.reshape(batch, kv_heads, segments, group, length, -1).permute(0, 2, 4, 1, 3, 5)
    answer = answer.reshape(batch, time, heads, -1)

    empty = rules.is_empty(starts, z_starts)  # [B, G, S]
    share = torch.sigmoid(tokens.gate.to(dtype)).reshape(batch, segments, length, kv_heads, group)
    share = share.masked_fill(empty.transpose(1, 2)[:, :, None, :, None], 0).reshape(batch, time, heads, 1)
    return torch.lerp(local.to(dtype), answer, share).to(tokens.q.dtype), trace


def local_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool = False, visible: Tensor | None = None
) -> Tensor:
    """Softmax attention `[N, L, H, K]`: causal, over the `visible` keys (bool, `[..., L, L']`), or over all of them."""
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=visible,
        is_causal=causal,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)
