"""States that share a window stay values: whoever goes on from one changes nothing that another has seen."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from threading import Barrier

import pytest
import torch

from helpers import RULES, assert_all_close, assert_close, feed, sample, take, tensors_of
from infini_attention import InfiniState
from infini_attention.window import Window

START, END = 13, 40
FORKS = {
    "the same": lambda state: state,
    "replaced": lambda state: replace(state, running=state.running),
    "detached": InfiniState.detach,
    "copied": deepcopy,
    "selected": lambda state: state.select_rows(torch.arange(2)),
}


@pytest.fixture(params=[False, True], ids=["even", "uneven"])
def decoding(request):
    """A function from a rule to the arguments of two rows: with a prompt up to `START`, and tokens to decode."""

    def arguments(rule="gated_delta", **options):
        inputs = sample(T=END, C=8, W=3, rule=rule, **options)
        inputs["padding_mask"] = torch.ones(2, END, dtype=torch.bool)
        inputs["padding_mask"][0, : 3 * request.param] = False
        return inputs

    return arguments


def start_of(inputs):
    """A state that has decoded a token, and so lies in a window."""
    _, state = feed(take(inputs, span=slice(START)), [START - 1])
    assert state.window is not None
    return state


def go_on(inputs, state, stop=END, **options):
    return feed(take(inputs, span=slice(START, stop)), range(1, stop - START), state=state, **options)


def assert_equal(out, ref):
    for name, tensor in tensors_of(ref).items():
        assert torch.equal(tensors_of(out)[name], tensor), name


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS.keys())
def test_a_fork_does_not_see_what_its_siblings_read(decoding, rule, fork):
    inputs, others = decoding(rule), decoding(rule, seed=1)
    if "gate" in inputs and inputs["gate"].dim() == 1:
        others["gate"] = inputs["gate"]
    state = start_of(inputs)
    sibling = fork(state)
    outs = [go_on(x, s, START + 2) for x, s in ((others, state), (inputs, sibling), (others, sibling), (inputs, state))]
    for (out, end), x in zip(outs, (others, inputs, others, inputs), strict=True):
        ref, ref_end = go_on(x, start_of(inputs), START + 2)
        assert torch.equal(out, ref)
        assert_equal(end, ref_end)
    assert_equal(state, start_of(inputs))
    assert_equal(sibling, start_of(inputs))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_no_slot_is_copied_until_a_segment_ends(decoding, rule, mode):
    inputs, addresses = decoding(rule), []
    with mode():
        state, nbytes = start_of(inputs), feed(inputs)[1].nbytes
        for t in range(START, END):
            _, state = feed(take(inputs, span=slice(t, t + 1)), state=state)
            assert state.nbytes == nbytes
            assert state.window.keys.dtype == inputs["k"].dtype
            ended = bool((state.tokens_in_window == 0).any())
            addresses.append((state.window.keys.data_ptr(), state.window.values.data_ptr(), ended))
    assert any(ended for *_, ended in addresses)
    for before, (*after, ended) in pairwise(addresses):
        assert ended or list(before[:2]) == after


def test_streams_of_every_mode_go_on_in_every_other(decoding):
    inputs = decoding()
    ref, ref_end = feed(inputs, backend="reference")
    for first in (torch.no_grad, torch.inference_mode):
        for second in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with first():
                state = start_of(inputs)
            with second():
                out, end = go_on(inputs, state)
            assert_close(out, ref[:, START:])
            assert_all_close(tensors_of(end), tensors_of(ref_end))


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_autograd_finds_every_slot_as_it_was(decoding, name):
    """Token by token, from a state without gradients, which stays as it is and is then decoded from once more."""
    inputs, grads = decoding(), []
    for backend in ("torch", "reference"):
        state = start_of(inputs)
        leaf = inputs[name].clone().requires_grad_()
        out, end = go_on(inputs | {name: leaf}, state, backend=backend)
        plain, _ = go_on(inputs, state)
        assert_close(plain, out.detach())
        assert not any(tensor.requires_grad for tensor in tensors_of(state).values())
        loss = out.square().sum() + end.running.matrix.square().sum() + end.keys.square().sum()
        grads += torch.autograd.grad(loss, leaf)
    assert_close(*grads)


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_a_step_without_gradients_spoils_none_before_it(decoding, name):
    inputs, steps = decoding(H=2, V=8), []  # for which autograd keeps keys and values, and no copies of them
    for after in (False, True):
        leaf = inputs[name].clone().requires_grad_()
        out, state = go_on(inputs | {name: leaf}, start_of(inputs), START + 1)
        if after:
            with torch.no_grad():
                feed(take(inputs, span=slice(START + 1, START + 2)), state=state)
        steps += torch.autograd.grad(out.square().sum(), leaf)
    assert_close(*steps)


def test_one_thread_may_write():
    window, counts, barrier = Window(*torch.zeros(2, 1, 4, 1, 1), 0), torch.tensor([0]), Barrier(8)

    def take_it(_):
        barrier.wait()
        return window.take(counts)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(50):
            window.give(counts)
            assert sum(pool.map(take_it, range(8))) == 1
            assert not window.take(counts.clone())
