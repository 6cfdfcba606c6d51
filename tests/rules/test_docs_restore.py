"""The back-up and restore of docs/operations.md, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE

CXR = Path(sys.executable).parent / "cxr"


@pytest.fixture
def block(root: Path) -> Callable[[str], str]:
    """The commands of the page that stand under a mark."""
    text = (root / "docs" / "operations.md").read_text()

    def find(name: str) -> str:
        found = re.search(rf"<!-- tested: {name} -->\n```sh\n(.*?)```", text, re.DOTALL)
        assert found is not None
        return found[1]

    return find


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., str]:
    environment = {
        "PATH": f"{CXR.parent}:{os.environ['PATH']}",
        "BACKUP": str(tmp_path / "backup"),
        "KEYS_BACKUP": str(tmp_path / "keys-backup"),
    }

    def run(commands: str, folder: Path, code: int = 0) -> str:
        done = subprocess.run(
            ["bash", "-euc", commands], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


@contextmanager
def listening(folder: Path, port: int, wait_for: Callable[..., Any]) -> Iterator[None]:
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen([CXR, "listen"], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:

        def accepts() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(lambda: accepts() or process.poll() is not None, "the listener accepts", 60)
        assert process.poll() is None, (folder / "log.txt").read_text()[-2000:]
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def store(dataset: Dataset, port: int) -> int:
    entity = AE(ae_title="PACS")
    entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title="CXR")
    assert association.is_established
    status: int = association.send_c_store(dataset).Status
    association.release()
    return status


def age(folder: Path) -> None:
    """Make the spool's files 31 days old, as those of an image that was held for a month."""
    for path in (folder / "var" / "spool").rglob("*.dcm"):
        os.utime(path, (path.stat().st_mtime - 31 * 86400,) * 2)


@pytest.mark.parametrize("pixels_days", [0, 30])
def test_a_restored_service_runs_and_has_everything(
    pixels_days: int,
    tmp_path: Path,
    block: Callable[[str], str],
    shell: Callable[..., str],
    free_port: Callable[[], int],
    synthetic_xray: Callable[..., Dataset],
    tiny_package: Callable[..., Any],
    wait_for: Callable[..., Any],
) -> None:
    old, new, port = tmp_path / "old", tmp_path / "new", free_port()
    for folder in (old, new, tmp_path / "backup", tmp_path / "keys-backup"):
        folder.mkdir()
    for folder in (old, new):
        (folder / "cxr.toml").write_text(
            f'data_dir = "var"\n[retention]\npixels_days = {pixels_days}\n[listener]\nport = {port}\nmin_free_mib = 1\n'
        )
    with listening(old, port, wait_for):
        assert store(synthetic_xray(seed=1), port) == 0x0000
        shell(f'cxr model promote "{tiny_package().folder}" --accept-gate trained --reason tests', old)
        _export_head(old)
        shell(block("backup"), old)
        # Acknowledged after the database's backup; the spool's copy is a little later and has it.
        assert store(synthetic_xray(seed=2), port) == 0x0000
        shell('cp --archive var/spool "$BACKUP/"', old)

    said = shell(block("restore"), new)
    assert "0 faults" in said
    age(new)
    with listening(new, port, wait_for):
        assert _instances(shell, new) == [str(synthetic_xray(seed=1).SOPInstanceUID)]
        (lost,) = (new / "var" / "spool" / "quarantine").iterdir()
        assert lost.suffix == ".dcm"
        _retain(new, pixels_days)
        assert lost.exists()
        shell(f"cxr send var/spool/quarantine --to CXR@127.0.0.1:{port} --calling PACS", new)
        expected = {str(synthetic_xray(seed=seed).SOPInstanceUID) for seed in (1, 2)}
        assert set(_instances(shell, new)) == expected
    assert tiny_package().fingerprint in shell("cxr model list --json", new)
    assert "all as they were written" in shell("cxr audit verify", new)


def test_a_backup_older_than_the_last_exported_head_is_said_to_lack_events(
    tmp_path: Path,
    block: Callable[[str], str],
    shell: Callable[..., str],
    free_port: Callable[[], int],
    synthetic_xray: Callable[..., Dataset],
    wait_for: Callable[..., Any],
) -> None:
    old, new, port = tmp_path / "old", tmp_path / "new", free_port()
    for folder in (old, new, tmp_path / "backup", tmp_path / "keys-backup"):
        folder.mkdir()
    for folder in (old, new):
        (folder / "cxr.toml").write_text(f'data_dir = "var"\n[listener]\nport = {port}\nmin_free_mib = 1\n')
    with listening(old, port, wait_for):
        (old / "var" / "models").mkdir()
        _export_head(old)
        shell(block("backup"), old)
        assert store(synthetic_xray(), port) == 0x0000
        _export_head(old)
        shell('cp --archive var.keys/audit.heads "$KEYS_BACKUP/"', old)
    assert "broken_chain" in shell(block("restore"), new, code=1)
    shell("mv var.keys/audit.heads noted-elsewhere", new)
    assert "0 faults" in shell("cxr db check", new)


def _instances(shell: Callable[..., str], folder: Path) -> list[str]:
    return [json.loads(line)["sop_instance_uid"] for line in shell("cxr audit list --json", folder).splitlines()]


def _retain(folder: Path, pixels_days: int) -> None:
    """As the worker's timer does when it starts, and every ten minutes."""
    from config.settings import RetentionSettings
    from db.disk import Spool
    from db.engine import open_database
    from db.upkeep.retention import enforce

    database = open_database(folder / "var" / "audit.sqlite", folder / "var.keys" / "audit.key", create=False)
    try:
        settings = RetentionSettings(pixels_days=pixels_days, low_space_mib=0)
        enforce(database, Spool(folder / "var" / "spool", min_free_mib=1), settings, now=datetime.now(UTC))
    finally:
        database.dispose()


def _export_head(folder: Path) -> None:
    """As the worker's timer does once a day."""
    from db.engine import open_database
    from db.upkeep.exported_heads import export_head

    keys = folder / "var.keys"
    database = open_database(folder / "var" / "audit.sqlite", keys / "audit.key", create=False)
    try:
        export_head(database, keys / "audit.heads", now=datetime.now(UTC))
    finally:
        database.dispose()
