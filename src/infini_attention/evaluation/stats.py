"""How sure a share is, and a mean."""

import math
import statistics
from collections.abc import Collection, Sequence

from torch import Tensor

Z95 = 1.959963984540054  # of the standard normal distribution, two-sided 95 %


def wilson_interval(hits: float, trials: float) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927). Unlike the textbook one, it has a width even when all were hits.

    Raises:
        ValueError: unless 0 <= hits <= trials and there is a trial.
    """
    if not 0 <= hits <= trials or trials == 0:
        raise ValueError(f"expected 0 <= hits <= trials with trials > 0; got {hits} of {trials}")
    share, z2 = hits / trials, Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    low = 0.0 if hits == 0 else centre - half  # rounding would leave 1e-17
    return low, 1.0 if hits == trials else centre + half


def wilson_interval_of_mean(cells: Collection[tuple[int, int]]) -> tuple[float, float]:
    """The 95 % interval of a mean over cells, each (hits, trials) with a share of its own, however many trials it has.

    Wilson's interval at the number of trials that would leave one share as uncertain as this mean is where all cells
    have the same share: `C^2 / sum(1 / trials)` for C cells. For cells of one size it is that of all trials together.

    Raises:
        ValueError: as `wilson_interval`.
    """
    if not cells or not all(trials for _, trials in cells):
        raise ValueError(f"expected cells with at least one trial each; got {list(cells)}")
    trials = len(cells) ** 2 / sum(1 / trials for _, trials in cells)
    return wilson_interval(trials * (sum(hits / of for hits, of in cells) / len(cells)), trials)


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean of independent values: their standard deviation over the root of their number; None for one alone."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def batch_means(sums: Tensor, sizes: Tensor) -> tuple[float | None, float | None]:
    """A mean per unit of size, and its standard error where neighbours are correlated: the method of batch means.

    The series is cut into blocks so long that their means hardly depend on each other; the standard error comes from
    the blocks alone: `sqrt(B / (B - 1) * sum((sum_b - mean * size_b)^2)) / sum(size_b)`. With blocks of one size, that
    is sd(block means) / sqrt(B); with others (the last one; bytes, where blocks are cut by tokens), it is the usual one
    of a ratio. Two series over the same blocks are compared by the sums of their differences: what makes a block hard
    for both of them then falls out. A trend along the series counts as spread, so the error is rather too large.

    Args:
        sums: `[B]`, of what is averaged.
        sizes: `[B]`, what each sum is over: tokens, bytes or words.

    Returns:
        The mean, None where all sizes are 0; its standard error, None for fewer than two blocks.

    Source: Schmeiser 1982, Batch size effects in the analysis of simulation output (Operations Research 30), who finds
    that more than 30 blocks are of little use; Cochran 1977, Sampling techniques, chapter 6, for the ratio.
    """
    total, count = float(sizes.sum()), len(sizes)
    if not total:
        return None, None
    mean = float(sums.sum()) / total
    if count < 2:
        return mean, None
    return mean, math.sqrt(count / (count - 1) * float((sums - mean * sizes).square().sum())) / total
