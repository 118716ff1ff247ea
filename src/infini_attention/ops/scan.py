"""The recurrence over segments, `M_s = A_s M_(s-1) + Q_s`: the only loop over a text."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from infini_attention.shapes import Memories


def affine_scan(transition: Tensor, added: Memories, start: Tensor) -> Memories:
    """M after each step.

    Args:
        transition: A, `[B, G, S, K, K]`.
        added: Q, `[B, G, S, K, V]`.
        start: M before the first step, `[B, G, K, V]`.
    """
    flat = (transition.flatten(0, 1), added.flatten(0, 1), start.flatten(0, 1))
    if torch.is_grad_enabled() and any(x.requires_grad for x in flat):
        return _Scan.apply(*flat).view(added.shape)
    return _scan(*flat).view(added.shape)


class _Scan(torch.autograd.Function):
    """Its gradient is such a recurrence too, backwards: nothing is kept but A and M, and no step has a node of its own.

    With G_s the gradient of the loss by M_s, its effect on later steps included, G_s = A_(s+1)^T G_(s+1) + grad_s;
    then dQ_s = G_s and dA_s = G_s M_(s-1)^T.
    """

    @staticmethod
    def forward(ctx: Any, transition: Tensor, added: Tensor, start: Tensor) -> Tensor:
        ends = _scan(transition, added, start)
        ctx.save_for_backward(transition, ends, start)
        return ends

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        transition, ends, start = ctx.saved_tensors
        back = transition.transpose(-1, -2)
        total = _scan(back[:, 1:].flip(1), grad[:, :-1].flip(1), grad[:, -1])
        total = torch.cat((total.flip(1), grad[:, -1:]), 1)
        before = torch.cat((start[:, None], ends[:, :-1]), 1)
        return total @ before.transpose(-1, -2), total, back[:, 0] @ total[:, 0]


def _scan(transition: Tensor, added: Tensor, start: Tensor) -> Tensor:
    """A `[N, S, K, K]`, Q `[N, S, K, V]`, M `[N, K, V]` to `[N, S, K, V]`."""
    if start.device.type == "cpu" or added.shape[1] < 2:
        return _step_by_step(transition, added, start)
    return _by_doubling(transition, added, start)


def _step_by_step(transition: Tensor, added: Tensor, start: Tensor) -> Tensor:
    """The least work."""
    ends, M = torch.empty_like(added), start
    for A, Q, end in zip(transition.unbind(1), added.unbind(1), ends.unbind(1), strict=True):
        M = torch.baddbmm(Q, A, M)
        end.copy_(M)
    return ends


def _by_doubling(transition: Tensor, added: Tensor, start: Tensor) -> Tensor:
    """log2(S) rounds over all steps: more work, but a GPU need not wait for each launch (Hillis, Steele 1986)."""
    A, M = transition, torch.cat((added[:, :1] + (transition[:, 0] @ start)[:, None], added[:, 1:]), 1)
    reach = 1  # A and M of step s span the steps after s - reach, but for the first ones, which are finished
    while reach < M.shape[1]:
        later = A[:, reach:]
        M = torch.cat((M[:, :reach], M[:, reach:] + later @ M[:, :-reach]), 1)
        A = torch.cat((A[:, :reach], later @ A[:, :-reach]), 1)
        reach *= 2
    return M
