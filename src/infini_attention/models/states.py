"""How large the state of a model's stream is, known before anything was read."""

import torch
from transformers import PreTrainedModel

from infini_attention.models.config import head_sizes
from infini_attention.state import InfiniState


def empty_states(model: PreTrainedModel) -> tuple[InfiniState, ...]:
    """The states of a stream of one row that has read nothing, one per layer."""
    config, settings = model.config, model.config.infini_settings
    _, kv_heads, head_dim = head_sizes(config)
    return tuple(
        InfiniState.zeros(
            1,
            kv_heads,
            head_dim,
            head_dim,
            settings.segment_size,
            rule=settings.rule if settings.has_memory(layer) else "none",
            overlap=settings.overlap,
            dtype=model.dtype,
            device=model.device,
        )
        for layer in range(config.num_hidden_layers)
    )


def full_kv_bytes(model: PreTrainedModel, tokens: int) -> int:
    """Bytes of the keys and values that full attention would keep for `tokens` tokens, in the model's dtype."""
    _, kv_heads, head_dim = head_sizes(model.config)
    size = torch.empty(0, dtype=model.dtype).element_size()
    return 2 * model.config.num_hidden_layers * kv_heads * head_dim * size * tokens
