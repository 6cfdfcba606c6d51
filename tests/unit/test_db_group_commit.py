"""Group commit: blocks of several threads in one transaction, each kept or undone alone, none ended before it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest
from sqlalchemy import event, text

from cxr.errors import StorageError
from db.engine import Database, Session
from db.events import EventKind, append_event, verify_chain
from db.schema.statements import DRIVER
from db.schema.tables import Lease

Block = Callable[[Session], None]


class Together:
    """Threads whose blocks are begun while the first still runs."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.log: list[str] = []
        self.errors: dict[str, BaseException] = {}

    def run(self, **blocks: Block) -> None:
        """Run the blocks in order, the first when all others wait."""
        first, *others = blocks
        is_inside, may_end = threading.Event(), threading.Event()

        def begin_first(session: Session) -> None:
            is_inside.set()
            assert may_end.wait(30)
            blocks[first](session)

        threads = [self._start(first, begin_first)]
        assert is_inside.wait(30)
        for number, name in enumerate(others, start=1):
            threads.append(self._start(name, blocks[name]))
            self._until(lambda number=number: self.database._group_commit._waiting == number)
        may_end.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()

    def _start(self, name: str, block: Block) -> threading.Thread:
        def run() -> None:
            try:
                with self.database.begin_together() as session:
                    self.log.append(f"block {name}")
                    block(session)
            except (StorageError, KeyError) as error:
                self.errors[name] = error
            self.log.append(f"end {name}")

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    @staticmethod
    def _until(holds: Callable[[], bool]) -> None:
        for _ in range(3000):
            if holds():
                return
            time.sleep(0.01)
        raise AssertionError("did not come about")


@pytest.fixture
def together(audit_database: Database) -> Together:
    return Together(audit_database)


@contextmanager
def commits(database: Database) -> Iterator[list[str]]:
    found: list[str] = []

    def note(_connection: object) -> None:
        found.append("commit")

    event.listen(database._writing, "commit", note)
    try:
        yield found
    finally:
        event.remove(database._writing, "commit", note)


def lease(name: str, noon: datetime) -> Block:
    """A block that adds a row by the ORM and an event."""

    def add(session: Session) -> None:
        session.add(Lease(name=name, holder=name, expires_at=noon))
        append_event(session, EventKind.SERVICE_STARTED, now=noon)

    return add


def rows(database: Database) -> list[str]:
    """Return what is kept, with a chain of events that fits."""
    with database.read() as session:
        found = list(session.scalars(text("SELECT name FROM lease ORDER BY name")))
        chain = verify_chain(session)
        assert chain.ok
        assert chain.events == 1 + len(found)
        return found


def test_a_block_alone_is_committed_at_its_end(audit_database: Database, noon: datetime) -> None:
    for name in "ab":
        with commits(audit_database) as found:
            with audit_database.begin_together() as session:
                lease(name, noon)(session)
                assert name not in rows(audit_database)
            assert found == ["commit"]
    assert rows(audit_database) == ["a", "b"]


def test_blocks_that_wait_are_committed_together_and_none_ends_before(together: Together, noon: datetime) -> None:
    with commits(together.database) as found:
        together.run(**{name: lease(name, noon) for name in "abcd"})
    assert found == ["commit"]
    assert not together.errors
    assert sorted(together.log[:4]) == [f"block {name}" for name in "abcd"]
    assert rows(together.database) == list("abcd")


def test_a_transaction_takes_a_number_of_blocks(
    together: Together, noon: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.sqlite.group_commit._MOST_BLOCKS", 2)
    with commits(together.database) as found:
        together.run(**{name: lease(name, noon) for name in "abcde"})
    assert len(found) == 3
    assert rows(together.database) == list("abcde")


@pytest.mark.parametrize("bad", ["a", "b", "d"])
def test_a_block_that_raises_is_undone_alone(together: Together, noon: datetime, bad: str) -> None:
    def add_and_raise(session: Session) -> None:
        lease(bad, noon)(session)
        session.flush()
        raise KeyError(bad)

    together.run(**{name: add_and_raise if name == bad else lease(name, noon) for name in "abcd"})
    assert [*together.errors] == [bad]
    assert isinstance(together.errors[bad], KeyError)
    assert rows(together.database) == [name for name in "abcd" if name != bad]


def test_what_the_orm_has_not_written_yet_is_undone_too(together: Together, noon: datetime) -> None:
    def add_and_raise(session: Session) -> None:
        session.add(Lease(name="b", holder="b", expires_at=noon))
        raise KeyError

    together.run(a=lease("a", noon), b=add_and_raise, c=lease("c", noon))
    assert [*together.errors] == ["b"]
    assert rows(together.database) == ["a", "c"]


def test_a_commit_that_fails_fails_for_all(together: Together, noon: datetime) -> None:
    def add_an_orphan(session: Session) -> None:
        session.execute(text("PRAGMA defer_foreign_keys = ON"))  # refused by the commit, not by the statement
        session.execute(text("INSERT INTO job_report (job_id, report_id) VALUES (7, 7)"))

    together.run(a=lease("a", noon), b=add_an_orphan, c=lease("c", noon))
    assert sorted(together.errors) == ["a", "b", "c"]
    assert {type(error) for error in together.errors.values()} == {StorageError}
    assert rows(together.database) == []
    together.run(a=lease("a", noon), b=lease("b", noon))
    assert rows(together.database) == ["a", "b"]


@pytest.mark.parametrize("ending", ["a", "b", "c"])
def test_a_transaction_that_sqlite_ends_fails_for_all_that_were_in_it(
    together: Together, noon: datetime, ending: str
) -> None:
    """As it ends one when the disk is full; what follows is in another transaction."""

    def end(session: Session) -> None:
        lease(ending, noon)(session)
        session.flush()
        session.info[DRIVER].execute("ROLLBACK")

    together.run(**{name: end if name == ending else lease(name, noon) for name in "abc"})
    lost = "abc"[: "abc".index(ending) + 1]
    assert sorted(together.errors) == list(lost)
    assert rows(together.database) == [name for name in "abc" if name not in lost]


def test_a_transaction_is_committed_if_the_block_that_would_do_it_gives_up(
    audit_database: Database, noon: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.sqlite.group_commit._CHECK_S", 0.01)
    monkeypatch.setattr(audit_database._group_commit, "_waiting", 1)
    with audit_database.begin_together() as session:
        lease("a", noon)(session)
    assert rows(audit_database) == ["a"]


def test_other_write_transactions_wait_for_the_commit(audit_database: Database, noon: datetime) -> None:
    log: list[str] = []

    def write() -> None:
        with audit_database.begin() as session:
            log.append("other")
            lease("b", noon)(session)

    thread = threading.Thread(target=write, daemon=True)
    with audit_database.begin_together() as session:
        thread.start()
        lease("a", noon)(session)
        session.flush()
        log.append("block")
    thread.join(30)
    assert log == ["block", "other"]
    assert rows(audit_database) == ["a", "b"]
