"""Rotary position embedding with the rotate-half convention of Transformers, on the first R of K channels."""

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates `x [..., heads, K]` by `cos` and `sin` `[..., R]`, which broadcast over the heads; R <= K, R even."""
    size = cos.shape[-1]
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    turned, rest = x[..., :size], x[..., size:]
    half = size // 2
    sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)
    turned = torch.addcmul(turned * cos, turned.roll(half, -1), sin)
    return turned if size == x.shape[-1] else torch.cat((turned, rest), -1)


def turn_back(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The inverse of `rotate`, computed in at least float32."""
    cos, sin = (table.to(torch.promote_types(x.dtype, torch.float32)) for table in (cos, sin))
    # Each pair of channels was multiplied by [[c1, -s1], [s2, c2]].
    (first_cos, second_cos), (first_sin, second_sin) = cos.chunk(2, -1), sin.chunk(2, -1)
    determinant = torch.cat([first_cos * second_cos + first_sin * second_sin] * 2, -1)
    return rotate(x.to(cos.dtype), torch.cat((second_cos, first_cos), -1) / determinant, -sin / determinant)
