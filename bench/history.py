"""Query times of the audit database with 10,000 and with 1,000,000 images of history."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from figures import Figure, Part
from sqlalchemy import insert

from cxr.domain import DeliveryState, JobState, PackageStatus
from db import deliveries, jobs
from db.deliveries.claims import claim as claim_deliveries
from db.engine import Database, open_database
from db.events import EventKind, append_event
from db.events.chain_key import load_or_create_key
from db.results.queries import ResultFilter, iterate_results, page_results
from db.schema import tables
from db.sqlite.connection import choose_journal, describe
from db.sqlite.copy_database import copy_database
from db.sqlite.driver import sqlite3
from db.upkeep import integrity, leases, retention

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
SMALL, LARGE = 10_000, 1_000_000
QUEUED = 200  # images in the queue, for either size of the history
MAX_RATIO = 1.5
MAX_RATIO_DURING_READ = 3
ALONE_S = 10.0
ALONE = "no other process"
JOURNALS = ("wal", "delete")
EVERY = timedelta(seconds=30)
REPEATS = 21


def measure(folder: Path, *, quick: bool) -> Part:
    large = LARGE // 10 if quick else LARGE
    databases = {}
    for count in (SMALL, large):
        databases[count] = open_database(folder / f"{count}" / "audit.sqlite", folder / f"{count}.key", create=True)
        fill(databases[count], count)
    lines, ratios = [], {}
    for name, query in QUERIES.items():
        few, many = (seconds * 1000 for seconds in alternating(query, databases[SMALL], databases[large]))
        ratios[name] = many / few
        lines.append(f"| {name} | {few:.2f} | {many:.2f} | {many / few:.2f} |")
    library = describe(databases[large].path)
    slowest = {journal: slowest_commits(databases[large], journal) for journal in JOURNALS}
    commits = "".join(
        f"| {name} | {' | '.join(f'{slowest[journal][name] * 1000:.0f}' for journal in JOURNALS)} |\n"
        for name in slowest[JOURNALS[0]]
    )
    for database in databases.values():
        database.dispose()
    worst = max(ratios, key=lambda name: ratios[name])
    return Part(
        f"## Queries of a full database\n\n`python bench/run.py history` · milliseconds, the fastest of {REPEATS}, "
        f"in alternation; {QUEUED} images in the queue\n\n"
        f"| query | {SMALL:,} images | {large:,} images | ratio |\n|---|---|---|---|\n" + "\n".join(lines) + "\n\n"
        f"The slowest small commit while another process reads, {large:,} images, milliseconds ({library}):\n\n"
        f"| during | {' | '.join(f'journal {journal}' for journal in JOURNALS)} |\n|---|{'---|' * len(JOURNALS)}\n"
        f"{commits}",
        [
            *(_commit_figure(journal, slowest[journal], large) for journal in JOURNALS),
            Figure(
                f"claim, list, counts with {large:,} images of history: the slowest, {worst}",
                f"≤ {MAX_RATIO} × the time at {SMALL:,}",
                f"{ratios[worst]:.2f} ×",
                ratios[worst] <= MAX_RATIO,
            ),
        ],
    )


def _commit_figure(journal: str, slowest: dict[str, float], count: int) -> Figure:
    alone, during = slowest[ALONE], {name: seconds for name, seconds in slowest.items() if name != ALONE}
    worst = max(during, key=lambda name: during[name])
    return Figure(
        f"the slowest commit during a read with {count:,} images, journal {journal}, {worst}",
        f"≤ {MAX_RATIO_DURING_READ} × that without a reader",
        f"{during[worst] / alone:.2f} ×",
        during[worst] <= MAX_RATIO_DURING_READ * alone,
    )


def alternating(query: Callable[[Database], None], *databases: Database) -> list[float]:
    """Return the fastest seconds for each database, in alternation: other load of the machine only adds time."""
    times: list[list[float]] = [[] for _ in databases]
    for repeat in range(REPEATS + 1):
        for database, seconds in zip(databases, times, strict=True):
            start = time.perf_counter()
            query(database)
            if repeat:  # the first query reads the disk
                seconds.append(time.perf_counter() - start)
    return [min(seconds) for seconds in times]


def _nothing_matches(database: Database, _folder: Path) -> None:
    page_results(database, ResultFilter(finding="covid19", min_score=0.9995, limit=50))


def _everything_matches(database: Database, _folder: Path) -> None:
    for _ in iterate_results(database, ResultFilter()):
        continue


def _copy(database: Database, folder: Path) -> None:
    copy_database(database.path, folder / "copy.sqlite")


def _verify(database: Database, _folder: Path) -> None:
    integrity.verify(database)


READS: dict[str, Callable[[Database, Path], None]] = {
    "a copy (snapshot, backup, check)": _copy,
    "a check of the newest events": _verify,
    "a listing that matches nothing": _nothing_matches,
    "an export of everything": _everything_matches,
}


def _run_read(name: str, path: Path, key: Path) -> None:
    database = Database(path, load_or_create_key(key))  # open_database would choose the journal
    READS[name](database, path.parent)
    database.dispose()


def slowest_commits(database: Database, journal: str) -> dict[str, float]:
    """Return the seconds of the slowest small commit: alone, and during each read of another process."""
    database.dispose()
    with closing(sqlite3.connect(database.path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
    end = time.monotonic() + ALONE_S
    slowest, context = {ALONE: _slowest(database, lambda: time.monotonic() < end)}, multiprocessing.get_context("spawn")
    for name in READS:
        other = context.Process(target=_run_read, args=(name, database.path, database.path.parent.with_suffix(".key")))
        other.start()
        slowest[name] = _slowest(database, other.is_alive)
        other.join()
        if other.exitcode:
            raise RuntimeError(f"{name} ended with {other.exitcode}")
    return slowest


def _slowest(database: Database, is_running: Callable[[], bool]) -> float:
    slowest = 0.0
    while is_running():
        start = time.perf_counter()
        with database.begin() as session:
            append_event(session, EventKind.SERVICE_STARTED, now=NOW)
        slowest = max(slowest, time.perf_counter() - start)
        time.sleep(0.02)
    return slowest


def _claim(database: Database) -> None:
    with database.begin() as session:
        jobs.claim(session, worker_id="bench", limit=4, now=NOW, lease_s=60)
        jobs.give_back(session, worker_id="bench", now=NOW)


def _claim_delivery(database: Database) -> None:
    with database.begin() as session:
        claim_deliveries(session, destination="pacs", sender_id="bench", limit=8, now=NOW, lease_s=60)
        deliveries.give_back(session, sender_id="bench")


def _list(question: ResultFilter) -> Callable[[Database], None]:
    def query(database: Database) -> None:
        page_results(database, question)

    return query


def _count(database: Database) -> None:
    with database.read() as session:
        jobs.count_by_state(session)
        deliveries.count_by_state(session)


def _jobs(state: JobState | None) -> Callable[[Database], None]:
    def query(database: Database) -> None:
        with database.read() as session:
            jobs.list_jobs(session, state=state, limit=50)

    return query


def _dead(database: Database) -> None:
    with database.read() as session:
        deliveries.list_deliveries(session, state=DeliveryState.DEAD, limit=50)


def _commit(database: Database) -> None:
    with database.begin() as session:
        leases.hold(session, name="bench", holder="bench", ttl_s=30, now=NOW)


QUERIES: dict[str, Callable[[Database], None]] = {
    "one small commit": _commit,
    "claim of images": _claim,
    "claim of deliveries": _claim_delivery,
    "counts by state (metrics)": _count,
    "jobs, the latest 50": _jobs(None),
    "jobs, held": _jobs(JobState.HELD),
    "deliveries, dead": _dead,
    "list, the latest 50": _list(ResultFilter(limit=50)),
    "list, one accession number": _list(ResultFilter(accession_number="A77", limit=50)),
    "list, held": _list(ResultFilter(state=JobState.HELD, limit=50)),
    "list, reported": _list(ResultFilter(state=JobState.REPORTED, limit=50)),
    "list, a finding above 0.9": _list(ResultFilter(finding="covid19", min_score=0.9, limit=50)),
    "list, undelivered": _list(ResultFilter(delivered=False, limit=50)),
    "list, the last ten minutes": _list(ResultFilter(received_from=NOW - timedelta(minutes=10), limit=50)),
    "images that retention removes": lambda database: _retention(database),
}


def _retention(database: Database) -> None:
    with database.read() as session:
        for question in (retention._finished(NOW, before=NOW), retention._delivered(NOW)):
            session.execute(question).all()


def fill(database: Database, count: int) -> None:
    """Write finished images and a few in the queue, without events, which no query here reads.

    In SQL, because a million rows of seven tables would take minutes from Python.
    """
    with database.begin() as session:
        session.execute(
            insert(tables.Package),
            [{"id": 1, "fingerprint": "ab" * 32, "name": "bench", "version": "1", "status": PackageStatus.EVALUATED,
              "first_seen_at": NOW}],
        )  # fmt: skip
    database.dispose()
    with closing(sqlite3.connect(database.path)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        connection.create_function(
            "received", 1, lambda number: f"{NOW - (count - number) * EVERY:%Y-%m-%d %H:%M:%S.%f}"
        )
        connection.execute(IMAGES, {"count": count, "queued": QUEUED})
        for table, (columns, where) in ROWS.items():
            values = ", ".join(columns.values())
            connection.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM image_rows WHERE {where}"
            )
        connection.commit()
    choose_journal(database.path)


IMAGES = """
CREATE TEMP TABLE image_rows AS
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
SELECT n, received(n) AS at,
    CASE WHEN n > :count - :queued THEN iif(n % 2, 'held', 'queued')
         WHEN n % 10 = 0 THEN 'not_scored' ELSE 'reported' END AS state
