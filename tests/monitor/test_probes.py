"""Probe tokens: which ones, when they are asked for, and what they say about memories that are known."""

from dataclasses import replace

import pytest
import torch

from infini_attention.monitor.probes import PROBES, ProbeSet, Written, choose, probe_spans
from infini_attention.state import InfiniState, Memory

C = 16


@pytest.mark.parametrize(
    ("before", "count", "expected"),
    [
        (0, 16, {0: (0, 16)}),
        (0, 64, {3: (48, 64), 2: (32, 48), 0: (0, 16)}),
        (0, 128, {7: (112, 128), 6: (96, 112), 4: (64, 80), 0: (0, 16)}),
        (8, 8, {0: (0, 8)}),  # the rest of a segment
        (8, 30, {1: (8, 24), 0: (0, 8)}),
        (20, 5, {1: (0, 5)}),  # inside an unfinished one
        (30, 1, {1: (0, 1)}),
        (31, 1, {1: (0, 1)}),
        (12, 10, {0: (0, 4)}),
    ],
)
def test_the_segments_of_a_pass(before, count, expected):
    found = probe_spans(before, count, C)
    assert {segment: (span.start, span.stop) for segment, span in found.items()} == expected


def test_the_most_strongly_written_tokens_are_chosen():
    k, v = torch.randn(10, 2, 3), torch.randn(10, 2, 5)
    beta = torch.zeros(10, 2)
    beta[[3, 5, 7], 0] = torch.tensor([0.2, 0.9, 0.5])
    beta[4, 1], beta[9, 1] = 0.3, 1.0  # the last one is outside the span
    written = choose(k, v, beta, slice(2, 9))
    assert written.keys.shape == (2, PROBES, 3) and written.values.shape == (2, PROBES, 5)
    assert written.real.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert torch.equal(written.keys[0, :3], k[[5, 7, 3], 0])
    assert torch.equal(written.values[0, :3], v[[5, 7, 3], 0])
    assert torch.equal(written.values[1, 0], v[4, 1])


def test_evenly_spaced_ones_where_all_are_written_alike():
    k = torch.arange(10.0)[:, None, None].expand(10, 2, 3)
    written = choose(k, k, None, slice(1, 8))
    assert written.keys[:, :, 0].tolist() == [[1, 3, 5, 7]] * 2
    assert written.real.all()
    assert choose(k, k, None, slice(4, 6)).keys[0, :, 0].tolist() == [4, 5]


def state_of(matrix, tokens):
    state = InfiniState.zeros(1, *matrix.shape, segment_size=C, rule="gated_delta")
    return replace(state, committed=Memory(matrix[None], None), tokens_seen=torch.tensor([tokens]))


def orthogonal(heads=2):
    """Two keys and two values, each orthogonal to the other, and the memory that holds them."""
    keys = 10 * torch.eye(2, 4)  # silu(0) is 0
    values = torch.eye(2, 3)
    written = Written(keys.expand(heads, 2, 4), values.expand(heads, 2, 3), torch.ones(heads, 2, dtype=torch.bool))
    return written, (torch.eye(4)[:2].T @ values).expand(heads, 4, 3)


class TestAsking:
    def test_what_is_there_and_what_is_not(self):
        written, matrix = orthogonal()
        probes = ProbeSet.of(0, {0: written, 2: written})
        states = (state_of(matrix, C), state_of(torch.zeros(2, 4, 3), C), state_of(torch.zeros(2, 4, 3), C))
        assert probes.ask(states, C) == {
            "tokens": C,
            "segments": 1,
            "probes": 8,
            "layers": [0, 2],
            "cosine": [[1.0, 1.0], [0.0, 0.0]],
            "control": [[0.0, 0.0], [0.0, 0.0]],
        }

    def test_what_was_not_written_does_not_count(self):
        written, matrix = orthogonal()
        real = torch.tensor([[True, False], [False, False]])
        states = (state_of(matrix, C),)
        record = ProbeSet.of(0, {0: replace(written, real=real)}).ask(states, C)
        assert (record["cosine"], record["control"], record["probes"]) == ([[1.0, None]], [[None, None]], 1)

    def test_after_twice_as_many_segments_each_time(self):
        written, matrix = orthogonal()
        probes, asked = ProbeSet.of(3, {0: written}), []
        for segment in range(1, 40):
            record = probes.ask((state_of(matrix, segment * C + 5),), C)
            asked += [record["segments"]] if record else []
        assert asked == [1, 2, 4, 8, 16, 32]

    def test_late_looks_are_asked_at_once(self):
        written, matrix = orthogonal()
        probes = ProbeSet.of(0, {0: written})
        ages = [probes.ask((state_of(matrix, tokens * C),), C) for tokens in (5, 6, 7, 8, 100, 127, 128)]
        assert [record and record["segments"] for record in ages] == [5, None, None, 8, 100, None, 128]

    def test_not_before_the_segment_is_finished(self):
        written, matrix = orthogonal()
        assert ProbeSet.of(2, {0: written}).ask((state_of(matrix, 3 * C - 1),), C) is None

    def test_a_single_probe_has_no_control(self):
        written, matrix = orthogonal()
        one = Written(*(tensor[:, :1] for tensor in (written.keys, written.values, written.real)))
        record = ProbeSet.of(0, {0: one}).ask((state_of(matrix, C),), C)
        assert (record["cosine"], record["control"]) == ([[1.0, 1.0]], [[None, None]])
