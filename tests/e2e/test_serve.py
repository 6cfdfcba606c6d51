"""`cxr serve` as an operator meets it: restarts, an orderly stop, the death of the supervisor, `cxr score`."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import pytest
from pydicom.dataset import Dataset

CXR = Path(sys.executable).parent / "cxr"


def children(pid: int) -> dict[str, int]:
    """The roles that a supervisor runs, by name."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        found |= {role: int(child) for role in ("listen", "work") if role in words}
    return found


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_killed_children_are_started_again_and_nothing_is_lost(
    service: Callable[..., Any], synthetic_xray: Callable[..., Dataset], wait_for: Any
) -> None:
    installation = service()
    supervisor = installation.start("serve")
    before = wait_for(lambda: len(children(supervisor.pid)) == 2 and children(supervisor.pid), "two children")
    assert installation.send(synthetic_xray(seed=1)) == [0]
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        now = children(supervisor.pid)
        return len(now) == 2 and not set(now.values()) & set(before.values())

    wait_for(replaced, "both roles run again", 180)
    wait_for(lambda: not is_free(installation.port), "the listener accepts again", 180)
    assert installation.send(synthetic_xray(seed=2)) == [0]
    rows = installation.wait_until_finished(2)
    assert [row["state"] for row in rows] == ["reported", "reported"]


def test_sigterm_ends_everything_in_order(service: Callable[..., Any], wait_for: Any) -> None:
    installation = service()
    supervisor = installation.start("serve")
    roles = wait_for(lambda: len(children(supervisor.pid)) == 2 and children(supervisor.pid), "two children")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(180) == 0
    assert not [pid for pid in roles.values() if Path(f"/proc/{pid}").exists()]
    assert is_free(installation.port)


def test_children_do_not_outlive_a_killed_supervisor(service: Callable[..., Any], wait_for: Any) -> None:
    installation = service()
    supervisor = installation.start("serve")
    roles = wait_for(lambda: len(children(supervisor.pid)) == 2 and children(supervisor.pid), "two children")
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in roles.values()), "the children end", 180)
    assert is_free(installation.port)


def test_faults_of_the_settings_are_said_before_anything_starts(service: Callable[..., Any]) -> None:
    installation = service('[[destinations]]\nname = "x"\nkind = "dicom"\naddress = "nowhere"\n')
    installation.run("serve", code=2)
    assert not (installation.folder / "var" / "audit.sqlite").exists()


def serve_to_its_end(installation: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CXR, "serve"],
        cwd=installation.folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=200,
    )


