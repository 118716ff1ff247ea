"""What the operation promises in words: what is read back, what is left alone, and in which dtypes."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from helpers import (
    BACKENDS,
    FLOAT32,
    MEMORY_RULES,
    PER_TOKEN,
    RULES,
    assert_all_close,
    assert_close,
    feed,
    sample,
    storage_bytes,
    take,
    tensors_of,
)
from infini_attention import infini_attention
from infini_attention.ops.features import unit_silu

every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_rule = pytest.mark.parametrize("rule", RULES)
every_memory_rule = pytest.mark.parametrize("rule", MEMORY_RULES)
WINDOW = {"segment_size": 8, "rule": "none"}
ALL_MEMORY = torch.tensor([100.0], dtype=torch.float64)

KEY = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
FIRST = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
SECOND = torch.tensor([-0.5, 3.0, 1.0], dtype=torch.float64)


def read_back(values, rule, backend, **options):
    """What KEY reads from the memory once each of `values` was written under it."""
    k = KEY.expand(1, len(values) + 1, 1, -1)
    v = torch.stack([*values, torch.zeros_like(FIRST)])[None, :, None]
    out, _ = infini_attention(k, k, v, ALL_MEMORY, rule=rule, backend=backend, **{"segment_size": 1} | options)
    return out[0, -1, 0]


def direction(v):
    return v / v.square().mean().sqrt()


@every_backend
def test_paper_delta_halves_what_is_written_twice(backend):
    """The flaw of equation 9, kept: z grows although the second write adds nothing to M. It stays at half."""
    assert_close(read_back([FIRST], "delta", backend), FIRST)
    assert_close(read_back([FIRST, FIRST], "delta", backend), FIRST / 2)
    assert_close(read_back([FIRST] * 10, "delta", backend), FIRST / 2)


@every_backend
def test_linear_reads_the_mean(backend):
    assert_close(read_back([FIRST, FIRST], "linear", backend), FIRST)
    assert_close(read_back([FIRST, SECOND], "linear", backend), (FIRST + SECOND) / 2)


@every_backend
@pytest.mark.parametrize("segment_size", [1, 2])
def test_gated_delta_reads_the_direction_of_what_was_written_last(backend, segment_size):
    """Written twice it is still there, and a second value under the same key replaces the first."""
    tolerance = 1e-4  # the lengths of unit vectors and the norm of what is read have an epsilon of 1e-6
    for values, last in (([FIRST, FIRST], FIRST), ([FIRST, SECOND], SECOND)):
        out = read_back(values, "gated_delta", backend, segment_size=segment_size)
        assert_close(out, direction(last), tolerance)


@every_backend
def test_decay_lets_go(backend):
    """A write is kept by the product of the later decays."""
    inputs = sample(T=16, C=4)
    inputs["beta"][:, 4:] = inputs["erase"][:, 4:] = 0
    _, start = feed(take(inputs, span=slice(4)), backend=backend)
    _, end = feed(inputs, backend=backend)
    kept = inputs["log_decay"][:, 4:].sum(1).exp()[..., None, None]
    assert_close(end.committed.matrix, start.committed.matrix * kept)


@every_backend
def test_beta_zero_never_writes(backend):
    inputs = sample(T=30)
    inputs["beta"] = torch.zeros_like(inputs["beta"])
    out, state = feed(inputs, [11], backend=backend)
    assert state.running.matrix.eq(0).all()
    window_only, _ = infini_attention(*(inputs[x] for x in "qkv"), None, **WINDOW, rotary=inputs["rotary"])
    assert_close(out, window_only)


@every_backend
def test_without_erasing_writes_add_up(backend):
    """With erase 0, keys that lie in each other's way do not: M is the sum of beta k v^T."""
    inputs = sample(T=8, C=8)
    inputs["erase"], inputs["log_decay"] = torch.zeros_like(inputs["beta"]), None
    _, state = feed(inputs, [3], backend=backend)
    keys = unit_silu(inputs["k_mem"]) * inputs["beta"][..., None]
    assert_close(state.committed.matrix, torch.einsum("btgk,btgv->bgkv", keys, inputs["v"]))


@every_backend
@every_rule
@pytest.mark.parametrize("T", [1, 5, 8])
def test_first_segment_is_plain_causal_attention(rule, backend, T):
    """Whatever the gate says: so a converted model equals its base inside its first segment."""
    inputs = sample(T=T, C=8, R=0, rule=rule)
    q, k, v = (inputs[name].transpose(1, 2) for name in "qkv")
    ref = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
    for logit in (-100.0, 0.0, 100.0):
        inputs["gate"] = torch.full((4,), logit, dtype=torch.float64)
        assert_close(feed(inputs, backend=backend)[0], ref)


