"""What is relied on though Transformers does not promise it: a release that changes it fails here, and it is named."""

import inspect

import pytest
import torch
import transformers
from transformers import Cache, GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel, Trainer
from transformers.cache_utils import CacheLayerMixin
from transformers.generation.candidate_generator import AssistedCandidateGenerator
from transformers.generation.configuration_utils import GenerationMode
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import output_capturing

from infini_attention.models.cache import InfiniCache, InfiniLayer
from infini_attention.models.families import FAMILIES
from infini_attention.models.modeling import InfiniForCausalLMMixin, InfiniPreTrainedMixin
from infini_attention.models.stream_pass import ATTENTION
from infini_attention.models.twins import TWINS
from models.conftest import SEGMENT
from models.tiny_families import every_family, shared, twin_of

IDS = torch.arange(3, 23)[None]


def calls(method, owner, action, monkeypatch):
    """Whether `action` makes Transformers call what our mixin `owner` puts in the place of `method`."""
    seen, ours = [], vars(owner)[method]

    def spy(self, *args, **kwargs):
        seen.append(method)
        return ours(self, *args, **kwargs)

    monkeypatch.setattr(owner, method, spy)
    action()
    return bool(seen)


def make_twin():
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 31, "pad_token_id": 0}
    return TWINS["llama"][2](TWINS["llama"][0](**sizes, intermediate_size=8, infini={"segment_size": SEGMENT}))


def generate():
    return twin_of("llama").generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=2, do_sample=False)


def first_parameters(function, count):
    return list(inspect.signature(function).parameters)[:count]


# Name of the hook: what must be true of it. Each is looked at with pytest's monkeypatch.
HOOKS = {
    "PreTrainedModel._init_weights(module), called for new weights": lambda patch: (
        hasattr(PreTrainedModel, "_init_weights") and calls("_init_weights", InfiniPreTrainedMixin, make_twin, patch)
    ),
    "PreTrainedModel._check_and_adjust_attn_implementation(attn_implementation), called by __init__": lambda patch: (
        hasattr(PreTrainedModel, "_check_and_adjust_attn_implementation")
        and calls("_check_and_adjust_attn_implementation", InfiniPreTrainedMixin, make_twin, patch)
    ),
    "PreTrainedModel._keep_in_fp32_modules_strict": lambda patch: hasattr(
        PreTrainedModel, "_keep_in_fp32_modules_strict"
    ),
    "PreTrainedModel._supports_flash_attn, _supports_flex_attn, _can_compile_fullgraph": lambda patch: all(
        hasattr(PreTrainedModel, name)
        for name in ("_supports_flash_attn", "_supports_flex_attn", "_can_compile_fullgraph")
    ),
    "PreTrainedModel._can_record_outputs and output_capturing._CAN_RECORD_REGISTRY[model]": lambda patch: (
        hasattr(PreTrainedModel, "_can_record_outputs")
        and "hidden_states" in output_capturing._CAN_RECORD_REGISTRY.get(twin_of("llama").base_model)
    ),
    "GenerationMixin._prepare_cache_for_generation(generation_config, model_kwargs, mode, batch_size)": lambda patch: (
        first_parameters(GenerationMixin._prepare_cache_for_generation, 5)
        == ["self", "generation_config", "model_kwargs", "generation_mode", "batch_size"]
        and calls("_prepare_cache_for_generation", InfiniForCausalLMMixin, generate, patch)
    ),
    "GenerationMixin.prepare_inputs_for_generation(input_ids, next_sequence_length), called by it": lambda patch: (
        first_parameters(GenerationMixin.prepare_inputs_for_generation, 3)
        == ["self", "input_ids", "next_sequence_length"]
        and calls("prepare_inputs_for_generation", InfiniForCausalLMMixin, generate, patch)
    ),
    "GenerationMixin.init_continuous_batching": lambda patch: hasattr(GenerationMixin, "init_continuous_batching"),
    "GenerationMode: assisted_generation, contrastive_search, dola_generation": lambda patch: (
        {"assisted_generation", "contrastive_search", "dola_generation"} <= {mode.value for mode in GenerationMode}
    ),
    "masking_utils: no mask where none is registered for the attention function": lambda patch: all(
        make(twin_of("mistral").config, torch.zeros(1, 20, 32), torch.ones(1, 20), None) is None
        for make in (create_causal_mask, create_sliding_window_causal_mask)
    ),
    "PreTrainedConfig._attn_implementation and _experts_implementation": lambda patch: (
        twin_of("llama").config._attn_implementation == ATTENTION
        and hasattr(PreTrainedConfig(), "_experts_implementation")
    ),
    "PreTrainedConfig.__post_init__(**kwargs), called for each configuration": lambda patch: (
        "kwargs" in inspect.signature(PreTrainedConfig.__post_init__).parameters
        and TWINS["llama"][0]().infini["segment_size"] > 0
    ),
    "CacheLayerMixin: nothing more to implement than InfiniLayer does": lambda patch: (
        not getattr(InfiniLayer, "__abstractmethods__", ())
        and {"lazy_initialization", "update", "get_mask_sizes", "get_max_length", "reset", "reorder_cache"}
        <= set(dir(CacheLayerMixin))
    ),
    "GenerationConfig.is_assistant, set by assisted decoding": lambda patch: (
        GenerationConfig().is_assistant is None
        and "is_assistant = True" in inspect.getsource(AssistedCandidateGenerator.__init__)
    ),
    "Trainer._save_rng_state(output_dir), called before the state that says that a checkpoint is whole": lambda patch: (
        first_parameters(Trainer._save_rng_state, 2) == ["self", "output_dir"]
        and 0
        < inspect.getsource(Trainer._save_checkpoint).find("._save_rng_state(")
        < inspect.getsource(Trainer._save_checkpoint).find(".save_to_json(")
    ),
    "Trainer._save(output_dir, state_dict)": lambda patch: (
        first_parameters(Trainer._save, 3) == ["self", "output_dir", "state_dict"]
    ),
    "Trainer._load_from_checkpoint(resume_from_checkpoint, model)": lambda patch: (
        first_parameters(Trainer._load_from_checkpoint, 3) == ["self", "resume_from_checkpoint", "model"]
    ),
    "Trainer._prepare_inputs(inputs)": lambda patch: first_parameters(Trainer._prepare_inputs, 2) == ["self", "inputs"],
    "Cache(layers=...), reorder_cache, get_seq_length, batch_select_indices, batch_repeat_interleave": lambda patch: (
        {"reorder_cache", "get_seq_length", "batch_select_indices", "batch_repeat_interleave"} <= set(dir(Cache))
        and len(InfiniCache(3).layers) == 3
    ),
}


