"""Files on disk: the spool, incoming objects, the check of the mount, durable writing."""

from __future__ import annotations

from db.disk.durable import create_file, make_folder, refusals, sync_folder
from db.disk.file_systems import MOUNTS, shared_file_system
from db.disk.folder_lock import lock_for_listener, running_listener
from db.disk.incoming_file import IncomingFile
from db.disk.spool import Spool, Swept

__all__ = [
    "MOUNTS",
    "IncomingFile",
    "Spool",
    "Swept",
    "create_file",
    "lock_for_listener",
    "make_folder",
    "refusals",
    "running_listener",
    "shared_file_system",
    "sync_folder",
]
