"""``cxr listen`` as a process: how it starts, how light it is, how it stops, and what a kill leaves."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from pydicom.dataset import Dataset

Xray = Callable[..., Dataset]


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _processor_s(pid: int) -> float:
    """User and system time of a process (proc(5): utime, stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_it_stays_light_while_it_receives(serving: Any, scu: Any, synthetic_xray: Xray) -> None:
    running = serving()
    with scu(running.port) as peer:
        for seed in range(4):
            assert peer.store_dataset(synthetic_xray(rows=3000, columns=2500, seed=seed)) == 0x0000  # 15 MB each
    assert _resident_mib(running.process.pid) < 150


def test_it_accepts_soon_after_its_start(serving: Any, wait_for: Any, echoes: Any) -> None:
    first = serving()  # creates the database
    first.process.terminate()
    first.process.wait(timeout=60)
    running = serving(settings=first.settings, wait=False)
    wait_for(lambda: echoes(running.port), "the service answers")
    # By the processor's time, 1 s alone on a machine: other work of the machine does not count.
    assert _processor_s(running.process.pid) < 4.0


def test_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, listener.scp; "
        "print([name for name in ('tensorflow', 'keras', 'cv2', 'highdicom', 'imagecodecs') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.strip() == "[]"


def test_sigterm_ends_it_cleanly(serving: Any, scu: Any, synthetic_xray: Xray) -> None:
    running = serving()
    with scu(running.port) as peer:
        assert peer.store_dataset(synthetic_xray()) == 0x0000
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=120) == 0
        peer.association._reactor_checkpoint.set()
    kinds = [row["kind"] for row in running.query("SELECT kind FROM event ORDER BY id")]
    assert kinds[-1] == "service_stopped"
    assert len(running.kept()) == 1


def test_sigterm_that_another_thread_gets_ends_it_too(serving: Any) -> None:
    """The kernel chooses the thread; Python handles signals in the main one, which does not wake up for it."""
    running = serving()
    pid = running.process.pid
    other = next(int(each.name) for each in Path(f"/proc/{pid}/task").iterdir() if int(each.name) != pid)
    assert ctypes.CDLL(None, use_errno=True).tgkill(pid, other, signal.SIGTERM) == 0
    assert running.process.wait(timeout=120) == 0


def test_metrics_are_served_on_loopback(
    serving: Any, make_settings: Any, free_port: Callable[[], int], scu: Any, synthetic_xray: Xray
) -> None:
    port = free_port()
    running = serving(settings=make_settings({"metrics": {"listener_port": port}}))
    with scu(running.port) as peer:
        peer.store_dataset(synthetic_xray())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
            text = response.read().decode()
    assert 'cxr_received_objects_total{outcome="queued"} 1.0' in text
    assert "cxr_open_associations 1.0" in text
    assert "cxr_spool_free_bytes" in text


@pytest.mark.parametrize(("fault", "code"), [("port", 2), ("data_dir", 2), ("spool", 1)])
def test_it_says_why_it_can_not_start(
    make_settings: Any, listening: Any, tmp_path: Path, fault: str, code: int
) -> None:
    settings = make_settings()
    if fault == "port":
        settings = make_settings(port=listening(settings=settings).port)
    elif fault == "data_dir":
        settings.data_dir.write_text("a file where a folder should be")
    else:
        listening(settings=settings).listener.stop()
        (settings.spool_dir / "spool.id").unlink()  # as if its disk were not mounted
    process = _start(settings, tmp_path / "refused.log")
    assert process.wait(timeout=200) == code
    said = (tmp_path / "refused.log").read_text()
    assert {"port": "listener.port", "data_dir": "data_dir", "spool": "spool"}[fault] in said
    assert "Traceback" not in said


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_listener_on_the_data_folder_is_refused_and_sweeps_nothing(
    serving: Any,
    make_settings: Any,
    scu: Any,
    synthetic_xray: Xray,
    encode_dataset: Any,
    wait_for: Any,
    tmp_path: Path,
    free_port: Callable[[], int],
    processes: int,
) -> None:
    running = serving()
    xray = synthetic_xray(rows=1024, columns=1024)
    with scu(running.port) as peer:
        send_rest = peer.send_part(encode_dataset(xray), instance=xray.SOPInstanceUID)
        wait_for(lambda: len(running.incoming()) == 1, "the object is half received")
        os.utime(running.incoming()[0], (0, 0))  # a sender that was silent for long
        settings = make_settings(port=free_port(), processes=processes)
        second = _start(settings, tmp_path / "second.log")
        assert second.wait(timeout=200) == 2
        send_rest()
        assert peer.answer() == 0x0000
    said = (tmp_path / "second.log").read_text()
    assert f"(process {running.process.pid}) uses the data folder {running.settings.data_dir}" in said
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_found_before_anything_is_swept(
    make_settings: Any, serving: Any, tmp_path: Path, wait_for: Any
) -> None:
    first = serving()
    first.process.terminate()
    first.process.wait(timeout=60)
    orphan = first.spool.incoming_dir / "left"
    orphan.write_bytes(b"x")
    os.utime(orphan, (0, 0))
    with socket.create_server(("127.0.0.1", first.port)):
        refused = _start(first.settings, tmp_path / "refused.log")
        assert refused.wait(timeout=200) == 2
    assert orphan.exists()
    again = serving(settings=first.settings)
    wait_for(lambda: not orphan.exists(), "the sweep after the ports were bound")
    assert again.process.poll() is None


