"""The timer of the upper layer."""

from __future__ import annotations

import time

from listener.transport.upper_layer import ArtimTimer


def test_a_timer_that_was_stopped_has_not_expired_however_late() -> None:
    timer = ArtimTimer(0.01)
    assert not timer.expired
    timer.start()
    time.sleep(0.02)
    assert timer.expired
    timer.stop()
    assert not timer.expired, "an A-ASSOCIATE-RQ that came at the last moment has come"
    timer.restart()
    assert not timer.expired
