"""Is what is stored sound: the file, its references, its schema, the chain of events, the spool."""

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
from db.upkeep.replay import Difference, differing_rows
from db.upkeep.row_check import unsealed_rows

NEWEST = 100_000
"""How many events `verify` checks where it is not told to check everything."""
_MOST_DAMAGES = 20
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
    """One thing that is wrong, and what to do about it."""

    code: str  # damaged_file | dangling_reference | schema | broken_chain | changed_row | missing_file
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a check found."""

    faults: tuple[Fault, ...]
    events: int  # that were verified
    files: int  # of the spool that rows know and that are there

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def check(
    database: Database, spool: Spool, *, heads: Iterable[Head] = (), progress: Progress | None = None
) -> CheckReport:
    """Check everything that is stored, beside a running service.

    The long checks run on a copy, so that no C-STORE waits for them.

    Parameters
    ----------
    database
        The live database.
    spool
        Where its files lie.
    heads
        What was exported of the chain of events: a cut tail is found by them.
    progress
        Called with pages copied and pages in all.

    Returns
    -------
    CheckReport
        Faults are values, not exceptions.

    Raises
    ------
    StorageError
        If the database can't be copied at all.
    SpoolFull
        If there is no room for the copy.
    """
    with _copy_of(database, progress) as copy:
        faults, events = check_copy(copy, audit_key(database), heads)
    _note_or_clear(database.path, faults)
    if any(fault.code == "damaged_file" for fault in faults):  # what it says of files can't be relied on
        return CheckReport(faults=tuple(faults), events=events, files=0)
    missing, files = _missing_files(database, spool)
    return CheckReport(faults=(*faults, *missing), events=events, files=files)


def check_damaged(path: Path) -> CheckReport:
    """Say what is wrong with a database file that is too damaged to be opened.

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


def _note_or_clear(path: Path, faults: Iterable[Fault]) -> None:
    if any(fault.code == "damaged_file" for fault in faults):
        damage.note(path)
    else:
        damage.clear(path)


def verify(
    database: Database, *, heads: Iterable[Head] = (), everything: bool = False, progress: Progress | None = None
) -> ChainReport:
    """Check the chain of events, and the rows that they seal, beside a running service.

    Parameters
    ----------
    database, heads, progress
        As for `check`.
    everything
        Check every event and every row; else the newest `NEWEST` events, and the rows that these seal.

    Raises
    ------
    StorageError
        If the database can't be copied or read.
    SpoolFull
        If there is no room for the copy.
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
    """Check everything and write an event with what was found.

    Parameters
    ----------
    database, spool, heads
        As for `check`.
    now
        Aware.

    Raises
    ------
    StorageError
        If the database can't be copied, or is too damaged to take the event.
    SpoolFull
        If there is no room.
    """
    found = check(database, spool, heads=heads)
    facts = {"faults": len(found.faults), "events": found.events, "files": found.files}
    with database.begin() as session:
        append_event(session, EventKind.INTEGRITY_CHECKED, now=now, facts=facts)
    return found


def check_copy(path: Path, key: bytes, heads: Iterable[Head] = ()) -> tuple[tuple[Fault, ...], int]:
    """Check a database file that nobody writes to.

    Parameters
    ----------
    path
        The file.
    key
        Key of the event chain.
    heads
        What was exported of the chain.

    Returns
    -------
    tuple[tuple[Fault, ...], int]
        What is wrong, and how many events were verified.
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
    """Key of the event chain that this database was opened with."""
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
    """Remove copies that a killed check left: they hold what the database held then."""
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
    try:
        with database.read() as session:
            return differing_rows(session)
    finally:
        database.dispose()


def _changed_rows(path: Path, key: bytes) -> list[Fault]:
    found = {*unsealed_rows(path, key, first=1), *_differing(path, key)}
    changed = sorted(found, key=lambda row: (row.table, row.id))
    rows = ", ".join(f"{each.table} {each.id}" for each in changed[:5])
    message = (
        f"{len(changed)} rows are not what the events say, first {rows}. Find out who changed them; restore a backup."
    )
    return [Fault(code="changed_row", message=message)] if changed else []


def _damage(connection: sqlite3.Connection) -> list[Fault]:
    answers = _integrity(connection, str(_MOST_DAMAGES))
    if answers == ["ok"]:
        return []
    places = dict.fromkeys([*_tables_that_fail(connection), *_places(" ".join(answers), _roots(connection))])
    return [_damaged(f"SQLite finds the file damaged: {', '.join(places) or 'in a place that it does not name'}.")]


def _integrity(connection: sqlite3.Connection, argument: str) -> list[str]:
    """Ask SQLite; where it gives up in the middle, nothing that it would call sound comes back."""
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


def _damaged(what: str) -> Fault:
    return Fault(code="damaged_file", message=f"{what} {RESTORE}")


def _roots(connection: sqlite3.Connection) -> dict[int, str]:
    """Return the tables and indexes by the number of their first page, as far as the file still tells."""
    try:
        rows = connection.execute("SELECT rootpage, type, name FROM sqlite_master WHERE rootpage > 0").fetchall()
    except sqlite3.DatabaseError:
        return {}
    return {root: f"{kind} {name}" for root, kind, name in rows}


def _places(said: str, roots: Mapping[int, str]) -> Iterator[str]:
    """Pick pages, tables and indexes out of what ``PRAGMA integrity_check`` answers; it also quotes values."""
    known = {name.split()[1]: name for name in roots.values()}
    for tree, page, name in _PLACE.findall(said):
        if tree:
            yield roots.get(int(tree), f"page {tree}")
        elif page:
            yield roots.get(int(page), f"page {page}")
        elif name in known:
            yield known[name]


def _dangling(connection: sqlite3.Connection) -> list[Fault]:
    return [
        Fault(
            code="dangling_reference",
            message=f"Row {row_id} of {table} refers to a row of {parent} that is not there. Restore a backup.",
        )
        for table, row_id, parent, _ in connection.execute("PRAGMA foreign_key_check")
    ]


def _schema(connection: sqlite3.Connection) -> list[Fault]:
    found = ",".join(row[0] for row in connection.execute("SELECT version_num FROM alembic_version"))
    newest = revisions()[-1]
    if found == newest:
        return []
    return [
        Fault(
            code="schema",
            message=f"The schema is revision {found or 'none'}, this version works with {newest}. "
            "Run `cxr db upgrade`.",
        )
    ]


def _miscounted(connection: sqlite3.Connection) -> list[Fault]:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tally'").fetchone():
        return []  # of an older schema, which is said by itself
    kept = set(connection.execute("SELECT subject, state, count FROM tally WHERE count <> 0"))
    counted = {
        (subject, *row)
        for subject in ("job", "delivery")
        for row in connection.execute(f"SELECT state, count(*) FROM {subject} GROUP BY state")
    }
    if kept == counted:
        return []
    message = "The counts by state are not those of the rows: they were changed outside the service. Restore a backup."
    return [Fault(code="changed_row", message=message)]


def _broken(chain: ChainReport) -> list[Fault]:
    if chain.ok:
        return []
    return [
        Fault(
            code="broken_chain",
            message=f"Event {chain.first_broken_id} is not as it was written, or is gone: the audit log was changed "
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
    """Read which files the rows name, in windows: no read lasts."""
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
    """Look again while nobody writes: retention removes a file before it commits that it did."""
    with database.begin() as session:
        rows = session.execute(select(table.id, table.spool_name).where(table.id.in_(absent))).all()
        return [row.id for row in rows if row.spool_name is not None and not spool.path(row.spool_name).exists()]
