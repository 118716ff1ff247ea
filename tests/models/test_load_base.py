"""A base model as it is: nothing converted, whatever its family."""

import pytest
import torch
from transformers import LlamaForCausalLM, OPTConfig, OPTForCausalLM

from helpers import FLOAT32, assert_close
from infini_attention.errors import ModelError
from infini_attention.models import load_model
from infini_attention.models.loading import load_base
from tiny import base_model, infini_model, save_model


def test_nothing_is_converted(tmp_path):
    model, ids = base_model(), torch.arange(40)[None]
    loaded = load_base(save_model(tmp_path / "base", model))
    assert type(loaded) is LlamaForCausalLM
    assert not loaded.training
    assert_close(loaded(ids).logits, model(ids).logits, FLOAT32)
    assert load_base(tmp_path / "base", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_family_that_cannot_be_converted(tmp_path):
    config = OPTConfig(vocab_size=300, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    OPTForCausalLM(config).save_pretrained(tmp_path)
    assert type(load_base(tmp_path)) is OPTForCausalLM
    with pytest.raises(ModelError, match="'opt' is not supported"):
        load_model(tmp_path)


def test_an_infini_model_is_none(tmp_path):
    folder = save_model(tmp_path / "infini", infini_model())
    with pytest.raises(ModelError, match="is an Infini model: it has no full attention; name the base model"):
        load_base(folder)


def test_nothing_there():
    with pytest.raises(ModelError, match="no model at 'nothing-here'"):
        load_base("nothing-here")