FROM numbers
"""
_UID = "'1.2.840.10008.5.1.4.1.1.{}'"
_DIGEST = "printf('%064x', n)"
_IS_REPORTED = "state = 'reported'"
ROWS: dict[str, tuple[dict[str, str], str]] = {
    "image": (
        {
            "id": "n", "sop_class_uid": _UID.format("1.1"), "sop_instance_uid": "'2.25.' || n",
            "study_instance_uid": "'2.26.' || n", "series_instance_uid": "'2.27.' || n",
            "accession_number": "'A' || n", "patient_id": "'P' || (n / 3)", "modality": "'DX'", "rows": "2000",
            "columns": "2000", "peer_ae_title": "'PACS'", "transfer_syntax_uid": "'1.2.840.10008.1.2.1'",
            "size_bytes": "8000000", "dataset_digest": _DIGEST, "pixel_digest": _DIGEST, "identity_digest": _DIGEST,
            "spool_name": "CASE WHEN state IN ('held', 'queued') THEN printf('%032x.dcm', n) END", "received_at": "at",
        },
        "1",
    ),
    "decision": (
        {"image_id": "n", "view": "'frontal'", "is_chest": "1", "reason": "'view_position'", "evidence": "'{}'",
         "decided_at": "at"},
        "1",
    ),
    "job": (
        {
            "id": "n", "image_id": "n", "state": "state", "reason": "'view_position'", "attempts": "1",
            "package_id": f"iif({_IS_REPORTED}, 1, NULL)", "device": f"iif({_IS_REPORTED}, 'cpu', NULL)",
            "warnings": "'[]'", "scored_at": f"iif({_IS_REPORTED}, at, NULL)", "created_at": "at", "updated_at": "at",
        },
        "1",
    ),
    "score": (
        {"id": "n", "job_id": "n", "finding": "'covid19'", "score": "n % 1000 / 1000.0", "threshold": "0.5"},
        _IS_REPORTED,
    ),
    "report": (
        {
            "id": "n", "kind": "'sr'", "sop_class_uid": _UID.format("88.34"), "sop_instance_uid": "'2.28.' || n",
            "series_instance_uid": "'2.29.' || n", "content_digest": _DIGEST, "created_at": "at",
        },
        _IS_REPORTED,
    ),
    "job_report": ({"job_id": "n", "report_id": "n"}, _IS_REPORTED),
    "delivery": (
        {
            "id": "n", "report_id": "n", "job_id": "n", "destination": "'pacs'", "state": "'verified'",
            "attempts": "1", "sent_at": "at", "verified_at": "at", "verified_by": "'c_find'", "created_at": "at",
            "updated_at": "at",
        },
        _IS_REPORTED,
    ),
}  # fmt: skip
"""Table -> (column -> value, condition on the images that have such a row)."""
