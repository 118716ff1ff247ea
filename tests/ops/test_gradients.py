"""Gradients: both backends against finite differences, and against each other through a stream of several calls."""

import pytest
import torch
from torch import Tensor

from helpers import BACKENDS, RULES, assert_all_close, assert_close, feed, sample, tensors_of

PADDING = torch.tensor([[False, False, True, True, False, True, True, True, True, True], [True] * 8 + [False, True]])


def with_gradients(inputs):
    """The inputs as leaves of the graph, and those leaves by name."""
    names = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.is_floating_point()]
    leaves = {name: inputs[name].clone().requires_grad_() for name in names}
    return inputs | leaves, leaves


def gradients(inputs, cuts=(), *, backend, of_state=True, of_outputs=slice(None)):
    """Of a random projection of the chosen outputs and of the final state, for every floating-point input."""
    inputs, leaves = with_gradients(inputs)
    out, state = feed(inputs, cuts, backend=backend)
    results = [out[:, of_outputs]]
    if of_state:
        results += [tensor for tensor in tensors_of(state).values() if tensor.requires_grad]
    generator = torch.Generator().manual_seed(1)
    loss = sum((torch.randn(x.shape, generator=generator, dtype=x.dtype) * x).sum() for x in results)
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=inputs["rule"] == "none")
    return {name: grad for name, grad in zip(leaves, grads, strict=True) if grad is not None}


@pytest.mark.parametrize("padding_mask", [None, PADDING], ids=["full", "padded"])
@pytest.mark.parametrize("overlap", [0, 2])
@pytest.mark.parametrize("rule", RULES)
def test_torch_matches_reference_through_two_calls(rule, overlap, padding_mask):
    inputs = sample(T=10, C=4, W=overlap, H=4, G=2, rule=rule) | {"padding_mask": padding_mask}
    out, ref = gradients(inputs, [6], backend="torch"), gradients(inputs, backend="reference")
    assert {"q", "k", "v"} | ({"gate", "q_mem", "k_mem"} if rule != "none" else set()) <= ref.keys()
    assert_all_close(out, ref)


def test_torch_matches_reference_in_blocks():
    inputs = sample(B=1, T=150, C=130, H=1, G=1)
    assert_all_close(gradients(inputs, [135], backend="torch"), gradients(inputs, backend="reference"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
def test_the_state_carries_gradients_to_the_first_call(rule, backend):
    """What is read in the second call trains what was written in the first: nothing is detached in between."""
    inputs = sample(T=20, C=4, rule=rule)
    late = slice(12, None)
    out = gradients(inputs, [10], backend=backend, of_state=False, of_outputs=late)
    ref = gradients(inputs, backend="reference", of_state=False, of_outputs=late)
    assert_all_close(out, ref)
    if rule != "none":
        assert out["v"][:, :8].abs().mean() > 1e-3
        assert out["k_mem"][:, :8].abs().mean() > 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
def test_gradcheck(rule, backend):
    """Against finite differences, for the outputs and the final state of two calls."""
    inputs, leaves = with_gradients(sample(B=1, T=4, H=2, G=1, K=2, V=2, C=2, R=2, rule=rule))

    def function(*tensors):
        out, state = feed(inputs | dict(zip(leaves, tensors, strict=True)), [3], backend=backend)
        return out, *(tensor for tensor in tensors_of(state).values() if tensor.requires_grad)

    assert torch.autograd.gradcheck(function, tuple(leaves.values()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_with_a_window_an_overlap_and_capped_scores(backend):
    inputs, leaves = with_gradients(sample(B=1, T=5, H=2, G=1, K=2, V=2, C=3, W=1, R=2, rule="linear"))

    def function(*tensors):
        bounds = {"sliding_window": 2, "softcap": 1.5}
        return feed(inputs | dict(zip(leaves, tensors, strict=True)) | bounds, [4], backend=backend)[0]

    assert torch.autograd.gradcheck(function, tuple(leaves.values()))


@pytest.mark.parametrize("padding_mask", [None, PADDING], ids=["full", "padded"])
def test_torch_matches_reference_with_a_window_and_capped_scores(padding_mask):
    inputs = sample(T=10, C=4) | {"padding_mask": padding_mask, "sliding_window": 2, "softcap": 1.5}
    assert_all_close(gradients(inputs, [6], backend="torch"), gradients(inputs, backend="reference"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
def test_padding_has_no_gradient_and_spoils_none(rule, backend):
    inputs = sample(T=10, C=4, rule=rule) | {"padding_mask": PADDING}
    ref = gradients(inputs, backend="reference")
    per_token = [name for name in ref if ref[name].shape[:2] == PADDING.shape]
    for name in per_token:
        inputs[name] = inputs[name].clone()
        inputs[name][~PADDING] = torch.nan
    out = gradients(inputs, backend=backend)
    for name in per_token:
        assert_close(out[name][PADDING], ref[name][PADDING], name=name)
        assert out[name][~PADDING].eq(0).all(), name
