"""What turns a family's classes into their Infini twins: three mixins.

The family's own forward computes q, k and v. It runs without its rotation and is given no cache, so that the registered
attention function sees q and k without positions (and after any q/k norm); the rotation inside segments, the cache and
the memory are handled in `stream_pass`, alike for every family.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

from infini_attention.errors import CacheError, ConfigError
from infini_attention.models.cache import InfiniCache, as_infini_cache
from infini_attention.models.config import InfiniSettings, head_sizes
from infini_attention.models.limits import check_family, check_segment
from infini_attention.models.quantized import check_floating
from infini_attention.models.stream_pass import (
    ATTENTION,
    StreamPass,
    padding_mask_of,
    refuse_packed,
    segment_rotations,
    slots_of,
)
from infini_attention.nn import InfiniMemory

# What they do that a memory cannot, and which arguments of generate() ask for them.
REFUSED_MODES = {
    "assisted_generation": ("takes tokens back", "assistant_model, assistant_early_exit and prompt_lookup_num_tokens"),
    "contrastive_search": ("takes tokens back", "penalty_alpha"),
    "dola_generation": ("reads layers apart", "dola_layers"),
}


def unrotated(forward: FunctionType) -> Callable[..., Any]:
    """A family's attention forward as it is, but for its rotation, which turns nothing in this copy."""
    names = forward.__globals__ | {"apply_rotary_pos_emb": lambda q, k, *_, **__: (q, k)}
    copy = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    copy.__kwdefaults__ = forward.__kwdefaults__
    return copy


class InfiniAttentionMixin:
    """In front of a family's attention class; `family_forward` is that class's, `unrotated`."""

    family_forward: Callable[..., Any]

    def forward(self, hidden_states: Tensor, *args: Any, infini_pass: StreamPass | None = None, **kwargs: Any) -> Any:
        if infini_pass is None:
            raise ConfigError(f"{type(self).__name__} runs inside an Infini model only; use nn.InfiniAttention alone")
        rotation = infini_pass.rotation(self)
        kwargs["position_embeddings"] = None if rotation is None else rotation.tables
        return self.family_forward(hidden_states, *args, infini_pass=infini_pass, infini_hidden=hidden_states, **kwargs)


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

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        raise ConfigError(
            f"a repository with {cls.__name__} needs no code of its own, and could not run it: save or push the model "
            "as it is; Transformers' Auto classes load it once infini_attention.models is imported"
        )

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        check_floating(self)  # before anything is written
        super().save_pretrained(*args, **kwargs)

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
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        tokens = input_ids if input_ids is not None else inputs_embeds
        if tokens is None:
            raise ConfigError("give input_ids or inputs_embeds; got neither")
        if kwargs.get("output_attentions", self.config.output_attentions):
            raise ConfigError("output_attentions: what is read from a memory has no attention weights; leave it out")
        if use_cache is None:
            use_cache = self.config.use_cache and not (self.training and self.gradient_checkpointing)
        layers = self.config.num_hidden_layers
        if past_key_values is not None:
            past_key_values = as_infini_cache(past_key_values, layers)
        elif use_cache:
            past_key_values = InfiniCache(layers)
        states = (None,) * layers if past_key_values is None else past_key_values.states
        settings = self.config.infini_settings
        padding_mask = padding_mask_of(attention_mask, tokens)
        refuse_packed(position_ids, padding_mask, kwargs)
        columns = tokens.shape[1]
        infini_pass = StreamPass(
            settings, states, past_key_values if use_cache else None, padding_mask, self._rotations(settings)
        )
        if self.infini_family.learned_positions:
            positions = slots_of(states, padding_mask, tokens, settings.segment_size)
        else:
            positions = torch.zeros(1, 1, dtype=torch.long, device=tokens.device)
        output = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            inputs_embeds=inputs_embeds,
            past_key_values=None,
            use_cache=False,
            return_dict=True,
            infini_pass=infini_pass,
            **kwargs,
        )
        output.past_key_values = past_key_values
        if infini_pass.cache is not None:
            for layer in infini_pass.cache.layers:
                layer.columns += columns
        as_tuple = not (self.config.return_dict if return_dict is None else return_dict)
        return output.to_tuple() if as_tuple else output

    def _rotations(self, settings: InfiniSettings) -> Any:
        """See `segment_rotations`; they are made once."""
        weight = self.get_input_embeddings().weight
        key = (settings.overlap, settings.segment_size, weight.dtype, weight.device)
        if getattr(self, "_rotations_key", None) != key:
            self._rotations_made = segment_rotations(self, weight)
            self._rotations_key = key
        return self._rotations_made


