"""Child of `throughput`: core-seconds of each processing step of the worker; prints JSON.

The model is the default that comes with the project, as in `throughput`.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import cv2
import numpy as np
from history import NOW, QUEUED, fill
from timing import processor_ms

from config.settings import ViewSettings
from cxr.dicom import open_dataset
from cxr.domain import PixelView, View
from cxr.package import ModelPackage
from cxr.package.shipped import shipped_models
from cxr.pixels.decoders import register_decoders
from cxr.pixels.model_input import to_model_inputs
from db import jobs
from db.engine import open_database
from inference.model.model import Model
from inference.report.build import SourceDigests, build_report
from inference.report.check import TreeCheck, warm_up
from inference.worker.image_warnings import InputGate
from inference.worker.scored_image import scored_image
from inference.worker.view_check import ViewCheck

BATCH = 8


def main() -> None:
    folder, paths = Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]]
    folder.mkdir(parents=True, exist_ok=True)
    shipped = shipped_models()
    if shipped is None:
        raise SystemExit("this installation has no default model")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        package = shipped.expand("covid19", Path(place) / "package")
        parts = {**_images(package, paths), **_report(package, paths[0], folder), "database": _database(folder)}
    print(json.dumps({name: ms / 1000 for name, ms in parts.items()}))


def _images(package: ModelPackage, paths: list[Path]) -> dict[str, float]:
    """Return the milliseconds of decoding, view model and model per image."""
    model = Model.load(package, device="cpu")
    view = ViewCheck.load(ViewSettings(pixels=PixelView.FLAG), lambda wanted: Model.load(wanted, device="cpu"))
    recipes = [package.manifest.recipe, *([] if view is None else [view.recipe])]
    size = package.manifest.input_size
    films = np.random.default_rng(0).random((BATCH, size, size, 1), dtype=np.float32)
    scoring = processor_ms(lambda: model.score(films)) / BATCH
    cv2.setNumThreads(1)
    register_decoders()
    decoding = statistics.mean(
        processor_ms(lambda path=path: to_model_inputs(path, recipes), repeats=5) for path in paths
    )
    parts = {"decode": decoding, "score": scoring}
    if view is not None:
        picture = to_model_inputs(paths[0], recipes)[1]
        parts["view"] = processor_ms(lambda: view.verdict(picture, view=View.FRONTAL))
    return parts


def _report(package: ModelPackage, path: Path, folder: Path) -> dict[str, float]:
    """Return the milliseconds of warnings and report."""
    warm_up()
    model, gate, tree_check = Model.load(package, device="cpu"), InputGate.of(package), TreeCheck()
    masked = model.mask_lungs(to_model_inputs(path, [package.manifest.recipe])[0])
    output = model.score(masked.pixels[None])
    digests = SourceDigests(pixel_digest="a" * 64, identity_digest="b" * 64)

    def report() -> None:
        warnings = gate.warnings(masked, output, 0, shape=(3264, 2448))
        scored = scored_image(output.probabilities[0], package, model.device, datetime.now(UTC), warnings)
        built = build_report(
            open_dataset(path), scored, package.manifest, digests=digests, created=datetime.now(UTC), check=tree_check
        )
        (folder / "report.dcm").write_bytes(built.content)

    return {"report": processor_ms(report)}


def _database(folder: Path) -> float:
    """Return the milliseconds of the two transactions of a job, claim and outcome, without waits for the disk."""
    database = open_database(folder / "audit.sqlite", folder / "audit.key", create=True)
    fill(database, 2 * QUEUED)
    start, count = time.process_time(), 0
    while True:
        with database.begin() as session:
            claimed = jobs.claim(session, worker_id="bench", limit=BATCH, now=NOW, lease_s=60)
        if not claimed:
            break
        for job in claimed:
            with database.begin() as session:
                jobs.fail(session, job.id, worker_id="bench", code="bench", retryable=False, max_attempts=1,
                          retry_s=1, now=NOW)  # fmt: skip
            count += 1
    database.dispose()
    return (time.process_time() - start) * 1000 / count


if __name__ == "__main__":
    main()
