"""Streams of ten million tokens and more: nothing grows, nothing overflows, and float32 stays with float64."""

from dataclasses import replace

import pytest
import torch

from helpers import FLOAT32, MEMORY_RULES, assert_close, feed, relative_rms, tensors_of
from infini_attention import InfiniState, infini_attention
from infini_attention.state import Memory

K = V = 8


def piece(generator, T, rule):
    """One head, and a gate that lets only the memory answer."""

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    inputs = {"q": 2 * normal(1, T, 1, K), "k": 2 * normal(1, T, 1, K), "v": normal(1, T, 1, V)}
    inputs |= {"gate": torch.full((1,), 100.0), "rule": rule}
    return inputs | ({"beta": normal(1, T, 1).sigmoid()} if rule == "gated_delta" else {})


def in_float64(inputs):
    return {name: value.double() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    # The error of `delta` grows with the stream: what it takes away is measured with a z that was rounded.
    ("rule", "tolerance"),
    [("linear", FLOAT32), ("delta", 1e-4), ("gated_delta", FLOAT32)],
)
@torch.no_grad()
def test_ten_million_tokens(rule, tolerance):
    generator, length, state, ref_state = torch.Generator().manual_seed(0), 2**16, None, None
    sizes = set()
    for _ in range(153):
        inputs = piece(generator, length, rule)
        out, state = infini_attention(**inputs, segment_size=64, state=state)
        ref, ref_state = infini_attention(**in_float64(inputs), segment_size=64, state=ref_state)
        assert out.isfinite().all()
        sizes.add(state.nbytes)
    assert state.tokens_seen.item() == 153 * length > 10_000_000
    assert len(sizes) == 1
    errors = {"out": relative_rms(out, ref)}
    for name in ("matrix", "normalizer"):
        if getattr(state.committed, name) is not None:
            errors[name] = relative_rms(getattr(state.committed, name), getattr(ref_state.committed, name))
    print(rule, {name: f"{error:.1e}" for name, error in errors.items()})
    assert_close(out.double(), ref, tolerance)
    assert max(errors.values()) < tolerance


@pytest.mark.parametrize("rule", MEMORY_RULES)
def test_single_tokens_still_count_after_a_hundred_million(rule):
    """One segment, token by token, writes what it writes when it is read whole."""
    C = 256
    inputs = piece(torch.Generator().manual_seed(0), C, rule) | {"segment_size": C}
    state = InfiniState.zeros(1, 1, K, V, C, rule=rule)
    tokens = 100_000_000 // C * C
    if rule != "gated_delta":  # grows by about 1.5 per token
        memory = Memory(torch.full_like(state.committed.matrix, 1.5e4), torch.full((1, 1, K), 1.5 * tokens))
        state = replace(state, committed=memory)
    state = replace(state, tokens_seen=torch.tensor([tokens]))
    (_, out), (_, ref) = feed(inputs, range(1, C), state=state), feed(inputs, state=state)
    start = tensors_of(state)
    for name in (name for name in start if name.startswith("committed")):
        assert_close(tensors_of(out)[name] - start[name], tensors_of(ref)[name] - start[name], 0.02, name)
