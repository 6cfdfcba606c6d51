"""Files on disk: spool, incoming objects, mount guard, durable writes."""

from __future__ import annotations

from db.disk.durable import make_folder, translate_disk_errors, whole_file
from db.disk.file_systems import MOUNTS, shared_file_system
from db.disk.folder_lock import lock_for_listener, running_listener
from db.disk.incoming_file import IncomingFile
from db.disk.spool import Spool, SweepResult

__all__ = [
    "MOUNTS",
    "IncomingFile",
    "Spool",
    "SweepResult",
    "lock_for_listener",
    "make_folder",
    "running_listener",
    "shared_file_system",
    "translate_disk_errors",
    "whole_file",
]
