"""A row that is written the short way is the row that the ORM writes, and is refused where that refuses."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import text

from cxr.domain import JobState, View
from cxr.errors import StorageError
from db.engine import Database
from db.schema.insert import add_row
from db.schema.tables import Base, Decision, Image, Job, Score

ELSEWHERE = timezone(timedelta(hours=-7))


def columns_of(number: int, noon: datetime) -> list[tuple[type[Base], dict[str, Any]]]:
    """One image's rows; what differs between two images is unique in the schema."""
    at = noon.astimezone(ELSEWHERE)
    image = {
        "sop_class_uid": "1.2", "sop_instance_uid": "1.2.3", "study_instance_uid": None, "patient_id": "Ä ^'\"",
        "rows": 20, "columns": 30, "peer_ae_title": "PACS", "transfer_syntax_uid": "1.2.4", "size_bytes": 2**40,
        "dataset_digest": "ab" * 32, "identity_digest": "cd" * 32, "spool_name": f"{number}.dcm", "received_at": at,
    }  # fmt: skip
    decision = {"image_id": number, "view": View.FRONTAL, "is_chest": True, "reason": "code",
                "evidence": {"ViewPosition": ["P", "Ä"], "n": 1.5}, "decided_at": at}  # fmt: skip
    job = {"image_id": number, "state": JobState.QUEUED, "reason": "code", "created_at": at, "updated_at": at}
    score = {"job_id": number, "finding": "covid19", "score": 0.1 + 0.2, "threshold": None}
    return [(Image, image), (Decision, decision), (Job, job), (Score, score)]


def test_a_row_is_the_one_that_the_orm_writes(audit_database: Database, noon: datetime) -> None:
    with audit_database.begin() as session:
        keys = [add_row(session, table, **values) for table, values in columns_of(1, noon)]
        for table, values in columns_of(2, noon):
            session.add(table(**values))
            session.flush()
    assert keys == [1, 1, 1, 1]
    different = {"id", "image_id", "job_id", "spool_name"}
    with audit_database.read() as session:
        for table, _ in columns_of(1, noon):
            ours, theirs = session.execute(text(f"SELECT * FROM {table.__tablename__}")).mappings()
            assert {name for name in ours if ours[name] != theirs[name]} == different & set(ours)


@pytest.mark.parametrize(
    ("column", "value", "error"),
    [
        ("created_at", datetime(2026, 6, 1, 12, 0), StorageError),  # noqa: DTZ001 (no zone)
        ("state", "elsewhere", StorageError),
        ("reason", None, StorageError),
        ("image_id", 7, StorageError),  # there is no such image
        ("colour", "blue", TypeError),
    ],
)
def test_what_the_schema_does_not_take_is_refused(
    column: str, value: object, error: type[Exception], audit_database: Database, noon: datetime
) -> None:
    (_, image), _, (_, job), _ = columns_of(1, noon)
    with pytest.raises(error), audit_database.begin() as session:
        add_row(session, Image, **image)
        add_row(session, Job, **(job | {column: value}))
    with audit_database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM image")) == 0
