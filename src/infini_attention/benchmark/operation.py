"""The operation alone: one layer's attention and memory, without projections."""

from typing import Any

import torch
from torch import Tensor

from infini_attention.benchmark.contender import Contender
from infini_attention.benchmark.sizes import Sizes
from infini_attention.nn.attention import rotary_table
from infini_attention.ops import infini_attention
from infini_attention.shapes import Rule
from infini_attention.state import InfiniState


class Operation(Contender):
    """`infini_attention` on random tensors; of `ids`, only the shape is used."""

    parameters = 0

    def __init__(self, sizes: Sizes, rule: Rule, device: str) -> None:
        self.sizes, self.rule, self.device = sizes, rule, device
        cos, sin = rotary_table(range(-sizes.overlap, sizes.segment), sizes.head_dim, 10000.0)
        self.rotary = cos.to(device), sin.to(device)
        self.made: dict[torch.Size, dict[str, Any]] = {}

    def prefill(self, ids: Tensor) -> InfiniState:
        return self._run(ids, None)[1]

    def decode(self, stream: Any, token: Tensor) -> InfiniState:
        return self._run(token, stream)[1]

    def train(self, ids: Tensor) -> None:
        tensors = self._tensors(ids.shape)
        out, _ = self._run(ids, None)
        torch.autograd.grad(out.sum(), list(tensors.values()), allow_unused=True)

    def _run(self, ids: Tensor, state: InfiniState | None) -> tuple[Tensor, InfiniState]:
        return infini_attention(
            **self._tensors(ids.shape),
            segment_size=self.sizes.segment,
            overlap=self.sizes.overlap,
            rule=self.rule,
            rotary=self.rotary,
            state=state,
        )

    def _tensors(self, shape: torch.Size) -> dict[str, Any]:
        """Made once: q, k and v, and for the rules that have them gates, write strengths and decays."""
        if shape not in self.made:
            generator, sizes = torch.Generator().manual_seed(0), self.sizes

            def normal(*rest: int) -> Tensor:
                return torch.randn(*shape, *rest, generator=generator).to(self.device)

            q, v = normal(sizes.heads, sizes.head_dim), normal(sizes.kv_heads, sizes.head_dim)
            tensors = {"q": q, "k": normal(sizes.kv_heads, sizes.head_dim), "v": v, "gate": q[0, 0, :, 0].clone()}
            if self.rule == "gated_delta":
                tensors |= {"gate": normal(sizes.heads), "beta": normal(sizes.kv_heads).sigmoid()}
                tensors["norm_weight"] = torch.ones(sizes.head_dim, device=self.device)
                if sizes.memory.get("decay", True):
                    tensors["log_decay"] = -0.001 * normal(sizes.kv_heads).abs()
            self.made[shape] = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        return self.made[shape]
