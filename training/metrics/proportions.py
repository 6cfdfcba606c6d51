"""Proportions with Wilson's interval.

References
----------
Wilson, JASA 1927;22:209. Newcombe, Statistics in Medicine 1998;17:857, method 3.
"""

from __future__ import annotations

import math

from training.metrics.interval import CONFIDENCE, Estimate, Interval, normal_quantile


def wilson(successes: int, trials: int, *, confidence: float = CONFIDENCE) -> Estimate | None:
    """Return the proportion with Wilson's score interval; None without trials.

    Raises
    ------
    ValueError
        If there are fewer than 0 successes, or more than trials.

    Examples
    --------
    >>> print(wilson(81, 263))
    0.308 (0.255 to 0.366)
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"of {trials} trials 0 to {trials} succeed; got {successes}")
    if trials == 0:
        return None
    share = successes / trials
    squared = normal_quantile(confidence) ** 2
    middle = (share + squared / (2 * trials)) / (1 + squared / trials)
    half = math.sqrt(squared * (share * (1 - share) / trials + squared / (4 * trials**2))) / (1 + squared / trials)
    # At 0 and 1 the ends are exact, and rounding would put them a hair inside.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == trials else min(1.0, middle + half)
    return Estimate(share, Interval(low, high, "wilson"))
