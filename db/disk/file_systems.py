"""Which file system a path is on: a write-ahead log needs memory that all its processes share, so one machine."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
# Over a network, or handed from a host into its virtual machine.
_SHARED = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|ncpfs|afs|9p|ceph|glusterfs|lustre|beegfs|gpfs|ocfs2|gfs2|orangefs|pvfs2|davfs"
    r"|vboxsf|vmhgfs|prl_fs|drvfs|virtiofs|fakeowner|fuse(\..*)?"
)


def shared_file_system(path: Path, *, mounts: Path = MOUNTS) -> str | None:
    """Name the file system of a path, if other machines may write to it.

    Parameters
    ----------
    path
        A file or folder; where it does not exist yet, the folder above it counts.
    mounts
        In the form of ``/proc/self/mountinfo``; on a system without it nothing is known.

    Returns
    -------
    str | None
        Such as ``nfs4``; None: it is local.

    References
    ----------
    https://www.kernel.org/doc/html/latest/filesystems/proc.html, 3.5; https://www.sqlite.org/wal.html
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    path = path.resolve()
    found, depth = "", -1
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split()[4]))
        if path.is_relative_to(point) and len(point.parts) >= depth:  # a later mount hides an earlier one
            found, depth = after.split()[0], len(point.parts)
    return found if _SHARED.fullmatch(found) else None
