"""A drop-in attention block with an unbounded past, for people with a model of their own."""

import torch
from torch import Tensor, nn

from infini_attention.errors import ConfigError
from infini_attention.nn.memory import GATE_START_NEW, InfiniMemory, MemorySettings
from infini_attention.ops import infini_attention
from infini_attention.shapes import Hidden, Rule, TokenMask
from infini_attention.state import InfiniState


class InfiniAttention(nn.Module):
    """Grouped-query attention inside segments, a compressive memory of everything before, and a gate between the two.

    Args:
        hidden_size: width of input and output (E).
        num_heads: query heads (H).
        num_kv_heads: key/value heads (G), a divisor of `num_heads`; None means as many.
        head_dim: head size of q, k and v; None means hidden_size // num_heads.
        segment_size: tokens per segment (C).
        overlap: how many tokens of the segment before attention sees too, see `infini_attention`.
        rule: how the memory is written, see `infini_attention`.
        rope_theta: base of the rotary frequencies; None leaves positions out.
        gate_start: the gate logit before training.
        decay: whether gated_delta learns to let go.
        bias: whether the four projections have a bias.
        backend: see `infini_attention`.

    Raises:
        ConfigError: sizes that do not divide.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        head_dim: int | None = None,
        segment_size: int = 512,
        overlap: int = 0,
        rule: Rule = "gated_delta",
        rope_theta: float | None = 10000.0,
        gate_start: float = GATE_START_NEW,
        decay: bool = True,
        bias: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ConfigError(f"num_heads must be a multiple of num_kv_heads; got {num_heads} and {num_kv_heads}")
        if head_dim is None:
            if hidden_size % num_heads:
                raise ConfigError(
                    f"hidden_size must be a multiple of num_heads unless head_dim is given; got {hidden_size} and "
                    f"{num_heads}"
                )
            head_dim = hidden_size // num_heads
        if rope_theta is not None and head_dim % 2:
            raise ConfigError(f"rotary positions need an even head_dim; got {head_dim}: set rope_theta=None")
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.segment_size, self.overlap, self.rule, self.backend = segment_size, overlap, rule, backend
        self.q_proj = nn.Linear(hidden_size, num_heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(hidden_size, num_kv_heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(hidden_size, num_kv_heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(num_heads * head_dim, hidden_size, bias=bias)
        settings = MemorySettings(rule=rule, gate_start=gate_start, decay=decay)
        self.memory = InfiniMemory(hidden_size, num_heads, num_kv_heads, head_dim, head_dim, settings)
        self.cos: Tensor | None
        self.sin: Tensor | None
        cos, sin = (
            (None, None) if rope_theta is None else rotary_table(range(-overlap, segment_size), head_dim, rope_theta)
        )
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(
        self, hidden: Hidden, state: InfiniState | None = None, padding_mask: TokenMask | None = None
    ) -> tuple[Hidden, InfiniState]:
        """Reads the next piece of the streams, of any length.

        Args:
            hidden: `[B, T, E]`.
            state: what the previous call returned; None starts.
            padding_mask: `[B, T]` bool, True for real tokens.

        Returns:
            `[B, T, E]`, and the state to pass with the next piece.
        """
        q, k, v = (proj(hidden).unflatten(-1, (-1, self.head_dim)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        rotary = None if self.cos is None or self.sin is None else (self.cos, self.sin)
        out, state = infini_attention(
            q,
            k,
            v,
            **self.memory(hidden, q, k)._asdict(),
            segment_size=self.segment_size,
            overlap=self.overlap,
            rule=self.rule,
            rotary=rotary,
            state=state,
            padding_mask=padding_mask,
            backend=self.backend,
        )
        return self.o_proj(out.flatten(2)), state


def rotary_table(positions: range, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin `[N, K]` of the rotate-half convention (arXiv 2104.09864) for N positions."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.tensor(positions, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()
