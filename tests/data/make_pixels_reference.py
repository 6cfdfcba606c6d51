"""Write pixels_reference.csv anew, to standard output; the argument is the folder with the shared data.

Only after a change of the recipe's procedure that was meant, and looked at as pictures.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr.errors import ImageError
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import RECIPES

COLUMNS = ["file", "recipe", "mean", "std", "upper_mean", "left_mean", "middle_mean"]


def reference_files(shared: Path) -> list[str]:
    """Name the reference images: every radiograph in DICOM, and every 150th picture."""
    films = [
        name
        for name in _files(shared / "dicom.csv")
        if name.split("/")[1] in {"chest_frontal", "chest_lateral", "radiograph_other"}
    ]
    return films + sorted(_files(shared / "images.csv"))[::150]


def _files(table: Path) -> list[str]:
    with table.open(newline="") as file:
        return [row["file"] for row in csv.DictReader(file)]


def describe(grey: NDArray[np.float32]) -> list[float]:
    """Give figures that move when contrast, polarity, orientation or place do."""
    half, quarter = grey.shape[0] // 2, grey.shape[0] // 4
    parts = [grey, grey[:half], grey[:, :half], grey[quarter:-quarter, quarter:-quarter]]
    means = [float(part.mean(dtype=np.float64)) for part in parts]
    return [means[0], float(grey.std(dtype=np.float64)), *means[1:]]


def main() -> None:
    shared = Path(sys.argv[1])
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for file in reference_files(shared):
        for name, recipe in RECIPES.items():
            try:
                figures = [f"{value:.5f}" for value in describe(to_model_input(shared / file, recipe))]
            except ImageError as error:
                figures = [error.code] + [""] * 4
            writer.writerow([file, name, *figures])


if __name__ == "__main__":
    main()
