"""How large the state of a model's stream is, known before anything was read."""

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from infini_attention.state import InfiniState


def empty_states(model: PreTrainedModel) -> tuple[InfiniState, ...]:
    """The states of a stream of one row that has read nothing, one per layer."""
    config, settings = model.config, model.config.infini_settings
    return tuple(
        InfiniState.zeros(
            1,
            config.num_key_value_heads,
            _head_dim(config),
            _head_dim(config),
            settings.segment_size,
            rule=settings.rule if settings.has_memory(layer) else "none",
            dtype=model.dtype,
            device=model.device,
        )
        for layer in range(config.num_hidden_layers)
    )


def full_kv_bytes(model: PreTrainedModel, tokens: int) -> int:
    """Bytes of the keys and values that full attention would keep for `tokens` tokens, in the model's dtype."""
    config = model.config
    size = torch.empty(0, dtype=model.dtype).element_size()
    return 2 * config.num_hidden_layers * config.num_key_value_heads * _head_dim(config) * size * tokens


def _head_dim(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
