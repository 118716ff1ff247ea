"""Writing and reading the memory for all segments of a call at once.

Each rule is an affine recurrence over segments, `M' = A M + Q`, whose A and Q are computed for every segment in
parallel; only that small update is sequential (docs/equations.md derives the three forms). The axes are
`[B, G, S, L, ·]`: batch, key/value heads, segments, tokens of a segment.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infini_attention.ops.features import elu_plus_one, rms_norm, unit_silu
from infini_attention.ops.scan import affine_scan
from infini_attention.shapes import (
    BlockKeys,
    BlockScalars,
    BlockValues,
    Memories,
    Normalizers,
    Rule,
    SegmentFlags,
)
from infini_attention.state import InfiniState, Memory

# How many tokens of the gated delta rule are solved together. Chosen by time, it changes no result.
BLOCK = 64
# exp(-100) is 0 beside any number that float32 keeps; a log_decay of -inf would give inf - inf between two tokens.
FORGETS_ALL = -100.0


@dataclass(frozen=True)
class MemoryTrace:
    """What writing S segments makes of the memory.

    Attributes:
        before: the memory that was committed at the start of the first.
        starts, start_normalizers: that at the start of each, which its queries read.
        given, given_normalizers: what each has been given, as `InfiniState.running` keeps it.
    """

    before: Memory
    starts: Memories
    start_normalizers: Normalizers | None
    given: Memories
    given_normalizers: Normalizers | None

    @property
    def is_empty(self) -> SegmentFlags:
        """`[B, G, S]`: nothing was ever written before that segment, so there is nothing to mix in."""
        if self.starts.shape[2] == 1:
            return self.before.is_empty[:, :, None]
        return (self.starts.flatten(3) if self.start_normalizers is None else self.start_normalizers).eq(0).all(-1)

    @property
    def after(self) -> tuple[Memory, Memory]:
        """The committed and the running memory once all segments are finished."""
        matrix = _alone(self.given[:, :, -1])
        if self.start_normalizers is None or self.given_normalizers is None:
            return (memory := Memory(matrix, None)), memory
        z = self.given_normalizers[:, :, -1]
        committed = Memory(self.starts[:, :, -1] + matrix, self.start_normalizers[:, :, -1] + z)
        return committed, Memory(torch.zeros_like(matrix), torch.zeros_like(z))

    def at(self, finished: bool | Tensor) -> tuple[Memory, Memory]:
        """The same once all are finished, or not even the first is, or so many of each row (`[B]`)."""
        if finished is True:
            return self.after
        z = self.given_normalizers
        if finished is False:
            return self.before, Memory(_alone(self.given[:, :, 0]), None if z is None else _alone(z[:, :, 0]))
        row = torch.arange(len(finished), device=finished.device)

        def pick(within: Tensor | None, last: Tensor | None) -> Any:
            if within is None or last is None:
                return None
            return torch.cat((within, last[:, :, None]), 2)[row, :, finished]

        committed, running = self.after
        return (
            Memory(pick(self.starts, committed.matrix), pick(self.start_normalizers, committed.normalizer)),
            Memory(pick(self.given, running.matrix), pick(z, running.normalizer)),
        )


def _alone(x: Tensor) -> Tensor:
    """Not as a part of something larger, which would live on with it."""
    return x if x.untyped_storage().nbytes() == x.nbytes else x.clone()


def write(
    rule: Rule,
    k: BlockKeys,
    v: BlockValues,
    beta: BlockScalars | None,
    erase: BlockScalars | None,
    log_decay: BlockScalars | None,
    valid: Tensor | None,
    state: InfiniState,
) -> MemoryTrace:
    """Writes all tokens; the first segment continues the unfinished one of `state`.

    `valid` is `[B, 1, S, L]` bool, or None where every token is real.
    """
    before, running = state.committed, state.running
    if rule == "gated_delta":
        ends = _gated_delta(k, v, beta, erase, log_decay, valid, running.matrix)
        given = ends if ends.shape[2] == 1 else ends[:, :, -1:].expand_as(ends)
        return MemoryTrace(before, _starts(before.matrix, ends), None, given, None)
    assert before.normalizer is not None and running.normalizer is not None
    k = elu_plus_one(k)
    if valid is not None:
        k = k * valid[..., None]
    given_z = _continue(k.sum(3), running.normalizer)
    z = _sums(before.normalizer, given_z)
    if rule == "delta" and k.shape[2] == 1:
        v = v - _recall(k, before.matrix[:, :, None], z)
    given = _continue(_outer(k, v), running.matrix)
    if rule == "delta" and k.shape[2] > 1:
        starts, given = _delta(k, z, given, before.matrix)
    else:
        starts = _sums(before.matrix, given)
    return MemoryTrace(before, starts, z, given, given_z)


def read(q: Tensor, memories: Memories, normalizers: Normalizers | None, norm_weight: Tensor | None) -> Tensor:
    """What the memory of each segment's start answers: q `[B, G, S, N, K]` to `[B, G, S, N, V]`."""
    if normalizers is None:
        return rms_norm(unit_silu(q) @ memories, None if norm_weight is None else norm_weight.to(q.dtype))
    return _recall(elu_plus_one(q), memories, normalizers)


