"""``cxr health``: what a container's health check asks."""

from __future__ import annotations

import os
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
from app.health import listener_answers, timers_run
from app.timers import LEASE
from db.engine import open_database
from db.upkeep import leases

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def test_a_listener_that_takes_connections_is_well(listening: Any, wait_for: Any) -> None:
    running = listening(max_associations=1)
    for _ in range(20):
        assert listener_answers(running.settings.listener, 60)
    wait_for(lambda: len(running.listener.silent) == 0, "nothing is left of it")
    assert running.count("cxr_refused_associations_total", reason="too_many") == 0


@pytest.mark.parametrize("is_mutual", [False, True])
def test_one_that_takes_tls_alone_is_well(
    is_mutual: bool, listening: Any, certificates: Path, free_port: Callable[[], int]
) -> None:
    files = {"certificate": certificates / "server.pem", "key": certificates / "server.key", "required": True}
    running = listening(tls={"port": free_port(), **files} | ({"ca": certificates / "ca.pem"} if is_mutual else {}))
    assert listener_answers(running.settings.listener, 60)
    assert running.count("cxr_refused_associations_total", reason="tls_handshake") == 0


def test_one_that_is_not_there_or_hangs_is_not(serving: Any, make_settings: Any) -> None:
    assert not listener_answers(make_settings().listener, 1)
    running = serving()
    os.kill(running.process.pid, signal.SIGSTOP)
    try:
        assert not listener_answers(running.settings.listener, 1)
    finally:
        os.kill(running.process.pid, signal.SIGCONT)
    assert listener_answers(running.settings.listener, 60)


def test_what_hangs_up_within_the_tls_handshake_is_not_well(make_settings: Any, certificates: Path) -> None:
    files = {"certificate": certificates / "server.pem", "key": certificates / "server.key", "required": True}
    with socket.create_server(("127.0.0.1", 0)) as curt:
        threading.Thread(target=lambda: _hang_up(curt.accept()[0]), daemon=True).start()
        settings = make_settings(tls={"port": curt.getsockname()[1], **files})
        assert not listener_answers(settings.listener, 60)


def _hang_up(connection: socket.socket) -> None:
    with connection:
        connection.recv(4096)  # or the peer would see a reset


def test_a_worker_is_well_while_its_timers_hold_their_lease(make_settings: Any) -> None:
    settings = make_settings()
    database = open_database(settings.database_path, settings.audit_key_path, create=True)
    assert not timers_run(settings, NOW)
    with database.begin() as session:
        leases.hold(session, name=LEASE, holder="tests:1", ttl_s=30, now=NOW)
    database.dispose()
    assert timers_run(settings, NOW + timedelta(seconds=29))
    assert not timers_run(settings, NOW + timedelta(seconds=31))


def test_the_command_says_it_by_its_exit_code(listening: Any, tmp_path: Path) -> None:
    settings = listening().settings
    where = ["--set", f"data_dir={settings.data_dir}", "--set", f"listener.port={settings.listener.port}"]
    for role, code in (("listen", 0), ("work", 1), ("sleep", 2)):
        assert CliRunner().invoke(app, [*where, "health", role]).exit_code == code, role
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where[-1] = f"listener.port={silent.getsockname()[1]}"
        assert CliRunner().invoke(app, [*where, "health", "listen", "--timeout", "0.5"]).exit_code == 1
