"""Reports in a folder: whole or not there, under a name that no UID can break out of."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cxr.errors import AccessRefused, PeerBusy, PeerUnreachable, ReportUnreadable
from inference.delivery.destination_client import OutgoingReport, Presence
from inference.delivery.folder_client import FolderClient

UID = "2.25.123"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "results"
    made.mkdir()
    return made


@pytest.fixture
def outgoing(tmp_path: Path) -> Any:
    (tmp_path / "report.dcm").write_bytes(b"the report")

    def make(**changed: Any) -> OutgoingReport:
        values: dict[str, Any] = {
            "report_id": 7,
            "path": tmp_path / "report.dcm",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34",
            "sop_instance_uid": UID,
            "study_instance_uid": "2.25.1",
            "series_instance_uid": "2.25.2",
        }
        return OutgoingReport(**(values | changed))

    return make


def test_file_is_there_whole_and_nothing_else(folder: Path, outgoing: Any) -> None:
    client = FolderClient(folder)
    stored = client.store(outgoing())
    assert (stored.status, stored.sop_instance_uid) == (None, UID)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {f"{UID}.dcm": b"the report"}
    assert client.verify([outgoing()])[7].presence is Presence.PRESENT


def test_resend_leaves_the_file_as_it_is(folder: Path, outgoing: Any) -> None:
    client = FolderClient(folder)
    client.store(outgoing())
    before = (folder / f"{UID}.dcm").stat().st_ino
    client.store(outgoing())
    assert (folder / f"{UID}.dcm").stat().st_ino == before


@pytest.mark.parametrize("uid", ["../../etc/passwd", "", "1.2/../../x", "1.2.3\n", "a" * 64])
def test_name_that_is_no_uid_is_ours(uid: str, folder: Path, outgoing: Any) -> None:
    FolderClient(folder).store(outgoing(sop_instance_uid=uid))
    assert [path.name for path in folder.iterdir()] == ["report-7.dcm"]


@pytest.mark.parametrize("content", [b"the repor", b"THE REPORT", b"the report and more"])
def test_other_content_is_absent_and_written_again(content: bytes, folder: Path, outgoing: Any) -> None:
    client = FolderClient(folder)
    (folder / f"{UID}.dcm").write_bytes(content)
    assert client.verify([outgoing()])[7].presence is Presence.ABSENT
    client.store(outgoing())
    assert (folder / f"{UID}.dcm").read_bytes() == b"the report"


def test_folder_that_is_not_mounted_is_tried_again(tmp_path: Path, outgoing: Any) -> None:
    client = FolderClient(tmp_path / "not" / "mounted")
    with pytest.raises(PeerUnreachable):
        client.store(outgoing())
    with pytest.raises(PeerUnreachable):
        client.verify([outgoing()])
    assert not (tmp_path / "not").exists()


def test_file_in_the_place_of_the_folder_is_tried_again(tmp_path: Path, outgoing: Any) -> None:
    with pytest.raises(PeerUnreachable) as caught:
        FolderClient(tmp_path / "report.dcm").store(outgoing())
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_right_to_write(folder: Path, outgoing: Any) -> None:
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(AccessRefused):
        FolderClient(folder).store(outgoing())


def test_report_that_is_gone_from_the_spool(folder: Path, outgoing: Any, tmp_path: Path) -> None:
    with pytest.raises(ReportUnreadable):
        FolderClient(folder).store(outgoing(path=tmp_path / "absent"))


_WRITE_UNDER_A_LIMIT = """
import resource, signal, sys
from pathlib import Path
from cxr.errors import PeerBusy
from inference.delivery.destination_client import OutgoingReport
from inference.delivery.folder_client import FolderClient
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))
try:
    FolderClient(Path(sys.argv[1])).store(OutgoingReport(report_id=7, path=Path(sys.argv[2]), sop_class_uid="1.2",
        sop_instance_uid="2.25.123", study_instance_uid="1", series_instance_uid="2"))
except PeerBusy:
    sys.exit(42)
"""


def test_file_system_that_refuses_more_leaves_nothing_behind(folder: Path, outgoing: Any) -> None:
    """A real refusal in the middle of the file: the process may not write beyond four bytes."""
    done = subprocess.run(
        [sys.executable, "-c", _WRITE_UNDER_A_LIMIT, str(folder), str(outgoing().path)], check=False, timeout=60
    )
    assert done.returncode == 42
    assert list(folder.iterdir()) == []
    assert PeerBusy.retryable
