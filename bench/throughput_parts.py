"""Child of `throughput`: core-seconds of each part of an image's way through the worker; prints JSON."""

from __future__ import annotations

import json
import os
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import cv2
import numpy as np
from report import MODELS, model_of
from timing import processor_ms

from cxr.decoders import register_decoders
from cxr.pixels import to_model_input
from cxr.reading import open_dataset
from inference.model import Model
from inference.report import SourceDigests, TreeCheck, build_report, warm_up
from training.export import build_untrained

BATCH = 8


def main() -> None:
    folder, paths = Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]]
    package = build_untrained(folder / "untrained", now=datetime.now(UTC))
    model = Model.load(package, device="cpu")
    size = package.manifest.input_size
    films = np.random.default_rng(0).random((BATCH, size, size, 1), dtype=np.float32)
    scoring = processor_ms(lambda: model.score(films)) / BATCH
    cv2.setNumThreads(1)
    register_decoders()
    decoding = statistics.mean(
        processor_ms(lambda path=path: to_model_input(path, package.manifest.recipe), repeats=5) for path in paths
    )
    warm_up()
    manifest, scored = model_of(MODELS["one finding"])
    known = TreeCheck()
    digests = SourceDigests(pixel_digest="a" * 64, identity_digest="b" * 64)

    def report() -> None:
        built = build_report(
            open_dataset(paths[0]), scored, manifest, digests=digests, created=datetime.now(UTC), check=known
        )
        (folder / "report.dcm").write_bytes(built.content)

    parts = {"decode": decoding, "score": scoring, "report": processor_ms(report)}
    print(json.dumps({name: ms / 1000 for name, ms in parts.items()}))


if __name__ == "__main__":
    main()
