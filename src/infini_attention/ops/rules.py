"""Writing and reading the memory for all segments of a call at once.

Each rule is an affine recurrence over segments, `M' = A M + Q`, whose A and Q are computed for every segment in parallel;
only that small update is sequential (docs/equations.md derives the three forms). The axes are `[B, G, S, L, ·]`: batch,
key/value heads, segments, tokens of a segment.
"""

import torch
from torch import Tensor

from infini_attention.ops.features import elu_plus_one, rms_norm, unit_silu
from infini_attention.shapes import BlockKeys, BlockScalars, BlockValues, Memories, Normalizers, Rule
from infini_attention.state import InfiniState

# How many tokens of the gated delta rule are solved together. Chosen by time, it changes no result.
BLOCK = 64


def write(
    rule: Rule,
    k: BlockKeys,
    v: BlockValues,
    beta: BlockScalars | None,
    log_decay: BlockScalars | None,
    valid: Tensor | None,
    state: InfiniState,
) -> tuple[Memories, Normalizers | None]:
    """The memory as it stood at the start of each segment and after the last one: S + 1 of them.

    The first segment continues the unfinished one of `state`: it reads the committed memory and adds to the running one.
    `valid` is `[B, 1, S, L]` bool, or None where every token is real.
    """
    if rule == "gated_delta":
        ends = _gated_delta(k, v, beta, log_decay, valid, state.running.matrix)
        return torch.cat((state.committed.matrix[:, :, None], ends), 2), None
    assert state.committed.normalizer is not None and state.running.normalizer is not None
    k = elu_plus_one(k)
    if valid is not None:
        k = k * valid[..., None]
    z = state.running.normalizer[:, :, None] + k.sum(3).cumsum(2)
    z = torch.cat((state.committed.normalizer[:, :, None], z), 2)
    added = k.transpose(-1, -2) @ v
    if rule == "linear":
        ends = state.running.matrix[:, :, None] + added.cumsum(2)
        return torch.cat((state.committed.matrix[:, :, None], ends), 2), z
    return _delta(k, z, added, state), z


def read(q: Tensor, memories: Memories, normalizers: Normalizers | None, norm_weight: Tensor | None) -> Tensor:
    """What the memory of each segment's start answers: q `[B, G, S, N, K]` to `[B, G, S, N, V]`."""
    if normalizers is None:
        return rms_norm(unit_silu(q) @ memories, norm_weight)
    q = elu_plus_one(q)
    denominator = q @ normalizers[..., None]
    return (q @ memories) / denominator.masked_fill(denominator == 0, 1)


def is_empty(memories: Memories, normalizers: Normalizers | None) -> Tensor:
    """`[B, G, S]` bool: nothing was ever written, so there is nothing to mix in."""
    return (memories == 0).flatten(-2).all(-1) if normalizers is None else (normalizers == 0).all(-1)


def _delta(k: BlockKeys, z: Normalizers, added: Memories, state: InfiniState) -> Memories:
    """Equation 9: M' = M + sum sigma(k) (v - sigma(k) M / (sigma(k) . z))^T, with M and z of the segment's start."""
    denominator = k @ z[:, :, :-1, :, None]
    taken = k.transpose(-1, -2) @ (k / denominator.masked_fill(denominator == 0, 1))
    taken = taken * (z[:, :, :-1] != 0).any(-1)[..., None, None]  # an empty memory has nothing to take away
    # The first segment reads the committed memory but adds to the running one.
    pending = state.running.matrix - state.committed.matrix
    added = torch.cat(((added[:, :, 0] + pending)[:, :, None], added[:, :, 1:]), 2)
    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    start = state.committed.matrix
    return torch.cat((start[:, :, None], _affine_scan(identity - taken, added, start)), 2)


def _gated_delta(
    k: BlockKeys,
    v: BlockValues,
    beta: BlockScalars | None,
    log_decay: BlockScalars | None,
    valid: Tensor | None,
    start: Tensor,
) -> Memories:
    """M_t = alpha_t (I - beta_t k_t k_t^T) M_{t-1} + beta_t k_t v_t^T, in blocks of `BLOCK` tokens (WY form)."""
    k = unit_silu(k)
    if beta is None:
        beta = torch.ones_like(k[..., 0])
    if valid is not None:
        beta = beta * valid
        log_decay = None if log_decay is None else log_decay * valid
    segments, length = k.shape[2:4]
    blocks = -(-length // BLOCK)
    size = -(-length // blocks)

    def split(x: Tensor) -> Tensor:
        """Segments into blocks of equal size; what is added has beta 0 and decay 1, which changes nothing."""
        missing = blocks * size - length
        if missing:
            x = torch.cat((x, x.new_zeros(*x.shape[:3], missing, *x.shape[4:])), 3)
        return x.reshape(*x.shape[:2], segments * blocks, size, *x.shape[4:])

    k, v, beta = split(k), split(v), split(beta)[..., None]
    overlap = k @ k.transpose(-1, -2)
    erased, written = beta * k, k
    kept: Tensor | None = None
    if log_decay is not None:
        total = split(log_decay).cumsum(-1)
        later = torch.ones(size, size, dtype=torch.bool, device=k.device).triu(1)
        overlap = overlap * (total[..., :, None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()
        erased = erased * total.exp()[..., None]
        written = k * (total[..., -1:] - total).exp()[..., None]
        kept = total[..., -1].exp()[..., None, None]
    # (I + A) W = beta (v - k M): W is what each token really writes, after the tokens before it in the block.
    solved = torch.linalg.solve_triangular(
        (beta * overlap).tril(-1), torch.cat((beta * v, erased), -1), upper=False, unitriangular=True
    )
    value_dim = v.shape[-1]
    change = written.transpose(-1, -2) @ solved
    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    transition = (identity if kept is None else kept * identity) - change[..., value_dim:]
    return _affine_scan(transition, change[..., :value_dim], start)[:, :, blocks - 1 :: blocks]


def _affine_scan(transition: Tensor, added: Memories, start: Tensor) -> Memories:
    """M after each step of M' = A M + Q, from `start` `[B, G, K, V]`: the only loop over a text."""
    batch, heads, steps, key_dim, value_dim = added.shape
    A = transition.reshape(batch * heads, steps, key_dim, key_dim).unbind(1)
    Q = added.reshape(batch * heads, steps, key_dim, value_dim).unbind(1)
    M, ends = start.reshape(batch * heads, key_dim, value_dim), []
    for step in range(steps):
        M = torch.baddbmm(Q[step], A[step], M)
        ends.append(M)
    return torch.stack(ends, 1).view(batch, heads, steps, key_dim, value_dim)
