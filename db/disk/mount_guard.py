"""The guard file of the spool: an unmounted disk, or another installation's, is never written.

A mount point whose disk is not mounted is an empty folder that looks like a new spool. So a spool
carries a random id, and a copy of it lies beside the spool's folder: where the copy is and the id is
not, the disk is missing.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from cxr.errors import StorageError
from db.disk.durable import create_once

_GUARD = "spool.id"


def check_guard(root: Path) -> None:
    """Mark a new spool, or check that this is the spool that was here before.

    Parameters
    ----------
    root
        The spool's folder; it exists.

    Raises
    ------
    StorageError
        If the guard file is absent or another one than its copy says.
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