@every_backend
@every_memory_rule
def test_memory_off_is_attention_inside_the_segment(rule, backend):
    """A state that forgets in the middle of a segment goes on as if there had never been a memory."""
    inputs = sample(T=24, C=8, rule=rule)
    before, after = take(inputs, span=slice(19)), take(inputs, span=slice(19, None))
    _, state = feed(before, backend=backend)
    remembering, _ = feed(after, state=state, backend=backend)
    off, _ = feed(after, state=state.forget(), backend=backend)
    qkv = (inputs[name] for name in "qkv")
    ref, _ = infini_attention(*qkv, None, **WINDOW, rotary=inputs["rotary"], backend=backend)
    assert_close(off, ref[:, 19:])
    assert (remembering - off).abs().mean() > 0.05


@every_backend
@every_memory_rule
def test_gate_weighs_the_memory(rule, backend):
    """gate = -100 is attention inside the segment; gate = 100 does not see it, once there is a memory."""
    inputs = sample(T=24, C=8, rule=rule)
    inputs["gate"] = torch.full((4,), -100.0, dtype=torch.float64)
    ref, _ = infini_attention(*(inputs[x] for x in "qkv"), None, **WINDOW, rotary=inputs["rotary"])
    assert_close(feed(inputs, backend=backend)[0], ref)

    inputs["gate"] = -inputs["gate"]
    out, _ = feed(inputs, backend=backend)
    other, _ = feed(inputs | {"q": sample(T=24, seed=1)["q"]}, backend=backend)
    assert_close(other[:, 8:], out[:, 8:])


@every_backend
@every_rule
def test_defaults(rule, backend):
    """Left out: scale K ** -0.5, beta 1, erase as beta, log_decay 0, norm_weight 1, q_mem and k_mem as q and k."""
    inputs = sample(rule=rule)
    inputs.pop("erase", None)
    defaults = {"scale": 8**-0.5, "q_mem": inputs["q"], "k_mem": inputs["k"]}
    if rule == "gated_delta":
        like = inputs["beta"]
        defaults |= {"beta": torch.ones_like(like), "erase": torch.ones_like(like)}
        defaults |= {"log_decay": torch.zeros_like(like), "norm_weight": torch.ones_like(inputs["norm_weight"])}
    left_out = {name: value for name, value in inputs.items() if name not in defaults}
    (out, state), (ref, ref_state) = feed(left_out, backend=backend), feed(inputs | defaults, backend=backend)
    assert_close(out, ref)
    assert_all_close(tensors_of(state), tensors_of(ref_state))


@every_backend
@every_rule
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtypes(rule, backend, dtype):
    """Outputs, keys and values in the dtype of q; the memory in at least float32."""
    out, state = feed(sample(rule=rule, dtype=dtype), [5, 6], backend=backend)
    at_least_float32 = torch.promote_types(dtype, torch.float32)
    assert out.dtype == state.keys.dtype == state.values.dtype == dtype
    memory = {*state.committed.tensors(), *state.running.tensors()}
    assert {tensor.dtype for tensor in memory} == {at_least_float32}


