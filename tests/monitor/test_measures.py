"""Figures of memories whose figures are known."""

import math

import pytest
import torch

from helpers import FLOAT64, MEMORY_RULES, assert_close, feed, sample, take
from infini_attention.monitor.measures import (
    answers,
    effective_rank,
    fidelity,
    memory_share,
    norm,
    read_back,
    utilisation,
)
from infini_attention.state import Memory

K = 8


def rank_one():
    key, value = torch.randn(K, generator=torch.Generator().manual_seed(1)), torch.arange(1.0, 7.0)
    return torch.outer(key, value)[None, None], float(key.norm() * value.norm())


class TestWhatAMemoryHolds:
    def test_an_empty_one(self):
        empty = torch.zeros(2, 3, K, 6)
        for figure in (effective_rank(empty), utilisation(effective_rank(empty), K), norm(empty)):
            assert torch.equal(figure, torch.zeros(2, 3))

    def test_rank_one(self):
        matrix, length = rank_one()
        assert effective_rank(matrix).item() == pytest.approx(1, abs=1e-4)
        assert utilisation(effective_rank(matrix), K).item() == pytest.approx(1 / K, abs=1e-4)
        assert norm(matrix).item() == pytest.approx(length)

    def test_a_full_one(self):
        matrix = 3 * torch.linalg.qr(torch.randn(K, K, generator=torch.Generator().manual_seed(2)))[0][None, None]
        assert effective_rank(matrix).item() == pytest.approx(K)
        assert utilisation(effective_rank(matrix), K).item() == pytest.approx(1)
        assert norm(matrix).item() == pytest.approx(3 * math.sqrt(K))

    def test_singular_values_three_and_one(self):
        matrix = torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0]))[None, None]
        assert effective_rank(matrix).item() == pytest.approx((4 / 3) ** 0.75 * 4**0.25)

    @pytest.mark.parametrize("scale", [1e-12, 1e12])
    def test_a_rank_has_no_scale(self, scale):
        matrix, _ = rank_one()
        assert effective_rank(matrix * scale).item() == pytest.approx(1, abs=1e-4)

    def test_numbers_that_are_none_stay_in_their_memory(self):
        matrix = torch.cat([rank_one()[0], torch.full((1, 1, K, 6), torch.inf), torch.full((1, 1, K, 6), torch.nan)], 1)
        found = effective_rank(matrix)[0]
        assert found[0].item() == pytest.approx(1, abs=1e-4)
        assert found[1:].isnan().all()


@pytest.fixture(params=MEMORY_RULES)
def stream(request):
    """What a stream reads after two segments: inputs, its state, and the span of one more segment."""
    inputs = sample(rule=request.param, T=24)
    _, state = feed(take(inputs, span=slice(0, 16)))
    return take(inputs, span=slice(16, 24)), state


def with_gate(inputs, logit):
    return inputs | {"gate": torch.full_like(inputs["gate"], logit)}


class TestWhatAMemoryGives:
    def test_its_answers_are_those_of_an_open_gate(self, stream):
        inputs, state = stream
        ref, _ = feed(with_gate(inputs, 1e4), state=state)
        assert_close(answers(inputs["q_mem"], state.committed, inputs.get("norm_weight")), ref)

    def test_the_share_of_the_energy(self, stream):
        inputs, state = stream
        (out, _), (memory, _), (local, _) = (
            feed(each, state=state) for each in (inputs, with_gate(inputs, 1e4), with_gate(inputs, -1e4))
        )
        gate = inputs["gate"].expand(*out.shape[:3])
        weight = gate.sigmoid()[..., None]
        given, rest = (part.square().sum((0, 1, 3)) for part in (weight * memory, (1 - weight) * local))
        found = memory_share(out, memory, gate, state.committed.is_empty)
        assert_close(found, given / (given + rest), FLOAT64)
        assert ((found > 0.001) & (found < 0.999)).all()

    def test_an_empty_memory_gives_nothing_whatever_the_gate(self, stream):
        inputs, state = stream
        memory = state.forget().committed
        out, _ = feed(with_gate(inputs, 9.0))  # a stream that begins here
        gate = torch.full(out.shape[:3], 9.0, dtype=out.dtype)
        assert memory.is_empty.all()
        found = memory_share(out, answers(inputs["q_mem"], memory), gate, memory.is_empty)
        assert torch.equal(found, torch.zeros_like(found))

    def test_no_output_has_no_share(self):
        nothing = torch.zeros(1, 3, 2, 4)
        assert torch.equal(
            memory_share(nothing, nothing, torch.zeros(1, 3, 2), torch.zeros(1, 1, dtype=torch.bool)), torch.zeros(2)
        )


class TestWhatIsReadBack:
    def test_one_token_comes_back_whole(self, stream):
        inputs, _ = stream
        token = take(inputs, span=slice(0, 1)) | {"segment_size": 1, "rotary": None}
        _, state = feed(token | ({"beta": torch.ones_like(token["beta"])} if "beta" in token else {}))
        keys, values = (token[name][0, 0][:, None] for name in ("k_mem", "v"))
        memory = state.select_rows(torch.tensor([0])).committed
        assert_close(fidelity(read_back(memory, keys), values), torch.ones(2, 1, dtype=torch.float64))
        assert_close(fidelity(read_back(memory, keys), -values), -torch.ones(2, 1, dtype=torch.float64))

    def test_an_empty_memory_gives_nothing_back(self):
        memory = Memory(torch.zeros(1, 2, K, 6), None)
        assert torch.equal(fidelity(read_back(memory, torch.randn(2, 3, K)), torch.randn(2, 3, 6)), torch.zeros(2, 3))
