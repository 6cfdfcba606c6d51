"""The kernel says when the database is written."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import pytest

from db.engine import Database
from db.events import EventKind, append_event
from db.sqlite import write_notice
from db.sqlite.write_notice import WriteNotice

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is of Linux")


def test_a_commit_is_noticed_and_a_read_is_not(audit_database: Database, noon: datetime) -> None:
    with audit_database.read() as session:
        session.connection().exec_driver_sql("SELECT count(*) FROM event").one()
    notice = WriteNotice(audit_database.path)
    assert not notice.wait(0)
    with audit_database.read() as session:
        session.connection().exec_driver_sql("SELECT count(*) FROM event").one()
    assert not notice.wait(0)
    for _ in range(2):
        with audit_database.begin() as session:
            append_event(session, EventKind.SERVICE_STARTED, now=noon)
        assert notice.wait(60)
        assert not notice.wait(0)
        assert not notice.is_quiet
    notice.close()
    assert not notice.wait(0)
    assert not notice.is_quiet


def test_it_is_quiet_when_every_commit_is_over(audit_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    notice = WriteNotice(audit_database.path)
    assert not notice.is_quiet
    monkeypatch.setattr(write_notice, "COMMIT_S", -1.0)
    assert notice.is_quiet
    notice.close()


def test_without_a_file_there_are_no_notices(tmp_path: Path) -> None:
    notice = WriteNotice(tmp_path / "audit.sqlite")
    assert not notice.is_quiet
    assert not notice.wait(60)
    notice.close()
