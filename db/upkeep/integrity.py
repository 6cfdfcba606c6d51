"""Integrity check: database file, references, schema, event chain, sealed rows, spool."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from sqlalchemy import select

from db.disk import Spool
from db.engine import Database
from db.events import AUDIT_KEY, EventKind, append_event, verify_chain
from db.schema.records import ChainReport, Head
from db.schema.tables import Image, Report
from db.sqlite import damage
from db.sqlite.connection import RESTORE
from db.sqlite.copy_database import Progress, copy_database, translate
from db.sqlite.damage import is_malformed
from db.sqlite.driver import sqlite3
from db.sqlite.migrate import revisions
from db.upkeep.replay import MOST_DIFFERENCES, Difference, differing_rows
from db.upkeep.row_check import unsealed_rows

NEWEST = 100_000
"""Number of events that `verify` checks by default."""
_MAX_DAMAGES = 20
_WINDOW = 1000
_PLACE = re.compile(r"\b[Tt]ree (?:page )?(\d+)|\b[Pp]age (\d+)|\b(?:index|in|table) (\w+)")
_COPY_PREFIX = ".check-"
_ABANDONED_AFTER_S = 3600.0
_RESTORE: Mapping[str, str] = MappingProxyType(
    {
        "image": "Have the image sent again, unchanged: that puts it back. Or restore it from a copy of the spool.",
        "report": "Restore it from a copy of the spool.",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault, with the action to take."""

    code: str  # damaged_file | dangling_reference | schema | broken_chain | changed_row | missing_file | open_to_others
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Result of a check."""

    faults: tuple[Fault, ...]
    events: int  # verified
    files: int  # of the spool, with a row and present

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults


def check(
    database: Database, spool: Spool, *, heads: Iterable[Head] = (), progress: Progress | None = None
) -> CheckReport:
    """Check the whole database and the spool while the service runs.

    The long checks run on a copy, so that they delay no C-STORE.

    Parameters
    ----------
    database
        The live database.
    spool
        Its files.
    heads
        Exported heads, which show whether the log was truncated.
    progress
        Called with copied and total pages.

    Returns
    -------
    CheckReport
        Faults are values, not exceptions.

    Raises
    ------
    StorageError
        If the database can't be copied.
    SpoolFull
        If the disk has no space for the copy.
    """
    with _copy_of(database, progress) as copy:
        faults, events = check_copy(copy, audit_key(database), heads)
    _note_or_clear(database.path, faults)
    if any(fault.code == "damaged_file" for fault in faults):  # its rows about files are unreliable
        return CheckReport(faults=tuple(faults), events=events, files=0)
    missing, files = _missing_files(database, spool)
    return CheckReport(faults=(*faults, *missing), events=events, files=files)


def check_damaged(path: Path) -> CheckReport:
    """Check a database file that is too damaged to be opened.

    Parameters
    ----------
    path
        The file; nothing is written to it.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            faults = _damage(connection)
    except sqlite3.DatabaseError as error:
        faults = [_damaged(f"SQLite can't read the file ({error.sqlite_errorname}).")]
    _note_or_clear(path, faults)
    return CheckReport(faults=tuple(faults), events=0, files=0)


def open_to_others(sentences: Iterable[str]) -> tuple[Fault, ...]:
    """Return the faults in the permissions of files and folders, from ``config.checks.mode_faults``."""
    return tuple(Fault(code="open_to_others", message=sentence) for sentence in sentences)


def _note_or_clear(path: Path, faults: Iterable[Fault]) -> None:
    if any(fault.code == "damaged_file" for fault in faults):
        damage.note(path)
    else:
        damage.clear(path)


def verify(
    database: Database, *, heads: Iterable[Head] = (), everything: bool = False, progress: Progress | None = None
) -> ChainReport:
    """Check the event chain and the sealed rows while the service runs.

    Parameters
    ----------
    database, heads, progress
        As for `check`.
    everything
        Check all events and rows; else the newest `NEWEST` events and the rows that they seal.

    Raises
    ------
    StorageError
        If the database can't be copied or read.
    SpoolFull
        If the disk has no space for the copy.
    """
    key = audit_key(database)
    with _copy_of(database, progress) as copy:
        first = 1 if everything else _first_of_newest(copy)
        chain = _verify_copy(copy, key, heads, first=first)
        if not chain.ok:
            return replace(chain, first=first)
        rows = {*unsealed_rows(copy, key, first=first), *(_differing(copy, key) if first == 1 else ())}
    changed = tuple(f"{each.table} {each.id}" for each in sorted(rows, key=lambda row: (row.table, row.id)))
    return replace(chain, ok=not changed, first=first, changed=changed)