def test_a_port_in_use_is_reported_before_a_child_is_started(service: Callable[..., Any]) -> None:
    installation = service()
    with socket.create_server(("127.0.0.1", installation.port)):
        done = serve_to_its_end(installation)
    assert done.returncode == 2
    assert f"Port {installation.port} of 127.0.0.1 can't be listened on" in done.stderr
    assert "child_started" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "settings", "ahead"),
    [
        ("metrics.worker_port", "worker_port = {port}", 0),
        ("metrics.listener_port", "listener_port = {port}", 0),
        ("metrics.listener_port", "listener_port = {port}", 1),  # the second listening process'
    ],
)
def test_a_metrics_port_in_use_is_reported_before_a_child_is_started(
    service: Callable[..., Any], setting: str, settings: str, ahead: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        installation = service(
            f"[metrics]\n{settings.format(port=port - ahead)}\n", listener=f"processes = {ahead + 1}", model=False
        )
        done = serve_to_its_end(installation)
    assert done.returncode == 2
    assert f"Port {port} of 127.0.0.1 can't be listened on" in done.stderr
    assert f"set {setting} to a free port" in done.stderr
    assert "child_started" not in done.stderr


def test_what_a_child_can_not_be_started_with_ends_the_command(
    service: Callable[..., Any], free_port: Callable[[], int]
) -> None:
    """Files that are there, but hold no certificate: the listener finds that when it loads them."""
    installation = service(
        f'[listener.tls]\nport = {free_port()}\ncertificate = "no.pem"\nkey = "no.pem"\nca = "no.pem"\n'
    )
    (installation.folder / "no.pem").touch(mode=0o600)
    done = serve_to_its_end(installation)
    assert done.returncode == 2
    assert done.stderr.count('"child_started"') == 2  # each once: what can't succeed is not tried again


def test_a_start_on_a_terminal_says_when_listener_and_worker_are_ready(
    service: Callable[..., Any], wait_for: Any
) -> None:
    installation = service()
    terminal, other_end = pty.openpty()
    os.set_blocking(terminal, False)
    process = subprocess.Popen(
        [CXR, "serve"], cwd=installation.folder, stdin=subprocess.DEVNULL, stdout=other_end, stderr=other_end
    )
    installation.processes["serve"] = process
    os.close(other_end)
    screen = bytearray()

    def shows(line: str) -> bool:
        with suppress(BlockingIOError):
            screen.extend(os.read(terminal, 65536))
        return line.encode() in screen

    wait_for(lambda: shows(f"ready: the listener CXR@127.0.0.1:{installation.port} takes connections"), "listener", 180)
    wait_for(lambda: shows("ready: the worker has loaded its models"), "worker", 180)
    process.send_signal(signal.SIGTERM)
    assert process.wait(180) == 0
    os.close(terminal)


@pytest.fixture
def films(service: Callable[..., Any], synthetic_xray: Callable[..., Dataset]) -> tuple[Any, list[str]]:
    """An installation with files to score: a frontal and a lateral DICOM, a PNG, and a text that says it is DICOM."""
    installation = service()
    synthetic_xray().save_as(installation.folder / "pa.dcm", enforce_file_format=True)
    synthetic_xray(seed=1, ViewPosition="LL", PatientOrientation=["P", "F"]).save_as(
        installation.folder / "lateral.dcm", enforce_file_format=True
    )
    picture = synthetic_xray(seed=2).pixel_array // 16
    cv2.imwrite(str(installation.folder / "film.png"), picture.astype("uint8"))
    (installation.folder / "letter.dcm").write_text("Dear colleague, this is no image at all. " * 20)
    return installation, ["pa.dcm", "lateral.dcm", "film.png", "letter.dcm"]


def test_score_prints_one_object_per_file_and_goes_on_after_bad_ones(films: tuple[Any, list[str]]) -> None:
    installation, names = films
    rows = {
        row["file"]: row for row in map(json.loads, installation.run("score", "--json", *names, code=1).splitlines())
    }
    assert set(rows) == set(names)
    assert {"file", "view", "reason", "finding", "score", "error_code"} <= set(rows["pa.dcm"])
    assert rows["pa.dcm"]["view"] == "frontal"
    assert rows["pa.dcm"]["score"] is not None
    assert rows["pa.dcm"]["model_status"] == "untrained"
    assert (rows["lateral.dcm"]["view"], rows["lateral.dcm"]["score"]) == ("not_frontal", None)
    assert rows["film.png"]["score"] is not None
    assert rows["letter.dcm"]["error_code"] == "unparsable"


def test_score_equals_what_the_service_says(
    films: tuple[Any, list[str]], synthetic_xray: Callable[..., Dataset]
) -> None:
    installation, _ = films
    alone = json.loads(installation.run("score", "--json", "pa.dcm"))
    installation.start("serve")
    assert installation.send(synthetic_xray()) == [0]
    (row,) = installation.wait_until_finished(1)
    assert row["score"] == pytest.approx(alone["score"], abs=1e-6)
    assert row["fingerprint"] == alone["fingerprint"]


def test_overlay_is_a_picture(films: tuple[Any, list[str]]) -> None:
    installation, _ = films
    installation.run("score", "pa.dcm", "--overlay", "evidence.png")
    picture = cv2.imread(str(installation.folder / "evidence.png"))
    assert picture is not None
    assert picture.std() > 10
    installation.run("score", "pa.dcm", "film.png", "--overlay", "evidence.png", code=2)


def test_a_first_start_that_wants_it_serves_an_untrained_resnet50(
    service: Callable[..., Any], synthetic_xray: Callable[..., Dataset]
) -> None:
    installation = service(model=False)
    settings = installation.folder / "cxr.toml"
    settings.write_text(settings.read_text().replace("[worker]", '[worker]\ndefault_model = "untrained"'))
    installation.start("serve")
    assert installation.send(synthetic_xray()) == [0]
    (row,) = installation.wait_until_finished(1, 240)
    assert (row["state"], row["model"], row["model_status"]) == ("reported", "untrained-resnet50", "untrained")
    (package,) = map(json.loads, installation.run("model", "list", "--json").splitlines())
    assert package["status"] == "untrained"


def test_damaged_package_is_said_and_healed_without_a_restart(
    service: Callable[..., Any], synthetic_xray: Callable[..., Dataset], wait_for: Any
) -> None:
    installation = service()
    model = installation.folder / "var" / "models" / "current" / "model.keras"
    sound = model.read_bytes()
    model.chmod(0o600)
    model.write_bytes(sound[:-100])
    supervisor = installation.start("serve")
    assert installation.send(synthetic_xray()) == [0]
    wait_for(lambda: "package_not_served" in installation.log.read_text(), "the damage is said", 120)
    worker = children(supervisor.pid)["work"]
    model.write_bytes(sound)
    (row,) = installation.wait_until_finished(1)
    assert row["state"] == "reported"
    assert children(supervisor.pid)["work"] == worker
