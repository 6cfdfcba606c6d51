"""Guard file of the spool: prevents writes to an unmounted disk or to another installation's spool.

A mount point without its disk is an empty folder, like a new spool. So the spool contains a random id with a
copy beside the spool's folder: a copy without the id shows that the disk is not mounted.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from cxr.errors import StorageError
from db.disk.durable import create_once

_GUARD = "spool.id"


def check_guard(root: Path) -> None:
    """Mark a new spool, or check the guard file of an existing one.

    Parameters
    ----------
    root
        Folder of the spool, which exists.

    Raises
    ------
    StorageError
        If the guard file is absent or differs from its copy.
    """
    inside, beside = root / _GUARD, root.parent / f"{root.name}.id"
    if not beside.exists():
        create_once(inside, secrets.token_hex(16).encode("ascii"))
        create_once(beside, inside.read_bytes())
    if not inside.exists() or inside.read_text(encoding="ascii") != beside.read_text(encoding="ascii"):
        raise StorageError(
            "The spool is not the one that was here before: its guard file spool.id is absent or another's. "
            "Mount the spool's disk; if the spool was replaced on purpose, remove the file spool.id beside it."
        )
