"""Frozen dataclasses as JSON files that a person can read and compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

DIGITS = 6
"""Significant digits of every number: more would differ between machines."""


def to_document(value: object) -> Any:  # noqa: ANN401 (JSON)
    """Return what JSON can hold: dataclasses as objects, tuples and arrays as lists, numbers with six digits.

    Raises
    ------
    ValueError
        If a number is NaN or infinite: a figure that does not exist is None.
    TypeError
        If a value is of another kind.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: to_document(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_document(each) for name, each in value.items()}
    if isinstance(value, tuple | list | np.ndarray):
        return [to_document(each) for each in value]
    if isinstance(value, Enum):
        return to_document(value.value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return _rounded(float(value))
    raise TypeError(f"{type(value).__name__} has no place in a JSON file")


def write_document(value: object, path: Path) -> None:
    """Write a JSON file; it is there whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    content = json.dumps(to_document(value), indent=2, allow_nan=False, ensure_ascii=False)
    temporary.write_text(content + "\n", encoding="utf-8")
    temporary.replace(path)


def _rounded(number: float) -> float:
    if not np.isfinite(number):
        raise ValueError("a figure that does not exist is None, not NaN or infinity")
    return float(f"{number:.{DIGITS}g}")
