"""Which file systems are taken for local."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.disk import shared_file_system
from db.sqlite.connection import journal_of

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:41 / /srv/data rw shared:5 - nfs4 server:/data rw,vers=4.2
31 22 0:42 / /srv/with\\040space rw - cifs //server/share rw
32 30 8:17 / /srv/data/local rw - xfs /dev/sdb1 rw
33 22 0:43 / /mnt rw - ext4 /dev/sdc1 rw
34 33 0:44 / /mnt rw - fuse.sshfs user@server: rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/lib/cxr/audit.sqlite", None),
        ("/srv/data/audit.sqlite", "nfs4"),
        ("/srv/data/not/there/yet/audit.sqlite", "nfs4"),
        ("/srv/database/audit.sqlite", None),
        ("/srv/data/local/audit.sqlite", None),
        ("/srv/with space/audit.sqlite", "cifs"),
        ("/mnt/audit.sqlite", "fuse.sshfs"),
    ],
)
def test_the_mount_that_holds_the_path_counts(tmp_path: Path, path: str, expected: str | None) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert shared_file_system(Path(path), mounts=mounts) == expected
    modes = {"nfs4", "cifs", "fuse.sshfs"}
    assert (journal_of(Path(path), (3, 53, 4), mounts=mounts).mode == "delete") == (expected in modes)
    assert journal_of(Path(path), (3, 40, 1), mounts=mounts).mode == "delete"


def test_without_a_list_of_mounts_every_path_is_local(tmp_path: Path) -> None:
    assert shared_file_system(tmp_path, mounts=tmp_path / "absent") is None