@every_backend
@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(rule, backend, dtype):
    """Left to itself it would sum up the memory in bfloat16."""
    inputs = sample(rule=rule, dtype=dtype)
    ref, ref_state = feed(inputs, [5, 6], backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, state = feed(inputs, [5, 6], backend=backend)
    assert torch.equal(out, ref)
    assert all(torch.equal(tensor, tensors_of(ref_state)[name]) for name, tensor in tensors_of(state).items())


@pytest.mark.parametrize("rule", ["linear", "gated_delta"])
def test_bfloat16_inputs_are_summed_in_float32(rule):
    """In bfloat16 a sum of ones stops growing at 256."""
    size = {"B": 1, "T": 2000, "H": 1, "G": 1, "C": 50}
    inputs = sample(**size, rule=rule, dtype=torch.bfloat16)
    as_float64 = {name: inputs[name].double() for name in PER_TOKEN if isinstance(inputs.get(name), torch.Tensor)}
    (_, state), (_, ref) = feed(inputs), feed(inputs | as_float64)
    assert_all_close(
        {name: tensor.double() for name, tensor in tensors_of(state).items() if name.startswith("committed")},
        {name: tensor for name, tensor in tensors_of(ref).items() if name.startswith("committed")},
        1e-5,
    )


@every_rule
def test_nbytes_do_not_grow(rule):
    inputs = sample(B=1, T=10_000, H=2, G=1, C=64, rule=rule, dtype=torch.float32)
    _, young = feed(take(inputs, span=slice(1)))
    _, old = feed(take(inputs, span=slice(1, None)), state=young)
    assert old.nbytes == young.nbytes > 0
    assert old.tokens_seen.tolist() == [10_000]


@every_backend
@every_rule
@pytest.mark.parametrize("padding", [0, 3])
def test_the_state_holds_no_more_than_its_bytes(rule, backend, padding):
    """None of its tensors is a view, which would keep all that a call has computed, wherever the call ends."""
    inputs = sample(T=40, C=8, W=3, rule=rule)
    if padding:
        inputs["padding_mask"] = torch.arange(40) >= torch.tensor([[0], [padding]])
    state = None
    for start, stop in pairwise((0, 1, 5, 8, 12, 33, 40)):
        _, state = infini_attention(**take(inputs, span=slice(start, stop)), state=state, backend=backend)
        assert storage_bytes(tensors_of(state).values()) <= state.nbytes


@every_backend
@every_rule
@pytest.mark.parametrize("filled", [[True] * 11, [False] * 3 + [True] * 8], ids=["together", "apart"])
def test_no_tokens(rule, backend, filled):
    """T = 0 is a call like any other, wherever the rows stand in their segments."""
    inputs = sample(T=11, rule=rule)
    nothing = take(inputs, span=slice(0))
    out, fresh = infini_attention(**nothing, backend=backend)
    assert_close(out, torch.empty(2, 0, 4, 6, dtype=torch.float64))
    assert all(tensor.eq(0).all() for tensor in tensors_of(fresh).values())

    _, state = feed(inputs | {"padding_mask": torch.tensor([[True] * 11, filled])}, backend=backend)
    for padding_mask in (None, torch.ones(2, 0, dtype=torch.bool)):
        out, after = infini_attention(**nothing | {"padding_mask": padding_mask}, state=state, backend=backend)
        assert out.shape == (2, 0, 4, 6)
        assert_all_close(tensors_of(after), tensors_of(state))


@every_backend
@every_rule
def test_state_is_a_value(rule, backend):
    """A call changes neither its arguments nor the state it was given."""
    inputs = sample(T=11, rule=rule)
    _, state = feed(inputs, backend=backend)
    before = {name: tensor.clone() for name, tensor in tensors_of(state).items()}
    arguments = {name: inputs[name].clone() for name in PER_TOKEN if name in inputs}
    feed(inputs, [1, 3], state=state, backend=backend)
    assert_all_close(tensors_of(state), before)
    assert_all_close({name: inputs[name] for name in arguments}, arguments)


@every_backend
@every_rule
def test_causal(rule, backend):
    """A later token changes no earlier output."""
    inputs = sample(T=20, C=8, rule=rule)
    ref, _ = feed(inputs, backend=backend)
    changed = sample(T=20, C=8, rule=rule, seed=1)
    for name in PER_TOKEN:
        if name in inputs and inputs[name].dim() > 1:
            inputs[name][:, 13:] = changed[name][:, 13:]
    out, _ = feed(inputs, backend=backend)
    assert_close(out[:, :13], ref[:, :13])
    assert (out[:, 13:] - ref[:, 13:]).abs().mean() > 0.05


@pytest.mark.parametrize("rule", ["linear", "delta"])
@every_backend
def test_features_that_underflow_read_nothing(rule, backend):
    """sigma(-200) is 0 in float32: 0 / 0 must not come out."""
    inputs = sample(rule=rule, dtype=torch.float32) | {"backend": backend}
    inputs["q_mem"] = torch.full_like(inputs["q"], -200.0)
    assert infini_attention(**inputs)[0].isfinite().all()


@every_backend
def test_a_decay_of_minus_infinity_forgets_everything(backend):
    inputs = sample(T=24, C=8)
    inputs["log_decay"] = inputs["log_decay"].clone()
    inputs["log_decay"][:, 11] = -torch.inf
    out, _ = infini_attention(**inputs, backend=backend)
    fresh = take(inputs, span=slice(8, None))
    ref, _ = infini_attention(**fresh, backend=backend)
    assert_close(out[:, 16:], ref[:, 8:])


@every_backend
def test_a_norm_weight_of_another_dtype(backend):
    inputs = sample(dtype=torch.float32)
    ref, _ = infini_attention(**inputs, backend=backend)
    inputs["norm_weight"] = inputs["norm_weight"].double()
    assert_close(infini_attention(**inputs, backend=backend)[0], ref, FLOAT32)