def test_a_killed_listener_leaves_no_lock(serving: Any) -> None:
    first = serving()
    first.process.kill()
    first.process.wait(timeout=60)
    assert serving(settings=first.settings).process.poll() is None


def _start(settings: Any, log: Path) -> subprocess.Popen[bytes]:
    options = [f"data_dir={settings.data_dir}", f"listener.port={settings.listener.port}", "listener.min_free_mib=1"]
    options.append(f"listener.processes={settings.listener.processes}")
    arguments = [argument for option in options for argument in ("--set", option)]
    with log.open("wb") as stream:
        return subprocess.Popen([sys.executable, "-P", "-m", "app", *arguments, "listen"], stderr=stream, stdout=stream)


@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(1200)])])
def test_what_was_acknowledged_survives_a_kill(
    serving: Any,
    make_settings: Any,
    scu: Any,
    synthetic_xray: Xray,
    encode_dataset: Any,
    wait_for: Any,
    rounds: int,
) -> None:
    """Killed at random moments of a stream of objects; every Success has its row and its file."""
    settings = make_settings()
    acknowledged: dict[str, str] = {}
    chance = random.Random(20260302)
    for number in range(rounds):
        running = serving(settings=settings)
        xrays = [synthetic_xray(rows=512, columns=512, seed=100 * number + index) for index in range(20)]

        established = threading.Event()

        def send(
            running: Any = running, xrays: list[Dataset] = xrays, established: threading.Event = established
        ) -> None:
            with scu(running.port, dimse_timeout_s=5) as peer:
                established.set()
                for xray in xrays:
                    data = encode_dataset(xray)
                    if peer.store(data, instance=xray.SOPInstanceUID) != 0x0000:
                        return
                    acknowledged[xray.SOPInstanceUID] = blake3(data).hexdigest()

        sending = threading.Thread(target=send)
        sending.start()
        assert established.wait(60)
        if number == 0:
            wait_for(lambda: acknowledged, "the first object is acknowledged")
        time.sleep(chance.uniform(0.05, 0.6))
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait(timeout=60)
        sending.join(120)

    assert acknowledged, "some objects got through before the kills"
    running = serving(settings=settings)
    rows = {row["sop_instance_uid"]: row for row in running.images()}
    assert set(acknowledged) <= set(rows)
    kept = running.kept()
    for row in rows.values():
        assert blake3(_dataset(kept[row["spool_name"]])).hexdigest() == row["dataset_digest"]
    for uid, digest in acknowledged.items():
        assert rows[uid]["dataset_digest"] == digest


def _dataset(content: bytes) -> bytes:
    length = int.from_bytes(content[140:144], "little")
    return content[144 + length :]


def test_after_a_kill_the_peer_sends_again_and_there_is_one_image(
    serving: Any, make_settings: Any, scu: Any, synthetic_xray: Xray
) -> None:
    settings = make_settings()
    running = serving(settings=settings)
    with scu(running.port, dimse_timeout_s=5) as peer:
        assert peer.store_dataset(synthetic_xray()) == 0x0000
        running.process.kill()
        running.process.wait(timeout=60)
        peer.association._reactor_checkpoint.set()
    again = serving(settings=settings)
    with scu(again.port) as peer:
        assert peer.store_dataset(synthetic_xray()) == 0x0000
    assert again.events() == ["received", "resent"]
    assert len(again.kept()) == 1


def test_orphans_are_quarantined_at_the_start_and_what_has_a_row_stays(
    serving: Any, make_settings: Any, listening: Any, scu: Any, synthetic_xray: Xray
) -> None:
    settings = make_settings()
    first = listening(settings=settings)
    with scu(first.port) as peer:
        assert peer.store_dataset(synthetic_xray()) == 0x0000
    with first.spool.open_incoming() as incoming:
        incoming.write(b"kept, but the process died before its row")
        orphan = first.spool.keep(incoming)
    first.listener.stop()
    cut = first.spool.incoming_dir / "cut"
    cut.write_bytes(b"half an object")
    long_ago = time.time() - 3600
    for path in (*map(first.spool.path, first.spool.names()), cut):
        os.utime(path, (long_ago, long_ago))
    running = serving(settings=settings)
    assert [row["spool_name"] for row in running.images()] == list(running.kept())
    assert not running.spool.path(orphan).exists()
    assert len(list(running.spool.quarantine_dir.iterdir())) == 1
    assert running.incoming() == []
