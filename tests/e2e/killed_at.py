"""Run ``cxr`` as ever, except that it kills itself with SIGKILL at one step of the design's table.

    python killed_at.py STEP[@COUNT] VERB [ARGUMENT...]

It dies the COUNT-th time that it comes there, the first time unless told otherwise. The steps wrap
functions from outside: the product has no branch for its tests.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

STEP, _, COUNT = sys.argv[1].partition("@")


def wrap(owner: Any, name: str, *, before: bool) -> None:
    """Replace a function by one that dies before, or after, its work."""
    wrapped: Callable[..., Any] = getattr(owner, name)
    times = itertools.count(1)

    def dying(*args: Any, **kwargs: Any) -> Any:
        is_time = next(times) >= int(COUNT or 1)
        if before and is_time:
            os.kill(os.getpid(), signal.SIGKILL)
        done = wrapped(*args, **kwargs)
        if is_time:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(owner, name, dying)


def object_is_kept() -> None:
    from db.disk import Spool

    wrap(Spool, "keep", before=False)


def receipt_is_committed() -> None:
    from listener.intake import Intake

    wrap(Intake, "store", before=False)


def job_is_claimed() -> None:
    from inference.worker.claimed_jobs import ClaimedJobs

    wrap(ClaimedJobs, "claim", before=False)


def pixels_are_prepared() -> None:
    from inference.model.model import Model

    wrap(Model, "score", before=True)


def batch_is_scored() -> None:
    from inference.worker.worker import Worker

    wrap(Worker, "_report", before=True)


def report_is_built() -> None:
    from db.disk import Spool

    wrap(Spool, "write", before=True)


def report_is_written() -> None:
    from db import jobs

    wrap(jobs, "finish", before=True)


def result_is_committed() -> None:
    from inference.worker.worker import Worker

    wrap(Worker, "_report", before=False)


def report_is_sent() -> None:
    from db import deliveries

    wrap(deliveries, "mark_sent", before=True)


def delivery_is_committed() -> None:
    from inference.delivery.delivery_outcomes import OutcomeRecorder

    wrap(OutcomeRecorder, "record_sent", before=False)


def main() -> None:
    del sys.argv[1]
    globals()[STEP]()
    from app.cli import main as run

    run()


if __name__ == "__main__":
    main()
