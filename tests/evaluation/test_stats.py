"""Wilson intervals, against published values."""

import pytest

from infini_attention.evaluation.stats import wilson_interval

# Newcombe (1998), Two-sided confidence intervals for the single proportion, table I, method 3.
KNOWN = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)]


@pytest.mark.parametrize(("hits", "trials", "low", "high"), KNOWN)
def test_known_values(hits, trials, low, high):
    assert wilson_interval(hits, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(trials - hits, trials) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_all_hits_end_at_exactly_one():
    low, high = wilson_interval(420, 420)
    assert (high, low) == (1.0, pytest.approx(1 / (1 + 1.959964**2 / 420)))
    assert wilson_interval(0, 420)[0] == 0.0


@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_share(hits, trials):
    with pytest.raises(ValueError, match="expected 0 <= hits <= trials"):
        wilson_interval(hits, trials)
