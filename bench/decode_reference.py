"""Child of `decode`: pydicom with the decoders that it recommends; prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.pixels import pixel_array
from timing import processor_ms


def main() -> None:
    folder, repeats = Path(sys.argv[1]), int(sys.argv[2])
    times = {}
    for number, (name, path) in enumerate(json.load(sys.stdin).items()):
        try:
            pixels = dcmread(path).pixel_array
        except (RuntimeError, NotImplementedError):  # pydicom has no decoder for it
            continue
        np.save(folder / f"{number}.npy", pixels)
        ms = processor_ms(lambda path=path: dcmread(path).pixel_array, repeats=repeats)
        times[name] = {"ms": ms, "pixels": str(folder / f"{number}.npy")}
        if name.startswith("RLE"):
            times[name]["own_ms"] = processor_ms(lambda path=path: _by_pydicom_alone(path), repeats=2)
    print(json.dumps(times))


def _by_pydicom_alone(path: str) -> np.ndarray:
    """Decode RLE with pydicom alone, its default without further decoders."""
    return pixel_array(path, decoding_plugin="pydicom")


if __name__ == "__main__":
    main()
