"""Speed along a stream, from marks whose number is bounded."""

import pytest

from infini_attention.cli.shared.pace import MOST_MARKS, Pace


def test_the_tenths_of_a_stream_that_slows_down():
    pace = Pace()
    for tokens in range(1000, 10_001, 100):
        pace.mark(tokens, tokens / 1000 if tokens <= 5000 else 5 + (tokens - 5000) / 500)
    figures = pace.figures()
    assert (figures["first_tenth_tokens_per_second"], figures["last_tenth_tokens_per_second"]) == (1000, 500)
    assert figures["peak_rss_bytes_after_100k"] is None
    assert figures["peak_rss_bytes"] > 1 << 20


def test_a_long_stream_keeps_few_marks():
    pace = Pace()
    for tokens in range(1000, 30_000_000, 1000):
        pace.mark(tokens, tokens / 2000)
    assert len(pace.marks) <= MOST_MARKS
    figures = pace.figures()
    assert figures["last_tenth_tokens_per_second"] == pytest.approx(figures["first_tenth_tokens_per_second"])
    assert figures["peak_rss_bytes"] >= figures["peak_rss_bytes_after_100k"] > 0


@pytest.mark.parametrize("marks", [[], [(0, 0.0)]])
def test_nothing_read(marks):
    pace = Pace()
    for mark in marks:
        pace.mark(*mark)
    assert pace.figures()["last_tenth_tokens_per_second"] is None
