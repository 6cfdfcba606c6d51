"""``cxr health``: what a container's health check asks."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.health import check_listener, check_worker
from app.timers import LEASE
from db.engine import open_database
from db.upkeep import leases

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def test_a_listener_that_takes_connections_is_well(listening: Any, wait_for: Any) -> None:
    running = listening(max_associations=1)
    for _ in range(20):
        assert check_listener(running.settings, 60).is_well
    wait_for(lambda: len(running.listener.silent) == 0, "nothing is left of it")
    assert running.count("cxr_refused_associations_total", reason="too_many") == 0


@pytest.mark.parametrize("is_mutual", [False, True])
def test_one_that_takes_tls_alone_is_well(
    is_mutual: bool, listening: Any, certificates: Path, free_port: Callable[[], int]
) -> None:
    files = {"certificate": certificates / "server.pem", "key": certificates / "server.key", "required": True}
    running = listening(tls={"port": free_port(), **files} | ({"ca": certificates / "ca.pem"} if is_mutual else {}))
    assert check_listener(running.settings, 60).is_well
    assert running.count("cxr_refused_associations_total", reason="tls_handshake") == 0


def test_one_that_is_not_there_or_hangs_is_not(serving: Any, make_settings: Any) -> None:
    assert not check_listener(make_settings(), 1).is_well
    running = serving()
    os.kill(running.process.pid, signal.SIGSTOP)
    try:
        assert not check_listener(running.settings, 1).is_well
    finally:
        os.kill(running.process.pid, signal.SIGCONT)
    assert check_listener(running.settings, 60).is_well


def test_what_hangs_up_within_the_tls_handshake_is_not_well(make_settings: Any, certificates: Path) -> None:
    files = {"certificate": certificates / "server.pem", "key": certificates / "server.key", "required": True}
    with socket.create_server(("127.0.0.1", 0)) as curt:
        threading.Thread(target=lambda: _hang_up(curt.accept()[0]), daemon=True).start()
        settings = make_settings(tls={"port": curt.getsockname()[1], **files})
        assert not check_listener(settings, 60).is_well


def _hang_up(connection: socket.socket) -> None:
    with connection:
        connection.recv(4096)  # or the peer would see a reset


def test_a_worker_is_well_while_its_timers_hold_their_lease(make_settings: Any) -> None:
    settings = make_settings()
    database = open_database(settings.database_path, settings.audit_key_path, create=True)
    assert not check_worker(settings, NOW).is_well
    with database.begin() as session:
        leases.hold(session, name=LEASE, holder="tests:1", ttl_s=30, now=NOW)
    database.dispose()
    assert check_worker(settings, NOW + timedelta(seconds=29)).is_well
    assert not check_worker(settings, NOW + timedelta(seconds=31)).is_well


def test_the_command_says_it_by_its_exit_code(listening: Any, tmp_path: Path) -> None:
    settings = listening().settings
    where = ["--set", f"data_dir={settings.data_dir}", "--set", f"listener.port={settings.listener.port}"]
    for role, code in (("listen", 0), ("work", 1), ("sleep", 2)):
        assert CliRunner().invoke(app, [*where, "health", role]).exit_code == code, role
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        where[-1] = f"listener.port={port}"
        done = CliRunner().invoke(app, [*where, "health", "listen", "--timeout", "0.5"])
        assert done.exit_code == 1
        assert f"CXR@127.0.0.1:{port}: no answer within 0.5 s" in done.stdout
    assert "nothing listens there; is `cxr serve`" in CliRunner().invoke(app, [*where, "health", "listen"]).stdout


def test_health_and_status_know_the_port_of_the_listener_that_runs(serving: Any, tmp_path: Path) -> None:
    """The settings of a second terminal don't: `cxr serve --port` names another."""
    running = serving()
    settings = running.settings
    where = ["--data-dir", str(settings.data_dir), "--set", "listener.port=1", "--set", "listener.min_free_mib=1"]
    done = CliRunner().invoke(app, ["health", "listen", *where])
    assert done.exit_code == 0, done.stdout
    assert f":{settings.listener.port} takes connections" in done.stdout
    screen = CliRunner().invoke(app, ["status", *where], env={"COLUMNS": "80"})
    assert screen.exit_code == 1, "no worker runs"
    assert f":{settings.listener.port} takes connections" in screen.stdout
    assert re.search(r"^! +worker +no worker holds the lease", screen.stdout, re.MULTILINE)
    assert re.search(r"^ +waiting +0 queued, 0 being scored", screen.stdout, re.MULTILINE)
    parts = json.loads(CliRunner().invoke(app, ["status", "--json", *where]).stdout)
    expected = {
        "listener",
        "worker",
        "waiting",
        "held",
        "failed",
        "delivery",
        "results",
        "model",
        "database",
        "disk",
        "backup",
    }
    assert set(parts) == expected
    assert [name for name, line in parts.items() if line["needs_attention"]] == ["worker"]


def test_status_without_a_database_names_the_folder(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["status", "--data-dir", str(tmp_path / "none"), "--set", "listener.port=1"])
    assert done.exit_code == 1
    assert f"{tmp_path.name}/none" in re.sub(r"\s+", "", done.stdout)
    assert not (tmp_path / "none").exists()
