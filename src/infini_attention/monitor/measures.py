"""Figures of single tensors: how much a memory holds, what it gives, and how well it gives back what was written.

Memories are `[B, G, K, V]`; everything is computed in at least float32, and nothing has a gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from infini_attention.ops import rules
from infini_attention.shapes import MemoryMatrix, Outputs, PerQueryHead, Queries
from infini_attention.state import Memory


@torch.no_grad()
def effective_rank(matrix: MemoryMatrix) -> Tensor:
    """How many directions a memory uses alike: exp of the entropy of its singular values' shares of their sum.

    Args:
        matrix: `[B, G, K, V]`.

    Returns:
        `[B, G]`, on the CPU: 0 for an empty memory, 1 where it has rank one, min(K, V) where all singular values are
        equal; not a number where the memory has numbers that are none.

    Source: Roy and Vetterli 2007, The effective rank: a measure of effective dimensionality (EUSIPCO).
    """
    matrix = matrix.detach().cpu()
    finite = matrix.isfinite().flatten(-2).all(-1)
    # The small ones count too: as roots of the eigenvalues of M^T M, rounding would make a rank of 1.2 out of 1.
    values = torch.linalg.svdvals(matrix.where(finite[..., None, None], 0))
    shares = values / values.sum(-1, keepdim=True)
    rank = torch.special.entr(shares).sum(-1).exp()  # entr(0) is 0
    return rank.where(values[..., 0] > 0, 0).where(finite, torch.nan)


def utilisation(rank: Tensor, key_dim: int) -> Tensor:
    """The effective rank as a share of the K directions that keys can have: 0 for an empty memory, 1 for a full one."""
    return rank / key_dim


@torch.no_grad()
def norm(matrix: MemoryMatrix) -> Tensor:
    """`[B, G]`: the root of the sum of squares of a memory (Frobenius)."""
    return torch.linalg.matrix_norm(matrix)


@torch.no_grad()
def answers(q: Queries, memory: Memory, norm_weight: Tensor | None = None) -> Outputs:
    """A_mem: what a memory answers to queries.

    Args:
        q: `[B, T, H, K]`, the memory's own queries; head h asks memory h // (H / G).
        memory: that of the segment's start.
        norm_weight: `[V]`, gated_delta's.

    Returns:
        `[B, T, H, V]`, in the dtype of the memory. Source: arXiv 2404.07143, eq. 7; docs/equations.md for gated_delta.
    """
    batch, time, heads, _ = q.shape
    kv_heads, z = memory.matrix.shape[1], memory.normalizer
    q = q.to(memory.matrix.dtype).transpose(1, 2).reshape(batch, kv_heads, 1, heads // kv_heads * time, -1)
    out = rules.read(q, memory.matrix[:, :, None], None if z is None else z[:, :, None], norm_weight)
    return out.reshape(batch, heads, time, -1).transpose(1, 2)


@torch.no_grad()
def memory_share(out: Outputs, answer: Outputs, gate: PerQueryHead, empty: Tensor) -> Tensor:
    """The share of the output's energy that comes from the memory, per head.

    The output is s A_mem + (1 - s) A_dot with s = sigmoid(gate) (arXiv 2404.07143, eq. 10). The energy of either part
    is its sum of squares; the two may stand at any angle, so that their energies need not add up to the output's.

    Args:
        out: `[B, T, H, V]`, of the layer's attention, before the output projection.
        answer: `[B, T, H, V]`, A_mem.
        gate: `[B, T, H]` logits.
        empty: `[B, G]` bool, of `Memory.is_empty`: such a memory gives nothing, whatever the gate.

    Returns:
        `[H]` in [0, 1], over all rows and tokens; 0 where the output is 0.
    """
    weight = gate.sigmoid() * ~empty.repeat_interleave(gate.shape[-1] // empty.shape[-1], -1)[:, None]
    given = weight[..., None] * answer
    from_memory, rest = (part.square().sum((0, 1, 3)) for part in (given, out.to(given.dtype) - given))
    total = from_memory + rest
    return torch.where(total > 0, from_memory / total, 0)


@torch.no_grad()
def read_back(memory: Memory, keys: Tensor) -> Tensor:
    """What a memory answers to keys that it was given: a value's direction, where it kept it.

    Args:
        memory: of one row, `[1, G, K, V]`.
        keys: `[G, N, K]`, as the memory was given them, before its feature map.

    Returns:
        `[G, N, V]`. Only its direction means something: gated_delta's norm is without its weight.
    """
    return answers(keys.transpose(0, 1)[None], memory)[0].transpose(0, 1)


@torch.no_grad()
def fidelity(read: Tensor, values: Tensor) -> Tensor:
    """How well a memory gives back what was written: the cosine between a value and what its key now reads.

    A cosine does not see the scale of what is read, so that neither the denominator of eq. 7 nor a norm changes it.

    Args:
        read: `[..., V]`, of `read_back`.
        values: `[..., V]`.

    Returns:
        `[...]` in [-1, 1]; 0 where nothing is read.
    """
    return F.cosine_similarity(read, values.to(read.dtype), dim=-1)
