"""Time from the C-STORE response until the SR is in the PACS, for single images to an idle service."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
from figures import Figure, Part
from processes import CXR, family, free_port, orthanc, processor_s, running, wait_for_port, write_objects

P50_S, P95_S = 0.6, 1.2


def measure(folder: Path, *, quick: bool) -> Part:
    paths = write_objects(folder / "images", 5 if quick else 30, 3264, 2448)  # 8 megapixels
    port, dicom_port, http_port = free_port(), free_port(), free_port()
    folder_of_service, pacs = folder / "service", folder / "pacs"
    folder_of_service.mkdir(), pacs.mkdir()
    (folder_of_service / "cxr.toml").write_text(
        f'data_dir = "var"\n[listener]\nport = {port}\n[report]\ndeliver_untrained = true\n'
        f'[[destinations]]\nname = "pacs"\nkind = "dicom"\naddress = "ORTHANC@127.0.0.1:{dicom_port}"\n'
        '[view]\npixels = "flag"\n'  # synthetic films would be held
        f'[log]\nlevel = "error"\n'
    )
    with orthanc(pacs, dicom_port, http_port), running([CXR, "serve"], folder_of_service) as service:
        wait_for_port(port, service)
        first, *others = paths
        _latency_s(first, port, http_port)  # waits for the model to load
        before = processor_s(process_tree(service.pid))
        seconds = [_latency_s(path, port, http_port) for path in others]
        spent = (processor_s(process_tree(service.pid)) - before) / len(others)
    p50, p95 = np.percentile(seconds, [50, 95])
    return Part(
        "## Latency of an idle service\n\n`python bench/run.py latency` · ResNet50 at 224 on the CPU, "
        f"{len(seconds)} uncompressed images of 8 megapixels, one after the other\n\n"
        "| from the C-STORE response until the SR is in Orthanc | s |\n|---|---|\n"
        f"| p50 | {p50:.2f} |\n| p95 | {p95:.2f} |\n\n"
        f"Processor time of the whole service per image, idle time included: {spent:.3f} s.\n",
        [
            Figure("latency of an idle service, p50", f"≤ {P50_S} s", f"{p50:.2f} s", p50 <= P50_S),
            Figure("latency of an idle service, p95", f"≤ {P95_S} s", f"{p95:.2f} s", p95 <= P95_S),
        ],
    )


def process_tree(pid: int) -> list[int]:
    """Return the IDs of a process, its children and their children."""
    return [each for child in family(pid)[1:] for each in family(child)] + [pid]


def _latency_s(path: Path, port: int, http_port: int) -> float:
    before = _reports(http_port)
    subprocess.run(["dcmsend", "-aec", "CXR", "127.0.0.1", str(port), str(path)], check=True, capture_output=True)
    answered = time.monotonic()
    while _reports(http_port) <= before:
        if time.monotonic() - answered > 120:
            raise RuntimeError("no report within 120 s")
        time.sleep(0.01)
    return time.monotonic() - answered


def _reports(http_port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/statistics") as response:
        return json.load(response)["CountInstances"]
