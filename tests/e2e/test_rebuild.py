"""The scheduled rebuild: a real service's own images and a CSV of test results, killed half-way, up to the report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

CXR = Path(sys.executable).parent / "cxr"
NETWORK = 'network={architecture="tiny", head="dense", hidden=[8], dropout=0.3}'
TINY = [NETWORK, "pixels.size=64", "split.strategy=patient", "split.fractions=[0.6,0.2,0.2]", "stages.1.batch_size=8"]
PRETRAIN = [*TINY, 'task.classes=["covid19"]', "stages.1.epochs=1"]
FINETUNE = [*TINY, "stages.0.epochs=1", "stages.1.epochs=20", "stages.1.patience=0"]


@pytest.fixture
def pretrained(tmp_path: Path, draw_cases: Callable[..., Path]) -> Path:
    """A finished run of other images, to start from."""
    folder = tmp_path / "pretrained"
    sets = [word for override in PRETRAIN for word in ("--set", override)]
    command = [CXR, "train", "pretrain", draw_cases(tmp_path / "drawn", 24), "-o", folder, "--weights", "random", *sets]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def films(synthetic_xray: Callable[..., Dataset], count: int) -> list[Dataset]:
    """Films of which every second is brighter below: something to learn."""
    made = []
    for number in range(count):
        dataset = synthetic_xray(seed=number, rows=64, columns=64)
        pixels = np.random.default_rng(number).integers(0, 3000, (64, 64), dtype=np.uint16)
        pixels[32:] += 900 * (number % 2)
        dataset.PixelData = pixels.tobytes()
        made.append(dataset)
    return made


def of(folder: Path, role: str) -> list[int]:
    """Processes of one service that have a role."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if role in words and "app" in words and (place / "cwd").resolve() == folder.resolve():
                found.append(int(place.name))
        except OSError:  # it has just ended
            continue
    return found


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_new_results_come_to_a_package_and_a_report_although_the_service_is_killed(
    service: Any, pretrained: Path, synthetic_xray: Any, wait_for: Any
) -> None:
    table = {
        "cron": "* * * * *", "time_zone": "Europe/Berlin", "labels": "results.csv", "start": str(pretrained),
        "overrides": FINETUNE, "min_new_images": 40, "nice": 5,
    }  # fmt: skip
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    site = service('[log]\nformat = "json"\n[rebuild]\n' + "\n".join(lines) + "\n")
    sent = films(synthetic_xray, 48)
    rows = [f"{each.SOPInstanceUID},{'positive' if number % 2 else 'negative'}" for number, each in enumerate(sent)]
    (site.folder / "results.csv").write_text("sop_instance_uid,result\n" + "\n".join(rows) + "\n")
    serving = site.start("serve")
    assert set(site.send(*sent)) == {0}
    site.wait_until_finished(48, 400)

    def runs() -> list[Path]:
        return sorted((site.folder / "var" / "runs").glob("rebuild-*"))

    def epochs() -> int:
        histories = [run / "run" / "history.csv" for run in runs()]
        return sum(len(each.read_text().splitlines()) - 1 for each in histories if each.exists())

    # Whatever was due before all 48 had come is skipped, and says so.
    wait_for(lambda: epochs() >= 2, "the fine-tune is under way", 900)
    (before,) = site.query("SELECT fingerprint FROM models WHERE activated_at IS NOT NULL")
    (working,) = of(site.folder, "rebuild")
    for pid in of(site.folder, "work"):
        os.kill(pid, signal.SIGKILL)
    serving.kill()
    serving.wait()
    wait_for(lambda: not _is_there(working), "the child has ended with the service", 120)
    done = epochs()
    assert not list(site.folder.glob("var/runs/*/package")), "killed too late to show anything"
    assert site.query("SELECT count(*) FROM rebuilds WHERE state = 'running'") == [(1,)]

    site.processes.clear()
    site.start("serve")
    states = "SELECT state, attempts, error_code, run_name, fingerprint FROM rebuilds WHERE state IN ('done', 'failed')"
    wait_for(lambda: site.query(states), "the rebuild has ended", 1500)
    ((state, attempts, code, name, fingerprint),) = site.query(states)
    assert (state, code) == ("done", None), _report(site, name)
    assert attempts == 2
    assert epochs() >= max(done, 3)
    report = _report(site, name)
    assert "RESEARCH USE ONLY" in report
    assert "48 labelled images, 48 of them new" in report
    assert f"cxr model promote {site.folder / 'var' / 'runs' / name / 'package'}" in report
    assert "ROC AUC (95 %)" in report
    assert "Not compared" in report  # the one in service is untrained
    assert not any(each.PatientID in report or each.SOPInstanceUID in report for each in sent)
    # Nothing was promoted, and there is nothing new to rebuild with at the next time.
    assert site.query("SELECT fingerprint FROM models WHERE activated_at IS NOT NULL") == [before]
    gates = [json.loads(line) for line in site.run(
        "model", "gates", f"var/runs/{name}/package", "--json", code=1).splitlines()]  # fmt: skip
    failed = {gate["gate"] for gate in gates if not gate["is_passed"]}
    assert failed == set(json.loads(site.query("SELECT failed_gates FROM rebuilds WHERE state = 'done'")[0][0]))
    later = f"SELECT 1 FROM rebuilds WHERE state = 'skipped' AND run_name > '{name}'"
    wait_for(lambda: site.query(later), "the next one is skipped", 600)
    assert site.query("SELECT count(*) FROM rebuilds WHERE state = 'done'") == [(1,)]
    assert fingerprint in site.run("model", "show", f"var/runs/{name}/package", "--json")
    site.run("db", "check")


def _report(site: Any, name: str) -> str:
    text: str = (site.folder / "var" / "runs" / name / "REPORT.md").read_text()
    return text


def _is_there(pid: int) -> bool:
    try:
        return "rebuild" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
