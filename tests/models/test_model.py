"""The four invariances on a whole model, its gradients, and what it refuses."""

import copy

import pytest
import torch
from transformers import DynamicCache, StaticCache

from helpers import FLOAT32, FLOAT64, assert_close
from infini_attention.errors import CacheError, ConfigError
from infini_attention.models import InfiniCache, InfiniLlamaForCausalLM
from models.conftest import SEGMENT, opened


def stream(model, ids, cuts, mask=None):
    cache, outputs, start = None, [], 0
    for piece in ids.split(cuts, 1):
        start += piece.shape[1]
        seen = None if mask is None else mask[:, :start]
        out = model(piece, attention_mask=seen, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        outputs.append(out.logits)
    return torch.cat(outputs, 1), cache


@pytest.mark.parametrize("cuts", [[1] * 70, [1, 20, 3, 46], [64, 6]], ids=["token by token", "odd", "whole segments"])
def test_stream_equals_whole(model, ids, cuts):
    whole = model(ids, use_cache=False).logits
    assert_close(stream(model, ids, cuts)[0], whole, FLOAT32)


def test_row_in_a_batch_equals_row_alone(model, ids):
    mask = torch.ones_like(ids)
    mask[0, :23] = 0
    for cuts in ([70], [30, 1, 39]):
        together, _ = stream(model, ids, cuts, mask)
        assert_close(together[:1, 23:], model(ids[:1, 23:]).logits, FLOAT32)
        assert_close(together[1:], model(ids[1:]).logits, FLOAT32)


def test_save_load_continue_equals_never_saved(model, ids, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = InfiniLlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    half = model(ids[:, :35], use_cache=True).past_key_values
    rest = loaded(ids[:, 35:], past_key_values=half.fork()).logits
    assert torch.equal(rest, model(ids[:, 35:], past_key_values=half).logits)


def test_state_bytes_do_not_grow(model):
    ids = torch.randint(3, 90, (1, 10_000), generator=torch.Generator().manual_seed(0))
    _, few = stream(model, ids[:, :10], [10])
    _, many = stream(model, ids, [10_000])
    assert few.nbytes == many.nbytes
    assert many.get_seq_length() == 10_000


def test_a_fork_goes_its_own_way(model, ids):
    cache = model(ids[:, :30], use_cache=True).past_key_values
    fork = cache.fork()
    model(ids[:, 30:60], past_key_values=fork, use_cache=True)
    assert cache.get_seq_length() == 30
    ref = model(ids[:, :40]).logits[:, 30:]
    assert_close(model(ids[:, 30:40], past_key_values=cache).logits, ref, FLOAT32)


def test_memory_off_is_the_window_alone(base, ids):
    model, window = opened(base), opened(base, rule="none")
    cache = model(ids[:, : 3 * SEGMENT], use_cache=True).past_key_values.forget()
    out = model(ids[:, 3 * SEGMENT :][:, :SEGMENT], past_key_values=cache).logits
    assert_close(out, window(ids[:, 3 * SEGMENT :][:, :SEGMENT]).logits, FLOAT32)


def test_the_memory_matters(model, ids):
    changed = ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 90 + 3
    assert (model(ids).logits[:, -1] - model(changed).logits[:, -1]).abs().max() > 1e-4


def test_gradient_checkpointing_gives_the_same_gradients(base, ids):
    grads = []
    for checkpointing in (False, True):
        model = copy.deepcopy(opened(base)).double().train()
        if checkpointing:
            model.activation_checkpointing_enable()
        half = model(ids[:, :35], use_cache=True).past_key_values.detach()
        model(ids[:, 35:], labels=ids[:, 35:], past_key_values=half, use_cache=True).loss.backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    for out, ref in zip(grads[1], grads[0], strict=True):
        assert_close(out, ref, FLOAT64)


def test_a_gradient_reaches_the_first_segment_through_the_memory_alone(model, ids):
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    model(inputs_embeds=embedded).logits[:, -1].sum().backward()
    assert torch.all(embedded.grad[:, :SEGMENT].abs().sum((1, 2)) > 0)


def test_training_after_inference(base, ids):
    model = opened(base)
    with torch.inference_mode():
        model(ids)
    model(ids, labels=ids, use_cache=False).loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_keeps_the_memory_in_float32(model, ids, dtype, tmp_path):
    model.save_pretrained(tmp_path)
    low = InfiniLlamaForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    assert low.model.layers[0].self_attn.infini.gate_bias.dtype == torch.float32
    assert low.model.layers[0].self_attn.q_proj.weight.dtype == dtype
    out = low(ids, use_cache=True)
    assert out.past_key_values.states[0].running.matrix.dtype == torch.float32
    assert out.past_key_values.states[0].keys.dtype == dtype
    assert out.logits.isfinite().all()


@pytest.mark.parametrize("make", [lambda c: DynamicCache(), lambda c: StaticCache(config=c, max_cache_len=64)])
def test_other_caches_are_refused(model, base, ids, make):
    with pytest.raises(CacheError, match="needs an InfiniCache"):
        model(ids, past_key_values=make(base.config))


def test_our_cache_is_refused_by_other_models(base, ids):
    with pytest.raises(CacheError, match="DynamicCache"):
        base(ids, past_key_values=InfiniCache(3))


def test_packed_documents_are_refused(model, ids):
    positions = torch.cat((torch.arange(30), torch.arange(40)))[None].expand(2, -1)
    with pytest.raises(ConfigError, match="row of its own"):
        model(ids, position_ids=positions)


def test_4d_masks_are_refused(model, ids):
    with pytest.raises(ConfigError, match="attention_mask must be"):
        model(ids, attention_mask=torch.ones(2, 1, 70, 70))


def test_the_attention_cannot_be_swapped(model, ids):
    ref = model(ids).logits
    model.set_attn_implementation("sdpa")
    assert torch.equal(model(ids).logits, ref)
    with pytest.raises(ConfigError, match="attends inside its segments"):
        model.set_attn_implementation("eager")
