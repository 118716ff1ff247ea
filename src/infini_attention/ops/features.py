"""The maps that queries and keys pass before they meet the memory, and the norm of what is read from it."""

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-6


def elu_plus_one(x: Tensor) -> Tensor:
    """sigma of the paper (section 3.1). `elu(x) + 1` would be exactly 0 for x = -8 in bfloat16, exp(x) is not."""
    return x.clamp(max=0).exp() + F.relu(x)


def unit_silu(x: Tensor) -> Tensor:
    """l2norm(silu(x)) over the last axis: never longer than 1, so that a write with beta <= 1 cannot blow up."""
    x = F.silu(x)
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS)


def rms_norm(x: Tensor, weight: Tensor | None) -> Tensor:
    """x / rms(x) over the last axis, times `weight` where there is one."""
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
    return x if weight is None else x * weight
