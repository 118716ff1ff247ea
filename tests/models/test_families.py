"""Every family of the table, tiny and with SHARP weights: equal to its base, the invariances, saving, training.

The families that were asked for run always; those that the same mechanism gives for nothing are marked slow.
"""

import random

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from helpers import FLOAT32, FLOAT64, assert_all_close, assert_close, relative_rms, tensors_of
from infini_attention.models import apply_adapter, convert, load_model, save_adapter
from infini_attention.models.families import FAMILIES
from infini_attention.models.scoring import logits_of
from infini_attention.models.states import empty_states, full_kv_bytes
from infini_attention.models.twins import TWINS
from models.conftest import SEGMENT, VOCABULARY, opened
from models.tiny_families import BESIDE_BASE, REQUIRED, SPECIAL, every_family, shared, tiny, twin_of


@pytest.fixture
def ids(ids):
    return ids[:, :55]


def read(model, ids, cuts, mask=None):
    """All logits of a stream read in the pieces between `cuts`, and its cache."""
    cache, outputs, stop = None, [], 0
    for piece in ids.tensor_split(cuts, 1):
        stop += piece.shape[1]
        seen = None if mask is None else mask[:, :stop]
        out = model(piece, attention_mask=seen, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        outputs.append(out.logits)
    return torch.cat(outputs, 1), cache


def attentions(model):
    return [module for module in model.modules() if hasattr(module, "infini_family") and hasattr(module, "layer_idx")]


def test_each_has_its_tiny_model():
    assert set(SPECIAL) == set(FAMILIES)
    assert set(REQUIRED) <= set(FAMILIES)


@every_family
def test_equals_its_base_inside_the_first_segment(name, ids):
    base, twin = shared(name), twin_of(name)
    for length in (1, SEGMENT - 1, SEGMENT):
        assert_close(twin(ids[:, :length]).logits, base(ids[:, :length]).logits, BESIDE_BASE[torch.float32])
    pieces, _ = read(twin, ids[:, :SEGMENT], [3, 4, 11])
    assert_close(pieces, base(ids[:, :SEGMENT]).logits, BESIDE_BASE[torch.float32])


@every_family
def test_equals_its_base_beside_padding(name, ids):
    mask = torch.ones_like(ids[:, :SEGMENT])
    mask[0, :5] = 0
    out = twin_of(name)(ids[:, :SEGMENT], attention_mask=mask).logits
    assert_close(out[:1, 5:], shared(name)(ids[:1, 5:SEGMENT]).logits, BESIDE_BASE[torch.float32])


@every_family
def test_a_stream_in_random_pieces_is_the_whole(name, ids):
    whole, end = read(twin_of(name), ids, [])
    chance = random.Random(name)
    for _ in range(2):
        cuts = sorted(chance.sample(range(1, 55), chance.randint(2, 6)))
        out, cache = read(twin_of(name), ids, cuts)
        assert_close(out, whole, FLOAT32)
        for state, ref in zip(cache.states, end.states, strict=True):
            assert_all_close(tensors_of(state), tensors_of(ref), FLOAT32)


@every_family
def test_a_row_in_a_ragged_batch_is_the_row_alone(name, ids):
    mask = torch.ones_like(ids)
    mask[0, :23] = 0
    padded = torch.where(mask.bool(), ids, 0)
    for cuts in ([], [30, 31]):
        together, _ = read(twin_of(name), padded, cuts, mask)
        assert_close(together[:1, 23:], twin_of(name)(ids[:1, 23:]).logits, FLOAT32)
        assert_close(together[1:], twin_of(name)(ids[1:]).logits, FLOAT32)


@every_family
def test_saved_and_loaded_it_goes_on_to_the_last_bit(name, ids, tmp_path):
    twin = twin_of(name)
    twin.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == f"infini_{name}"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(twin) is TWINS[name][2]
    half = twin(ids[:, :30], use_cache=True).past_key_values
    rest = loaded(ids[:, 30:], past_key_values=half.fork()).logits
    assert torch.equal(rest, twin(ids[:, 30:], past_key_values=half).logits)
    assert torch.equal(load_model(tmp_path)(ids).logits, twin(ids).logits)


@every_family
def test_a_base_checkpoint_lacks_the_memory_alone(name, ids, tmp_path):
    """And what it lacks is initialised, not whatever the memory of the machine held."""
    base = shared(name)
    base.save_pretrained(tmp_path)
    config_class, _, causal_lm_class = TWINS[name]
    entries = base.config.to_dict() | {"model_type": f"infini_{name}"}
    config = config_class(**entries, infini={"segment_size": SEGMENT, "rank": 4})
    twin, info = causal_lm_class.from_pretrained(tmp_path, config=config, output_loading_info=True)
    parameters = dict(twin.named_parameters())
    memory = {parameter for parameter in parameters if ".infini." in parameter}
    assert set(info["missing_keys"]) == memory
    assert len(memory) == 2 * 11
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    fresh = convert(base, segment_size=SEGMENT, rank=4)
    for parameter, ref in fresh.named_parameters():
        if parameter.endswith(("q_down", "k_down")):  # random
            std = parameters[parameter].std() * parameters[parameter].shape[1] ** 0.5
            assert 0.7 < std < 1.3
        elif not parameter.endswith("norm_weight"):  # measured by convert
            assert torch.equal(parameters[parameter], ref), parameter
    assert_close(twin.eval()(ids[:, :SEGMENT]).logits, base(ids[:, :SEGMENT]).logits, BESIDE_BASE[torch.float32])


@every_family
def test_the_memory_alone_carries_a_gradient_to_the_first_segment(name):
    """In one layer nothing else leads there; it equals that of the oracle, in float64."""
    ids = torch.randint(3, VOCABULARY, (1, 11), generator=torch.Generator().manual_seed(0))
    base = tiny(name, num_hidden_layers=1, experts_implementation="eager", **_first_layer(name)).double()
    grads = {}
    for backend in ("torch", "reference"):
        twin = convert(base, segment_size=4, rank=2, gate_start=0.5).eval()
        with torch.no_grad():
            for parameter in (p for n, p in twin.named_parameters() if ".infini." in n):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        twin.double().config.infini["backend"] = backend
        embedded = twin.get_input_embeddings()(ids).detach().requires_grad_()
        twin(inputs_embeds=embedded, use_cache=False).logits[:, -1].square().sum().backward()
        grads[backend] = embedded.grad
    assert_close(grads["torch"], grads["reference"], FLOAT64)
    assert torch.all(grads["torch"][:, :4].abs().sum(-1) > 0)


def _first_layer(name):
    """Settings that have an entry per layer, for one layer."""
    return {entry: value[:1] for entry, value in SPECIAL[name].items() if isinstance(value, list)}


@every_family
def test_the_memory_sees_no_positions(name, ids):
    """What the first layer has summed up does not depend on the order in a segment, unless the embeddings do."""
    twin = twin_of(name, "linear")
    order = torch.randperm(SEGMENT, generator=torch.Generator().manual_seed(0))
    (one, _), (other, _) = (
        twin(tokens, use_cache=True).past_key_values.states for tokens in (ids[:, :SEGMENT], ids[:, order])
    )
    moved = relative_rms(other.committed.matrix, one.committed.matrix)
    assert moved > 1e-2 if FAMILIES[name].learned_positions else moved < FLOAT32


@every_family
def test_checkpointed_bptt_across_calls_has_the_same_gradients(name, ids):
    """A state that is detached is one that was never computed with gradients."""
    grads = []
    for checkpointing in (False, True):
        twin = opened(tiny(name, experts_implementation="eager")).double().train()  # others know no float64
        for module in twin.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        twin.config.use_cache = True
        if checkpointing:
            twin.activation_checkpointing_enable()
        with torch.set_grad_enabled(checkpointing):
            half = twin(ids[:, :20], use_cache=True).past_key_values
        half = half.detach() if checkpointing else half
        loss = twin(ids[:, 20:41], labels=ids[:, 20:41], past_key_values=half, use_cache=True).loss
        grads.append(torch.autograd.grad(loss, list(twin.parameters()), allow_unused=True))
    for out, ref in zip(grads[1], grads[0], strict=True):
        assert (out is None) == (ref is None)
        if ref is not None:
            assert_close(out, ref, FLOAT64)


@every_family
def test_training_under_autocast(name, ids):
    twin = opened(tiny(name)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = twin(ids, labels=ids, use_cache=True)
    out.loss.backward()
    assert out.past_key_values.states[0].running.matrix.dtype == torch.float32
    for parameter, tensor in twin.named_parameters():
        assert tensor.grad is None or tensor.grad.isfinite().all(), parameter
        assert ".infini." not in parameter or tensor.grad.abs().sum() > 0, parameter


@every_family
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_memory_and_gates_in_float32(name, dtype, ids, tmp_path):
    twin_of(name).save_pretrained(tmp_path)
    saved = dict(twin_of(name).named_parameters())
    low = load_model(tmp_path, dtype=dtype)
    for parameter, tensor in low.named_parameters():
        if ".infini." in parameter:  # what was saved in float32, unrounded
            assert torch.equal(tensor, saved[parameter]) and tensor.dtype == torch.float32, parameter
        else:
            assert tensor.dtype == dtype, parameter
    out = low(ids, use_cache=True)
    state = out.past_key_values.states[0]
    assert (state.running.matrix.dtype, state.keys.dtype) == (torch.float32, dtype)
    assert out.logits.isfinite().all()
    if not any("experts" in parameter for parameter, _ in low.named_parameters()):  # rounding may call other experts
        base = tiny(name).to(dtype)
        assert_close(low(ids[:, :SEGMENT]).logits, base(ids[:, :SEGMENT]).logits, BESIDE_BASE[dtype])
        # Half of the tokens: where a token reads almost nothing, the norm of what it reads makes rounding large.
        ref = twin_of(name)(ids).logits
        errors = (out.logits.float() - ref).square().mean(-1).sqrt() / ref.square().mean(-1).sqrt()
        assert errors.median() < BESIDE_BASE[dtype]


@every_family
def test_an_adapter_brings_the_memory_back(name, ids, tmp_path):
    twin = twin_of(name)
    save_adapter(twin, tmp_path / "adapter", base_name=name, about={})
    applied = apply_adapter(tiny(name), tmp_path / "adapter")
    assert torch.equal(applied(ids).logits, twin(ids).logits)


@every_family
def test_sizes_and_hidden_states(name, ids):
    twin = twin_of(name)
    out = twin(ids, use_cache=True, output_hidden_states=True)
    assert len(out.hidden_states) == 3
    assert_close(logits_of(twin, out.hidden_states[-1]), out.logits, FLOAT32)
    one_row = twin(ids[:1], use_cache=True).past_key_values
    assert sum(state.nbytes for state in empty_states(twin)) == one_row.nbytes
    kept = shared(name)(ids[:1, :4], use_cache=True).past_key_values  # fewer than a sliding window has
    assert full_kv_bytes(twin, 4) == sum(part.nbytes for layer in kept.layers for part in (layer.keys, layer.values))
    assert isinstance(twin(ids, return_dict=False), tuple)


@every_family
def test_dropout_of_attention_is_set_to_0_in_the_twin_alone(name):
    family = FAMILIES[name]
    base = tiny(name, **{family.dropout_name: 0.25})
    twin = convert(base, segment_size=SEGMENT)
    assert getattr(twin.config, family.dropout_name) == 0
    assert getattr(base.config, family.dropout_name) == 0.25
    for attention in attentions(twin):
        dropout = getattr(attention, family.dropout_module)
        assert (dropout.p if isinstance(dropout, nn.Dropout) else dropout) == 0
    twin.train()(torch.arange(20)[None])
