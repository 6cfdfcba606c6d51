"""Exported heads of the event chain: the last event of each day, in a file apart from the database."""

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
    """Append id, hash and time of the last event to the file, in place of an earlier head of the same day.

    An earlier head that is missing from the log stays: it shows that the log was truncated.

    Parameters
    ----------
    database
        The live database.
    path
        The heads file, best beside the key, out of reach of accounts that can change the database.
    now
        Time of the export, aware.

    Returns
    -------
    Head or None
        The new head; None if the log is empty or unchanged.

    Raises
    ------
    StorageError
        If the file is damaged.
    SpoolFull
        If the disk refuses the write.
    """
    heads = read_heads(path)
    with database.read() as session:
        head = read_head(session)
        is_there = bool(heads) and has_event(session, heads[-1])
    if head is None or (heads and heads[-1].id == head.id):
        return None
    head = replace(head, at=now)
    if is_there and heads[-1].at.astimezone(UTC).date() == now.astimezone(UTC).date():
        heads = heads[:-1]
    lines = [json.dumps({"id": each.id, "hash": each.hash, "at": each.at.isoformat()}) for each in (*heads, head)]
    with durable.translate_disk_errors():
        durable.make_folder(path.parent)
        with durable.whole_file(path) as draft:
            draft.write_bytes(("\n".join(lines) + "\n").encode("ascii"))
    return head


def read_heads(path: Path) -> tuple[Head, ...]:
    """Read the exported heads; none if there is no file.

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
