"""Killed again and again while peers send: each acknowledged object has one result and one SR, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

LISTENER_STEPS = ("object_is_kept", "receipt_is_committed")
WORKER_STEPS = (
    "job_is_claimed",
    "pixels_are_prepared",
    "batch_is_scored",
    "report_is_built",
    "report_is_written",
    "result_is_committed",
    "report_is_sent",
    "delivery_is_committed",
)
SETTINGS = """
max_attempts = 1000
[report]
deliver_untrained = true
[delivery]
retry_first_s = 0.5
lease_s = 5
[[destinations]]
name = "pacs"
kind = "dicom"
address = "{address}"
verify_after_s = 0.2
"""
PEERS = 4
MODALITY = Path(__file__).parent / "modality.py"
END_S = 60.0  # how long a process may take over its end after SIGTERM


@dataclass
class Modality:
    """A peer in a process of its own, and what it was told."""

    folder: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, port: int, seed: int, sent_twice: float) -> None:
        arguments = [str(port), str(seed), str(sent_twice), str(self.folder)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(MODALITY), *arguments], stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    def end(self) -> None:
        """Let it end with the file at hand acknowledged."""
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(120) == 0, self.log.read_text()[-3000:]

    def kill(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.kill()
            self.process.wait()

    def acknowledged(self) -> list[Path]:
        return [self.folder / line for line in self.log.read_text().splitlines() if line.endswith(".dcm")]

    def refusals(self) -> int:
        return self.log.read_text().count("refused ")


def handles_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@dataclass
class Role:
    """Listener or worker: started again whenever it was ended, as often as is asked for."""

    verb: str
    lives: list[tuple[float, str | None]]  # how long each lives at most, in seconds, and the step it dies at
    process: subprocess.Popen[bytes] | None = None
    ends_at: float = 0.0
    by_step: list[str] = field(default_factory=list)

    def look_after(self, service: Any, number: signal.Signals) -> bool:
        """End the process if it is time; return whether it ended."""
        if self.process is None:
            life_s, step = self.lives[-1] if self.lives else (float("inf"), None)
            self.process = service.start(self.verb, killed_at=step)
            self.ends_at = time.monotonic() + life_s
        if self.process.poll() is None and time.monotonic() < self.ends_at:
            return False
        if self.process.poll() is None:
            while number is signal.SIGTERM and not handles_sigterm(self.process.pid):
                time.sleep(0.01)  # it has only just begun
            self.process.send_signal(number)
            asked_at = time.monotonic()
            code = self.process.wait(END_S)
            assert number is signal.SIGKILL or code == 0, f"{self.verb} ended with {code} after SIGTERM"
            assert number is signal.SIGKILL or time.monotonic() - asked_at < END_S
        else:  # at its step
            assert self.process.returncode == -signal.SIGKILL, service.log.read_text()[-3000:]
            self.by_step.append(self.lives[-1][1] or "?")
        self.process = None
        self.lives.pop()
        return True


def listener_lives(chance: random.Random, count: int, *, named: float) -> list[tuple[float, str | None]]:
    """Lives of a listener, from when it accepts; a part of them ends at a named step."""
    steps = [f"{chance.choice(LISTENER_STEPS)}@{chance.randint(1, 9)}" for _ in range(count)]
    return [(20.0, step) if chance.random() < named else (chance.uniform(0.1, 2.0), None) for step in steps]


def worker_lives(
    chance: random.Random, count: int, *, named: float, longest_s: float
) -> list[tuple[float, str | None]]:
    """Lives of a worker, from its start: within its imports, its first batch, or long enough to deliver."""
    lives: list[tuple[float, str | None]] = []
    for number in range(count):
        step = f"{WORKER_STEPS[number % len(WORKER_STEPS)]}@{chance.randint(1, 9)}"
        is_long = chance.random() < 0.25
        life_s = chance.uniform(0.7 * longest_s, longest_s) if is_long else chance.uniform(0.5, 10.0)
        lives.append((longest_s, step) if chance.random() < named else (life_s, None))
    return lives


@dataclass
class Storm:
    """The whole service, peers that send to it, and what ends its processes."""

    service: Any
    orthanc: Any
    modalities: list[Modality]

    def rage(self, roles: list[Role], number: signal.Signals, *, sent_twice: float) -> int:
        """End processes until every role has used up its lives; return how many ends that were."""
        for seed, modality in enumerate(self.modalities):
            modality.start(self.service.port, seed, sent_twice)
        ends = 0
        while any(role.lives for role in roles):
            ends += sum(role.look_after(self.service, number) for role in roles)
            time.sleep(0.01)
        for role in roles:
            if role.process is None:
                role.look_after(self.service, number)
        return ends

    def calm_down(self) -> list[Dataset]:
        """Let every peer end with an acknowledged image; return the headers of all of those."""
        for modality in self.modalities:
            modality.end()
        return [dcmread(path, stop_before_pixels=True) for each in self.modalities for path in each.acknowledged()]


@pytest.fixture
def films(root: Path, synthetic_xray: Callable[..., Dataset], tmp_path: Path) -> Callable[[int, int], Path]:
    """Write the images of one peer: synthetic ones of two sizes and, where it is at hand, a real compressed film."""
    real = root.parent / "shared" / "data" / "dicom" / "chest_frontal" / "rsna_850819.dcm"

    def write(peer: int, count: int) -> Path:
        folder = tmp_path / f"films{peer}"
        folder.mkdir()
        for number in range(count):
            seed = 100_000 * peer + number
            if real.is_file() and number % 6 == 5:
                film = dcmread(real)
                for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
                    setattr(film, keyword, generate_uid(entropy_srcs=[keyword, str(seed)]))
                film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
            else:
                side = 512 if number % 4 == 3 else 64
                film = synthetic_xray(seed=seed, rows=side, columns=side)
            film.save_as(folder / f"{number:05}.dcm", enforce_file_format=True)
        return folder

    return write


@pytest.fixture
def storm(
    service: Callable[..., Any], orthanc: Any, films: Callable[[int, int], Path], tmp_path: Path
) -> Iterator[Callable[[int], Storm]]:
    """Make a service and peers with so many images each."""
    started: list[Modality] = []

    def make(images: int) -> Storm:
        installation = service(SETTINGS.format(address=orthanc.address), listener="secondary_capture = true")
        started.extend(Modality(films(peer, images), tmp_path / f"peer{peer}.txt") for peer in range(PEERS))
        return Storm(installation, orthanc, started)

    yield make
    for modality in started:
        modality.kill()


def spool_files(installation: Any, *areas: str) -> set[str]:
    spool = installation.folder / "var" / "spool"
    return {str(path.relative_to(spool)) for area in areas for path in (spool / area).rglob("*") if path.is_file()}


def check_results(storm: Storm, acknowledged: list[Dataset], timeout_s: float) -> None:
    """Each acknowledged object has one row, one result and one SR; nothing is stuck."""
    installation = storm.service
    installation.wait_until_delivered(len(acknowledged), timeout_s)
    uids = {str(image.SOPInstanceUID) for image in acknowledged}
    assert len(uids) == len(acknowledged)
    rows = installation.results()
    assert sorted(row["sop_instance_uid"] for row in rows) == sorted(uids)
    assert {row["state"] for row in rows} == {"reported"}
    stuck = "SELECT count(*) FROM job WHERE worker_id IS NOT NULL OR lease_until IS NOT NULL OR state <> 'reported'"
    assert installation.query(stuck) == [(0,)]
    assert installation.query("SELECT count(*), count(DISTINCT job_id) FROM score") == [(len(uids), len(uids))]
    assert installation.query("SELECT count(*) FROM report") == [(len(uids),)]

    reports = storm.orthanc.post("/tools/find", {"Level": "Instance", "Query": {}, "Expand": True})
    assert len(reports) == len(uids)
    studies = {str(image.StudyInstanceUID) for image in acknowledged}
    found = storm.orthanc.post("/tools/find", {"Level": "Study", "Query": {}, "Expand": True})
    assert {study["MainDicomTags"]["StudyInstanceUID"] for study in found} == studies


def check_storage(storm: Storm) -> int:
    """No file without a row, no row without its file, sound chains and database; return how many orphans there were."""
    installation = storm.service
    spool = installation.folder / "var" / "spool"
    installation.stop()
    for path in spool.rglob("*"):  # an hour goes by, so that no file can be another process's of just now
        if path.is_file():
            os.utime(path, (0, 0))
    installation.start("listen")  # it clears up
    installation.stop()
    known = {name for (name,) in installation.query("SELECT spool_name FROM image UNION SELECT spool_name FROM report")}
    assert spool_files(installation, "objects", "reports") == known
    assert spool_files(installation, "incoming") == set()
    installation.run("audit", "verify")
    installation.run("db", "check")
    return len(spool_files(installation, "quarantine"))


def report(name: str, seed: int, facts: dict[str, Any]) -> None:
    print(f"{name}: seed {seed}, " + ", ".join(f"{key} {value}" for key, value in facts.items()))


@pytest.mark.parametrize(
    ("listener_kills", "worker_kills", "longest_s", "images"),
    [
        pytest.param(16, 4, 30.0, 40, id="20", marks=pytest.mark.timeout(900)),
        pytest.param(150, 50, 50.0, 600, id="200", marks=[pytest.mark.soak, pytest.mark.timeout(5400)]),
    ],
)
def test_killed_at_random_moments(
    storm: Callable[[int], Storm], listener_kills: int, worker_kills: int, longest_s: float, images: int
) -> None:
    seed = int(os.environ.get("CRASH_SEED", "20260302"))
    chance = random.Random(seed)
    raging = storm(images)
    listener = Role("listen", listener_lives(chance, listener_kills, named=0.3))
    worker = Role("work", worker_lives(chance, worker_kills, named=0.5, longest_s=longest_s))
    kills = raging.rage([listener, worker], signal.SIGKILL, sent_twice=0.05)
    acknowledged = raging.calm_down()
    assert kills == listener_kills + worker_kills
    assert len(acknowledged) >= kills, "peers got something through between the kills"
    check_results(raging, acknowledged, timeout_s=240 + 2 * kills)
    orphans = check_storage(raging)
    assert orphans <= kills * PEERS
    at_steps = len(listener.by_step) + len(worker.by_step)
    refusals = sum(modality.refusals() for modality in raging.modalities)
    report("killed", seed, {"kills": kills, "at named steps": at_steps, "acknowledged": len(acknowledged)})
    report("killed", seed, {"orphans quarantined": orphans, "refusals": refusals})


@pytest.mark.parametrize(
    ("listener_ends", "worker_ends", "images"),
    [
        pytest.param(8, 2, 30, id="10", marks=pytest.mark.timeout(900)),
        pytest.param(80, 20, 300, id="100", marks=[pytest.mark.soak, pytest.mark.timeout(5400)]),
    ],
)
def test_stopped_at_random_moments(
    storm: Callable[[int], Storm], listener_ends: int, worker_ends: int, images: int
) -> None:
    """SIGTERM loses not even an attempt: what is in flight is finished and answered, the rest given back."""
    seed = int(os.environ.get("CRASH_SEED", "20260303"))
    chance = random.Random(seed)
    raging = storm(images)
    listener = Role("listen", listener_lives(chance, listener_ends, named=0.0))
    worker = Role("work", worker_lives(chance, worker_ends, named=0.0, longest_s=12.0))
    ends = raging.rage([listener, worker], signal.SIGTERM, sent_twice=0.0)
    acknowledged = raging.calm_down()
    check_results(raging, acknowledged, timeout_s=240 + 2 * ends)
    kinds = dict(raging.service.query("SELECT kind, count(*) FROM event GROUP BY kind"))
    assert kinds["received"] == len(acknowledged)
    assert "resent" not in kinds, "every object that was taken in was answered"
    assert "job_retried" not in kinds
    assert raging.service.query("SELECT max(attempts) FROM job") == [(1,)]
    log = raging.service.log.read_text()
    assert "drain_timed_out" not in log
    assert spool_files(raging.service, "incoming") == set()
    assert check_storage(raging) == 0, "nothing was left behind"
    report("stopped", seed, {"ends": ends, "acknowledged": len(acknowledged)})
