"""What no implementation of a model can beat on this machine: its matrix products, and reading its weights.

Both leave out what belongs to the memory, so that one limit stands beside all rules and their cost shows. They leave
out everything elementwise too: norms, rotations, the softmax.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from infini_attention.benchmark.sizes import Sizes
from infini_attention.models.quantized import Int8Linear

# Scores that exist at the same time: 1 MB in float32, which stays in a core's cache as those of a fused kernel do.
SCORES = 1 << 18
ROWS = 4096  # tokens of one product, so that a long text does not fill the memory


@dataclass(frozen=True)
class Products:
    """The matrix products of a model over `batch` texts of `tokens` tokens: every weight's, and attention's own two.

    A causal triangle of C tokens is counted as a rectangle of C by C / 2, with the overlap's columns in front of it.
    Training has three products for one: the gradients of both factors come in addition. (Attention that keeps no scores
    computes a fourth; it is not needed.)

    Attributes:
        weights: matrices `[out, in]`; the model's own, for which one is in a cache matters.
        sizes: of attention.
        layers: with attention.
        batch, tokens: whole segments.
        train: with the gradients.
    """

    weights: Sequence[Tensor]
    sizes: Sizes
    layers: int
    batch: int
    tokens: int
    train: bool

    def __post_init__(self) -> None:
        assert self.tokens % self.sizes.segment == 0, "the limit is that of whole segments"

    @property
    def flops(self) -> int:
        """Floating-point operations, two per multiplication and addition."""
        weights = sum(weight.numel() for weight in self.weights)
        attention = 2 * self.squares * self.sizes.segment * self.seen * self.sizes.head_dim
        return 2 * (self.batch * self.tokens * weights + attention) * (3 if self.train else 1)

    @property
    def squares(self) -> int:
        """One per segment, head and layer."""
        return self.batch * self.tokens // self.sizes.segment * self.sizes.heads * self.layers

    @property
    def seen(self) -> int:
        """Tokens that one of a segment sees, on average: half of it, and the overlap."""
        return (self.sizes.segment + 1) // 2 + self.sizes.overlap

    @torch.no_grad()
    def prepare(self, device: str) -> Callable[[], None]:
        """What computes them; buffers are made here, once."""
        passes = 3 if self.train else 1
        pieces, groups = _parts(self.batch * self.tokens, ROWS), _parts(self.squares, self._at_once)
        narrow = {weight.shape[1] for weight in self.weights}
        wide = {weight.shape[0] for weight in self.weights}
        into = {size: torch.randn(pieces[0], size, device=device) for size in (narrow | wide if self.train else narrow)}
        out = {size: torch.empty(pieces[0], size, device=device) for size in (narrow | wide if self.train else wide)}
        shapes = {weight.shape for weight in self.weights} if self.train else set()
        gradients = {shape: torch.empty(shape, device=device) for shape in shapes}
        q = torch.randn(groups[0], self.sizes.segment, self.sizes.head_dim, device=device)
        k = torch.randn(groups[0], self.seen, self.sizes.head_dim, device=device)
        scores, answer = q @ k.transpose(1, 2), torch.empty_like(q)

        @torch.no_grad()
        def run() -> None:
            for rows, weight in product(pieces, self.weights):
                columns, inner = weight.shape
                torch.mm(into[inner][:rows], weight.t(), out=out[columns][:rows])
                if self.train:
                    torch.mm(into[columns][:rows], weight, out=out[inner][:rows])
                    torch.mm(into[columns][:rows].t(), into[inner][:rows], out=gradients[weight.shape])
            for n, _ in product(groups, range(passes)):
                torch.bmm(q[:n], k[:n].transpose(1, 2), out=scores[:n])
                torch.bmm(scores[:n], k[:n], out=answer[:n])

        return run

    @property
    def _at_once(self) -> int:
        return max(1, SCORES // (self.sizes.segment * self.seen))


def reading(numbers: int, steps: int, device: str) -> Callable[[], None]:
    """What reads so many float32 numbers from memory, `steps` times: no token can be decoded without the weights."""
    values = torch.ones(numbers, device=device)

    def run() -> None:
        for _ in range(steps):
            values.sum()

    return run


def weights_of(model: nn.Module) -> list[Tensor]:
    """The matrices of a model that every token is multiplied by, in the dtype that they have."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear | Int8Linear)]
    return [module.quantized if isinstance(module, Int8Linear) else module.weight for module in linear]


def _parts(total: int, most: int) -> list[int]:
    """`total` in parts of `most`, and what is left."""
    return [most] * (total // most) + [rest for rest in [total % most] if rest]
