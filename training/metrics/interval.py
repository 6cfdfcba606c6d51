"""Figures with confidence intervals; proportions with Wilson's interval, by SciPy.

References
----------
Wilson, JASA 1927;22:209. Newcombe, Statistics in Medicine 1998;17:857, method 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import binomtest, norm

CONFIDENCE = 0.95
"""Default confidence of every interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval and its method.

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
        """Return whether the value lies inside, ends included."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:.3f} to {self.high:.3f}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and its interval where it has one."""

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
    proportion = successes / trials
    ends = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Estimate(proportion, Interval(float(ends.low), float(ends.high), "wilson"))
