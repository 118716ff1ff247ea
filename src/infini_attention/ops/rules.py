"""Writing and reading the memory for all segments of a call at once.

Each rule is an affine recurrence over segments, `M' = A M + Q`, whose A and Q are computed for every segment in
parallel; only that small update is sequential (docs/equations.md derives the three forms). The axes are
`[B, G, S, L, ·]`: batch, key/value heads, segments, tokens of a segment.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from infini_attention.ops.features import elu_plus_one, rms_norm, unit_silu
from infini_attention.ops.scan import affine_scan
from infini_attention.shapes import (
    BlockKeys,
    BlockScalars,
    BlockValues,
    Memories,
    MemoriesAround,
    Normalizers,
    NormalizersAround,
    Rule,
)
from infini_attention.state import InfiniState, Memory

# How many tokens of the gated delta rule are solved together. Chosen by time, it changes no result.
BLOCK = 64
# exp(-100) is 0 beside any number that float32 keeps; a log_decay of -inf would give inf - inf between two tokens.
FORGETS_ALL = -100.0


@dataclass(frozen=True)
class MemoryTrace:
    """The memory around S segments; index s stands for "s of them are finished".

    Attributes:
        starts, start_normalizers: the memory that is committed then.
        opened, open_normalizers: what the segment after that has been given, as `InfiniState.running` keeps it.
    """

    starts: MemoriesAround
    start_normalizers: NormalizersAround | None
    opened: MemoriesAround
    open_normalizers: NormalizersAround | None

    def at(self, finished: int | Tensor) -> tuple[Memory, Memory]:
        """The committed and the running memory once `finished` segments (of all rows, or `[B]`) are finished."""
        row = slice(None) if isinstance(finished, int) else torch.arange(len(finished), device=finished.device)

        def pick(matrices: Tensor, normalizers: Tensor | None) -> Memory:
            return Memory(matrices[row, :, finished], None if normalizers is None else normalizers[row, :, finished])

        return pick(self.starts, self.start_normalizers), pick(self.opened, self.open_normalizers)


def write(
    rule: Rule,
    k: BlockKeys,
    v: BlockValues,
    beta: BlockScalars | None,
    log_decay: BlockScalars | None,
    valid: Tensor | None,
    state: InfiniState,
) -> MemoryTrace:
    """Writes all tokens; the first segment continues the unfinished one of `state`.

    `valid` is `[B, 1, S, L]` bool, or None where every token is real.
    """
    committed, running = state.committed, state.running
    if rule == "gated_delta":
        ends = _gated_delta(k, v, beta, log_decay, valid, running.matrix)
        starts = torch.cat((committed.matrix[:, :, None], ends), 2)
        return MemoryTrace(starts, None, ends[:, :, -1:].expand_as(starts), None)
    assert committed.normalizer is not None and running.normalizer is not None
    k = elu_plus_one(k)
    if valid is not None:
        k = k * valid[..., None]
    added_z = _continue(k.sum(3), running.normalizer)
    added = _continue(k.transpose(-1, -2) @ v, running.matrix)
    z = committed.normalizer[:, :, None] + added_z.cumsum(2)
    z = torch.cat((committed.normalizer[:, :, None], z), 2)
    if rule == "linear":
        ends = committed.matrix[:, :, None] + added.cumsum(2)
        starts = torch.cat((committed.matrix[:, :, None], ends), 2)
    else:
        starts, added = _delta(k, z, added, committed.matrix)
    return MemoryTrace(starts, z, _and_nothing(added), _and_nothing(added_z))


def read(q: Tensor, memories: Memories, normalizers: Normalizers | None, norm_weight: Tensor | None) -> Tensor:
    """What the memory of each segment's start answers: q `[B, G, S, N, K]` to `[B, G, S, N, V]`."""
    if normalizers is None:
        return rms_norm(unit_silu(q) @ memories, None if norm_weight is None else norm_weight.to(q.dtype))
    q = elu_plus_one(q)
    denominator = q @ normalizers[..., None]
    return (q @ memories) / denominator.masked_fill(denominator == 0, 1)


def is_empty(memories: Memories, normalizers: Normalizers | None) -> Tensor:
    """`[B, G, S]` bool: nothing was ever written, so there is nothing to mix in."""
    return (memories == 0).flatten(-2).all(-1) if normalizers is None else (normalizers == 0).all(-1)


def _continue(added: Tensor, before: Tensor) -> Tensor:
    """What each segment adds, the first one with what it was given in earlier calls."""
    return torch.cat((added[:, :, :1] + before[:, :, None], added[:, :, 1:]), 2)


def _and_nothing(added: Tensor) -> Tensor:
    """One more segment, to which nothing was added yet."""
    return torch.cat((added, torch.zeros_like(added[:, :, :1])), 2)


def _delta(k: BlockKeys, z: NormalizersAround, added: Memories, start: Tensor) -> tuple[MemoriesAround, Memories]:
    """Equation 9: M' = M + sum sigma(k) (v - sigma(k) M / (sigma(k) . z))^T, with M and z of the segment's start.

    Returns M at each start, and what each segment really adds.
    """
    denominator = k @ z[:, :, :-1, :, None]
    taken = k.transpose(-1, -2) @ (k / denominator.masked_fill(denominator == 0, 1))
    taken = taken * (z[:, :, :-1] != 0).any(-1)[..., None, None]  # an empty memory has nothing to take away
    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    starts = torch.cat((start[:, :, None], affine_scan(identity - taken, added, start)), 2)
    return starts, added - taken @ starts[:, :, :-1]


def _gated_delta(
    k: BlockKeys,
    v: BlockValues,
    beta: BlockScalars | None,
    log_decay: BlockScalars | None,
    valid: Tensor | None,
    start: Tensor,
) -> Memories:
    """M_t = alpha_t (I - beta_t k_t k_t^T) M_{t-1} + beta_t k_t v_t^T, in blocks of `BLOCK` tokens (WY form)."""
    k = unit_silu(k.contiguous())
    if beta is None:
        beta = torch.ones_like(k[..., 0])
    if valid is not None:
        beta = beta * valid
        log_decay = None if log_decay is None else log_decay * valid
    if log_decay is not None:
        log_decay = log_decay.clamp(min=FORGETS_ALL)
    segments, length = k.shape[2:4]
    if segments == length == 1:  # decoding: the recurrence as it stands
        k, v, beta = k[:, :, 0], v[:, :, 0], beta[:, :, 0, :, None]
        M = start if log_decay is None else log_decay[:, :, 0, :, None].exp() * start
        return (M + k.transpose(-1, -2) * (beta * (v - k @ M)))[:, :, None]
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
    erased = written = k
    kept: Tensor | None = None
    if log_decay is not None:
        total = split(log_decay).cumsum(-1)
        later = torch.ones(size, size, dtype=torch.bool, device=k.device).triu(1)
        overlap = overlap * (total[..., :, None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()
        erased = erased * total.exp()[..., None]
        written = k * (total[..., -1:] - total).exp()[..., None]
        kept = total[..., -1].exp()[..., None, None]
    # (I + A) W = beta (v - k M): W is what each token really writes, after the tokens before it in the block. Both of
    # its parts are only ever multiplied by `written`, so one solve with that serves them both.
    solved = torch.linalg.solve_triangular(
        beta * overlap, written.transpose(-1, -2), upper=False, left=False, unitriangular=True
    ) * beta.transpose(-1, -2)
    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    transition = (identity if kept is None else kept * identity) - solved @ erased
    return affine_scan(transition, solved @ v, start)[:, :, blocks - 1 :: blocks]
