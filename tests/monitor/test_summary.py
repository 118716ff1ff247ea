"""The six metrics of streams whose figures are known."""

import pytest

from infini_attention.monitor.summary import current_layers, mean, rates, retention, six_metrics


def layer(number=0, **seen):
    held = {"effective_rank": [2.0], "utilisation": [0.25], "norm": [1.0]}
    unseen = dict.fromkeys(("gate", "memory_share", "write_strength", "written", "decay"))
    return {"layer": number, **held, **unseen, **seen}


def mark(tokens, seconds, *layers, state_bytes=1000):
    figures = {"tokens_in_window": tokens % 16, "state_bytes": state_bytes, "memory_bytes": 100}
    return {"tokens": tokens, "seconds": seconds, **figures, "layers": list(layers) or [layer()]}


def probe(segments, cosine, control=0.0, probes=4):
    record = {"tokens": 0, "segments": segments, "probes": probes, "layers": [0, 3]}
    return record | {"cosine": cosine, "control": [[control], [control]]}


class TestRetention:
    def test_by_age(self):
        curve = retention(
            [
                probe(1, [[1.0], [0.8]], 0.2),
                probe(1, [[0.6], [None]], 0.4),
                probe(2, [[0.5], [0.5]]),
                probe(3, [[0.3], [0.3]]),
                probe(17, [[None], [None]], None, probes=0),
            ]
        )
        assert [place["segments"] for place in curve] == [1, 2.5, 17]
        assert [place["cosine"] for place in curve] == [pytest.approx(0.8), pytest.approx(0.4), None]
        assert curve[0]["control"] == pytest.approx(0.3)
        assert [place["probes"] for place in curve] == [8, 8, 0]
        assert curve[0]["layers"] == [{"layer": 0, "cosine": [0.8]}, {"layer": 3, "cosine": [0.8]}]

    def test_of_nothing(self):
        assert retention([]) == []


class TestSixMetrics:
    def test_of_a_stream(self):
        seen = {"gate": [0.5, 0.5], "memory_share": [0.2, 0.4]}
        marks = [mark(100, 1.0, layer(**seen)), mark(200, 2.0), mark(320, 3.0), mark(500, 5.0)]
        recall = {"asked": 4, "hits": 3, "hits_memory_off": 1, "longest": 77}
        assert six_metrics(marks, [probe(1, [[1.0], [0.0]])], full_kv_bytes_per_token=10, recall=recall) == {
            "memory_complexity": {"state_bytes": 1000, "at_tokens": [100, 500], "constant": True},
            "sequence_length": {"tokens_seen": 500, "verified": 77},
            "compression": {"with_window": 5.0, "without_window": pytest.approx(49.6)},
            "throughput": {
                "tokens_per_second": pytest.approx(90),
                # 100, 120 and 90 tokens/s at 150, 260 and 410 tokens: -0.04794 +- 0.1068 per token, times 260 / 103.3
                "slope": pytest.approx(-0.1206, abs=1e-4),
                "slope_se": pytest.approx(0.2686, abs=1e-4),
            },
            "attention_quality": {
                "recall": 0.75,
                "recall_memory_off": 0.25,
                "asked": 4,
                "memory_share": pytest.approx(0.3),
            },
            "memory_update_efficiency": [{"segments": 1, "cosine": 0.5, "control": 0.0, "probes": 4}],
        }

    def test_a_constant_rate_has_no_slope(self):
        marks = [mark(100 * number, 2.0 * number) for number in range(1, 6)]
        speed = six_metrics(marks, [], full_kv_bytes_per_token=10)["throughput"]
        assert speed == {"tokens_per_second": 50, "slope": pytest.approx(0), "slope_se": pytest.approx(0)}

    def test_bytes_that_grow(self):
        marks = [mark(100, 1.0), mark(200, 2.0, state_bytes=1001)]
        assert six_metrics(marks, [], full_kv_bytes_per_token=10)["memory_complexity"]["constant"] is False

    def test_of_a_single_mark(self):
        metrics = six_metrics([mark(100, 1.0)], [], full_kv_bytes_per_token=10)
        assert metrics["memory_complexity"] == {"state_bytes": 1000, "at_tokens": [100, 100], "constant": None}
        assert metrics["throughput"] == {"tokens_per_second": None, "slope": None, "slope_se": None}
        assert metrics["attention_quality"] == {
            "recall": None,
            "recall_memory_off": None,
            "asked": 0,
            "memory_share": None,
        }

    def test_of_a_session_whose_fork_reads_on(self):
        metrics = six_metrics([mark(600, 1.0)], [], full_kv_bytes_per_token=10, now=mark(500, None))
        assert metrics["sequence_length"]["tokens_seen"] == 500
        assert metrics["memory_complexity"] == {"state_bytes": 1000, "at_tokens": [500, 600], "constant": True}
        assert metrics["compression"]["with_window"] == 5


def test_rates_leave_out_what_has_no_time():
    assert rates([mark(0, 0.0), mark(10, 1.0), mark(10, 2.0), mark(30, 2.0)]) == [(5, 10)]


def test_a_short_end_has_no_rate_of_its_own():
    marks = [mark(0, 0.0), mark(10, 1.0), mark(20, 2.0), mark(24, 4.0)]
    assert rates(marks) == [(5, 10), (15, 10)]
    assert rates([*marks[:3], mark(25, 4.0)])[-1] == (22.5, 2.5)
    assert rates([mark(0, 0.0), mark(4, 1.0)]) == [(2, 4)]


def test_what_was_seen_last_stands_beside_what_is_held_now():
    marks = [mark(1, 1.0, layer(gate=[0.1])), mark(2, 2.0, layer(gate=[0.2])), mark(3, 3.0, layer())]
    marks[-1]["layers"][0]["norm"] = [9.0]
    [found] = current_layers(marks)
    assert (found["gate"], found["norm"]) == ([0.2], [9.0])
    assert current_layers(marks[-1:]) == marks[-1]["layers"]


def test_means_are_over_what_is_there():
    assert (mean([1.0, None, 3.0]), mean([None]), mean([])) == (2.0, None, None)
