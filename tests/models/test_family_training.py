"""What is trained beside the memory, in families of different make: PEFT's LoRA, adapters; and compiled models."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from helpers import FLOAT32, assert_close
from infini_attention.errors import ConfigError
from infini_attention.models import apply_adapter, save_adapter
from models.conftest import opened
from models.tiny_families import tiny, twin_of

# PEFT asks Transformers whether it checkpoints activations by a name that is no longer wanted.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

# Fused and separate projections, linear layers and GPT-2's transposed ones.
TARGETS = {"llama": ["q_proj", "v_proj"], "phi3": ["qkv_proj"], "gpt_neox": ["query_key_value"], "gpt2": ["c_attn"]}
every_target = pytest.mark.parametrize("name", TARGETS)


def with_lora(name, **options):
    """A PEFT model around a twin of its own, its LoRA at work."""
    settings = LoraConfig(r=2, target_modules=TARGETS[name], fan_in_fan_out=name == "gpt2", **options)
    torch.manual_seed(0)
    model = get_peft_model(opened(tiny(name)), settings)
    with torch.no_grad():
        for parameter, tensor in model.named_parameters():
            if "lora_B" in parameter:
                tensor.normal_(std=0.3)
    return model


@every_target
def test_peft_trains_the_memory_and_saves_it(name, ids, tmp_path):
    model = with_lora(name, modules_to_save=["infini"]).train()
    trained = {parameter: tensor for parameter, tensor in model.named_parameters() if tensor.requires_grad}
    assert {"infini", "lora_A", "lora_B"} == {part for key in trained for part in key.split(".")} & {
        *("infini", "lora_A", "lora_B", "mlp", "embed_tokens")
    }
    before = {parameter: tensor.detach().clone() for parameter, tensor in trained.items()}
    optimizer = torch.optim.SGD(trained.values(), lr=0.05)
    model(ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()
    for parameter, tensor in trained.items():
        assert not torch.equal(tensor, before[parameter]), parameter
    model.eval().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(opened(tiny(name)), tmp_path).eval()
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    half = model(ids[:, :30], use_cache=True).past_key_values
    assert_close(loaded(ids[:, 30:], past_key_values=half).logits, model(ids).logits[:, 30:], FLOAT32)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "gpt2"])
def test_an_adapter_brings_memory_and_lora_back(name, ids, tmp_path):
    model = with_lora(name).eval()
    save_adapter(model, tmp_path / "adapter", base_name=name, about={})
    applied = apply_adapter(tiny(name), tmp_path / "adapter")
    assert_close(applied(ids).logits, model(ids).logits, FLOAT32)
    assert (applied(ids).logits - twin_of(name)(ids).logits).abs().mean() > 1e-2


def test_an_adapter_cannot_hold_a_lora_on_transposed_layers(tmp_path):
    with pytest.raises(ConfigError, match="fan_in_fan_out: leave that out"):
        save_adapter(with_lora("gpt2"), tmp_path / "adapter", base_name="gpt2", about={})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_it_computes_the_same(ids):
    """In several graphs: attention and memory run between them as they are."""
    torch.compiler.reset()
    twin = opened(tiny("gemma2"))
    compiled = torch.compile(twin, backend="eager")
    mask = torch.ones_like(ids)
    mask[0, :23] = 0
    with torch.no_grad():
        for options in ({}, {"attention_mask": mask}):
            assert_close(compiled(ids, **options).logits, twin(ids, **options).logits, FLOAT32)
        half = compiled(ids[:, :30], use_cache=True).past_key_values
        out = compiled(ids[:, 30:], past_key_values=half).logits
    assert_close(out, twin(ids).logits[:, 30:], FLOAT32)
    compiled(ids, labels=ids, use_cache=False).loss.backward()
    torch.compiler.reset()
