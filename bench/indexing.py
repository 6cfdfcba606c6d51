"""Index a synthetic CheXpert of 223,414 lines with the proportions of the real one; print time and peak memory as JSON.

`python bench/indexing.py FOLDER [--files]`; with --files every image exists as an empty file, and is checked.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training.adapters.reading.chexpert_labels import LABELS

ROWS, PATIENTS, LATERALS = 223_414, 64_540, 32_387


def write(folder: Path, *, files: bool) -> None:
    random_numbers = random.Random(0)
    with (folder / "train.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS])
        for row in range(ROWS):
            patient = row * PATIENTS // ROWS + 1
            is_lateral = random_numbers.random() < LATERALS / ROWS
            name = (
                f"train/patient{patient:05}/study{row % 3 + 1}/view{row}_{'lateral' if is_lateral else 'frontal'}.jpg"
            )
            normal = random_numbers.random() < 0.1
            findings = ["1.0" if normal else ""]
            findings += [
                "" if normal else random_numbers.choices(["", "1.0", "0.0", "-1.0"], [70, 15, 10, 5])[0]
                for _ in range(13)
            ]
            view = ["Lateral", ""] if is_lateral else ["Frontal", random_numbers.choice(["AP", "PA"])]
            writer.writerow(
                [
                    f"CheXpert-v1.0/{name}",
                    random_numbers.choice(["Male", "Female"]),
                    random_numbers.randint(18, 90),
                    *view,
                    *findings,
                ]
            )
            if files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()


def index(folder: Path, *, files: bool) -> dict[str, float]:
    """Run the command once in a process of its own."""
    started = time.perf_counter()
    command = ["train", "index", "chexpert", str(folder), "-o", str(folder / "manifest.csv"), "--json"]
    command += [] if files else ["--no-check-files"]
    process = subprocess.run([sys.executable, "-m", "app", *command], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    summary = json.loads(process.stdout)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "rows": summary["images"] + summary["rejected"], "taken": summary["images"], "seconds": round(seconds, 1),
        "peak_mib": round(peak),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", action="store_true")
    arguments = parser.parse_args()
    write(arguments.folder, files=arguments.files)
    print(json.dumps(index(arguments.folder, files=arguments.files)))


if __name__ == "__main__":
    main()
