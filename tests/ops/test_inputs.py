"""Every argument that cannot work is refused with what was expected and what came."""

import jaxtyping
import pytest
import torch

from helpers import RULES, feed, sample
from infini_attention import InfiniState, infini_attention
from infini_attention.errors import ConfigError, ShapeError


def zeros(*shape, dtype=torch.float64):
    return torch.zeros(shape, dtype=dtype)


def state(rule="gated_delta", *, B=2, G=2, K=8, V=6, C=8, dtype=torch.float64):
    return InfiniState.zeros(B, G, K, V, C, rule=rule, dtype=dtype)


# What is wrong, and what the message must contain. The sample has B = 2, T = 20, H = 4, G = 2, K = 8, V = 6, C = 8.
SHAPES = {
    "q of three axes": ({"q": zeros(2, 20, 8)}, ["q", "[B, T, heads, size]", "[2, 20, 8]"]),
    "integer k": ({"k": zeros(2, 20, 2, 8, dtype=torch.int64)}, ["k", "floating-point", "torch.int64"]),
    "v of five axes": ({"v": zeros(2, 20, 2, 6, 1)}, ["v", "[B, T, heads, size]", "[2, 20, 2, 6, 1]"]),
    "rows of k": ({"k": zeros(3, 20, 2, 8)}, ["k", "[2, 20, 2, 8]", "[3, 20, 2, 8]"]),
    "time of k": ({"k": zeros(2, 19, 2, 8)}, ["k", "[2, 20, 2, 8]", "[2, 19, 2, 8]"]),
    "heads of k": ({"k": zeros(2, 20, 4, 8)}, ["k", "[2, 20, 2, 8]", "[2, 20, 4, 8]"]),
    "size of k": ({"k": zeros(2, 20, 2, 4)}, ["k", "[2, 20, 2, 8]", "[2, 20, 2, 4]"]),
    "dtype of k": ({"k": zeros(2, 20, 2, 8, dtype=torch.float32)}, ["k", "torch.float64", "torch.float32"]),
    "time of v": ({"v": zeros(2, 21, 2, 6)}, ["v", "[2, 20, 2, 6]", "[2, 21, 2, 6]"]),
    "dtype of v": ({"v": zeros(2, 20, 2, 6, dtype=torch.bfloat16)}, ["v", "torch.float64", "torch.bfloat16"]),
    "empty axis": ({"v": zeros(2, 20, 2, 0)}, ["at least 1", "[2, 20, 2, 0]"]),
    "heads no multiple": ({"q": zeros(2, 20, 3, 8)}, ["multiple", "3 and 2"]),
    "gate per head": ({"gate": zeros(2)}, ["gate", "[4]", "[2]"]),
    "gate per token": ({"gate": zeros(2, 20, 2)}, ["gate", "[2, 20, 4]", "[2, 20, 2]"]),
    "beta": ({"beta": zeros(2, 20, 4)}, ["beta", "[2, 20, 2]", "[2, 20, 4]"]),
    "erase": ({"erase": zeros(2, 20, 4)}, ["erase", "[2, 20, 2]", "[2, 20, 4]"]),
    "log_decay": ({"log_decay": zeros(2, 20)}, ["log_decay", "[2, 20, 2]", "[2, 20]"]),
    "norm_weight": ({"norm_weight": zeros(8)}, ["norm_weight", "[6]", "[8]"]),
    "q_mem": ({"q_mem": zeros(2, 20, 2, 8)}, ["q_mem", "[2, 20, 4, 8]", "[2, 20, 2, 8]"]),
    "k_mem": ({"k_mem": zeros(2, 20, 4, 8)}, ["k_mem", "[2, 20, 2, 8]", "[2, 20, 4, 8]"]),
    "rotary of another length": ({"rotary": (zeros(9, 4), zeros(9, 4))}, ["cos", "[W + C, R]", "[9, 4]", "C = 8"]),
    "rotary too wide": ({"rotary": (zeros(8, 10), zeros(8, 10))}, ["cos", "at most", "[8, 10]", "key size 8"]),
    "rotary of odd size": ({"rotary": (zeros(8, 3), zeros(8, 3))}, ["cos", "even", "[8, 3]"]),
    "rotary of no size": ({"rotary": (zeros(8, 0), zeros(8, 0))}, ["cos", "[8, 0]"]),
    "rotary of three axes": ({"rotary": (zeros(1, 8, 4), zeros(1, 8, 4))}, ["cos", "[W + C, R]", "[1, 8, 4]"]),
    "cos and sin that differ": ({"rotary": (zeros(8, 4), zeros(8, 2))}, ["of one shape", "[8, 4]", "[8, 2]"]),
    "padding_mask": ({"padding_mask": zeros(2, 19, dtype=torch.bool)}, ["padding_mask", "[2, 20]", "[2, 19]"]),
    "padding_mask of integers": (
        {"padding_mask": zeros(2, 20, dtype=torch.int64)},
        ["padding_mask", "torch.bool", "torch.int64"],
    ),
    "rows of the state": ({"state": state(B=1)}, ["state.keys", "[2, 8, 2, 8]", "[1, 8, 2, 8]"]),
    "segment of the state": ({"state": state(C=4)}, ["state.keys", "[2, 8, 2, 8]", "[2, 4, 2, 8]"]),
    "value size of the state": ({"state": state(V=5)}, ["state.values", "[2, 8, 2, 6]", "[2, 8, 2, 5]"]),
    "dtype of the state": ({"state": state(dtype=torch.float32)}, ["state.keys", "torch.float64", "torch.float32"]),
    "state without memory": ({"state": state("none")}, ["state.committed.matrix", "[2, 2, 8, 6]", "[2, 2, 0, 0]"]),
}

