"""A converted model equals its base inside the first segment, and shares its weights."""

import copy
import json

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from helpers import FLOAT32, assert_close
from infini_attention.errors import ConfigError, ModelError
from infini_attention.models import InfiniLlamaForCausalLM, convert
from models.conftest import SEGMENT, opened

ON_REAL_WEIGHTS = 2e-5


@pytest.mark.parametrize("length", [1, SEGMENT - 1, SEGMENT])
def test_equals_its_base_inside_the_first_segment(base, model, ids, length):
    out, ref = model(ids[:, :length]).logits, base(ids[:, :length]).logits
    assert_close(out, ref, ON_REAL_WEIGHTS)


def test_equals_its_base_beside_padding(base, model, ids):
    mask = torch.ones_like(ids[:, :SEGMENT])
    mask[0, :5] = 0
    out = model(ids[:, :SEGMENT], attention_mask=mask).logits
    ref = base(ids[:1, 5:SEGMENT]).logits
    assert_close(out[:1, 5:], ref, ON_REAL_WEIGHTS)


def test_the_base_is_left_as_it_was(base, ids):
    before = copy.deepcopy(base)
    twin = convert(base, segment_size=8)
    assert isinstance(twin, InfiniLlamaForCausalLM)
    assert type(base) is type(before)
    assert base.config.to_dict() == before.config.to_dict()
    assert torch.equal(base(ids).logits, before(ids).logits)


def test_the_weights_are_shared(base):
    twin = convert(base)
    shared = dict(base.named_parameters())
    for name, parameter in twin.named_parameters():
        assert ".infini." in name or parameter is shared[name]


def test_converting_twice_gives_the_same_model(base):
    torch.manual_seed(1)
    first = convert(base).state_dict()
    torch.manual_seed(2)
    second = convert(base).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_code_of_the_base_is_named_and_none_of_its_own_saved(base, tmp_path):
    """Where such code is trusted and this package is not there, it would load the twin as its base, without a word."""
    own = copy.deepcopy(base)
    own.config.auto_map = {"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}
    twin = convert(own)
    twin.save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(ConfigError, match=r"needs no code of its own.* once infini_attention\.models is imported"):
        twin.register_for_auto_class("AutoModelForCausalLM")


def test_norms_start_at_the_size_of_the_values(base, ids):
    twin = convert(base, layers=[1])
    cache = base(ids[:, :1], use_cache=True).past_key_values
    expected = cache.layers[1].values.square().mean().sqrt().item()
    assert 0.3 * expected < twin.model.layers[1].self_attn.infini.norm_weight[0].item() < 3 * expected


def test_layers_without_memory_see_their_segment_alone(base, ids):
    twin = opened(base, layers=[])
    out = twin(ids).logits[:, SEGMENT : 2 * SEGMENT]
    assert_close(out, base(ids[:, SEGMENT : 2 * SEGMENT]).logits, FLOAT32)
    assert not [name for name, _ in twin.named_parameters() if ".infini." in name]


def test_only_the_chosen_layers_have_a_memory(base):
    names = [name for name, _ in convert(base, layers=[0, 2]).named_parameters() if ".infini." in name]
    assert {name.split(".")[2] for name in names} == {"0", "2"}


def test_the_paper_rules_have_a_gate_per_head_only(base):
    names = {name.rsplit(".", 1)[1] for name, _ in convert(base, rule="delta").named_parameters() if ".infini." in name}
    assert names == {"gate_bias"}


def test_unsupported_families_are_named():
    with pytest.raises(ModelError, match=r"'opt' is not supported; supported are .*gpt2, .*llama"):
        convert(OPTForCausalLM(OPTConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, vocab_size=11)))


def test_a_twin_is_not_converted_again(base):
    with pytest.raises(ModelError, match="Infini model already"):
        convert(convert(base))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment_size": 0}, "segment_size must be an integer of at least 1"),
        ({"segment_size": 2.0}, "segment_size must be an integer"),
        ({"rule": "hebb"}, "rule must be one of linear, delta"),
        ({"layers": [3]}, "layers must be between 0 and 2; got 3"),
    ],
)
def test_bad_settings(base, options, message):
    with pytest.raises(ConfigError, match=message):
        convert(base, **options)
