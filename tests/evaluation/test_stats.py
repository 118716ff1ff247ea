"""Wilson intervals, against published values; batch means, against what they should say about known series."""

import pytest
import torch

from infini_attention.evaluation.stats import batch_means, standard_error, wilson_interval, wilson_interval_of_mean

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


class TestIntervalOfMean:
    def test_cells_of_one_size_are_all_trials_together(self):
        assert wilson_interval_of_mean([(20, 20), (13, 20), (0, 20)]) == pytest.approx(wilson_interval(33, 60))

    def test_a_large_cell_counts_as_one_cell(self):
        low, high = wilson_interval_of_mean([(1000, 1000), (0, 10)])
        pooled, few = wilson_interval(505, 1010), wilson_interval(5, 10)
        assert (low + high) / 2 == pytest.approx(0.5)
        assert 4 * (pooled[1] - pooled[0]) < high - low < 0.7 * (few[1] - few[0])  # ten trials decide one half of it

    @pytest.mark.parametrize("sizes", [[3] * 42, [5, 20, 40, 40], [1, 7, 49]])
    def test_all_hits_end_at_exactly_one(self, sizes):
        assert wilson_interval_of_mean([(size, size) for size in sizes])[1] == 1.0
        assert wilson_interval_of_mean([(0, size) for size in sizes])[0] == 0.0

    @pytest.mark.parametrize("cells", [[], [(3, 3), (0, 0)]])
    def test_what_is_no_mean(self, cells):
        with pytest.raises(ValueError, match="expected cells with at least one trial each"):
            wilson_interval_of_mean(cells)


class TestBatchMeans:
    def test_equal_blocks_by_hand(self):
        sums, sizes = torch.tensor([20.0, 40.0, 60.0]), torch.tensor([10.0, 10.0, 10.0])
        assert batch_means(sums, sizes) == pytest.approx((4, 2 / 3**0.5))  # means 2, 4, 6: sd 2, three blocks

    def test_unequal_blocks_by_hand(self):
        sums, sizes = torch.tensor([10.0, 50.0]), torch.tensor([10.0, 20.0])
        assert batch_means(sums, sizes) == pytest.approx((2, (2 * (10**2 + 10**2)) ** 0.5 / 30))

    def test_too_few_blocks_have_no_error(self):
        assert batch_means(torch.tensor([6.0]), torch.tensor([4.0])) == (1.5, None)
        assert batch_means(torch.tensor([6.0, 1.0]), torch.zeros(2)) == (None, None)

    def test_neighbours_that_depend_on_each_other(self):
        """The error is that of the mean over many runs; one that takes tokens for independent is far too small."""
        noise = torch.randn(400, 6000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        kept, series = 0.9, torch.zeros(400, 6000, dtype=torch.float64)
        for t in range(1, 6000):
            series[:, t] = kept * series[:, t - 1] + noise[:, t]
        blocks = series.view(400, 30, 200).sum(2)
        errors = [batch_means(row, torch.full((30,), 200.0))[1] for row in blocks]
        true = series.mean(1).std().item()
        assert sum(errors) / len(errors) == pytest.approx(true, rel=0.15)
        assert (series.std(1) / 6000**0.5).mean() < true / 3


def test_the_standard_error_of_a_mean():
    assert standard_error([1, 2, 3, 4]) == pytest.approx((5 / 3) ** 0.5 / 2)  # the variance is 5/3
    assert standard_error([0.5, 0.5]) == 0
    assert standard_error([1]) is None