SETTINGS = {
    "rule": ({"rule": "delta_rule"}, ["linear, delta, gated_delta, none", "'delta_rule'"]),
    "segment_size of 0": ({"segment_size": 0}, ["at least 1", "got 0"]),
    "segment_size of half a token": ({"segment_size": 8.5}, ["integer", "got 8.5"]),
    "segment_size of True": ({"segment_size": True}, ["integer", "got True"]),
    "sliding_window of 0": ({"sliding_window": 0}, ["sliding_window", "at least 1", "None", "got 0"]),
    "sliding_window of True": ({"sliding_window": True}, ["sliding_window", "integer", "got True"]),
    "softcap of 0": ({"softcap": 0.0}, ["softcap", "above 0", "None", "got 0.0"]),
    "softcap without end": ({"softcap": float("inf")}, ["softcap", "finite", "got inf"]),
    "no gate": ({"gate": None}, ["'gated_delta'", "[H] or [B, T, H]", "got None"]),
    "state of another rule": ({"state": state("linear")}, ["state", "'gated_delta'", "the rule that it was made with"]),
}


@pytest.fixture
def types_unchecked(monkeypatch):
    """Users run without jaxtyping's hook, which would refuse a wrong type before we do."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def check_message(error, inputs, fragments):
    with pytest.raises(error) as caught:
        infini_attention(**inputs)
    message = str(caught.value)
    assert [fragment for fragment in fragments if fragment not in message] == [], message
    assert "\n" not in message


@pytest.mark.parametrize(("changes", "fragments"), SHAPES.values(), ids=SHAPES.keys())
def test_shape_errors(changes, fragments):
    check_message(ShapeError, sample() | changes, fragments)


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize(("changes", "fragments"), SETTINGS.values(), ids=SETTINGS.keys())
def test_config_errors(changes, fragments):
    check_message(ConfigError, sample() | changes, fragments)


@pytest.mark.parametrize("rule", ["linear", "delta", "none"])
@pytest.mark.parametrize("name", ["beta", "erase", "log_decay", "norm_weight"])
def test_arguments_of_another_rule(rule, name):
    inputs = sample(rule=rule) | {name: sample()[name]}
    check_message(ConfigError, inputs, [name, "'gated_delta'", repr(rule), "leave it out"])


@pytest.mark.parametrize("rule", RULES)
def test_a_mask_of_real_tokens_only_changes_nothing(rule):
    inputs = sample(rule=rule)
    out, _ = feed(inputs | {"padding_mask": torch.ones(2, 20, dtype=torch.bool)})
    assert torch.equal(out, feed(inputs)[0])


def test_no_gate_is_needed_without_a_memory():
    inputs = sample(rule="none")
    ref, _ = feed(inputs)
    out, _ = feed(inputs | {"gate": None})
    assert torch.equal(out, ref)
