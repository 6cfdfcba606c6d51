"""A figure with its confidence interval."""

from __future__ import annotations

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
