"""`listener.processes`: one port, several processes that receive into one spool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

CXR = Path(sys.executable).parent / "cxr"


def receiving(pid: int) -> dict[str, int]:
    """The listening processes that a parent has started: number -> process id."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        if "--process" in words:
            found[words[words.index("--process") + 1]] = int(child)
    return found


def connections_of(port: int, pids: list[int]) -> set[int]:
    """Which processes listen on a port, by the sockets that they hold."""
    listening = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
    }
    holders = set()
    for pid in pids:
        sockets = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
        if sockets & {f"socket:[{inode}]" for inode in listening}:
            holders.add(pid)
    return holders


def test_processes_share_the_port_and_one_that_is_killed_is_replaced(
    service: Callable[..., Any], synthetic_xray: Callable[..., Dataset], wait_for: Any
) -> None:
    installation = service(listener="processes = 3")
    parent = installation.start("listen")
    before = wait_for(lambda: len(receiving(parent.pid)) == 3 and receiving(parent.pid), "three processes")
    wait_for(lambda: connections_of(installation.port, [*before.values()]) == {*before.values()}, "all three listen")

    with ThreadPoolExecutor(8) as senders:  # eight associations at once
        statuses = senders.map(lambda seed: installation.send(synthetic_xray(seed=seed)), range(24))
    assert [*statuses] == [[0]] * 24
    assert installation.query("SELECT count(*), count(DISTINCT sop_instance_uid) FROM images") == [(24, 24)]

    os.kill(before["1"], signal.SIGKILL)
    after = wait_for(
        lambda: (now := receiving(parent.pid)).keys() == before.keys() and now["1"] != before["1"] and now,
        "the killed one runs again",
    )
    assert (after["0"], after["2"]) == (before["0"], before["2"])
    wait_for(lambda: connections_of(installation.port, [after["1"]]), "it listens again")
    installation.run("audit", "verify")

    second = subprocess.run(
        [CXR, "--set", "data_dir=elsewhere", "listen"],
        cwd=installation.folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert second.returncode == 2
    assert f"Port {installation.port} of 127.0.0.1 can't be listened on" in second.stderr

    parent.send_signal(signal.SIGTERM)
    assert parent.wait(180) == 0
    assert not [pid for pid in after.values() if Path(f"/proc/{pid}").exists()]


def test_processes_do_not_outlive_a_killed_parent(service: Callable[..., Any], wait_for: Any) -> None:
    installation = service(listener="processes = 2")
    parent = installation.start("listen")
    children = wait_for(lambda: len(receiving(parent.pid)) == 2 and receiving(parent.pid), "two processes")
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children.values()), "they end", 180)
