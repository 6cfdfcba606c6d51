"""The replay of the events: what it costs, however many images there are."""

from __future__ import annotations

import tracemalloc
from contextlib import closing
from pathlib import Path

from db.engine import Database
from db.schema.views import TRIGGERS
from db.sqlite.driver import sqlite3
from db.upkeep.replay import Difference, differing_rows

IMAGES = 5_000

FILL = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
INSERT INTO {table} ({columns}) SELECT {values} FROM numbers
"""
ROWS = {
    "image": {
        "id": "n", "sop_class_uid": "'1.2'", "sop_instance_uid": "'2.25.' || n", "study_instance_uid": "'2.26.' || n",
        "modality": "'DX'", "peer_ae_title": "'PACS'", "transfer_syntax_uid": "'1.2'", "size_bytes": "1",
        "dataset_digest": "printf('%064x', n)", "identity_digest": "printf('%064x', n)",
        "received_at": "'2026-06-01 12:00:00.000000'",
    },
    "job": {
        "id": "n", "image_id": "n", "state": "'queued'", "reason": "'view_position'", "attempts": "0",
        "warnings": "'[]'", "created_at": "'2026-06-01 12:00:00.000000'",
        "updated_at": "'2026-06-01 12:00:00.000000'",
    },
    "decision": {
        "image_id": "n", "view": "'frontal'", "is_chest": "1", "reason": "'view_position'", "evidence": "'{}'",
        "decided_at": "'2026-06-01 12:00:00.000000'",
    },
    "event": {
        "id": "n + (SELECT max(id) FROM event)", "at": "'2026-06-01 12:00:00.000000'", "kind": "'received'",
        "image_id": "n", "job_id": "n", "hash": "''",
        "facts": "json_object('state', 'queued', 'seal', NULL, 'view', 'frontal', 'is_chest', json('true'))",
    },
}  # fmt: skip


def fill(path: Path) -> None:
    """Write images with an event each, in SQL: the chain isn't looked at."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for name in TRIGGERS:
            connection.execute(f"DROP TRIGGER IF EXISTS {name}")
        for table, columns in ROWS.items():
            statement = FILL.format(table=table, columns=", ".join(columns), values=", ".join(columns.values()))
            connection.execute(statement, {"count": IMAGES})


def test_the_memory_does_not_grow_with_the_images(audit_database: Database, tmp_path: Path) -> None:
    fill(audit_database.path)
    with audit_database.read() as session:
        assert differing_rows(session, scratch=tmp_path / "warm") == []  # fills SQLAlchemy's caches
    tracemalloc.start()
    try:
        with audit_database.read() as session:
            assert differing_rows(session, scratch=tmp_path / "scratch") == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < IMAGES * 1000  # a kilobyte an image; several of them when all were kept


def test_of_many_differences_the_first_are_enough(audit_database: Database) -> None:
    fill(audit_database.path)
    with closing(sqlite3.connect(audit_database.path)) as connection, connection:
        connection.execute("UPDATE job SET state = 'reported' WHERE id <> 2")
    with audit_database.read() as session:
        assert len(differing_rows(session)) == IMAGES - 1
        first = differing_rows(session, most=3)
    assert first == [Difference(table="job", id=number) for number in (1, 3, 4)]
