"""The demonstration of training, as `make train-demo` runs it, at the smallest size: real films, a real service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

CXR = Path(sys.executable).with_name("cxr")
SMALLEST = "network.architecture=tiny pixels.size=32 stages.1.epochs=1 stages.1.images_per_epoch=200"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_from_public_films_to_a_report_of_a_service_that_never_stopped(
    root: Path, shared_data: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    folder = tmp_path / "demo"
    environment = os.environ | {
        "DEMO_DATA": str(shared_data), "DEMO_FOLDER": str(folder), "DEMO_PORT": str(free_port()),
        "DEMO_SETS": SMALLEST, "CXR": str(CXR),
    }  # fmt: skip
    done = subprocess.run(
        [root / "docs" / "example" / "train-demo.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = folder / "finetune"
    names = {path.name for path in run.iterdir()}
    assert names >= {"metrics.json", "curves.png", "evidence_covid19.png", "suspects.csv", "package", "model.keras"}
    assert "gate" in (folder / "refusal.txt").read_text()  # class and source nearly coincide: the gates say so

    command = [CXR, "--config", folder / "cxr.toml", "audit", "list", "--json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    later, earlier = sorted((json.loads(line) for line in listed.splitlines()), key=lambda row: row["received_at"])[
        ::-1
    ]
    assert (later["state"], earlier["state"]) == ("reported", "reported")
    assert later["fingerprint"] != earlier["fingerprint"]
    assert later["finding"] == "covid19"
    assert (folder / "service.log").read_text().count('"listening"') == 1

    reports = [pydicom.dcmread(path) for path in (folder / "reports").rglob("*") if path.is_file()]
    marked = [str(each) for each in reports if each.Modality == "SR" and "DEMONSTRATION MODEL" in str(each)]
    # The default model's, and the new one's.
    assert len(marked) == 2
    assert any(later["sop_instance_uid"] in text and later["model"] in text for text in marked)


def test_without_films_it_says_what_is_missing(root: Path, tmp_path: Path) -> None:
    environment = os.environ | {"DEMO_DATA": str(tmp_path), "DEMO_FOLDER": str(tmp_path / "demo")}
    script = root / "docs" / "example" / "train-demo.sh"
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "images.csv is not there" in done.stderr
    assert "DEMO_DATA" in done.stderr
    assert not (tmp_path / "demo").exists()