def _first_of_newest(copy: Path) -> int:
    with closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()
    return max(1, int(last) - NEWEST + 1)


def check_and_record(database: Database, spool: Spool, *, now: datetime, heads: Iterable[Head] = ()) -> CheckReport:
    """Check everything and write an event with the result.

    Parameters
    ----------
    database, spool, heads
        As for `check`.
    now
        Current time, aware.

    Raises
    ------
    StorageError
        If the database can't be copied, or is too damaged for the event.
    SpoolFull
        If the disk has no space.
    """
    report = check(database, spool, heads=heads)
    facts = {"faults": len(report.faults), "events": report.events, "files": report.files}
    with database.begin() as session:
        append_event(session, EventKind.INTEGRITY_CHECKED, now=now, facts=facts)
    return report


def check_copy(path: Path, key: bytes, heads: Iterable[Head] = ()) -> tuple[tuple[Fault, ...], int]:
    """Check a database file without writers.

    Parameters
    ----------
    path
        The file.
    key
        Key of the event chain.
    heads
        Exported heads.

    Returns
    -------
    tuple[tuple[Fault, ...], int]
        Faults, and the number of verified events.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            faults = _damage(connection) or [*_dangling(connection), *_schema(connection), *_miscounted(connection)]
    except sqlite3.DatabaseError as error:
        if not is_malformed(error):
            raise translate(error) from error
        return (_damaged(f"SQLite can't read the file ({error.sqlite_errorname})."),), 0
    if faults:
        return tuple(faults), 0
    chain = _verify_copy(path, key, heads)
    faults = list(_broken(chain)) or _changed_rows(path, key)
    return tuple(faults), chain.events


def audit_key(database: Database) -> bytes:
    """Return the key of the event chain of an open database."""
    with database.read() as session:
        key: bytes = session.info[AUDIT_KEY]
        return key


@contextmanager
def _copy_of(database: Database, progress: Progress | None) -> Iterator[Path]:
    _remove_abandoned(database.path.parent)
    with tempfile.TemporaryDirectory(prefix=_COPY_PREFIX, dir=database.path.parent) as folder:
        copy = Path(folder) / database.path.name
        copy_database(database.path, copy, progress=progress)
        yield copy


def _remove_abandoned(folder: Path) -> None:
    """Remove copies left by killed checks: they contain patient data."""
    limit = time.time() - _ABANDONED_AFTER_S
    for leftover in folder.glob(f"{_COPY_PREFIX}*"):
        if leftover.stat().st_mtime < limit:
            shutil.rmtree(leftover, ignore_errors=True)


def _verify_copy(path: Path, key: bytes, heads: Iterable[Head], *, first: int = 1) -> ChainReport:
    database = Database(path, key)
    try:
        with database.read() as session:
            return verify_chain(session, heads, first=first)
    finally:
        database.dispose()


def _differing(path: Path, key: bytes) -> list[Difference]:
    database = Database(path, key)
    scratch = path.with_name(f"{path.name}.replayed")
    scratch.unlink(missing_ok=True)
    try:
        with database.read() as session:
            return differing_rows(session, scratch=scratch)
    finally:
        database.dispose()
        scratch.unlink(missing_ok=True)


def _changed_rows(path: Path, key: bytes) -> list[Fault]:
    rows_changed = {*unsealed_rows(path, key, first=1), *_differing(path, key)}
    changed = sorted(rows_changed, key=lambda row: (row.table, row.id))
    rows = ", ".join(f"{each.table} {each.id}" for each in changed[:5])
    count = f"{len(changed):,} rows{' or more' if len(changed) >= MOST_DIFFERENCES else ''}"
    message = f"{count} differ from the events, first {rows}. Find out who changed them; restore a backup."
    return [Fault(code="changed_row", message=message)] if changed else []


def _damage(connection: sqlite3.Connection) -> list[Fault]:
    answers = _integrity(connection, str(_MAX_DAMAGES))
    if answers == ["ok"]:
        return []
    places = dict.fromkeys([*_tables_that_fail(connection), *_places(" ".join(answers), _roots(connection))])
    return [_damaged(f"SQLite finds the file damaged: {', '.join(places) or 'in a place that it does not name'}.")]


def _integrity(connection: sqlite3.Connection, argument: str) -> list[str]:
    """Return the messages of ``PRAGMA integrity_check``; none, which is not ``ok``, if SQLite aborts it."""
    try:
        return [row[0] for row in connection.execute(f"PRAGMA integrity_check({argument})")]
    except sqlite3.DatabaseError as error:
        if not is_malformed(error):
            raise
        return []


def _tables_that_fail(connection: sqlite3.Connection) -> Iterator[str]:
    for name in _roots(connection).values():
        kind, _, table = name.partition(" ")
        if kind == "table" and _integrity(connection, f"'{table}'") != ["ok"]:
            yield name


def _damaged(message: str) -> Fault:
    return Fault(code="damaged_file", message=f"{message} {RESTORE}")


def _roots(connection: sqlite3.Connection) -> dict[int, str]:
    """Return the readable tables and indexes by their root page."""
    try:
        rows = connection.execute("SELECT rootpage, type, name FROM sqlite_master WHERE rootpage > 0").fetchall()
    except sqlite3.DatabaseError:
        return {}
    return {root: f"{kind} {name}" for root, kind, name in rows}


def _places(messages: str, roots: Mapping[int, str]) -> Iterator[str]:
    """Yield the pages, tables and indexes named by ``PRAGMA integrity_check``, without the values that it quotes."""
    names = {name.split()[1]: name for name in roots.values()}
    for tree, page, name in _PLACE.findall(messages):
        if tree:
            yield roots.get(int(tree), f"page {tree}")
        elif page:
            yield roots.get(int(page), f"page {page}")
        elif name in names:
            yield names[name]


def _dangling(connection: sqlite3.Connection) -> list[Fault]:
    return [
        Fault(
            code="dangling_reference",
            message=f"Row {row_id} of {table} refers to a row of {parent} that is not there. Restore a backup.",
        )
        for table, row_id, parent, _ in connection.execute("PRAGMA foreign_key_check")
    ]


def _schema(connection: sqlite3.Connection) -> list[Fault]:
    revision = ",".join(row[0] for row in connection.execute("SELECT version_num FROM alembic_version"))
    newest = revisions()[-1]
    if revision == newest:
        return []
    return [
        Fault(
            code="schema",
            message=f"The schema is revision {revision or 'none'}, this version works with {newest}. "
            "Run `cxr db upgrade`.",
        )
    ]


def _miscounted(connection: sqlite3.Connection) -> list[Fault]:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tally'").fetchone():
        return []  # an older schema, which is a fault of its own
    tallied = set(connection.execute("SELECT subject, state, count FROM tally WHERE count <> 0"))
    counted = {
        (subject, *row)
        for subject in ("job", "delivery")
        for row in connection.execute(f"SELECT state, count(*) FROM {subject} GROUP BY state")
    }
    if tallied == counted:
        return []
    message = "The counts by state are not those of the rows: they were changed outside the service. Restore a backup."
    return [Fault(code="changed_row", message=message)]


def _broken(chain: ChainReport) -> list[Fault]:
    if chain.ok:
        return []
    return [
        Fault(
            code="broken_chain",
            message=f"Event {chain.first_broken_id} was changed or deleted: the audit log was changed "
            "outside the service. Compare with a backup.",
        )
    ]


def _missing_files(database: Database, spool: Spool) -> tuple[list[Fault], int]:
    faults: list[Fault] = []
    files = 0
    for kind, table in (("image", Image), ("report", Report)):
        for window in _spool_names(database, table):
            absent = [number for number, name in window if not spool.path(name).exists()]
            missing = _still_missing(database, spool, table, absent) if absent else []
            files += len(window) - len(absent)
            faults += [
                Fault(
                    code="missing_file",
                    message=f"The file of {kind} {number} is not in the spool. {_RESTORE[kind]}",
                )
                for number in missing
            ]
    return faults, files


def _spool_names(database: Database, table: type[Image | Report]) -> Iterator[list[tuple[int, str]]]:
    """Yield ids and spool names of rows, in windows, so that each read is short."""
    last = 0
    while True:
        with database.read() as session:
            rows = session.execute(
                select(table.id, table.spool_name).where(table.id > last).order_by(table.id).limit(_WINDOW)
            ).all()
        if not rows:
            return
        last = rows[-1].id
        yield [(row.id, row.spool_name) for row in rows if row.spool_name is not None]


def _still_missing(database: Database, spool: Spool, table: type[Image | Report], absent: list[int]) -> list[int]:
    """Repeat the check under the write lock: retention removes a file before it commits the row."""
    with database.begin() as session:
        rows = session.execute(select(table.id, table.spool_name).where(table.id.in_(absent))).all()
        return [row.id for row in rows if row.spool_name is not None and not spool.path(row.spool_name).exists()]