class InfiniForCausalLMMixin(InfiniPreTrainedMixin):
    """In front of a family's language model."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        base = self.base_model
        base.__class__ = self.infini_base_class
        add_memory(base)
        self.post_init()

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, next_sequence_length: int | None = None, *, inputs_embeds: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        if next_sequence_length is not None and next_sequence_length < 1:
            raise CacheError(
                "the cache has read as many columns as the attention mask has, or more, so nothing is new: give all "
                "that was read and what is new, or what is new alone with an attention_mask of both"
            )
        # Phi-3's own drops the cache where its frequencies would change; inside a segment they never do.
        return GenerationMixin.prepare_inputs_for_generation(
            self, input_ids, next_sequence_length, inputs_embeds=inputs_embeds, **kwargs
        )

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], generation_mode: Any, batch_size: int, *args: Any
    ) -> None:
        layers = self.config.num_hidden_layers
        if generation_config.cache_implementation is not None:
            raise CacheError(
                f"cache_implementation={generation_config.cache_implementation!r} cannot carry the memory: leave it "
                "out, an Infini model makes its own cache, whose size does not grow"
            )
        if generation_config.is_assistant:
            raise CacheError(
                f"{type(self).__name__} cannot be the assistant_model of another: it would have to take tokens back, "
                "which a memory cannot do; choose an assistant without a memory"
            )
        if generation_mode.value in REFUSED_MODES:
            does, asked_by = REFUSED_MODES[generation_mode.value]
            raise CacheError(f"{generation_mode.value} {does}, which a memory cannot do: leave out {asked_by}")
        if model_kwargs.get("past_key_values") is not None:
            cache = as_infini_cache(model_kwargs["past_key_values"], layers)
            copies = max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1)
            model_kwargs["past_key_values"] = cache.for_prompts(batch_size, copies)
        elif generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = InfiniCache(layers)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        raise CacheError(
            "Transformers' continuous batching pages keys and values, which a memory has not: call generate() with a "
            "padded batch, or use `infini serve`"
        )


def add_memory(base: nn.Module) -> None:
    """Makes every attention module of a base model its Infini twin, with memory parameters where they belong.

    Raises:
        ConfigError: settings that do not fit the model.
        ModelError: a model that the mechanism cannot serve.
    """
    config = base.config
    settings = config.infini_settings
    settings.check_layers(config.num_hidden_layers)
    check_family(config)
    check_segment(base.infini_family, config, settings.segment_size, settings.overlap)
    heads, kv_heads, size = head_sizes(config)
    for module in base.modules():
        if isinstance(module, base.attention_class) and not isinstance(module, InfiniAttentionMixin):
            module.__class__ = base.infini_attention_class
            if settings.has_memory(module.layer_idx):
                module.infini = InfiniMemory(config.hidden_size, heads, kv_heads, size, size, settings)
    # Transformers looks up by class what `output_hidden_states` and its like record; it fills this in when it makes a
    # model, but a twin is made from one that exists.
    recorded = type(base)._can_record_outputs or {}
    _CAN_RECORD_REGISTRY[base] = {name: place for name, place in recorded.items() if name != "attentions"}
