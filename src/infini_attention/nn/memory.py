"""The parameters that an attention layer needs for its memory: gate, write strength, decay, norm, own q and k."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infini_attention.errors import ConfigError
from infini_attention.ops.precision import full_precision
from infini_attention.shapes import Hidden, Keys, Queries, Rule

# Memory share when training starts: sigmoid(-2) = 0.12 leaves a pretrained model nearly as it was and still has a
# gradient (a gate of -10 has none and never opens); 0 weighs both alike.
GATE_START_CONVERTED = -2.0
GATE_START_NEW = 0.0


@dataclass(frozen=True)
class MemorySettings:
    """How a layer's memory works.

    Attributes:
        rule: see `infini_attention`.
        rank: rank of the memory's own change of q and k; 0 uses the layer's q and k as they are.
        gate_start: the gate logit before training.
        beta_floor: write strengths below it become exactly 0, so that unimportant text leaves the memory untouched, bit
            by bit, however long it is; those above are stretched back to (0, 1).
        erase: whether gated_delta learns how much of what a key held is taken away, apart from how much is written.
            Without it as much is taken away as is written.
        decay: whether gated_delta learns to let go. Without it nothing is forgotten but by overwriting.
        decay_start: the logit of the share lost per token before training; sigmoid(-12) loses half in 113,000 tokens.
    """

    rule: Rule = "gated_delta"
    rank: int = 0
    gate_start: float = GATE_START_NEW
    beta_floor: float = 0.0
    erase: bool = False
    decay: bool = True
    decay_start: float = -12.0

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise ConfigError(f"rule must be one of {', '.join(get_args(Rule))}; got {self.rule!r}")
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 0:
            raise ConfigError(f"rank must be an integer of at least 0; got {self.rank!r}")
        if not 0 <= self.beta_floor < 0.5:
            raise ConfigError(
                f"beta_floor must be at least 0 and below 0.5, where beta starts; got {self.beta_floor!r}"
            )


class MemoryInputs(NamedTuple):
    """What the memory adds to the arguments of `infini_attention`, ready for `**inputs._asdict()`."""

    gate: Tensor
    beta: Tensor | None
    erase: Tensor | None
    log_decay: Tensor | None
    norm_weight: Tensor | None
    q_mem: Tensor | None
    k_mem: Tensor | None


class InfiniMemory(nn.Module):
    """Computes gate, beta, log_decay and the memory's q and k from the layer's input. Its parameters stay float32.

    The paper's rules have one gate logit per head and nothing else (eq. 10); gated_delta has a gate per token and head.

    Args:
        hidden_size: width of the layer's input (E).
        num_heads: query heads (H).
        num_kv_heads: key/value heads (G).
        key_dim: head size of q and k (K).
        value_dim: head size of v (V).
        settings: see `MemorySettings`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        key_dim: int,
        value_dim: int,
        settings: MemorySettings,
    ) -> None:
        super().__init__()
        self.settings = settings

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, dtype=torch.float32))

        self.gate_bias = parameter(num_heads)
        if settings.rule == "gated_delta":
            self.gate_weight = parameter(num_heads, hidden_size)
            self.beta_weight, self.beta_bias = parameter(num_kv_heads, hidden_size), parameter(num_kv_heads)
            if settings.erase:
                self.erase_weight, self.erase_bias = parameter(num_kv_heads, hidden_size), parameter(num_kv_heads)
            if settings.decay:
                self.decay_weight, self.decay_bias = parameter(num_kv_heads, hidden_size), parameter(num_kv_heads)
            self.norm_weight = parameter(value_dim)
        if settings.rank:
            self.q_down, self.q_up = (
                parameter(settings.rank, hidden_size),
                parameter(num_heads * key_dim, settings.rank),
            )
            self.k_down, self.k_up = (
                parameter(settings.rank, hidden_size),
                parameter(num_kv_heads * key_dim, settings.rank),
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The start: the gate half or mostly closed, beta and erase 0.5, decay near 0, no change of q and k."""
        starts = {
            "gate_bias": self.settings.gate_start,
            "decay_bias": self.settings.decay_start,
            "norm_weight": 1.0,
        }
        for name, parameter in self.named_parameters(recurse=False):
            if name in ("q_down", "k_down"):
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
            else:
                nn.init.constant_(parameter, starts.get(name, 0.0))

    def forward(self, hidden: Hidden, q: Queries, k: Keys) -> MemoryInputs:
        """`hidden [B, T, E]`: the input of the layer's projections; `q` and `k` without position embedding."""
        with full_precision(hidden.device):
            hidden = hidden.to(self.gate_bias.dtype)
            settings, beta, erase, log_decay, norm_weight, q_mem, k_mem = self.settings, *[None] * 6
            gate: Tensor = self.gate_bias
            if settings.rule == "gated_delta":
                gate = F.linear(hidden, self.gate_weight, self.gate_bias)
                beta = torch.sigmoid(F.linear(hidden, self.beta_weight, self.beta_bias))
                if settings.beta_floor:
                    soft = (beta - settings.beta_floor) / (1 - settings.beta_floor)
                    # The gradient is the unclamped one: a token that is not written can learn that it should be.
                    beta = soft - soft.detach().clamp(max=0)
                if settings.erase:  # never where nothing is written: what is unimportant leaves the memory untouched
                    erase = beta * 2 * torch.sigmoid(F.linear(hidden, self.erase_weight, self.erase_bias))
                norm_weight = self.norm_weight
                if settings.decay:
                    # log(1 - sigmoid(x)): the share that is lost has the logit x
                    log_decay = F.logsigmoid(-F.linear(hidden, self.decay_weight, self.decay_bias))
            if settings.rank:
                q_mem = q + F.linear(F.linear(hidden, self.q_down), self.q_up).view(q.shape)
                k_mem = k + F.linear(F.linear(hidden, self.k_down), self.k_up).view(k.shape)
            return MemoryInputs(gate, beta, erase, log_decay, norm_weight, q_mem, k_mem)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "InfiniMemory":
        """`model.half()` and `model.to(bfloat16)` leave these few parameters in float32."""

        def keep_precision(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            lowered = applied.is_floating_point() and applied.element_size() < tensor.element_size()
            return tensor.to(applied.device) if lowered else applied

        return super()._apply(keep_precision, recurse)
