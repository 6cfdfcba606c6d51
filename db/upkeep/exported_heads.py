"""The exported heads of the event chain: a file kept apart from the database, the last one of each day."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cxr.errors import StorageError
from db.disk import durable
from db.engine import Database
from db.events import has_event, read_head
from db.schema.records import Head


def export_head(database: Database, path: Path, *, now: datetime) -> Head | None:
    """Add the last event's number, hash and time to the file; it takes the place of an earlier one of the day.

    An earlier one that is not in the log any more stays: it tells of a cut.

    Parameters
    ----------
    database
        Whose log.
    path
        The heads file, best beside the key: whoever cuts the log must not be able to cut this.
    now
        When it is exported.

    Returns
    -------
    Head or None
        What was added; None if the log is empty or has not moved since.

    Raises
    ------
    StorageError
        If the file is damaged.
    SpoolFull
        If the disk refuses the write.
    """
    known = read_heads(path)
    with database.read() as session:
        head = read_head(session)
        is_there = bool(known) and has_event(session, known[-1])
    if head is None or (known and known[-1].id == head.id):
        return None
    head = replace(head, at=now)
    if is_there and known[-1].at.astimezone(UTC).date() == now.astimezone(UTC).date():
        known = known[:-1]
    lines = [json.dumps({"id": each.id, "hash": each.hash, "at": each.at.isoformat()}) for each in (*known, head)]
    with durable.translate_disk_errors():
        durable.make_folder(path.parent)
        with durable.whole_file(path) as draft:
            draft.write_bytes(("\n".join(lines) + "\n").encode("ascii"))
    return head


def read_heads(path: Path) -> tuple[Head, ...]:
    """Read what was exported; nothing if there is no file.

    Raises
    ------
    StorageError
        If the file is damaged.
    """
    if not path.exists():
        return ()
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
        return tuple(Head(id=it["id"], hash=it["hash"], at=datetime.fromisoformat(it["at"])) for it in lines)
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            "The file with the exported heads of the audit log is damaged: restore it from your copy, "
            "or move it away and note why."
        ) from error
