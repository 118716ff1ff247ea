"""What turns a family's classes into their Infini twins: three mixins and one attention function.

The family's own forward computes q, k and v. It is given an identity rotation and no cache, so that the registered
attention function sees q and k without positions (and after any q/k norm); the rotation inside segments, the cache and
the memory are handled here, alike for every family.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from infini_attention.errors import CacheError, ConfigError
from infini_attention.models.cache import InfiniCache, as_infini_cache
from infini_attention.models.config import InfiniSettings
from infini_attention.nn import InfiniMemory
from infini_attention.ops import infini_attention
from infini_attention.state import InfiniState

ATTENTION = "infini"


@dataclass(frozen=True)
class StreamPass:
    """What one forward pass of a model hands to its attention layers.

    `states` are read, `cache` is written: a layer that gradient checkpointing runs twice reads the same state twice.
    """

    settings: InfiniSettings
    states: tuple[InfiniState | None, ...]
    cache: InfiniCache | None
    padding_mask: Tensor | None
    rotary: tuple[Tensor, Tensor] | None
    identity: tuple[Tensor, Tensor]


class InfiniAttentionMixin:
    """In front of a family's attention class."""

    def forward(self, hidden_states: Tensor, *args: Any, infini_pass: StreamPass | None = None, **kwargs: Any) -> Any:
        if infini_pass is None:
            raise ConfigError(f"{type(self).__name__} runs inside an Infini model only; use nn.InfiniAttention alone")
        kwargs |= {"position_embeddings": infini_pass.identity, "past_key_values": None}
        return super().forward(hidden_states, *args, infini_pass=infini_pass, infini_hidden=hidden_states, **kwargs)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    infini_pass: StreamPass,
    infini_hidden: Tensor,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function of Infini models: q, k and v `[B, heads, T, size]` in, `[B, T, H, V]` out."""
    if dropout:
        raise ConfigError(f"attention dropout is not supported; got {dropout}: set config.attention_dropout = 0")
    settings, layer_idx = infini_pass.settings, module.layer_idx
    # Under autocast v comes in half precision, but q and k in float32, which the rotation made them.
    q, k, v = (x.to(value.dtype).transpose(1, 2) for x in (query, key, value))
    memory: dict[str, Any] = {"gate": None}
    if settings.has_memory(layer_idx):
        memory = module.infini(infini_hidden, q, k)._asdict()
    out, state = infini_attention(
        q,
        k,
        v,
        **memory,
        segment_size=settings.segment_size,
        rule=settings.rule if settings.has_memory(layer_idx) else "none",
        rotary=infini_pass.rotary,
        state=infini_pass.states[layer_idx],
        padding_mask=infini_pass.padding_mask,
        scale=scaling,
        backend=settings.backend,
    )
    if infini_pass.cache is not None:
        layer = infini_pass.cache.layers[layer_idx]
        layer.state = state
    return out, None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attend)


class InfiniPreTrainedMixin:
    """In front of every model class of a family, inner and outer: loading and attention selection."""

    _keep_in_fp32_modules_strict = frozenset({"infini"})
    _supports_flash_attn = False
    _supports_flex_attn = False
    _can_compile_fullgraph = False

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, InfiniMemory):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        if attn_implementation not in (None, ATTENTION, "sdpa"):
            raise ConfigError(
                f"an Infini model attends inside its segments with sdpa; got attn_implementation="
                f"{attn_implementation!r}: leave it out, or choose another backend with config.infini['backend']"
            )
        return ATTENTION


class InfiniModelMixin(InfiniPreTrainedMixin):
    """In front of a family's base model."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        add_memory(self)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: InfiniCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        tokens = input_ids if input_ids is not None else inputs_embeds
        if tokens is None:
            raise ConfigError("give input_ids or inputs_embeds; got neither")
        if use_cache is None:
            use_cache = self.config.use_cache and not (self.training and self.gradient_checkpointing)
        layers = self.config.num_hidden_layers
        if past_key_values is not None:
            past_key_values = as_infini_cache(past_key_values, layers)
        elif use_cache:
            past_key_values = InfiniCache(layers)
        states = (None,) * layers if past_key_values is None else past_key_values.states
        settings = self.config.infini_settings
        padding_mask = _padding_mask(attention_mask, tokens)
        _refuse_packed(position_ids, padding_mask, kwargs)
        columns = tokens.shape[1]
        infini_pass = StreamPass(
            settings,
            states,
            past_key_values if use_cache else None,
            padding_mask,
            *self._rotary(settings.segment_size),
        )
        output = super().forward(
            input_ids=input_ids,
            position_ids=torch.zeros(1, columns, dtype=torch.long, device=tokens.device),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            past_key_values=past_key_values,
            infini_pass=infini_pass,
            **kwargs,
        )
        if infini_pass.cache is not None:
            for layer in infini_pass.cache.layers:
                layer.columns += columns
        return output

    def _rotary(self, segment_size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """cos and sin `[C, R]` of the positions in a segment, and those `[1, 1, R]` that rotate nothing."""
        weight = self.get_input_embeddings().weight
        key = (segment_size, weight.dtype, weight.device)
        if getattr(self, "_rotary_key", None) != key:
            with torch.inference_mode(False):  # a table made in inference mode would be of no use to training
                positions = torch.arange(segment_size, device=weight.device)[None]
                cos, sin = self.rotary_emb(weight[:1], positions)
                identity = torch.ones_like(cos[:, :1]), torch.zeros_like(sin[:, :1])
                self._rotary_tables = (cos[0], sin[0]), identity
            self._rotary_key = key
        return self._rotary_tables


class InfiniForCausalLMMixin(InfiniPreTrainedMixin):
    """In front of a family's language model."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        base = self.base_model
        base.__class__ = self.infini_base_class
        add_memory(base)
        self.post_init()

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], generation_mode: Any, *args: Any
    ) -> None:
        layers = self.config.num_hidden_layers
        if generation_config.cache_implementation is not None:
            raise CacheError(
                f"cache_implementation={generation_config.cache_implementation!r} cannot carry the memory: leave it "
                "out, an Infini model makes its own cache, whose size does not grow"
            )
        if generation_mode.value in ("assisted_generation", "contrastive_search", "dola_generation"):
            raise CacheError(
                f"{generation_mode.value} takes tokens back or reads layers apart; a memory cannot do that"
            )
        if model_kwargs.get("past_key_values") is not None:
            as_infini_cache(model_kwargs["past_key_values"], layers)
        elif generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = InfiniCache(layers)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        raise CacheError(
            "Transformers' continuous batching pages keys and values, which a memory has not; use `infini`"
        )


def add_memory(base: nn.Module) -> None:
    """Makes every attention module of a base model its Infini twin, with memory parameters where they belong."""
    config = base.config
    settings = config.infini_settings
    settings.check_layers(config.num_hidden_layers)
    for module in base.modules():
        if isinstance(module, base.attention_class) and not isinstance(module, InfiniAttentionMixin):
            module.__class__ = base.infini_attention_class
            if settings.has_memory(module.layer_idx):
                size = module.head_dim
                heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
                module.infini = InfiniMemory(config.hidden_size, heads, kv_heads, size, size, settings)


def _padding_mask(attention_mask: Tensor | None, tokens: Tensor) -> Tensor | None:
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


def _refuse_packed(position_ids: Tensor | None, padding_mask: Tensor | None, kwargs: dict[str, Any]) -> None:
    """Several documents in one row would read each other's memory."""
    packed = any(kwargs.get(name) is not None for name in ("cu_seq_lens_q", "seq_idx"))
    if position_ids is not None and position_ids.dim() == 2 and position_ids.shape[1] > 1:
        restart = position_ids[:, 1:] < position_ids[:, :-1]
        if padding_mask is not None:
            restart = restart & padding_mask[:, 1:] & padding_mask[:, :-1]
        packed = packed or bool(restart.any())
    if packed:
        raise ConfigError("several documents in one row are not supported: give each document a row of its own")
