"""A disk that is read-only, fails to sync, or is full in mid-write; a locked database: refused, and on again by itself.

The means: a library that is preloaded into `cxr listen` and lets its system calls fail (tests/data/bad_disk.c).
Real file systems are in test_listener_disk.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from pydicom.dataset import Dataset

from db.disk import Spool
from db.engine import open_database
from db.events import verify_chain
from db.sqlite.driver import sqlite3
from db.upkeep.integrity import check

Xray = Callable[..., Dataset]


@dataclass
class BadDisk:
    """A listener whose disk fails when it is told to."""

    settings: Any
    fault: Path
    process: subprocess.Popen[bytes]
    log: Path

    def fails(self, how: str) -> None:
        self.fault.write_text(how)

    def is_sound_again(self) -> None:
        self.fault.unlink()


@pytest.fixture
def bad_disk(
    make_settings: Any, bad_disk_library: Path, tmp_path: Path, echoes: Any, wait_for: Any
) -> Iterator[Callable[..., BadDisk]]:
    """Start `cxr listen` with the paths that lie on the disk."""
    started: list[BadDisk] = []

    def start(*under: str) -> BadDisk:
        settings = make_settings()
        fault = tmp_path / "fault"
        options = [
            f"data_dir={settings.data_dir}",
            f"listener.port={settings.listener.port}",
            f"listener.min_free_mib={settings.listener.min_free_mib}",
        ]
        paths = ":".join(str(settings.data_dir / name) for name in under)
        environment = {"LD_PRELOAD": str(bad_disk_library), "BAD_DISK_UNDER": paths, "BAD_DISK_FAULT": str(fault)}
        log = tmp_path / "listen.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "app", *(word for each in options for word in ("--set", each)), "listen"],
                stderr=stream,
                stdout=stream,
                env=dict(os.environ) | environment,
            )
        started.append(BadDisk(settings, fault, process, log))
        wait_for(lambda: echoes(settings.listener.port) or process.poll() is not None, "the service answers")
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait(timeout=120)


def check_kept(settings: Any, acknowledged: dict[str, bytes]) -> None:
    """What was acknowledged is there, byte for byte, and nothing else; chain and database are sound."""
    database = open_database(settings.database_path, settings.audit_key_path, create=False)
    try:
        spool = Spool(settings.spool_dir, min_free_mib=0)
        with closing(sqlite3.connect(settings.database_path)) as connection:
            rows = dict(connection.execute("SELECT sop_instance_uid, spool_name FROM image"))
        assert set(rows) == set(acknowledged)
        for uid, data in acknowledged.items():
            kept = spool.path(rows[uid]).read_bytes()
            assert blake3(kept[-len(data) :]).digest() == blake3(data).digest()
        assert check(database, spool).faults == ()
        with database.read() as session:
            assert verify_chain(session).ok
        assert list(spool.incoming_dir.iterdir()) == []
    finally:
        database.dispose()


@pytest.mark.parametrize("fault", ["full", "readonly", "sync"])
@pytest.mark.parametrize(
    "under", [("spool/",), ("audit.sqlite",), ("spool/", "audit.sqlite")], ids=["spool", "database", "both"]
)
def test_a_disk_that_fails_is_a700_and_never_success(
    bad_disk: Callable[..., BadDisk],
    scu: Any,
    synthetic_xray: Xray,
    encode_dataset: Any,
    fault: str,
    under: tuple[str, ...],
) -> None:
    disk = bad_disk(*under)
    acknowledged: dict[str, bytes] = {}

    def store(peer: Any, seed: int) -> int:
        xray = synthetic_xray(seed=seed, rows=700, columns=500)
        status: int = peer.store_dataset(xray)
        if status == 0x0000:
            acknowledged[str(xray.SOPInstanceUID)] = encode_dataset(xray)
        return status

    with scu(disk.settings.listener.port) as peer:
        assert store(peer, 0) == 0x0000
        disk.fails(fault)
        assert [store(peer, seed) for seed in (1, 2)] == [0xA700, 0xA700]
        disk.is_sound_again()
        assert store(peer, 1) == 0x0000, "the same object, over the same association"
        assert store(peer, 3) == 0x0000
    said = disk.log.read_text()
    assert said.count('"event": "object_refused"') + said.count('"event": "object_failed"') == 2
    assert "Traceback" not in said
    disk.process.terminate()
    assert disk.process.wait(timeout=120) == 0
    check_kept(disk.settings, acknowledged)


@pytest.mark.parametrize("fault", ["full", "readonly", "sync"])
def test_a_disk_that_fails_while_an_object_arrives(
    bad_disk: Callable[..., BadDisk], scu: Any, synthetic_xray: Xray, encode_dataset: Any, wait_for: Any, fault: str
) -> None:
    disk = bad_disk("spool/")
    xray = synthetic_xray(rows=1024, columns=1024)
    with scu(disk.settings.listener.port) as peer:
        send_rest = peer.send_part(encode_dataset(xray), instance=xray.SOPInstanceUID)
        incoming = disk.settings.spool_dir / "incoming"
        wait_for(lambda: list(incoming.iterdir()), "the object is half received")
        disk.fails(fault)
        send_rest()
        assert peer.answer() == 0xA700
        assert peer.echo() == 0x0000, "the association goes on"
        disk.is_sound_again()
        assert peer.store_dataset(xray) == 0x0000
    left = list(incoming.iterdir())
    assert len(left) == (1 if fault == "readonly" else 0), "a read-only disk keeps what it has; the sweep removes it"


def test_a_database_that_another_process_has_locked_is_a700_and_nothing_is_lost(
    listening: Any, scu: Any, synthetic_xray: Xray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.sqlite.connection.BUSY_TIMEOUT_S", 0.5)
    running = listening()
    with scu(running.port) as peer:
        assert peer.store_dataset(synthetic_xray()) == 0x0000
        with closing(sqlite3.connect(running.database.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert peer.store_dataset(synthetic_xray(seed=1)) == 0xA700
            assert peer.store_dataset(synthetic_xray()) == 0xA700, "also a resend can't be written down"
            other.execute("ROLLBACK")
        assert peer.store_dataset(synthetic_xray(seed=1)) == 0x0000
    assert len(running.images()) == 2
    assert running.count("cxr_received_objects_total", outcome="database_unavailable") == 2
