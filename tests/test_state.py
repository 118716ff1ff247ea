from dataclasses import FrozenInstanceError

import pytest
import torch
from torch.utils import _pytree as pytree

from helpers import RULES, assert_all_close, feed, sample, tensors_of
from infini_attention import InfiniState


def zeros(rule, dtype=torch.float32, overlap=0):
    return InfiniState.zeros(
        batch_size=3, num_kv_heads=2, key_dim=8, value_dim=6, segment_size=5, overlap=overlap, rule=rule, dtype=dtype
    )


@pytest.fixture(params=RULES)
def state(request):
    """Three rows in the middle of a segment, after others."""
    inputs = sample(B=3, T=13, C=5, W=2, rule=request.param)
    inputs["padding_mask"] = torch.arange(13) >= torch.tensor([[0], [4], [9]])
    return feed(inputs)[1]


@pytest.mark.parametrize("overlap", [0, 4])
@pytest.mark.parametrize("rule", RULES)
def test_zeros(rule, overlap):
    tensors = tensors_of(zeros(rule, overlap=overlap))
    matrix = (3, 2, 0, 0) if rule == "none" else (3, 2, 8, 6)
    shapes = {"overlap_keys": (3, overlap, 2, 8), "overlap_values": (3, overlap, 2, 6)}
    shapes |= {"committed.matrix": matrix, "running.matrix": matrix, "keys": (3, 5, 2, 8), "values": (3, 5, 2, 6)}
    if rule in ("linear", "delta"):
        shapes |= {"committed.normalizer": (3, 2, 8), "running.normalizer": (3, 2, 8)}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes | {"tokens_seen": (3,)}
    assert all(tensor.eq(0).all() for tensor in tensors.values())


@pytest.mark.parametrize(
    ("dtype", "memory"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(dtype, memory):
    tensors = tensors_of(zeros("delta", dtype))
    assert tensors.pop("tokens_seen").dtype == torch.int64
    assert {tensors.pop(name).dtype for name in ("keys", "values", "overlap_keys", "overlap_values")} == {dtype}
    assert {tensor.dtype for tensor in tensors.values()} == {memory}


@pytest.mark.parametrize(
    ("rule", "dtype", "nbytes"),
    [
        # B = 3, G = 2: two memories of K V (+ K) numbers, C = 5 slots of K + V numbers, and 3 counts of 8 bytes.
        ("linear", torch.float32, 3 * 2 * (2 * (48 + 8) * 4 + 5 * 14 * 4) + 24),
        ("delta", torch.bfloat16, 3 * 2 * (2 * (48 + 8) * 4 + 5 * 14 * 2) + 24),
        ("gated_delta", torch.float64, 3 * 2 * (2 * 48 * 8 + 5 * 14 * 8) + 24),
        ("none", torch.bfloat16, 3 * 2 * 5 * 14 * 2 + 24),
    ],
)
def test_nbytes(rule, dtype, nbytes):
    assert zeros(rule, dtype).nbytes == nbytes
    assert zeros(rule, dtype, overlap=2).nbytes == nbytes + 3 * 2 * 2 * 14 * dtype.itemsize


def test_sizes_and_counts(state):
    assert (state.batch_size, state.segment_size, state.overlap) == (3, 5, 2)
    assert state.tokens_seen.tolist() == [13, 9, 4]
    assert state.tokens_in_window.tolist() == [3, 4, 4]
    assert state.follows_segment.tolist() == [True, True, False]


def test_unused_slots_are_zero(state):
    for row, filled in enumerate(state.tokens_in_window):
        for tensor in (state.keys[row], state.values[row]):
            assert tensor[:filled].ne(0).all()
            assert tensor[filled:].eq(0).all()
        for tensor in (state.overlap_keys[row], state.overlap_values[row]):
            assert tensor.ne(0).all() if state.follows_segment[row] else tensor.eq(0).all()


def test_frozen(state):
    with pytest.raises(FrozenInstanceError):
        state.keys = state.values
    with pytest.raises(FrozenInstanceError):
        state.committed.matrix = state.running.matrix


def test_to_moves_everything_but_the_counts(state):
    """`meta` stands for an accelerator."""
    moved = tensors_of(state.to("meta"))
    assert moved.keys() == tensors_of(state).keys()
    assert {name for name, tensor in moved.items() if tensor.device.type == "cpu"} == {"tokens_seen"}
    assert_all_close(tensors_of(state.to("cpu")), tensors_of(state))


@pytest.mark.parametrize("rule", RULES)
def test_detach_cuts_the_history(rule):
    inputs = sample(T=13, C=5, rule=rule)
    inputs["v"].requires_grad_()
    _, state = feed(inputs)
    assert state.values.requires_grad
    detached = state.detach()
    assert not any(tensor.requires_grad for tensor in tensors_of(detached).values())
    assert_all_close(tensors_of(detached), {name: tensor.detach() for name, tensor in tensors_of(state).items()})
    assert state.values.requires_grad


def test_select_rows(state):
    selected = state.select_rows(torch.tensor([2, 0, 0, 1]))
    assert selected.batch_size == 4
    assert_all_close(tensors_of(selected), {name: tensor[[2, 0, 0, 1]] for name, tensor in tensors_of(state).items()})


def test_repeat_rows(state):
    assert_all_close(
        tensors_of(state.repeat_rows(2)),
        {name: tensor[[0, 0, 1, 1, 2, 2]] for name, tensor in tensors_of(state).items()},
    )


def test_forget_empties_the_memory_and_nothing_else(state):
    before, after = tensors_of(state), tensors_of(state.forget())
    for name in before:
        if name.startswith(("committed", "running")):
            before[name] = torch.zeros_like(before[name])
    assert_all_close(after, before)
    assert state.forget().nbytes == state.nbytes


def test_pytree_round_trip(state):
    leaves, structure = pytree.tree_flatten(state)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    rebuilt = pytree.tree_unflatten(leaves, structure)
    assert type(rebuilt) is InfiniState
    assert_all_close(tensors_of(rebuilt), tensors_of(state), 1e-300)
