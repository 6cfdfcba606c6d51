"""Modality LUT, VOI LUT and window: read from the header, applied to float64 arrays.

A malformed or impossible element counts as absent, because the image can be displayed without it.

References
----------
DICOM PS3.3 C.11.1 (Modality LUT), C.11.2 (VOI LUT), PS3.4 N.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cxr.dicom import READING_FAULTS, elements

Values = NDArray[np.float64]

_LINEAR, _LINEAR_EXACT, _SIGMOID = "LINEAR", "LINEAR_EXACT", "SIGMOID"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LookupTable:
    """A Modality or VOI LUT Sequence item."""

    first: int  # input value of the first entry
    entries: Values  # (n,)
    maximum: float  # entry that is displayed white

    def look_up(self, values: Values) -> Values:
        """Return the entry of each value; values beyond the table get the first or last entry."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        entries: Values = self.entries[index]
        return entries

    def to_grey(self, values: Values) -> Values:
        """Apply the table as a VOI LUT: entry / maximum, in [0, 1]."""
        return self.look_up(values) / self.maximum


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescale:
    """Rescale Slope (0028,1053) and Intercept (0028,1052)."""

    slope: float  # finite, not 0
    intercept: float

    def look_up(self, values: Values) -> Values:
        """Return ``slope * values + intercept``."""
        return values * self.slope + self.intercept


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Window Center (0028,1050), Window Width (0028,1051) and VOI LUT Function (0028,1056)."""

    center: float
    width: float
    function: str = _LINEAR

    def to_grey(self, values: Values) -> Values:
        """Return the grey of each value, in [0, 1] (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
        if self.function == _SIGMOID:
            # exp() overflows beyond 700, where the curve is 0 or 1 in float32.
            slope = np.clip(-4.0 * (values - self.center) / self.width, -700.0, 700.0)
            return 1.0 / (1.0 + np.exp(slope))
        if self.function == _LINEAR_EXACT:
            return np.clip((values - self.center) / self.width + 0.5, 0.0, 1.0)
        center, width = self.center - 0.5, self.width - 1.0
        if width == 0:
            return (values > center).astype(np.float64)
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)


def read_modality(dataset: Dataset) -> LookupTable | Rescale | None:
    """Read the transformation from stored to modality values; None: identity.

    The standard allows a Modality LUT Sequence or slope and intercept; of both, the sequence is used.
    """
    is_signed = elements.integer(dataset, "PixelRepresentation") == 1
    table = _read_table(dataset, "ModalityLUTSequence", may_be_negative=is_signed)
    if table is not None:
        return table
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0 or (slope == 1 and intercept == 0):
        return None
    return Rescale(slope=slope, intercept=intercept)


def read_voi(dataset: Dataset) -> LookupTable | Window | None:
    """Read the first VOI LUT, else the first window, else None."""
    is_signed = elements.integer(dataset, "PixelRepresentation") == 1
    rescale = (number(dataset, "RescaleIntercept") or 0.0, number(dataset, "RescaleSlope") or 0.0)
    may_be_negative = is_signed or min(rescale) < 0
    table = _read_table(dataset, "VOILUTSequence", may_be_negative=may_be_negative)
    return _read_window(dataset) if table is None else table


def number(dataset: Dataset, keyword: str) -> float | None:
    """Return the first value of a decimal string; None if it is absent, malformed or not finite."""
    string = (elements.text(dataset, keyword) or "").split("\\")[0]
    try:
        value = float(string)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read_window(dataset: Dataset) -> Window | None:
    center, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    function = elements.code_string(dataset, "VOILUTFunction") or _LINEAR
    if center is None or width is None or function not in {_LINEAR, _LINEAR_EXACT, _SIGMOID}:
        return None
    if width <= 0 or (function == _LINEAR and width < 1):
        return None
    return Window(center=center, width=width, function=function)


def _read_table(dataset: Dataset, keyword: str, *, may_be_negative: bool) -> LookupTable | None:
    """Read the first item of a LUT sequence; None if it is absent or unusable."""
    items = elements.items(dataset, keyword, at_most=1)
    byte_order = ">" if dataset.original_encoding[1] is False else "<"
    try:
        if not items:
            return None
        count, first, bits = (int(value) for value in _words(items[0].LUTDescriptor, byte_order)[:3])
        entries = _entries(items[0].LUTData, count or 65536, bits, byte_order)
    except READING_FAULTS:
        return None
    if may_be_negative and first > 0x7FFF:
        first -= 0x10000
    # The third value of LUT Descriptor often is the width of the containers, not of the entries' range: Agfa and
    # others declare 16 bits and use 12 to 15. The largest entry is displayed white, as in other viewers.
    return LookupTable(first=first, entries=entries, maximum=float(entries.max()) or 1.0)


def _words(value: object, byte_order: str) -> NDArray[np.int64]:
    """Return unsigned 16-bit words from bytes (OW, or an ambiguous VR) or numbers."""
    if isinstance(value, bytes):
        return np.frombuffer(value[: len(value) // 2 * 2], f"{byte_order}u2").astype(np.int64)
    return np.atleast_1d(np.array(value, dtype=np.int64)) & 0xFFFF  # SS where US was meant


def _entries(data: object, count: int, bits: int, byte_order: str) -> Values:
    """Unpack LUT Data: 16-bit words, or bytes if entries have 8 bits and the data is as short."""
    packed = data if isinstance(data, bytes) else _words(data, "<").astype("<u2").tobytes()
    if bits <= 8 and count <= len(packed) <= count + 1:
        return np.frombuffer(packed, np.uint8, count).astype(np.float64)
    words = _words(data, byte_order)
    if len(words) < count:
        raise ValueError("LUT Data is shorter than LUT Descriptor declares")
    return words[:count].astype(np.float64)
