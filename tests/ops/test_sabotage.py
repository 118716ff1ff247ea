"""The comparison with the oracle notices each of the classic mistakes, and by a wide margin."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from helpers import FLOAT64, MEMORY_RULES, RULES, expected, feed, relative_rms, sample, take, tensors_of
from infini_attention.ops import overlap, rules
from infini_attention.ops.rotary import rotate, turn

WIDE = 0.05
PADDING = torch.ones(2, 37, dtype=torch.bool)
PADDING[0, :5] = False


def no_rotation(inputs, monkeypatch):
    monkeypatch.setattr(overlap, "turn", lambda x, cos, sin: x)
    return feed(inputs)


def interleaved_rotation(inputs, monkeypatch):
    """GPT-J's convention: neighbouring channels are turned together, instead of channels half the size apart."""

    def wrong(x, cos, sin):
        size = cos.shape[-1]
        order = torch.arange(size).view(2, -1).T.flatten()
        turned = turn(x[..., order.argsort()], cos, sin)[..., order]
        return torch.cat((turned, x[..., size:]), -1)

    monkeypatch.setattr(overlap, "turn", wrong)
    return feed(inputs)


def rotation_restarts_at_each_call(inputs, monkeypatch):
    """Instead of at each segment."""
    cos, sin = inputs["rotary"]
    slots = torch.cat((torch.arange(21), torch.arange(16))) % len(cos)
    turned = {name: rotate(inputs[name], cos[slots], sin[slots]) for name in ("q", "k")}
    return feed(inputs | turned | {"rotary": None}, [21])


def memory_sees_the_rotation(inputs, monkeypatch):
    cos, sin = inputs["rotary"]
    slots = torch.arange(37) % len(cos)
    turned = {name: rotate(inputs[name], cos[slots], sin[slots]) for name in ("q_mem", "k_mem")}
    return feed(inputs | turned)


def wrong_feature_map(inputs, monkeypatch):
    monkeypatch.setattr(rules, "elu_plus_one", F.sigmoid)
    monkeypatch.setattr(rules, "unit_silu", lambda x: F.normalize(x, dim=-1))
    return feed(inputs)


def pending_write_dropped(inputs, monkeypatch):
    """What the unfinished segment wrote is lost between two calls."""
    out, state = feed(take(inputs, span=slice(21)))
    state = replace(state, running=state.committed)
    rest, state = feed(take(inputs, span=slice(21, None)), state=state)
    return torch.cat((out, rest), 1), state


def own_segment_read(inputs, monkeypatch):
    """Queries read the memory of their segment's end instead of its start."""
    write = rules.write

    def late(*args):
        trace = write(*args)
        after, _ = trace.after
        starts, z = (
            x if x is None else torch.cat((x[:, :, 1:], last[:, :, None]), 2)
            for x, last in ((trace.starts, after.matrix), (trace.start_normalizers, after.normalizer))
        )
        return replace(trace, starts=starts, start_normalizers=z)

    monkeypatch.setattr(rules, "write", late)
    return feed(inputs)


def tiled_groups(inputs, monkeypatch):
    """Query head h reads memory h % G instead of h // (H / G)."""
    names = [name for name in ("k", "v", "k_mem", "beta", "erase", "log_decay") if name in inputs]
    return feed(inputs | {name: torch.cat((inputs[name], inputs[name]), 2) for name in names})


def padding_ignored(inputs, monkeypatch):
    return feed(inputs | {"padding_mask": None})


def gate_swapped(inputs, monkeypatch):
    """sigmoid(gate) weighs the local attention instead of the memory."""
    return feed(inputs | {"gate": -inputs["gate"]})


def overlap_keeps_its_rotation(inputs, monkeypatch):
    """What is carried into the next segment stays rotated for the places that it had in its own."""
    monkeypatch.setattr(overlap, "turn_back", lambda x, cos, sin: x)
    monkeypatch.setattr(overlap, "rotate", lambda x, cos, sin: x)
    return feed(inputs)


def overlap_dropped(inputs, monkeypatch):
    """Between two calls."""
    out, state = feed(take(inputs, span=slice(17)))
    state = replace(state, overlap_values=torch.zeros_like(state.overlap_values))
    rest, state = feed(take(inputs, span=slice(17, None)), state=state)
    return torch.cat((out, rest), 1), state


ALL_RULES = (no_rotation, interleaved_rotation, rotation_restarts_at_each_call, tiled_groups, padding_ignored)
WITH_MEMORY = (
    memory_sees_the_rotation,
    wrong_feature_map,
    pending_write_dropped,
    own_segment_read,
    gate_swapped,
)
OVERLAPPING = (overlap_keeps_its_rotation, overlap_dropped)
CASES = [(sabotage, rule) for sabotage in ALL_RULES + OVERLAPPING for rule in RULES] + [
    (sabotage, rule) for sabotage in WITH_MEMORY for rule in MEMORY_RULES
]


@pytest.mark.parametrize(("sabotage", "rule"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_sabotage_is_seen(sabotage, rule, monkeypatch):
    inputs = sample(T=37, C=8, R=8, W=3 if sabotage in OVERLAPPING else 0, rule=rule)
    inputs["padding_mask"] = PADDING if sabotage is padding_ignored else None
    if sabotage in WITH_MEMORY:
        inputs["gate"] = inputs["gate"] + 3  # random values average to little in the memory: let its answer count
    ref, _ = expected(inputs)
    assert relative_rms(feed(inputs, [21])[0], ref) < FLOAT64
    out, _ = sabotage(inputs, monkeypatch)
    error = relative_rms(out, ref)
    print(f"{sabotage.__name__}, {rule}: {error:.2g}")
    assert error > WIDE


def test_positions_that_never_restart_show_in_the_state():
    """Not in the outputs: inside a segment only differences of positions count. The state's keys tell."""
    inputs = sample(T=37, C=8, R=8)
    ref, ref_state = expected(inputs)
    angles = torch.outer(torch.arange(37), 100.0 ** -torch.linspace(0, 1, 4)).repeat(1, 2).double()
    turned = {name: rotate(inputs[name], angles.cos(), angles.sin()) for name in ("q", "k")}
    out, state = feed(inputs | turned | {"rotary": None})
    assert relative_rms(out, ref) < 1e-6
    assert relative_rms(tensors_of(state)["keys"], ref_state["keys"]) > WIDE
