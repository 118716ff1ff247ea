"""Rotary position embedding with the rotate-half convention of Transformers, on the first R of K channels."""

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates `x [..., heads, K]` by `cos` and `sin` `[..., R]`, which broadcast over the heads; R <= K, R even."""
    size = cos.shape[-1]
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    turned, rest = x[..., :size], x[..., size:]
    first, second = turned.chunk(2, -1)
    turned = turned * cos + torch.cat((-second, first), -1) * sin
    return turned if size == x.shape[-1] else torch.cat((turned, rest), -1)
