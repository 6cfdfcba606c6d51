"""The audit database with 10,000 and with 1,000,000 images of history: the same questions, and how long they take."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from figures import Figure, Part
from sqlalchemy import insert
from timing import wall_s

from cxr.domain import DeliveryState, JobState, PackageStatus, View
from db import deliveries, jobs, tables
from db.delivery_claims import claim as claim_deliveries
from db.engine import Database, open_database
from db.results import ResultFilter, list_results

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
SMALL, LARGE = 10_000, 1_000_000
QUEUED = 200  # images that wait, whatever the history
MOST = 1.5
_AT_ONCE = 20_000


def measure(folder: Path, *, quick: bool) -> Part:
    large = LARGE // 10 if quick else LARGE
    times = {}
    for count in (SMALL, large):
        database = open_database(folder / f"{count}" / "audit.sqlite", folder / f"{count}.key", create=True)
        fill(database, count)
        times[count] = {name: wall_s(partial(ask, database), repeats=15) for name, ask in QUESTIONS.items()}
        database.dispose()
    lines, figures = [], []
    for name in QUESTIONS:
        few, many = times[SMALL][name] * 1000, times[large][name] * 1000
        lines.append(f"| {name} | {few:.1f} | {many:.1f} | {many / few:.2f} |")
        figures.append(
            Figure(
                f"{name}, {large:,} images of history",
                f"≤ {MOST} × the time at {SMALL:,}",
                f"{many / few:.2f} ×",
                many <= MOST * few,
            )
        )
    return Part(
        "## Questions to a full database\n\n`python bench/run.py history` · milliseconds, median of 15; "
        f"{QUEUED} images wait\n\n"
        f"| question | {SMALL:,} images | {large:,} images | ratio |\n|---|---|---|---|\n" + "\n".join(lines) + "\n",
        figures,
    )


def _claim(database: Database) -> None:
    with database.begin() as session:
        jobs.claim(session, worker_id="bench", limit=4, now=NOW, lease_s=60)
        jobs.give_back(session, worker_id="bench", now=NOW)


def _claim_delivery(database: Database) -> None:
    with database.begin() as session:
        claim_deliveries(session, destination="pacs", sender_id="bench", limit=8, now=NOW, lease_s=60)
        deliveries.give_back(session, sender_id="bench")


def _ask(question: ResultFilter) -> Callable[[Database], None]:
    def ask(database: Database) -> None:
        with database.read() as session:
            list_results(session, question)

    return ask


def _count(database: Database) -> None:
    with database.read() as session:
        jobs.count_by_state(session)
        deliveries.count_by_state(session)


QUESTIONS: dict[str, Callable[[Database], None]] = {
    "claim of images": _claim,
    "claim of deliveries": _claim_delivery,
    "list, the latest 50": _ask(ResultFilter(limit=50)),
    "list, one accession number": _ask(ResultFilter(accession_number="A77")),
    "list, held": _ask(ResultFilter(state=JobState.HELD, limit=50)),
    "list, the last hour": _ask(ResultFilter(received_from=NOW - timedelta(hours=1), limit=50)),
    "counts by state": _count,
}


def fill(database: Database, count: int) -> None:
    """Write finished images, and a few that wait; without their events, which no question here reads."""
    with database.begin() as session:
        session.execute(
            insert(tables.Package),
            [{"id": 1, "fingerprint": "ab" * 32, "name": "bench", "version": "1", "status": PackageStatus.EVALUATED,
              "first_seen_at": NOW}],
        )  # fmt: skip
    for first in range(1, count + 1, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, count + 1))
        with database.begin() as session:
            for table, make in _ROWS.items():
                rows = [row for number in numbers if (row := make(number, number > count - QUEUED, count)) is not None]
                if rows:
                    session.execute(insert(table), rows)


def _received(number: int, count: int) -> datetime:
    return NOW - timedelta(seconds=30 * (count - number))


def _image(number: int, waits: bool, count: int) -> dict:
    return {
        "id": number, "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1", "sop_instance_uid": f"2.25.{number}",
        "study_instance_uid": f"2.26.{number}", "series_instance_uid": f"2.27.{number}",
        "accession_number": f"A{number}", "patient_id": f"P{number // 3}", "modality": "DX", "rows": 2000,
        "columns": 2000, "peer_ae_title": "PACS", "transfer_syntax_uid": "1.2.840.10008.1.2.1", "size_bytes": 8000000,
        "dataset_digest": f"{number:064x}", "pixel_digest": f"{number:064x}", "identity_digest": f"{number:064x}",
        "spool_name": f"{number:032x}.dcm" if waits else None, "received_at": _received(number, count),
    }  # fmt: skip


def _decision(number: int, waits: bool, count: int) -> dict:
    return {"image_id": number, "view": View.FRONTAL, "is_chest": True, "reason": "view_position", "evidence": {},
            "decided_at": _received(number, count)}  # fmt: skip


def _state(number: int, waits: bool) -> JobState:
    if waits:
        return JobState.HELD if number % 2 else JobState.QUEUED
    return JobState.NOT_SCORED if number % 10 == 0 else JobState.REPORTED


def _job(number: int, waits: bool, count: int) -> dict:
    at, is_scored = _received(number, count), _state(number, waits) is JobState.REPORTED
    return {"id": number, "image_id": number, "state": _state(number, waits), "reason": "view_position", "attempts": 1,
            "package_id": 1 if is_scored else None, "device": "cpu" if is_scored else None, "warnings": [],
            "scored_at": at if is_scored else None, "created_at": at, "updated_at": at}  # fmt: skip


def _score(number: int, waits: bool, count: int) -> dict | None:
    if _state(number, waits) is not JobState.REPORTED:
        return None
    return {"id": number, "job_id": number, "finding": "covid19", "score": number % 1000 / 1000, "threshold": 0.5}


def _report(number: int, waits: bool, count: int) -> dict | None:
    if _state(number, waits) is not JobState.REPORTED:
        return None
    return {"id": number, "kind": "sr", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34",
            "sop_instance_uid": f"2.28.{number}", "series_instance_uid": f"2.29.{number}",
            "content_digest": f"{number:064x}", "created_at": _received(number, count)}  # fmt: skip


def _job_report(number: int, waits: bool, count: int) -> dict | None:
    return {"job_id": number, "report_id": number} if _state(number, waits) is JobState.REPORTED else None


def _delivery(number: int, waits: bool, count: int) -> dict | None:
    if _state(number, waits) is not JobState.REPORTED:
        return None
    at = _received(number, count)
    return {"id": number, "report_id": number, "job_id": number, "destination": "pacs",
            "state": DeliveryState.VERIFIED, "attempts": 1, "sent_at": at, "verified_at": at, "verified_by": "c_find",
            "created_at": at, "updated_at": at}  # fmt: skip


_ROWS = {
    tables.Image: _image, tables.Decision: _decision, tables.Job: _job, tables.Score: _score, tables.Report: _report,
    tables.JobReport: _job_report, tables.Delivery: _delivery,
}  # fmt: skip
