"""Decoding by our plug-in and by pydicom, per transfer syntax; and one image from file to model input.

pydicom runs in a process of its own, with the decoders that it recommends (pylibjpeg, pyjpegls) and without our
plug-in. RLE is also measured with pydicom alone, which is its default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from figures import Figure, Part
from pydicom import dcmread
from radiograph import ENCODERS, compressed, uncompressed
from timing import processor_ms

from cxr.pixels.decoders import register_decoders
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import DEFAULT_RECIPE

RECOMMENDED = Path(sys.prefix) / "bench-site"
MUST_BE_FASTER = {"JPEG Lossless", "RLE Lossless"}
PREPARE_MS = 100.0


def measure(folder: Path, *, quick: bool) -> Part:
    cv2.setNumThreads(1)
    folder.mkdir(parents=True, exist_ok=True)
    plain = uncompressed()
    paths = {}
    for number, syntax in enumerate(ENCODERS):
        paths[syntax.name] = folder / f"{number}.dcm"
        compressed(plain, syntax).save_as(paths[syntax.name], enforce_file_format=True)
    repeats = 2 if quick else 5
    reference_times = _by_pydicom(paths, folder, repeats)
    register_decoders()
    own_ms = next((each["own_ms"] for each in reference_times.values() if "own_ms" in each), float("nan"))
    lines, figures = [], []
    for name, path in paths.items():
        ours_ms = processor_ms(lambda path=path: dcmread(path).pixel_array, repeats=repeats)
        reference = reference_times.get(name)
        if reference is None:
            lines.append(f"| {name} | {ours_ms:.0f} | no decoder | | |")
            continue
        is_equal = np.array_equal(dcmread(path).pixel_array, np.load(reference["pixels"]))
        ratio = reference["ms"] / ours_ms
        by_default = reference.get("own_ms", reference["ms"]) / ours_ms
        lines.append(
            f"| {name} | {ours_ms:.0f} | {reference['ms']:.0f} | {ratio:.1f} | {'yes' if is_equal else 'no'} |"
        )
        if any(name.startswith(each) for each in MUST_BE_FASTER):
            figures.append(
                Figure(
                    f"decode, {name}",
                    "≥ 3 × pydicom's default, same integers",
                    f"{by_default:.1f} ×" + (f" ({ratio:.1f} × pylibjpeg)" if "own_ms" in reference else ""),
                    by_default >= 3 and is_equal,
                )
            )
    path = folder / "plain.dcm"
    plain.save_as(path, enforce_file_format=True)
    prepare_ms = processor_ms(lambda: to_model_input(path, DEFAULT_RECIPE), repeats=repeats)
    figures.append(
        Figure(
            "header + decode + recipe, uncompressed 8 MP",
            f"≤ {PREPARE_MS:.0f} ms of one core",
            f"{prepare_ms:.0f} ms",
            prepare_ms <= PREPARE_MS,
        )
    )
    return Part(
        "## Decoding\n\n`python bench/run.py decode` · one radiograph, 3264 × 2448, 12 bits; milliseconds of processor "
        "time, file to integers\n\n"
        "| transfer syntax | ours | pydicom, recommended decoders | ratio | same integers |\n|---|---|---|---|---|\n"
        + "\n".join(lines)
        + f"\n\nRLE by pydicom alone, its default without further decoders: {own_ms:.0f} ms."
        f"\n\nFrom the uncompressed file to the model's input (header, window, resize): {prepare_ms:.0f} ms.\n",
        figures,
    )


def _by_pydicom(paths: dict[str, Path], folder: Path, repeats: int) -> dict[str, dict]:
    process = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("decode_reference.py")), str(folder), str(repeats)],
        input=json.dumps({name: str(path) for name, path in paths.items()}),
        env={**os.environ, "PYTHONPATH": str(RECOMMENDED)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(process.stdout)
