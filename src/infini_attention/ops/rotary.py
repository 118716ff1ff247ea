"""Rotary position embedding with the rotate-half convention of Transformers, on the first R of K channels."""

import torch
from torch import Tensor

from infini_attention.shapes import RotaryTable, Slots

Turns = tuple[Tensor, Tensor]


class Rotation:
    """The tables `cos` and `sin` `[N, R]` of N places, and the turns to some of them that were asked for last.

    All layers of a model turn a token to the same place, its q and its k alike.
    """

    def __init__(self, cos: RotaryTable, sin: RotaryTable) -> None:
        self.tables = cos, sin
        self._last: tuple[slice, torch.dtype, Turns] | None = None

    def turns(self, places: Slots | slice, dtype: torch.dtype) -> Turns:
        """What `turn` needs to rotate tokens of a dtype to these places."""
        cos, sin = self.tables
        if not isinstance(places, slice) or cos.requires_grad or sin.requires_grad:
            return turns(cos[places], sin[places], dtype)
        last = self._last
        if last is None or last[:2] != (places, dtype):
            with torch.inference_mode(False):  # what inference mode makes would be of no use to training
                last = places, dtype, turns(cos[places], sin[places], dtype)
            self._last = last
        return last[2]


def turns(cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Turns:
    """`cos` and `sin` `[..., R]` as factors of channels and of those half the size apart, `[..., 1, R]`."""
    cos, sin = cos.unsqueeze(-2).to(dtype), sin.unsqueeze(-2).to(dtype)
    first, second = sin.chunk(2, -1)
    return cos, torch.cat((-first, second), -1)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates `x [..., heads, K]` by `turns` of its dtype."""
    size = cos.shape[-1]
    turned = x if size == x.shape[-1] else x[..., :size]
    turned = torch.addcmul(turned * cos, turned.roll(size // 2, -1), sin)
    return turned if size == x.shape[-1] else torch.cat((turned, x[..., size:]), -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates `x [..., heads, K]` by `cos` and `sin` `[..., R]`, which broadcast over the heads; R <= K, R even."""
    return turn(x, *turns(cos, sin, x.dtype))


def turn_back(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The inverse of `rotate`, computed in at least float32."""
    cos, sin = (table.to(torch.promote_types(x.dtype, torch.float32)) for table in (cos, sin))
    # Each pair of channels was multiplied by [[c1, -s1], [s2, c2]].
    (first_cos, second_cos), (first_sin, second_sin) = cos.chunk(2, -1), sin.chunk(2, -1)
    determinant = torch.cat([first_cos * second_cos + first_sin * second_sin] * 2, -1)
    return rotate(x.to(cos.dtype), torch.cat((second_cos, first_cos), -1) / determinant, -sin / determinant)
