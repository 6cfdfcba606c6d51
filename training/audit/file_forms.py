"""The form of each file: kind, size, rows and columns, bits. It says nothing of the lungs, and often names the source.

Headers are read, no pixels. Numbers are grouped in bands, so that the form is a few words for a classifier
(``training.evaluation.baselines``).

References
----------
DeGrave, Janizek, Lee, Nature Machine Intelligence 2021;3:610 (collections that a network tells apart).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pandas as pd
from PIL import Image

from cxr.dicom import open_dataset
from cxr.dicom.elements import integer
from cxr.errors import ImageError, ObjectTooLarge, UnparsableObject
from cxr.pixels.raster import is_raster

FORM: Final = ("file kind", "file size", "rows x columns", "long side", "aspect", "bits")
"""Columns of the table: container with transfer syntax or colour mode; bytes and long side in half octaves;
columns / rows to 0.1; Bits Stored, or those of a channel."""

_FAULTS: Final = (OSError, ImageError, UnparsableObject, ObjectTooLarge, ValueError, SyntaxError)  # the last: Pillow's

ReportProgress = Callable[[str, int, int], None]


def read_forms(paths: Sequence[Path], progress: ReportProgress | None = None) -> pd.DataFrame:
    """Read the form of files.

    Parameters
    ----------
    paths
        N files, DICOM, PNG or JPEG.
    progress
        Called with the step's name, the number of files done, and their total.

    Returns
    -------
    pandas.DataFrame
        N rows of texts, columns ``FORM``; empty texts where a file can't be read.
    """
    rows = []
    for done, path in enumerate(paths, start=1):
        rows.append(read_form(path))
        if progress is not None:
            progress("read headers", done, len(paths))
    return pd.DataFrame(rows, columns=list(FORM))


def read_form(path: Path) -> tuple[str, ...]:
    """Return the form of one file, in the order of ``FORM``; empty texts if it can't be read."""
    try:
        kind, height, width, bits = _read_picture(path) if is_raster(path) else _read_dicom(path)
        size = path.stat().st_size
    except (*_FAULTS, Image.DecompressionBombError):
        return ("",) * len(FORM)
    if not (height and width):
        return ("",) * len(FORM)
    return (kind, _half_octave(size), f"{height} x {width}", _half_octave(max(height, width)),
            f"{width / height:.1f}", str(bits))  # fmt: skip


def _read_picture(path: Path) -> tuple[str, int, int, int]:
    """Return kind, rows, columns and bits of a channel of a PNG or JPEG file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures: only the header is read
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            bits = 16 if image.mode.startswith("I") else 1 if image.mode == "1" else 8
            return f"{image.format} {image.mode}", image.height, image.width, bits


def _read_dicom(path: Path) -> tuple[str, int, int, int]:
    """Return kind, Rows, Columns and Bits Stored of a DICOM file."""
    dataset = open_dataset(path)
    values = [integer(dataset, name) or 0 for name in ("Rows", "Columns", "BitsStored")]
    return f"DICOM {dataset.file_meta.get('TransferSyntaxUID', '')}", values[0], values[1], values[2]


def _half_octave(value: int) -> str:
    return str(round(2 ** (round(2 * math.log2(max(1, value))) / 2)))
