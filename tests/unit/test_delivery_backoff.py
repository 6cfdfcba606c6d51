"""When a delivery is tried again, and when no more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from config.settings import DeliverySettings
from inference.delivery.backoff import Backoff

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
POLICY = Backoff.of(DeliverySettings())


def test_waits_double_from_the_first_to_the_longest() -> None:
    waits = [POLICY.wait(failures, draw=0.0).total_seconds() for failures in range(1, 12)]
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]


def test_what_only_a_person_can_mend_starts_slowly() -> None:
    assert POLICY.wait(1, draw=0.0, is_slow=True) == timedelta(minutes=5)
    assert POLICY.wait(9, draw=0.0, is_slow=True) == timedelta(hours=1)


def test_tries_outlast_a_week_end_and_end_at_the_limit() -> None:
    assert POLICY.next_attempt(80, since=NOON, now=NOON + timedelta(days=6), draw=0.0) is not None
    last = POLICY.next_attempt(200, since=NOON, now=NOON + timedelta(days=7, minutes=-1), draw=0.0)
    assert last == NOON + timedelta(days=7)
    assert POLICY.next_attempt(200, since=NOON, now=NOON + timedelta(days=7), draw=0.0) is None


def test_a_clock_that_jumps_ahead_does_not_use_up_the_tries() -> None:
    """Nor does a service that was off for a fortnight: the destination is asked a few times before it is given up."""
    late = NOON + timedelta(days=4000)
    for failures in range(1, 5):
        planned = POLICY.next_attempt(failures, since=NOON, now=late, draw=0.0)
        assert planned == late + POLICY.wait(failures, draw=0.0)
    assert POLICY.next_attempt(5, since=NOON, now=late, draw=0.0) is None


@given(failures=st.integers(0, 10**9), draw=st.floats(0, 1, exclude_max=True), is_slow=st.booleans())
def test_jitter_never_lengthens_and_takes_half_at_most(failures: int, draw: float, is_slow: bool) -> None:
    full = POLICY.wait(failures, draw=0.0, is_slow=is_slow)
    assert full / 2 <= POLICY.wait(failures, draw=draw, is_slow=is_slow) <= full <= timedelta(hours=1)
