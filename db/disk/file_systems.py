"""Detection of shared file systems: SQLite's write-ahead log works only between processes of one machine."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
# Network file systems, and folders that a host shares with its virtual machine.
_SHARED = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|ncpfs|afs|9p|ceph|glusterfs|lustre|beegfs|gpfs|ocfs2|gfs2|orangefs|pvfs2|davfs"
    r"|vboxsf|vmhgfs|prl_fs|drvfs|virtiofs|fakeowner|fuse(\..*)?"
)


def shared_file_system(path: Path, *, mounts: Path = MOUNTS) -> str | None:
    """Return the type of a path's file system if other machines may write to it.

    Parameters
    ----------
    path
        A file or folder; it need not exist yet.
    mounts
        File in the format of ``/proc/self/mountinfo``; without it every path counts as local.

    Returns
    -------
    str | None
        For example ``nfs4``; None: local.

    References
    ----------
    https://www.kernel.org/doc/html/latest/filesystems/proc.html, 3.5; https://www.sqlite.org/wal.html
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    path = path.resolve()
    file_system, depth = "", -1
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split()[4]))
        if path.is_relative_to(point) and len(point.parts) >= depth:  # a later mount hides an earlier one
            file_system, depth = after.split()[0], len(point.parts)
    return file_system if _SHARED.fullmatch(file_system) else None
