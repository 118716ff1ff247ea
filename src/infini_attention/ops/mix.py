"""One pass over pieces of segments: exact attention inside them, the memory's answer, and the gate between the two."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from infini_attention.ops import rules
from infini_attention.ops.inputs import Inputs, Tokens
from infini_attention.shapes import Memories, Normalizers, Outputs
from infini_attention.state import InfiniState, Memory


@dataclass(frozen=True)
class MemoryTrace:
    """The memory at the start of each of S segments and after the last: S + 1 of them along the third axis."""

    matrices: Memories
    normalizers: Normalizers | None

    def __getitem__(self, index: int) -> Memory:
        """The memory after `index` segments, of all rows."""
        return Memory(self.matrices[:, :, index], None if self.normalizers is None else self.normalizers[:, :, index])

    def select(self, index: Tensor) -> Memory:
        """The memory after `index[b]` segments of row b."""
        row = torch.arange(len(index), device=index.device)
        normalizer = None if self.normalizers is None else self.normalizers[row, :, index]
        return Memory(self.matrices[row, :, index], normalizer)


def attend(
    inputs: Inputs, tokens: Tokens, local: Outputs, state: InfiniState, segments: int
) -> tuple[Outputs, MemoryTrace]:
    """Writes and reads the memory for tokens of `segments` equal pieces, and mixes the answer with `local` (eq. 10)."""
    if inputs.rule == "none":
        return local, MemoryTrace(state.committed.matrix[:, :, None].expand(-1, -1, segments + 1, -1, -1), None)
    dtype = state.committed.matrix.dtype
    batch, time, heads = tokens.gate.shape
    kv_heads = tokens.k.shape[2]
    group, length = heads // kv_heads, time // segments

    def blocks(x: Tensor) -> Tensor:
        """`[B, T, G, ...]` to `[B, G, S, L, ...]`."""
        return x.to(dtype).reshape(batch, segments, length, *x.shape[2:]).movedim(3, 1)

    memories, normalizers = rules.write(
        inputs.rule,
        blocks(tokens.k_mem),
        blocks(tokens.v),
        None if tokens.beta is None else blocks(tokens.beta),
        None if tokens.log_decay is None else blocks(tokens.log_decay),
        None if tokens.valid is None else tokens.valid.reshape(batch, 1, segments, length),
        state,
    )
    starts = memories[:, :, :-1]
    z_starts = None if normalizers is None else normalizers[:, :, :-1]
    # The query heads of a group share a memory: they are rows of one product.
    q = tokens.q_mem.to(dtype).reshape(batch, segments, length, kv_heads, group, -1).permute(0, 3, 1, 4, 2, 5)
    answer = rules.read(q.reshape(batch, kv_heads, segments, group * length, -1), starts, z_starts, inputs.norm_weight)
    answer = answer.reshape(batch, kv_heads, segments, group, length, -1).permute(0, 2, 4, 1, 3, 5)
    answer = answer.reshape(batch, time, heads, -1)

    empty = rules.is_empty(starts, z_starts)  # [B, G, S]
    share = torch.sigmoid(tokens.gate.to(dtype)).reshape(batch, segments, length, kv_heads, group)
    share = share.masked_fill(empty.transpose(1, 2)[:, :, None, :, None], 0).reshape(batch, time, heads, 1)
    return torch.lerp(local.to(dtype), answer, share).to(tokens.q.dtype), MemoryTrace(memories, normalizers)


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
