"""int8 weights: what they compute, that a stream stays what it is, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import BFLOAT16, FLOAT32, assert_close, relative_rms
from infini_attention.errors import ConfigError, ModelError
from infini_attention.models import convert, load_model
from infini_attention.models.adapter import save_adapter
from infini_attention.models.fingerprint import fingerprint
from infini_attention.models.loading import load_base
from infini_attention.models.quantized import FEW_ROWS, Int8Linear, quantize
from models.tiny_families import tiny
from tiny import base_model, infini_model, save_model

MANY = FEW_ROWS + 1
ROUNDING = 0.03  # a uniform error of at most half a step of 127 in the largest of 32 weights, and bfloat16


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "model", infini_model())


def dequantized(layer):
    """The weights that a layer stands for. Rows are padded to what the kernel reads, which sees numbers behind them."""
    return layer.quantized[:, : layer.in_features].float() * layer.scale.float()[:, None]


@pytest.mark.parametrize("rows", [1, 2, FEW_ROWS, MANY])
@pytest.mark.parametrize("columns", [1, 33, 40, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_multiplies_by_weights_that_are_half_a_step_away(rows, columns, dtype):
    torch.manual_seed(rows)
    weight, x = torch.randn(24, columns), torch.randn(rows, 2, columns).to(dtype)
    bias = nn.Parameter(torch.randn(24).to(dtype))
    weight[5] = 0
    layer = Int8Linear(weight, bias)
    assert ((dequantized(layer) - weight).abs() <= 0.51 * layer.scale.float()[:, None]).all()
    x = x[:, 1:]  # a part of a larger one, as the last position of each row is
    assert_close(layer(x), F.linear(x.float(), dequantized(layer), bias.float()).to(dtype), BFLOAT16)
    assert layer(x[:0]).shape == (0, 1, 24)


def test_few_rows_and_many_are_one_function():
    torch.manual_seed(0)
    layer, x = Int8Linear(torch.randn(64, 200), None), torch.randn(MANY, 200)
    together, alone = layer(x), torch.cat([layer(row[None]) for row in x])
    assert (together == alone).float().mean() > 0.99  # but where another order of summing rounds otherwise
    assert_close(together, alone, BFLOAT16)


def test_a_stream_is_what_it_was_to_the_rounding(folder):
    whole, rounded, ids = load_model(folder), load_model(folder, dtype=torch.int8), torch.randint(1, 200, (2, 70))
    head = rounded.get_output_embeddings()
    assert isinstance(head, Int8Linear) and head.quantized.dtype == torch.int8
    assert rounded.get_input_embeddings().weight.dtype == torch.float32
    assert torch.equal(rounded.get_input_embeddings().weight, whole.get_input_embeddings().weight)
    memory = {name for name, _ in whole.named_parameters() if ".infini." in name}
    left = {name: parameter for name, parameter in rounded.named_parameters() if ".infini." in name}
    assert left.keys() == memory and all(parameter.dtype == torch.float32 for parameter in left.values())
    # The same weights in float32, so that nothing but the layers' own rounding is between the two.
    with torch.no_grad():
        for name, layer in rounded.named_modules():
            if isinstance(layer, Int8Linear):
                whole.get_submodule(name).weight = nn.Parameter(dequantized(layer))
        expected = whole(ids).logits
        assert_close(rounded(ids).logits, expected, ROUNDING)
        cache, steps = None, []
        for token in ids.split(1, 1):
            output = rounded(token, past_key_values=cache, use_cache=True)
            cache, steps = output.past_key_values, [*steps, output.logits]
        assert_close(torch.cat(steps, 1), expected, ROUNDING)


def test_a_tied_head_is_rounded_and_the_embedding_is_not(tmp_path):
    base = base_model()
    base.config.tie_word_embeddings = True
    base.tie_weights()
    whole, ids = load_base(save_model(tmp_path / "tied", base)), torch.arange(40)[None]
    assert whole.lm_head.weight is whole.model.embed_tokens.weight
    rounded = load_base(tmp_path / "tied", dtype=torch.int8)
    assert isinstance(rounded.lm_head, Int8Linear)
    assert torch.equal(rounded.model.embed_tokens.weight, whole.model.embed_tokens.weight)
    rounded.tie_weights()  # as Transformers does of itself now and then
    with torch.no_grad():
        assert 0 < relative_rms(rounded(ids).logits, whole(ids).logits) < 2 * ROUNDING


def test_linear_layers_that_are_kept_transposed():
    base = tiny("gpt2")
    ids, whole = torch.arange(3, 13)[None], convert(base, segment_size=16).eval()
    with torch.no_grad():
        expected = whole(ids).logits
        assert 0 < relative_rms(quantize(whole)(ids).logits, expected) < 2 * ROUNDING
        assert_close(base(ids).logits, expected, FLOAT32)  # whose weights the twin had


def test_experts_are_refused():
    model = tiny("mixtral")
    before = [type(module) for module in model.modules()]
    with pytest.raises(ModelError, match=r"layers\.0\.mlp.* is none: load it with a floating dtype"):
        quantize(model)
    assert [type(module) for module in model.modules()] == before


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(ModelError, match="not finite"):
        Int8Linear(torch.tensor([[1.0, torch.nan]]), None)


def test_it_is_another_model_that_cannot_be_saved_or_trained(folder, tmp_path):
    rounded = load_model(folder, dtype=torch.int8)
    assert not rounded.training and not any(parameter.requires_grad for parameter in rounded.parameters())
    assert fingerprint(rounded) == fingerprint(load_model(folder, dtype=torch.int8)) != fingerprint(load_model(folder))
    with pytest.raises(ConfigError, match="cannot be trained: load the model with a floating dtype"):
        rounded.train()
    for save in (
        lambda: rounded.save_pretrained(tmp_path / "saved"),
        lambda: save_adapter(rounded, tmp_path / "saved", base_name="base", about={}),
        rounded.state_dict,
    ):
        with pytest.raises(ConfigError, match="int8 weights are never saved"):
            save()
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("load", [load_model, load_base])
def test_other_devices_are_refused_before_the_weights_are_read(load):
    with pytest.raises(ConfigError, match="int8 weights are for the CPU; got device 'meta'"):
        load("nothing-here", dtype=torch.int8, device="meta")