def check(hook, patch):
    kept = False
    try:
        kept = HOOKS[hook](patch)
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        kept, hook = False, f"{hook} ({error})"
    assert kept, f"Transformers {transformers.__version__} has changed a hook that this package relies on: {hook}"


@pytest.mark.parametrize("hook", HOOKS)
def test_the_hook_is_as_it_was(hook, monkeypatch):
    check(hook, monkeypatch)


@every_family
def test_a_family_is_built_as_the_table_says(name):
    """How its forward calls the rotation, and where it asks for an attention function."""
    family, base = FAMILIES[name], shared(name)
    attention = family.get("Attention")
    where = f"Transformers {transformers.__version__}: {attention.__name__}"
    parameters, source = inspect.signature(attention.forward).parameters, inspect.getsource(attention.forward)
    assert "kwargs" in parameters, f"{where}.forward passes on no **kwargs"
    assert "ALL_ATTENTION_FUNCTIONS.get_interface(" in source, f"{where} asks for no attention function"
    if not family.learned_positions:
        assert "position_embeddings" in parameters, f"{where}.forward has no position_embeddings"
        rotates = "apply_rotary_pos_emb" in attention.forward.__code__.co_names  # what `unrotated` takes out
        assert rotates, f"{where}.forward calls no apply_rotary_pos_emb by itself"
        wanted = ["self", "x", "position_ids"] + ["layer_type"] * family.rotation_by_layer_type
        given = list(inspect.signature(base.base_model.rotary_emb.forward).parameters)
        assert given == wanted[1:], f"{where}: rotary_emb.forward takes {given}"
    modules = [module for module in base.modules() if isinstance(module, attention)]
    assert [module.layer_idx for module in modules] == [0, 1], f"{where}.layer_idx"
    for module in modules:
        assert hasattr(module, family.dropout_module), f"{where} has no {family.dropout_module}"
        assert isinstance(family.rotates(module), bool), f"{where}: whether it rotates"
    assert hasattr(base.config, family.dropout_name), f"{where}: config has no {family.dropout_name}"
    layers = [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]
    assert len(layers) == 2, f"{where}: its layers are no GradientCheckpointingLayer"


RENAMED = {
    "_prepare_cache_for_generation": GenerationMixin,
    "_init_weights": PreTrainedModel,
    "_check_and_adjust_attn_implementation": PreTrainedModel,
    "_keep_in_fp32_modules_strict": PreTrainedModel,
    "_can_record_outputs": PreTrainedModel,
    "_save_rng_state": Trainer,
    "_load_from_checkpoint": Trainer,
    "_prepare_inputs": Trainer,
}


@pytest.mark.parametrize("name", RENAMED)
def test_a_hook_that_is_gone_is_named(name, monkeypatch):
    [hook] = [hook for hook in HOOKS if name in hook]
    with monkeypatch.context() as patch:
        patch.delattr(RENAMED[name], name)
        with pytest.raises(AssertionError, match=rf"has changed a hook that this package relies on: .*{name}"):
            check(hook, patch)


def test_a_hook_that_is_no_longer_called_is_named(monkeypatch):
    monkeypatch.setitem(globals(), "make_twin", lambda: None)
    monkeypatch.setitem(globals(), "generate", lambda: None)
    called = [hook for hook in HOOKS if "called by" in hook or "called for new" in hook]
    assert len(called) == 3
    for hook in called:
        with pytest.raises(AssertionError, match="has changed a hook that this package relies on"):
            check(hook, monkeypatch)
