"""How sure a share is."""

import math

Z95 = 1.959963984540054  # of the standard normal distribution, two-sided 95 %


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
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