def _recall(sigma: Tensor, memories: Memories, normalizers: Normalizers) -> Tensor:
    """Equation 7: sigma M / (sigma . z), 0 from an empty memory."""
    denominator = sigma @ normalizers[..., None]
    return (sigma @ memories) / denominator.masked_fill(denominator == 0, 1)


def _outer(k: BlockKeys, v: BlockValues) -> Memories:
    """The sum of k v^T over the tokens of each segment; of a single one it is no matrix product."""
    return k.transpose(-1, -2) * v if k.shape[3] == 1 else k.transpose(-1, -2) @ v


def _continue(added: Tensor, before: Tensor) -> Tensor:
    """What each segment adds, the first one with what it was given in earlier calls."""
    first = added[:, :, :1] + before[:, :, None]
    return first if added.shape[2] == 1 else torch.cat((first, added[:, :, 1:]), 2)


def _starts(before: Tensor, ends: Tensor) -> Tensor:
    """Where each segment starts: the first after what was before, the others where one ends."""
    first = before[:, :, None]
    return first if ends.shape[2] == 1 else torch.cat((first, ends[:, :, :-1]), 2)


def _sums(before: Tensor, added: Tensor) -> Tensor:
    """What has been summed up at the start of each segment."""
    return _starts(before, added if added.shape[2] == 1 else before[:, :, None] + added.cumsum(2))


def _delta(k: BlockKeys, z: Normalizers, added: Memories, start: Tensor) -> tuple[Memories, Memories]:
    """Equation 9: M' = M + sum sigma(k) (v - sigma(k) M / (sigma(k) . z))^T, with M and z of the segment's start.

    Returns M at each start, and what each segment really adds.
    """
    denominator = k @ z[..., None]
    taken = k.transpose(-1, -2) @ (k / denominator.masked_fill(denominator == 0, 1))
    taken = taken * (z != 0).any(-1)[..., None, None]  # an empty memory has nothing to take away
    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    starts = _starts(start, affine_scan(identity - taken, added, start))
    return starts, added - taken @ starts


def _gated_delta(
    k: BlockKeys,
    v: BlockValues,
    beta: BlockScalars | None,
    erase: BlockScalars | None,
    log_decay: BlockScalars | None,
    valid: Tensor | None,
    start: Tensor,
) -> Memories:
    """M_t = alpha_t (I - erase_t k_t k_t^T) M_{t-1} + beta_t k_t v_t^T, in blocks of `BLOCK` tokens (WY form)."""
    k = unit_silu(k.contiguous())
    if beta is None:
        beta = torch.ones_like(k[..., 0])
    if valid is not None:
        beta = beta * valid
        erase = None if erase is None else erase * valid
        log_decay = None if log_decay is None else log_decay * valid
    if log_decay is not None:
        log_decay = log_decay.clamp(min=FORGETS_ALL)
    segments, length = k.shape[2:4]
    if segments == length == 1:  # decoding: the recurrence as it stands
        M = start[:, :, None] if log_decay is None else log_decay[..., None].exp() * start[:, :, None]
        if erase is None:
            return torch.addcmul(M, k.transpose(-1, -2), beta[..., None] * (v - k @ M))
        return torch.addcmul(M, k.transpose(-1, -2), beta[..., None] * v - erase[..., None] * (k @ M))
    blocks = -(-length // BLOCK)
    size = -(-length // blocks)

    def split(x: Tensor) -> Tensor:
        """Segments into blocks of equal size; what is added has beta 0 and decay 1, which changes nothing."""
        missing = blocks * size - length
        if missing:
            x = torch.cat((x, x.new_zeros(*x.shape[:3], missing, *x.shape[4:])), 3)
        return x.reshape(*x.shape[:2], segments * blocks, size, *x.shape[4:])

    k, v, beta = split(k), split(v), split(beta)[..., None]
    erase = beta if erase is None else split(erase)[..., None]
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
    # (I + A) W = beta v - erase k M: W is what each token really writes, after the tokens before it in the block. Both
    # of its parts are only ever multiplied by `written`, so one solve with that serves them both.
    solved = torch.linalg.solve_triangular(
        erase * overlap, written.transpose(-1, -2), upper=False, left=False, unitriangular=True
    )
    adding = solved * beta.transpose(-1, -2)
    erasing = adding if erase is beta else solved * erase.transpose(-1, -2)
    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    transition = (identity if kept is None else kept * identity) - erasing @ erased
    return affine_scan(transition, adding @ v, start)[:, :, blocks - 1 :: blocks]
