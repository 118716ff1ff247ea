"""What one forward pass hands to its attention layers, and the attention function that all families call."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from infini_attention.errors import ConfigError
from infini_attention.models.cache import InfiniCache
from infini_attention.models.config import InfiniSettings
from infini_attention.models.families import Family
from infini_attention.ops import infini_attention
from infini_attention.ops.rotary import Rotation
from infini_attention.state import InfiniState

ATTENTION = "infini"


@dataclass(frozen=True)
class StreamPass:
    """What one forward pass of a model hands to its attention layers.

    `states` are read, `cache` is written: a layer that gradient checkpointing runs twice reads the same state twice.
    `rotations` are by layer type where the family has several, else under None; empty without any.
    """

    settings: InfiniSettings
    states: tuple[InfiniState | None, ...]
    cache: InfiniCache | None
    padding_mask: Tensor | None
    rotations: Mapping[str | None, Rotation]

    def rotation(self, attention: Any) -> Rotation | None:
        """That of the layer of `attention`, where its family rotates at all."""
        if not self.rotations:
            return None
        by_layer_type = attention.infini_family.rotation_by_layer_type
        return self.rotations[attention.config.layer_types[attention.layer_idx] if by_layer_type else None]


@torch.compiler.disable  # how full a row's segment is decides which code runs: that would be compiled again and again
def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    *,
    infini_pass: StreamPass,
    infini_hidden: Tensor,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function of Infini models: q, k and v `[B, heads, T, size]` in, `[B, T, H, V]` out."""
    family: Family = module.infini_family
    if dropout:
        raise ConfigError(
            f"attention dropout is not supported; got {dropout}: set {family.dropout_name} = 0 in the configuration "
            "before the model is made, or convert() a base model, which does so"
        )
    settings, layer_idx = infini_pass.settings, module.layer_idx
    # Under autocast v comes in half precision, but q and k in float32 where a norm made them that.
    q, k, v = (x.to(value.dtype).transpose(1, 2) for x in (query, key, value))
    memory: dict[str, Any] = {"gate": None}
    if settings.has_memory(layer_idx):
        memory = module.infini(infini_hidden, q, k)._asdict()
    rotation = infini_pass.rotation(module) if family.rotates(module) else None
    out, state = infini_attention(
        q,
        k,
        v,
        **memory,
        segment_size=settings.segment_size,
        rule=settings.rule if settings.has_memory(layer_idx) else "none",
        rotary=rotation,
        state=infini_pass.states[layer_idx],
        padding_mask=infini_pass.padding_mask,
        scale=scaling,
        sliding_window=sliding_window,
        softcap=softcap,
        overlap=settings.overlap,
        backend=settings.backend,
    )
    if infini_pass.cache is not None:
        layer = infini_pass.cache.layers[layer_idx]
        layer.state = state
    return out, None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attend)


def segment_rotations(base: Any, like: Tensor) -> dict[str | None, Rotation]:
    """The rotations of a base model's layers, by layer type where its family has several, in the dtype of `like`."""
    family: Family = base.infini_family
    if family.learned_positions:
        return {}
    settings = base.config.infini_settings
    positions = torch.arange(-settings.overlap, settings.segment_size, device=like.device)[None]
    types = sorted(set(base.config.layer_types)) if family.rotation_by_layer_type else [None]
    rotations: dict[str | None, Rotation] = {}
    with torch.inference_mode(False):  # a table made in inference mode would be of no use to training
        for layer_type in types:
            cos, sin = base.rotary_emb(like[:1], positions, *([layer_type] if layer_type else []))
            rotations[layer_type] = Rotation(cos[0], sin[0])
    return rotations


def slots_of(states: tuple[InfiniState | None, ...], padding_mask: Tensor | None, tokens: Tensor, size: int) -> Tensor:
    """`[B, T]` int64: the place of each token in its segment of `size`, for what is not rotated but looked up."""
    batch, columns = tokens.shape[:2]
    real = torch.ones(batch, columns, dtype=torch.bool, device=tokens.device) if padding_mask is None else padding_mask
    seen = real.new_zeros(batch, dtype=torch.int64) if states[0] is None else states[0].tokens_seen.to(real.device)
    return (seen[:, None] + real.cumsum(1) - 1).clamp(min=0) % size


def padding_mask_of(attention_mask: Tensor | None, tokens: Tensor) -> Tensor | None:
    """`[B, T]` bool, True for real tokens: the last T columns of a 2-D attention mask."""
    if attention_mask is None:
        return None
    batch, columns = tokens.shape[:2]
    if attention_mask.dim() != 2 or attention_mask.shape[0] != batch or attention_mask.shape[1] < columns:
        raise ConfigError(
            f"attention_mask must be [B, T] or [B, past + T], 1 for real tokens, with B = {batch} and T = {columns}; "
            f"got {list(attention_mask.shape)}"
        )
    return attention_mask[:, -columns:].bool()


def refuse_packed(position_ids: Tensor | None, padding_mask: Tensor | None, kwargs: dict[str, Any]) -> None:
    """Several documents in one row would read each other's memory."""
    packed = any(kwargs.get(name) is not None for name in ("cu_seq_lens_q", "seq_idx"))
    if position_ids is not None and position_ids.dim() == 2 and position_ids.shape[1] > 1:
        restart = position_ids[:, 1:] < position_ids[:, :-1]
        if padding_mask is not None:
            restart = restart & padding_mask[:, 1:] & padding_mask[:, :-1]
        packed = packed or bool(restart.any())
    if packed:
        raise ConfigError("several documents in one row are not supported: give each document a row of its own")
