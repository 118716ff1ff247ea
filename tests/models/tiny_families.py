"""A tiny random model of every family, with what is special about it switched on, and SHARP weights.

Near-uniform attention would hide mistakes. `docs/families.py` prints what is switched on.
"""

from functools import cache

import pytest
import torch
from transformers import PreTrainedModel

from infini_attention.models.families import FAMILIES
from models.conftest import VOCABULARY, opened

WINDOW = 5
# Relative RMS of a twin's logits: in the first segment, beside its untouched base in the same dtype; beyond it, that of
# half of the tokens beside the same weights in float32.
BESIDE_BASE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
REQUIRED = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "smollm3",
    "olmo2",
    "phi3",
    "gpt_neox",
    "gpt2",
]

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": None,  # so that generation runs to its full length
    "pad_token_id": 0,
}
_USUAL = _SIZES | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
_SLIDING_SECOND = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
_SLIDING_FIRST = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_CAPPED = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}

# Beside the sizes above: what the family's configuration can switch on.
SPECIAL = {
    "llama": {"attention_bias": True},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": _SLIDING_SECOND,
    "qwen3": _SLIDING_SECOND,
    "gemma2": _SLIDING_FIRST | _CAPPED,
    "gemma3_text": _SLIDING_FIRST | {"query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0},
    "smollm3": {"no_rope_layers": [1, 0]},
    "olmo2": {},
    "phi3": {"sliding_window": WINDOW, "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5}},
    "gpt_neox": {"rope_parameters": _ROPE | {"partial_rotary_factor": 0.5}},
    "gpt2": {"scale_attn_by_inverse_layer_idx": True},
    "apertus": {},
    "arcee": {},
    "exaone4": _SLIDING_FIRST,
    "gemma": {},
    "glm4_moe": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "use_qk_norm": True},
    "granite": {"logits_scaling": 2.0, "attention_multiplier": 0.3, "residual_multiplier": 0.5},
    "granitemoe": {"logits_scaling": 2.0, "num_local_experts": 4},
    "ministral": _SLIDING_FIRST,
    "mixtral": {"sliding_window": WINDOW, "num_local_experts": 4},
    "olmo": {"clip_qkv": 3.0},
    "olmo3": _SLIDING_FIRST,
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "phi": {"rope_parameters": _ROPE | {"partial_rotary_factor": 0.5}, "qk_layernorm": True},
    "qwen2_moe": _EXPERTS | {"shared_expert_intermediate_size": 16},
    "qwen3_moe": _EXPERTS,
    "seed_oss": {},
    "starcoder2": {"sliding_window": WINDOW},
    "vaultgemma": _SLIDING_FIRST | _CAPPED,
}
_OTHER_SIZES = {"gpt_neox": _SIZES | {"intermediate_size": 48}, "gpt2": _SIZES | {"n_inner": 48}}


def tiny(name: str, **changes: object) -> PreTrainedModel:
    """An untouched model of the family, with eager attention, as it would be loaded."""
    family = FAMILIES[name]
    sizes = _OTHER_SIZES.get(name, _USUAL)
    config = family.get(family.config)(**sizes | SPECIAL[name] | changes, attn_implementation="eager")
    torch.manual_seed(0)
    model: PreTrainedModel = family.get(family.causal_lm)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=0.3)
    return model


@cache
def shared(name: str) -> PreTrainedModel:
    """The same, made once for all tests that change nothing."""
    return tiny(name)


@cache
def twin_of(name: str, rule: str = "gated_delta") -> PreTrainedModel:
    """Its twin, with an open gate, segments that overlap, and every memory parameter at work; likewise."""
    return opened(shared(name), rule=rule, overlap=0 if FAMILIES[name].learned_positions else 5)


every_family = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in REQUIRED else pytest.mark.slow) for name in FAMILIES]
)
