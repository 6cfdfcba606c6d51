"""A figure with its confidence interval, and proportions with Wilson's interval.

References
----------
Wilson, JASA 1927;22:209. Newcombe, Statistics in Medicine 1998;17:857, method 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import norm

CONFIDENCE = 0.95
"""Of every interval, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval and how it was made.

    Raises
    ------
    ValueError
        If its ends are not in order (or not numbers).
    """

    low: float
    high: float
    method: str

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"an interval goes from low to high; got {self.low} to {self.high}")

    def holds(self, value: float) -> bool:
        """Tell whether the value lies inside, ends included."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:.3f} to {self.high:.3f}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and its interval where one can be given."""

    value: float
    interval: Interval | None = None

    def __str__(self) -> str:
        return f"{self.value:.3f}" if self.interval is None else f"{self.value:.3f} ({self.interval})"


def normal_quantile(confidence: float) -> float:
    """Return the half-width of a two-sided interval in standard errors; 1.96 for 0.95.

    Raises
    ------
    ValueError
        If the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1; got {confidence}")
    return float(norm.ppf(0.5 + confidence / 2))


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
