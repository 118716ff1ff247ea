"""Both backends against an oracle that shares no code with them: outputs and final state."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import (
    BACKENDS,
    BFLOAT16,
    FLOAT32,
    RULES,
    assert_all_close,
    assert_close,
    assert_matches_oracle,
    feed,
    sample,
    tensors_of,
)
from infini_attention.ops import mix
from ops.oracle import oracle

every_rule = pytest.mark.parametrize("rule", RULES)
every_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.mark.parametrize(
    ("rule", "read", "matrix"),
    [
        # C = K = V = 1, sigma(0) = 1, unit_silu(9) = 1: the numbers can be followed by hand.
        ("linear", [2.0, 2.0, 3.0], 10.0),
        ("delta", [2.0, 2.0, 2.0], 4.0 + (6.0 - 2.0)),
        ("gated_delta", [2.0, 1.0, 1.0], 6.0),
    ],
)
def test_oracle_by_hand(rule, read, matrix):
    x = torch.full((1, 3, 1, 1), 9.0 if rule == "gated_delta" else 0.0).double().numpy()
    v = torch.tensor([2.0, 4.0, 6.0]).double().reshape(1, 3, 1, 1).numpy()
    if rule == "linear":
        v[0, 2] = 4.0
    out, state = oracle(x, x, v, torch.tensor([50.0]).double().numpy(), segment_size=1, rule=rule)
    assert out.ravel() == pytest.approx(read, rel=1e-6)
    assert state["committed.matrix"].item() == pytest.approx(matrix, rel=1e-6)


@every_backend
@every_rule
@pytest.mark.parametrize(
    ("T", "C"),
    [(1, 1), (7, 1), (1, 3), (7, 3), (63, 3), (7, 8), (63, 8), (100, 8), (1, 64), (63, 64), (100, 64), (7, 100)],
)
def test_odd_lengths(rule, backend, T, C):
    assert_matches_oracle(sample(T=T, C=C, rule=rule), backend=backend)


@every_backend
@pytest.mark.parametrize("C", [100, 130])
def test_gated_delta_in_blocks(backend, C):
    """Segments longer than the block that is solved at once."""
    assert_matches_oracle(sample(B=1, T=270, C=C), [45, 233], backend=backend)


@every_backend
@every_rule
@pytest.mark.parametrize("cuts", [[5], [5, 6, 8, 19], [16], [3, 30]])
def test_continued_from_a_state(rule, backend, cuts):
    assert_matches_oracle(sample(T=37, C=8, rule=rule), cuts, backend=backend)


@every_backend
@every_rule
@pytest.mark.parametrize(("H", "G"), [(1, 1), (3, 3), (6, 2), (4, 1)])
@pytest.mark.parametrize(("K", "R"), [(8, 0), (8, 2), (8, 8)])
def test_heads_and_rotary_sizes(rule, backend, H, G, K, R):
    assert_matches_oracle(sample(T=11, H=H, G=G, K=K, R=R, C=4, rule=rule), backend=backend)


@every_backend
@every_rule
def test_gate_of_either_shape(rule, backend):
    inputs = sample(rule=rule)
    for shape in ((4,), (2, 20, 4)):
        inputs["gate"] = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert_matches_oracle(inputs, backend=backend)


@every_backend
@pytest.mark.parametrize("name", ["beta", "erase", "log_decay", "norm_weight", "q_mem", "k_mem", "rotary"])
def test_arguments_left_out(backend, name):
    inputs = sample()
    del inputs[name]
    assert_matches_oracle(inputs, [5], backend=backend)


@every_backend
@every_rule
def test_scale(rule, backend):
    assert_matches_oracle(sample(rule=rule) | {"scale": 1.0}, backend=backend)


WINDOWS = [{"sliding_window": 1}, {"sliding_window": 3}, {"softcap": 1.5}, {"sliding_window": 5, "softcap": 4.0}]


@every_backend
@every_rule
@pytest.mark.parametrize("options", WINDOWS, ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_sliding_window_and_softcap(rule, backend, options, padded):
    """Whole segments, pieces of them, single tokens, and rows whose segments do not line up."""
    padding_mask = torch.ones(2, 37, dtype=torch.bool)
    padding_mask[0, :5] = False
    inputs = sample(T=37, C=8, rule=rule) | options | {"padding_mask": padding_mask if padded else None}
    assert_matches_oracle(inputs, [18, 19, 23, 24], backend=backend)


@every_backend
@every_rule
@pytest.mark.parametrize(("C", "W"), [(1, 1), (8, 1), (8, 3), (8, 8), (64, 5)])
@pytest.mark.parametrize("options", [{}, {"sliding_window": 5}, {"softcap": 1.5}], ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_overlap(rule, backend, C, W, options, padded):
    """Whole segments, pieces of them, single tokens, and rows of which one is still in its first segment."""
    padding_mask = torch.ones(2, 37, dtype=torch.bool)
    padding_mask[0, :19] = False
    inputs = sample(T=37, C=C, W=W, rule=rule) | options | {"padding_mask": padding_mask if padded else None}
    assert_matches_oracle(inputs, [9, 18, 19, 23, 24], backend=backend)


def test_capped_scores_some_rows_at_a_time(monkeypatch):
    """As many as there is room for, and at least one."""
    monkeypatch.setattr(mix, "CAPPED_SCORES", 3 * 4 * 8 * 8)
    padding_mask = torch.ones(5, 37, dtype=torch.bool)
    padding_mask[0, :5] = False
    for mask in (None, padding_mask):
        assert_matches_oracle(sample(B=5, T=37, C=8) | {"softcap": 2.0, "padding_mask": mask}, [17, 19])
    monkeypatch.setattr(mix, "CAPPED_SCORES", 1)
    assert_matches_oracle(sample(T=37, C=8) | {"softcap": 2.0}, [17])


@pytest.mark.parametrize("options", [{"sliding_window": 8}, {"sliding_window": 1000}])
@pytest.mark.parametrize("rule", ["none", "gated_delta"])
def test_a_window_as_long_as_the_segment_hides_nothing(rule, options):
    inputs = sample(T=37, C=8, rule=rule)
    assert torch.equal(feed(inputs | options, [18])[0], feed(inputs, [18])[0])


@every_backend
@every_rule
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16)])
def test_lower_precision(rule, backend, dtype, tolerance):
    assert_matches_oracle(sample(T=50, C=8, rule=rule, dtype=dtype), [21], backend=backend, tolerance=tolerance)


@st.composite
def streams(draw):
    """Sizes, arguments to leave out, padding anywhere, and where to cut: pieces may be empty."""
    G, K, T, B = (draw(st.integers(low, high)) for low, high in ((1, 2), (1, 6), (0, 30), (1, 3)))
    sizes = {"B": B, "T": T, "G": G, "K": K, "H": G * draw(st.integers(1, 3)), "R": 2 * draw(st.integers(0, K // 2))}
    sizes |= {"V": draw(st.integers(1, 5)), "C": draw(st.integers(1, 9)), "seed": draw(st.integers(0, 99))}
    sizes["W"] = draw(st.integers(0, sizes["C"]))
    left_out = draw(st.sets(st.sampled_from(["q_mem", "k_mem", "beta", "erase", "log_decay", "norm_weight", "rotary"])))
    bounds = {"sliding_window": draw(st.none() | st.integers(1, 9)), "softcap": draw(st.sampled_from([None, 0.5, 5.0]))}
    padding = draw(st.none() | st.lists(st.lists(st.booleans(), min_size=T, max_size=T), min_size=B, max_size=B))
    cuts = sorted(draw(st.lists(st.integers(0, T))))
    return sizes | {"rule": draw(st.sampled_from(RULES))}, bounds, left_out, padding, cuts


@settings(max_examples=200)
@given(streams())
def test_any_stream(stream):
    sizes, bounds, left_out, padding, cuts = stream
    inputs = {name: value for name, value in sample(**sizes).items() if name not in left_out} | bounds
    if padding is not None:
        inputs["padding_mask"] = torch.tensor(padding, dtype=torch.bool)
    assert_matches_oracle(inputs, cuts)


@every_rule
def test_backends_agree_on_a_long_stream(rule):
    inputs = sample(B=1, T=600, C=16, rule=rule)
    (out, state), (ref, ref_state) = feed(inputs, [250]), feed(inputs, backend="reference")
    assert_close(out, ref)
    assert_all_close(tensors_of(state), tensors_of(ref_state))
